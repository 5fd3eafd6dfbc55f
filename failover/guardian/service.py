"""The guardian as a process: its threads, its local socket, and an orderly end. Every part is handed in by bootstrap."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from failover.clock import boottime_s
from failover.coordination.base import Mirror
from failover.coordination.ledger import Ledger
from failover.core.model import Role
from failover.core.plan import Kind
from failover.engines.base import LocalEngine
from failover.errors import FailoverError, Refused
from failover.guardian.base import Gate, Instance, Sealer, Vip
from failover.guardian.board import Board
from failover.guardian.deaths import Deaths
from failover.guardian.fencer import Fencer, Memory
from failover.guardian.keeper import LeaseKeeper
from failover.guardian.pledge_service import PledgePort
from failover.guardian.reporter import Heart, Reporter
from failover.guardian.ruleset_watch import RulesetWatch
from failover.guardian.warden import Warden

log = logging.getLogger("failover.guardian")
HURRY_S = 0.1  # between renewals while one is overdue: a link may be back at any moment
AFTER_ERROR_S = 0.2  # a duty that failed is tried again, but not as fast as the machine can
DRAIN_LOOK_S = 0.02  # a switchover's target: its position decides when the grant may be claimed
BUSY_LOOK_S = 0.1  # while an operation runs


@dataclass(frozen=True)
class Parts:
    """Everything a running guardian consists of."""

    board: Board
    ledger: Ledger
    mirror: Mirror
    gate: Gate
    sealer: Sealer
    vip: Vip | None
    instance: Instance
    engine: LocalEngine
    memory: Memory
    keeper: LeaseKeeper
    fencer: Fencer
    warden: Warden
    reporter: Reporter
    heart: Heart
    deaths: Deaths
    port: int
    renew_s: float
    probe_interval_s: float
    pledges: PledgePort | None = None


class Guardian:
    """Runs until `stop()`. Stopping the guardian never stops the database: it lives on, and so does its last ticket."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Put the kernel's half of what is remembered in place *before* anything may start, then begin to look."""
        self._boot_fenced()
        parts = self._parts
        self._records()
        parts.reporter.look()
        loops: tuple[tuple[str, Callable[[], None]], ...] = (
            ("records", self._read_records),
            ("reporter", self._report),
            ("deaths", self._watch_deaths),
            ("keeper", self._keep),
            ("heart", self._beat),
            ("ruleset", self._watch_ruleset),
            ("warden", self._ward),
        )
        if parts.pledges is not None:
            port = parts.pledges
            loops = (("pledges", lambda: port.serve(self._stop)), *loops)
        for name, loop in loops:
            thread = threading.Thread(target=self._guarded, args=(name, loop), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    @property
    def alive(self) -> bool:
        """False once a thread has died: the process should end and be started again."""
        return not self._stop.is_set()

    def stop(self) -> None:
        """Renew once more and let go at once: the kernel's ticket then runs as long as it can, and a restart does not demote.

        Nothing is waited for but the end of a copy's or a rewind's own processes: every write of ours is one transaction, and
        whoever comes next looks at what is there.
        """
        self._parts.keeper.step()
        self._stop.set()
        self._parts.warden.stop()

    # --- loops ------------------------------------------------------------------------------------------------------
    def _guarded(self, name: str, loop: Callable[[], None]) -> None:
        """A loop that dies must not leave a guardian that looks alive: end the process, the service manager restarts it."""
        try:
            loop()
        except BaseException:
            log.critical("the %s thread died; the guardian ends, the kernel's ticket runs out", name, exc_info=True)
            self._stop.set()
            raise

    def _read_records(self) -> None:
        changed = self._parts.mirror.changed
        while not self._stop.is_set():
            changed.wait(0.5)
            changed.clear()
            self._records()

    def _records(self) -> None:
        if self._parts.mirror.ready():
            before = self._parts.board.records
            records = self._parts.ledger.view(self._parts.mirror)
            self._parts.board.read(records)
            if any(records.one(kind) != before.one(kind) for kind in (Kind.GRANT, Kind.POLICY)):
                self._parts.keeper.wake.set()

    def _report(self) -> None:
        while not self._stop.is_set():
            self._parts.reporter.step()
            self._stop.wait(self._look_again_s())

    def _look_again_s(self) -> float:
        """Often only where somebody waits for the answer: each look takes time from the very work that is waited for."""
        stored = self._parts.board.records.one(Kind.OPERATION)
        if stored is None:
            return self._parts.probe_interval_s / 2
        drains = stored.value.phase == "stopping" and stored.value.target == self._parts.board.identity.me
        return DRAIN_LOOK_S if drains else BUSY_LOOK_S

    def _watch_deaths(self) -> None:
        while not self._stop.is_set():
            if not self._parts.deaths.step(0.5):
                self._stop.wait(0.05)

    def _keep(self) -> None:
        parts = self._parts
        while not self._stop.is_set():
            began_s = boottime_s()
            parts.keeper.wake.clear()
            parts.keeper.step()
            if parts.keeper.state.deadline_s is not None:
                parts.board.wake.set()
            pause_s = HURRY_S if parts.keeper.late else parts.renew_s - (boottime_s() - began_s)
            parts.keeper.wake.wait(max(0.01, pause_s))

    def _watch_ruleset(self) -> None:
        """A flushed table is an open port: the keeper puts it back at once, not only at the next renewal (G3)."""
        watch = RulesetWatch()
        try:
            while not self._stop.is_set():
                if watch.wait(0.5):
                    self._parts.keeper.check_gate()
        finally:
            watch.close()

    def _beat(self) -> None:
        while not self._stop.wait(self._parts.probe_interval_s):
            self._parts.heart.beat()

    def _ward(self) -> None:
        board = self._parts.board
        while not self._stop.is_set():
            board.wake.clear()
            done = self._parts.warden.step()
            if not done:
                self._stop.wait(AFTER_ERROR_S)
            board.wake.wait(0.1)

    def _boot_fenced(self) -> None:
        """G5: what was ever adopted is shut until a grant is proved; a table that a running primary has is left as it is."""
        parts, remembered = self._parts, self._parts.memory.now
        if remembered.frozen and remembered.frozen_against:
            parts.sealer.seal(remembered.frozen_against, parts.port)
            log.warning("still frozen for epoch %d against %s", remembered.frozen, remembered.frozen_against)
        if remembered.highest and not remembered.released:
            parts.gate.install_shut()
            if not parts.instance.processes().all:
                parts.engine.arm_standby()

    # --- the local socket --------------------------------------------------------------------------------------------
    def handle(self, verb: str, fields: dict[str, object]) -> tuple[str, dict[str, object]]:
        """One verb of remote/verbs.py, from the host agent or from this host's own commands."""
        parts = self._parts
        if verb == "status":
            return parts.board.own.says, self._facts()
        if verb == "fence":
            return self._fence(int(str(fields["closes"])))
        if verb == "vip-take":
            evidence = parts.warden.take_vip(int(str(fields["epoch"])))
            return evidence, self._facts()
        if verb == "vip-drop":
            return self._drop_vip(int(str(fields["closes"])))
        if verb == "checkpoint":
            parts.warden.checkpoint()
            return "checkpoint done", {}
        if verb == "release":
            return self._release()
        if verb == "arm":
            parts.memory.change(released=False)
            parts.board.wake.set()
            return "armed again: the gate comes back with the next renewal", self._facts()
        raise Refused(f"the guardian does not know {verb!r}")

    def _facts(self) -> dict[str, object]:
        parts = self._parts
        processes = parts.instance.processes()
        gate = parts.gate.adopt()
        word = "none" if not gate.table else ("open" if gate.open else "shut")
        return {
            "guardian": True, "closed": parts.memory.now.closed, "gate": word, "processes": len(processes.all),
            "main_pid": processes.main, "vip": parts.vip.held() if parts.vip else False,
        }  # fmt: skip

    def _fence(self, closes: int) -> tuple[str, dict[str, object]]:
        """Obeyed unless this guardian has proved a later epoch, however its lease stands right now (G1)."""
        facts, proved = self._parts.board.facts(), self._parts.memory.now.wrote
        if proved > closes:
            raise Refused(f"epoch {proved} was proved here; {closes} is over")
        if closes <= self._parts.memory.now.closed and facts.role is Role.STANDBY:
            return f"epoch {closes} was closed before; a standby runs here and is left alone", self._facts()
        in_place = self._parts.board.handed_over_in_place  # then the receipt is the evidence: a process that is left is none
        evidence = self._parts.fencer.fence(closes, "ordered over SSH", in_place, spare=in_place)
        return evidence, self._facts()

    def _drop_vip(self, closes: int) -> tuple[str, dict[str, object]]:
        facts = self._parts.board.facts()
        if facts.proved and facts.epoch > closes:
            raise Refused(f"epoch {facts.epoch} is proved here; {closes} is over")
        self._parts.board.note(vip_wanted=False)
        there = self._parts.vip.drop() if self._parts.vip else False
        return ("VIP removed" if there else "VIP was not here"), self._facts()

    def _release(self) -> tuple[str, dict[str, object]]:
        try:
            self._parts.memory.change(released=True)
        except FailoverError as error:
            log.error("released, but not remembered: %s", error)
        self._parts.keeper.let_go()
        self._parts.board.note(served=0, vip_wanted=False)
        self._parts.gate.release()
        if self._parts.vip is not None and self._parts.vip.held():
            self._parts.vip.hold(None, announce=False)  # the client's path must outlive us too
        return "the gate is open for good; `failover-guardian arm` brings it back", self._facts()
