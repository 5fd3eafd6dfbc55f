"""One database host in memory: kernel gate, processes, database, seal, VIP and disk, small and honest, around the real guardian.

Everything of the product is real (board, keeper, fencer, warden, deaths, reporter, ledger, MemoryEnsemble); only what needs a
kernel or a database is here. `events` is one ordered diary of all of it. Time stands still until `clock.advance`.
"""

from __future__ import annotations

import math
import os
import pwd
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from failover.coordination.base import Committed, Coordinator, Op
from failover.coordination.ledger import Ledger
from failover.coordination.memory import MemoryEnsemble
from failover.coordination.paths import Paths
from failover.coordination.pinned import PinnedCoordinator
from failover.core.model import Grant, Handover, Lease, Mode, Operation, Policy, Position, Receipt, Rejoin, Role, Seal, SyncSet
from failover.core.plan import Create, Key, Kind, Swap
from failover.engines.base import ControlState, Discarded, LocalState, Tail, Upstream, Work
from failover.engines.lsn import Lsn
from failover.errors import Refused, Unknown, Unreachable
from failover.guardian.base import Durable, GateState, Pledgers, Processes
from failover.guardian.board import Board, Identity
from failover.guardian.deaths import Deaths
from failover.guardian.fencer import Fencer, Memory
from failover.guardian.keeper import KeeperSettings, LeaseKeeper
from failover.guardian.rejoin import Rejoining
from failover.guardian.rejoin_files import Places
from failover.guardian.reporter import Reporter
from failover.guardian.warden import Hands, Warden
from tests.support.builders import MEMBERS, TIMES

PORT = 5432


