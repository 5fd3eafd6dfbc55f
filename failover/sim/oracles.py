"""What must hold, seen by somebody who sees everything: checked while a history happens, not afterwards.

S1: at no instant do two members let a client's write through. S2: under `strict` every acknowledged write is on whichever
member becomes primary later. The records: an epoch never goes back, an operation's journal tells CONFIRM before GRANT.
Liveness is judged at the end, by whoever healed the world.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING
from zlib import crc32

from failover.core.model import Grant, Replication, Role, SyncSet
from failover.sim.scheduler import Sim

if TYPE_CHECKING:
    from failover.sim.machine import Machine
    from failover.sim.setting import Setting
    from failover.sim.zookeeper import Node


PROMISES = ("S1", "S2", "records", "liveness")


class Violation(AssertionError):
    """A promise was broken. `promise`: one of PROMISES."""

    def __init__(self, promise: str, says: str, at_s: float) -> None:
        super().__init__(f"{promise} at {at_s:.3f} s: {says}")
        self.promise, self.says, self.at_s = promise, says, at_s

    def __reduce__(self) -> tuple[type[Violation], tuple[str, str, float]]:
        """It travels from a worker to whoever asked."""
        return Violation, (self.promise, self.says, self.at_s)


class Oracle:
    """`trace` is the readable history: (time, who, what)."""

    def __init__(self, sim: Sim, setting: Setting, machines: Mapping[str, Machine]) -> None:
        self._sim, self._setting, self._machines = sim, setting, machines
        self.trace: list[tuple[float, str, str]] = []
        self.violation: Violation | None = None
        self.judged: frozenset[str] = frozenset(PROMISES)
        self.acknowledged_writes: list[int] = []
        self.last_ack_s = 0.0
        self.worst_gap_s = 0.0
        self.promotions = 0
        self.states: set[int] = set()
        self._operation: tuple[str, str] = ("", "")
        self._writer = ""
        self._epoch = 1
        self._confirmed: set[str] = set()

    def tell(self, who: str, what: str) -> None:
        """A line of the history; and the state of the world at that instant counts as one that was reached."""
        self.trace.append((self._sim.now_s, who, what))
        self.states.add(crc32(repr((self._operation, [self._state(m) for m in self._machines.values()])).encode()))

    def _state(self, machine: Machine) -> tuple[object, ...]:
        """What can be told of one host without its clocks and numbers."""
        database, kernel, guardian, controller = machine.database, machine.kernel, machine.guardian, machine.controller
        return (
            machine.up, bool(database.main), database.role.value, database.accepts, database.frozen, kernel.open_to_clients(),
            bool(kernel.sealed_against), guardian is not None and guardian.alive, guardian is not None and guardian.paused,
            controller is not None and controller.alive, controller is not None and controller.paused,
            bool(machine.disk.durable.frozen),
        )  # fmt: skip

    def broken(self, promise: str, says: str) -> None:
        """The first one counts: what follows from it proves nothing."""
        if self.violation is None and promise in self.judged:
            self.violation = Violation(promise, says, self._sim.now_s)
            self.tell("oracle", f"{promise} BROKEN: {says}")

    # --- S1 and S2 --------------------------------------------------------------------------------------------------
    def acknowledged(self, member: str, write: int, offset: int, sync: SyncSet | None) -> None:
        """A client was told that its write is safe."""
        now_s = self._sim.now_s
        for other in self._machines.values():
            if other.name != member and other.database.serves and other.kernel.open_to_clients():
                self.broken("S1", f"{member} acknowledges a write while {other.name} takes them")
        if self._writer != member:
            self.tell(member, f"acknowledges writes, the first one {write}")
            self._writer = member
        self.acknowledged_writes.append(write)
        self.worst_gap_s = max(self.worst_gap_s, now_s - self.last_ack_s)
        self.last_ack_s = now_s

    def promoted(self, member: str) -> None:
        """A database has become primary: everything that was ever acknowledged must be in it."""
        self.promotions += 1
        self.tell(member, "is primary")
        if self._setting.replication is Replication.STRICT:
            database = self._machines[member].database
            missing = [write for write in self.acknowledged_writes if not database.contains(write)]
            if missing:
                self.broken("S2", f"{member} is primary without {len(missing)} acknowledged writes, the first one {missing[0]}")

    def check_writers(self) -> None:
        """After every event: no two members that a client could write to."""
        primaries = 0
        for machine in self._machines.values():
            if machine.database.role is Role.PRIMARY and machine.database.children:
                primaries += 1
        if primaries < 2:
            return
        writers = [m.name for m in self._machines.values() if m.database.serves and m.kernel.open_to_clients()]
        if len(writers) > 1:
            self.broken("S1", f"{' and '.join(writers)} take clients' writes at the same time")

    # --- the records ------------------------------------------------------------------------------------------------
    def committed(self, changes: Mapping[str, Node | None]) -> None:
        """One transaction of the ensemble."""
        for path, node in changes.items():
            if node is None:
                if path.endswith("/state/leader"):
                    self.tell("ensemble", "the leader's session ended")
                elif path.endswith("/state/operation"):
                    self._operation = ("", "")
                continue
            word = path.rpartition("/")[2]
            if "/journal/" in path:
                self._journaled(path, node)
            elif word == "grant":
                self._granted(node.value)
            elif word == "operation":
                self._operation = (str(getattr(node.value, "kind", "")), str(getattr(node.value, "phase", "")))
            elif "/receipt/" in path or "/seal/" in path or word == "leader" or "/answers/" in path:
                self.tell("ensemble", _words(path, node.value))

    def _journaled(self, path: str, node: Node) -> None:
        operation, _, step = path.rpartition("/journal/")[2].partition("/")
        says = getattr(node.value, "says", "")
        self.tell(getattr(node.value, "controller", "?"), f"journal {operation} {step}: {says}")
        if step.endswith("confirm.done"):
            self._confirmed.add(operation)
        elif step.endswith("grant.done") and operation not in self._confirmed:
            self.broken("records", f"{operation} granted before its journal says that the old primary is proved unable to write")

    def _granted(self, grant: object) -> None:
        assert isinstance(grant, Grant)
        who = grant.member or f"nobody (claim on {grant.claim.old if grant.claim else '?'})"
        if grant.epoch != self._epoch:
            self.tell("ensemble", f"grant: {who}, epoch {grant.epoch}")
        if grant.epoch < self._epoch:
            self.broken("records", f"the epoch went from {self._epoch} back to {grant.epoch}")
        self._epoch = grant.epoch


def _words(path: str, value: object) -> str:
    kind = path.rpartition("/state/")[2]
    if kind.startswith("receipt/"):
        return f"{kind} closes {getattr(value, 'closes', '?')}: {getattr(value, 'method', '')}"
    if kind.startswith("seal/"):
        quiet = "quiet" if getattr(value, "quiet", False) else "not quiet"
        return f"{kind} for {getattr(value, 'claim_epoch', '?')} at {getattr(value, 'position', '?')}, {quiet}"
    if kind.startswith("answers/"):
        return f"{kind}: {'accepted' if getattr(value, 'accepted', False) else getattr(value, 'reasons', '')}"
    return f"{kind}: {value}"