class Clock:
    """CLOCK_BOOTTIME in the test's hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 5000.0
        for module in (
            "guardian.board", "guardian.keeper", "guardian.pledges", "guardian.reporter", "guardian.rejoin",
            "guardian.checkpointer", "runtime.node", "runtime.observer", "runtime.probes",
        ):  # fmt: skip
            monkeypatch.setattr(f"failover.{module}.boottime_s", self)
        monkeypatch.setattr("failover.guardian.reporter.life_of", lambda pid: f"run {pid}")

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        self.now_s += seconds


class FakeGate:
    """Elements with an end, one `current`; the rules of G3 and nothing else. `errors`: the kernel refuses."""

    def __init__(self, clock: Clock, events: list[str]) -> None:
        self._clock, self._events = clock, events
        self.table, self.current, self.closed = False, 0, 0
        self.elements: dict[int, float | None] = {}
        self.errors: list[Exception] = []
        self.sticks_open = False

    def open(self) -> bool:
        if not self.table or self.sticks_open:
            return True
        if self.current not in self.elements:
            return False
        end_s = self.elements[self.current]
        return end_s is None or self._clock.now_s < end_s

    def flush_by_stranger(self) -> None:
        """`nft flush ruleset`, by somebody who does not know us."""
        self.table, self.current = False, 0
        self.elements.clear()

    def adopt(self) -> GateState:
        end_s = self.elements.get(self.current)
        left_s = end_s - self._clock.now_s if end_s is not None else None
        return GateState(self.table, self.open(), self.current or None, left_s)

    def read_back(self) -> GateState:
        repaired = not self.table
        if repaired:
            self.install_shut()
        return replace(self.adopt(), repaired=repaired)

    def install_open(self, ticket: int, lifetime_s: float | None) -> None:
        self._say(f"install open {ticket}")
        self.table, self.current = True, ticket
        self.elements[ticket] = self._end(lifetime_s)

    def install_shut(self) -> None:
        if not self.table:
            self._say("install shut")
            self.table, self.current = True, 0

    def arm(self, ticket: int, lifetime_s: float | None, epoch: int) -> bool:
        if epoch <= self.closed:
            return False
        assert ticket not in self.elements, "a ticket number was used twice"
        self._say(f"arm {ticket}")
        self.elements[ticket] = self._end(lifetime_s)
        return True

    def switch(self, ticket: int) -> None:
        self._say(f"switch {ticket}")
        self.current = ticket

    def shut(self, closes: int | None) -> None:
        self._say("shut" if closes is None else f"shut {closes}")
        self.closed = max(self.closed, closes or 0)
        self.elements.clear()
        self.table, self.current = True, 0

    def cut_sessions(self) -> int:
        self._say("cut")
        return 2

    def release(self) -> None:
        self.flush_by_stranger()

    def _end(self, lifetime_s: float | None) -> float | None:
        return None if lifetime_s is None else self._clock.now_s + lifetime_s

    def _say(self, text: str) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self._events.append(f"gate: {text}")


@dataclass
class FakeDatabase:
    """What instance and engine are two views of. `pid` 0: nothing runs. `orphans` outlive their parent."""

    pid: int = 0
    role: Role = Role.DOWN
    at: Lsn = field(default_factory=lambda: Lsn(1, 0x500))
    upstream: str = ""
    clean: bool = False
    orphans: int = 0
    stubborn: bool = False  # does not stop when asked
    hangs: bool = False  # an orderly stop begins and does not end: a client is frozen in its login
    shutting_down: bool = False
    unkillable: bool = False  # a process in uninterruptible sleep
    sync: SyncSet | None = None
    streaming: bool | None = None  # None: as told by `upstream`
    kept_out: bool = False
    refuses: bool = False  # heartbeats, at once
    checkpointed: int = 1  # the timeline of its last checkpoint
    beats: list[tuple[int, int]] = field(default_factory=list)  # heartbeat rows
    ended: threading.Event = field(default_factory=threading.Event)

    def run(self, pid: int, role: Role) -> None:
        self.pid, self.role, self.clean, self.ended = pid, role, False, threading.Event()
        self.shutting_down = False

    def end(self, clean: bool = False, orphans: int = 0) -> None:
        self.pid, self.role, self.clean, self.orphans = 0, Role.DOWN, clean, orphans
        self.ended.set()


@dataclass
class FakeWatch:
    database: FakeDatabase
    pid: int

    def wait(self, timeout_s: float) -> bool:
        return self.database.ended.wait(timeout_s)

    def close(self) -> None:
        """Nothing to close."""


class FakeInstance:
    def __init__(self, database: FakeDatabase, events: list[str], data_dir: Path) -> None:
        self._database, self._events, self._pids, self._data_dir = database, events, 100, data_dir

    def processes(self) -> Processes:
        d = self._database
        pids = ([d.pid] if d.pid else []) + list(range(900, 900 + d.orphans))
        return Processes(d.pid or None, tuple(pids))

    def start_standby(self, deadline_s: float) -> int:
        assert not self.processes().all, "two servers on one data directory"
        assert (self._data_dir / "PG_VERSION").exists(), "a start without a whole database"
        self._pids += 1
        self._events.append("start")
        self._database.run(self._pids, Role.STANDBY)
        return self._pids

    def stop(self, mode: str, deadline_s: float) -> bool:
        self._events.append(f"stop {mode}")
        self._database.shutting_down = self._database.shutting_down or self._database.hangs
        if self._database.stubborn or (self._database.hangs and mode == "fast"):
            return False
        if self._database.pid:
            self._database.at = replace(self._database.at, offset=self._database.at.offset + 0x10)  # the shutdown checkpoint
            self._database.end(clean=mode == "fast")
        return True

    def kill_all(self, deadline_s: float) -> bool:
        self._events.append("kill")
        if self._database.unkillable:
            return False
        self._database.end(self._database.clean and not self._database.pid)
        return True

    def watch(self) -> FakeWatch | None:
        return FakeWatch(self._database, self._database.pid) if self._database.pid else None


class FakeEngine:
    """Verbs of LocalEngine on the fake database. A verb that needs a running server raises Unreachable without one.

    `in_place`: it becomes a standby as it runs, as MySQL does. `keeps`: a restart loses nothing that was received.
    """

    def __init__(self, database: FakeDatabase, events: list[str]) -> None:
        self._database, self._events = database, events
        self.on_promote: Callable[[], None] = lambda: None
        self.in_place, self.keeps = False, True

    def parse_position(self, text: str) -> Lsn:
        return Lsn.parse(text)

    def state(self, budget_s: float) -> LocalState:
        d = self._up()
        return LocalState(
            d.role, "7001", d.at, upstream=d.upstream or None, configured_upstream=d.upstream,
            streaming=bool(d.upstream) if d.streaming is None else d.streaming, sync=d.sync,
            heartbeat=max(d.beats, default=None), kept_out=d.kept_out,
        )  # fmt: skip

    def prepare(self, budget_s: float) -> None:
        self._up()

    def heartbeat(self, epoch: int, sequence: int, budget_s: float) -> None:
        """A number is taken once, as in a table with a key."""
        d = self._up()
        if d.refuses:
            raise Unreachable("does not listen")
        if (epoch, sequence) in d.beats:
            raise Refused(f"duplicate heartbeat {epoch}-{sequence}")
        d.beats.append((epoch, sequence))

    def end_sessions(self, budget_s: float) -> int:
        self._up()
        self._events.append("end sessions")
        return 0

    def free_replay(self, budget_s: float) -> None:
        self._up()
        self._events.append("free replay")

    def stop_writes(self, budget_s: float) -> Lsn | None:
        d = self._up()
        if not self.in_place:
            return None
        self._events.append("stop writes")
        if d.hangs:
            raise Unknown("a transaction does not end")
        d.role = Role.STANDBY
        return d.at

    def keeps_received_log(self) -> bool:
        self._up()
        return self.keeps

    def remove_stale_files(self) -> None:
        self._events.append("remove stale files")

    def promote(self, sync: SyncSet | None, followers: Sequence[str], budget_s: float) -> None:
        d = self._up()
        assert d.role is Role.STANDBY
        self._events.append("promote")
        d.role, d.upstream, d.sync = Role.PRIMARY, "", sync
        d.at = Lsn(d.at.timeline + 1, d.at.offset + 1, (*d.at.switches, (d.at.timeline, d.at.offset)))
        self.on_promote()

    def follow(self, upstream: Upstream, budget_s: float) -> None:
        self._database.upstream, self._database.streaming = upstream.address, None
        self._events.append(f"follow {upstream.member}")

    def stop_receiving(self, budget_s: float) -> None:
        self._up().upstream = ""
        self._events.append("stop receiving")

    def apply_sync(self, sync: SyncSet | None, budget_s: float) -> Lsn:
        d = self._up()
        d.sync = sync
        self._events.append(f"sync {','.join(sync.names) if sync else 'nobody'}")
        return d.at

    def ensure_slots(self, members: Sequence[str], budget_s: float) -> None:
        self._up()

    def checkpoint(self, budget_s: float) -> None:
        self._up().checkpointed = self._database.at.timeline

    def rewind_ready(self, position: Lsn) -> bool:
        return position.timeline == self._database.checkpointed

    def control_state(self) -> ControlState:
        d = self._database
        return ControlState("7001", d.clean, d.at, "shut down" if d.clean else "in production")

    def holds(self, position: Lsn) -> bool:
        return self._up().at.covers(position)

    def arm_standby(self) -> None:
        self._events.append("arm standby")

    def isolate(self) -> None:
        assert not self._database.pid
        self._database.upstream = ""
        self._events.append("isolate")

    def main_pid(self) -> int | None:
        return self._database.pid or None

    def start_command(self) -> tuple[str, ...]:
        return ("postgres",)

    def stop_signal(self, mode: str) -> int:
        return 2

    def _up(self) -> FakeDatabase:
        if not self._database.pid or self._database.shutting_down:
            raise Unreachable("no server")
        return self._database


class FakeRejoiner:
    """The tools on the fake database; `becomes` is where its log ends when they are through. `errors`: what they fail with."""

    def __init__(self, database: FakeDatabase, events: list[str], data_dir: Path) -> None:
        self._database, self._events, self._data_dir = database, events, data_dir
        self.becomes = Lsn(2, 0x600, ((1, 0x500),))
        self.errors: list[Exception] = []
        self.size_bytes = 16 << 20
        self.found = Discarded(1, ("741 then: lab.writes 2",), (("lab.writes", 2),))
        self.during: Callable[[Work], None] = lambda work: None

    def obstacle(self) -> str | None:
        return None

    def tail(self, mine: Position, theirs: Position) -> Tail:
        assert isinstance(mine, Lsn) and isinstance(theirs, Lsn)
        fork = mine.fork(theirs)
        assert fork is not None
        return Tail(fork, mine, self.size_bytes)

    def save(self, tail: Tail, into: Path, work: Work) -> Discarded:
        self._events.append(f"save log from {tail.diverged_at.text()} to {tail.end.text()}")
        (into / "commits.txt").write_text("741 then: lab.writes 2\n")
        return self.found

    def forget(self) -> None:
        self._events.append("forget")

    def rewind(self, source: Upstream, work: Work) -> None:
        assert not self._database.pid, "a rewind under a running server"
        (self._data_dir / "PG_VERSION").unlink(missing_ok=True)
        (self._data_dir / "neither old nor new").write_text("")
        self._work(f"rewind against {source.member}", work)
        (self._data_dir / "PG_VERSION").write_text("15")

    def copy(self, source: Upstream, into: Path, work: Work) -> None:
        (into / "PG_VERSION").write_text("15")
        self._work(f"copy from {source.member}", work)

    def _work(self, what: str, work: Work) -> None:
        self._events.append(what)
        work.told("42 % of 3 MiB")
        self.during(work)
        if self.errors:
            raise self.errors.pop(0)
        self._database.at = self.becomes


class FakeSealer:
    def __init__(self, database: FakeDatabase, events: list[str]) -> None:
        self._database, self._events, self.against = database, events, ""

    def seal(self, address: str, port: int) -> None:
        self.against, self._database.streaming = address, False
        self._events.append(f"seal {address}")

    def unseal(self) -> None:
        self.against = ""
        self._events.append("unseal")

    def sealed(self) -> str | None:
        return self.against or None


class FakeVip:
    """The address in the kernel, which removes it when its lifetime has passed, whoever still runs."""

    def __init__(self, events: list[str], clock: Callable[[], float]) -> None:
        self._events, self._clock, self.stuck = events, clock, False
        self._until_s = 0.0

    @property
    def here(self) -> bool:
        return self._clock() < self._until_s

    @here.setter
    def here(self, there: bool) -> None:
        self._until_s = math.inf if there else 0.0

    def hold(self, lifetime_s: float | None, announce: bool) -> None:
        self._until_s = math.inf if lifetime_s is None else self._clock() + math.ceil(lifetime_s)
        self._events.append("vip announced" if announce else "vip held")

    def drop(self) -> bool:
        there, self.here = self.here, False
        if self.stuck:
            raise Unknown("still there")
        self._events.append("vip dropped")
        return there

    def held(self) -> bool:
        return self.here


class FakeDisk:
    """The state file. `broken`: it does not answer."""

    def __init__(self, events: list[str]) -> None:
        self._events, self.kept, self.broken = events, Durable(), False

    def load(self) -> Durable:
        return self.kept

    def store(self, durable: Durable) -> None:
        if self.broken:
            raise Unknown("the disk did not say so")
        self.kept = durable
        self._events.append(f"disk: closed {durable.closed} frozen {durable.frozen}")


class Telling:
    """A client whose commits are written in the diary; `between` runs after the sending and before the answer is heard."""

    def __init__(self, client: Coordinator, events: list[str]) -> None:
        self._client, self._events = client, events
        self.between: Callable[[], None] = lambda: None

    def __getattr__(self, name: str) -> object:
        return getattr(self._client, name)

    def commit(self, ops: Sequence[Op], deadline_s: float) -> Committed:
        self._events.append("renewal sent")
        try:
            return self._client.commit(ops, deadline_s)
        finally:
            self.between()


class FakeHost:
    """The guardian of `me` with everything it is made of. `turn()` is one round of its loops, in a fixed order."""

    def __init__(
        self, ensemble: MemoryEnsemble, me: str, clock: Clock, standby_reads: bool = False,
        pledgers: Pledgers | None = None, wait_s: float = 0.0,
    ) -> None:  # fmt: skip
        self.me, self.clock, self.events = me, clock, []  # type: ignore[var-annotated]  # list[str], said by its users
        self.database = FakeDatabase()
        self._folder = tempfile.TemporaryDirectory(prefix="fake-host-")
        root = Path(self._folder.name)
        account = pwd.getpwuid(os.getuid()).pw_name
        self.places = Places(root / "postgresql" / "main", account, root / "state" / "discarded", root / "rejoin.lock")
        self.places.data_dir.mkdir(parents=True)
        (self.places.data_dir / "PG_VERSION").write_text("15")
        self.gate, self.vip, self.disk = FakeGate(clock, self.events), FakeVip(self.events, clock), FakeDisk(self.events)
        self.sealer = FakeSealer(self.database, self.events)
        self.instance = FakeInstance(self.database, self.events, self.places.data_dir)
        self.engine = FakeEngine(self.database, self.events)
        self.client, self.renewals = ensemble.client(me, clock=clock), ensemble.client(f"{me} pinned", clock=clock)
        self.telling = Telling(self.renewals, self.events)
        self.pinned = PinnedCoordinator([self.telling])  # type: ignore[list-item]  # a Coordinator by delegation
        self.client.start(1.0)
        self.pinned.start(1.0)
        paths = Paths("main")
        self.ledger = Ledger(self.client, paths)
        self.mirror = self.client.mirror(paths.singles(), paths.trees())
        self.board = Board(Identity(me, MEMBERS, TIMES, 10.0, 3.0, wait_s, rejoin_automatic=True), Lsn.parse)
        self.memory = Memory(self.disk)
        settings = KeeperSettings(me, TIMES, standby_reads, "main")
        self.keeper = LeaseKeeper(
            settings, self.gate, self.ledger, self.pinned, self.board.facts, lambda grant: self.see(), pledgers
        )
        self.fencer = Fencer(me, self.gate, self.keeper, self.instance, self.engine, self.memory, self.vip)
        self.rejoiner = FakeRejoiner(self.database, self.events, self.places.data_dir)
        self.rejoin = Rejoining(self.board, self.rejoiner, self.instance, self.memory, self.places, PORT)
        self.board.bind(lambda: self.keeper.state, lambda: self.memory.now, lambda: self.rejoin.state)
        self.reporter = Reporter(self.board, self.ledger, self.engine, self.instance, self.gate, self.vip, self.keeper, 1.0)
        hands = Hands(self.engine, self.instance, self.sealer, self.vip, self.fencer, self.keeper, self.memory, PORT, self.rejoin)
        self.warden = Warden(self.board, self.ledger, hands, self.reporter.look, self.reporter.step)
        self.deaths = Deaths(
            self.board, self.instance, self.fencer, lambda: self.warden.post_receipt(self.fencer.owed()), self.reporter.look
        )

    def close(self) -> None:
        self.rejoin.stop()
        self.pinned.close()
        self._folder.cleanup()

    # --- its loops --------------------------------------------------------------------------------------------------------
    def see(self) -> None:
        """Read ZooKeeper and look at the database."""
        self.board.read(self.ledger.view(self.mirror))
        self.reporter.look()

    def renew(self) -> None:
        self.see()
        self._let_lanes_end()
        self.keeper.step()

    def _let_lanes_end(self) -> None:
        """A lane is free a moment after its answer was heard; without the moment a renewal would pass it over."""
        end_s = time.monotonic() + 2.0
        while any(lane.busy for lane in self.pinned._lanes) and time.monotonic() < end_s:
            threading.Event().wait(0.0005)

    def ward(self) -> None:
        """One step, and whatever it began beside the loop has ended."""
        self.see()
        self.rejoin.look_again()
        self.warden.step()
        assert self.rejoin.wait(5.0), "the rejoin does not end"
        self.warden.wait(5.0)

    def turn(self, times: int = 1) -> FakeHost:
        for _ in range(times):
            self.renew()
            self.ward()
            self.reporter.step()
        return self

    def since(self, mark: int) -> list[str]:
        """The diary from entry `mark` on."""
        return self.events[mark:]

    def die(self, orphans: int = 0) -> FakeHost:
        """The main process ends while its guardian watches it."""
        watch = self.instance.watch()
        self.instance.watch = lambda: watch  # type: ignore[method-assign]  # the handle that was taken before the end
        self.database.end(orphans=orphans)
        self.deaths.step(0.0)
        del self.instance.watch
        return self

    # --- its records ------------------------------------------------------------------------------------------------------
    def lease(self) -> Lease:
        return self._record(Kind.LEASE)  # type: ignore[return-value]  # the ledger decodes by kind

    def receipt(self) -> Receipt:
        return self._record(Kind.RECEIPT)  # type: ignore[return-value]  # the ledger decodes by kind

    def seal(self) -> Seal | None:
        return self._record(Kind.SEAL)  # type: ignore[return-value]  # the ledger decodes by kind

    def handover(self) -> Handover | None:
        return self._record(Kind.HANDOVER)  # type: ignore[return-value]  # the ledger decodes by kind

    def rejoined(self) -> Rejoin | None:
        return self._record(Kind.REJOIN)  # type: ignore[return-value]  # the ledger decodes by kind

    def _record(self, kind: Kind) -> object:
        stored = self.ledger.read(Key(kind, self.me), 1.0)
        return stored.value if stored else None


class Authority:
    """The leader's pen: writes grant, operation and policy as a leader would, without being one."""

    def __init__(self, ensemble: MemoryEnsemble) -> None:
        client = ensemble.client("leader")
        client.start(1.0)
        self.ledger = Ledger(client, Paths("main"))
        self.ledger.bootstrap([m.name for m in MEMBERS], Policy(mode=Mode.AUTOMATIC), 1.0)

    def grant(self, grant: Grant) -> None:
        self._put(Key(Kind.GRANT), grant)

    def policy(self, **fields: object) -> None:
        self._put(Key(Kind.POLICY), Policy(**{"mode": Mode.AUTOMATIC, **fields}))  # type: ignore[arg-type]  # test data

    def operation(self, operation: Operation) -> None:
        self._put(Key(Kind.OPERATION), operation)

    def status(self, value: object, member: str) -> None:
        self._put(Key(Kind.MEMBER, member), value)

    def _put(self, key: Key, value: object) -> None:
        found = self.ledger.read(key, 1.0)
        self.ledger.commit([Swap(key, value, None) if found else Create(key, value)], 1.0)


def refuses(call: Callable[[], object]) -> str:
    """The reason why `call` is refused."""
    with pytest.raises(Refused) as caught:
        call()
    return str(caught.value)
