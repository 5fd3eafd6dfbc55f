"""Looks at the database beside us and tells ZooKeeper what it saw: facts for choosing and for people, never a permission."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from failover.clock import boottime_s
from failover.coordination.ledger import Ledger
from failover.core.duty import LocalFacts, duty
from failover.core.model import MemberStatus, Role
from failover.core.plan import Create, Key, Kind, Swap, Write
from failover.engines.base import LocalEngine, LocalState
from failover.errors import FailoverError, Unknown, Unreachable, WrongCredentials
from failover.guardian.base import Gate, Instance, Vip
from failover.guardian.board import Board, Life
from failover.guardian.keeper import LeaseKeeper
from failover.guardian.processes import life_of, turn

log = logging.getLogger("failover.guardian.reporter")
REFRESH_S = 1.0
MOVING_S = 1.5  # several looks
COMMIT_S = 1.0
FAIL_SHARE = 1.5  # of a heartbeat's bound: what one that hangs takes, with the interval before it


class Reporter:
    """`look()` may be called by any thread for an immediate look; `step()` is one turn of the reporter's own loop."""

    def __init__(
        self, board: Board, ledger: Ledger, engine: LocalEngine, instance: Instance, gate: Gate, vip: Vip | None,
        keeper: LeaseKeeper, budget_s: float, paths: Callable[[], tuple[str, ...]] = tuple,
    ) -> None:  # fmt: skip
        """`paths`: what is wrong with the ways to the other guardians."""
        self._board, self._ledger, self._engine, self._instance = board, ledger, engine, instance
        self._gate, self._vip, self._keeper, self._budget_s, self._paths = gate, vip, keeper, budget_s, paths
        self._looking = threading.Lock()
        self._publishing = threading.Lock()
        self._last: MemberStatus | None = None
        self._last_at_s = 0.0
        self._trouble: str | None = None
        self._ran_ns: int | None = None
        self._moved_at_s = float("-inf")
        self._vip_there = False
        self._vip_due_s = 0.0
        self._life, self._asked = Life(), False

    def look(self) -> None:
        """Ask the database now and put the answer on the board."""
        with self._looking:
            main = self._engine.main_pid()
            self._watch_it_move(main)
            state = self._ask() if main is not None else None
            self._board.found(state, main is not None, self._live(main) if main is not None else None)

    def _watch_it_move(self, main: int | None) -> None:
        now = turn(main) if main is not None else None
        if now is not None and (now[1] or (self._ran_ns is not None and now[0] != self._ran_ns)):
            self._moved_at_s = boottime_s()
        self._ran_ns = now[0] if now is not None else None

    def _live(self, main: int) -> Life:
        """Asked of the database once in each of its runs."""
        name = life_of(main)
        if name != self._life.name or not self._asked:
            self._life, self._asked = Life(name, keeps=False), False
            try:
                self._life, self._asked = Life(name, self._engine.keeps_received_log()), True
            except FailoverError as error:
                log.debug("not known whether this run kept what it had received: %s", error)
        return self._life

    def step(self) -> None:
        """Look, and publish if something changed or the last word is a second old (others tell our silence by that)."""
        self.look()
        with self._publishing:
            self._publish()

    def _publish(self) -> None:
        status = self.status()
        due = boottime_s() - self._last_at_s >= REFRESH_S
        if status == self._last and not due:
            return
        key = Key(Kind.MEMBER, status.member)
        exists = status.member in self._board.records.all(Kind.MEMBER)
        write: Write = Swap(key, status, None) if exists else Create(key, status)
        try:
            self._ledger.commit([write], COMMIT_S)
        except FailoverError as error:
            log.debug("status not published: %s", error)
            return
        self._last, self._last_at_s = status, boottime_s()

    def status(self) -> MemberStatus:
        """What would be published now."""
        facts, local, own = self._board.facts(), self._board.local, self._board.own
        writable = facts.role is Role.PRIMARY and facts.epoch > 0 and own.served == facts.epoch and facts.proved
        return MemberStatus(
            member=self._board.identity.me,
            role=facts.role,
            system_identifier=local.system_identifier if local else "",
            position=local.position.text() if local else None,
            replay_lag_bytes=local.replay_lag_bytes if local else None,
            follows=self._board.member_at(local.upstream) if local and local.upstream else None,
            streaming=bool(local and local.streaming and self._follows_granted(facts, local)),
            gate=self._gate_word(facts),
            epoch=facts.epoch if writable else 0,
            vip=self._has_vip(),
            writable=writable,
            heartbeat=local.heartbeat if local else None,
            heartbeat_fails=own.heartbeat_fails,
            applied_sync=own.applied_sync if own.served else (local.sync if local else None),
            applied_at=own.applied_at if own.served else None,
            kept_out=bool(local and local.kept_out),
            paused_replay=bool(local and local.replay_paused),
            testifies=facts.may_testify,
            rejoin=own.rejoin,
            rewind_ready=writable and local is not None and own.rewind_ready == local.position.history_id(),
            moving=boottime_s() - self._moved_at_s <= MOVING_S,
            problems=self._problems(own.failed),
            guardian=duty(facts).says,
        )

    def _problems(self, failed: str | None) -> tuple[str, ...]:
        local = self._board.local
        said = (
            self._trouble, self._board.foreign, failed, self._keeper.alarm, self._keeper.on_pledges, *self._paths(),
            *(local.faults if local else ()),
        )  # fmt: skip
        return tuple(text for text in said if text)

    def _has_vip(self) -> bool:
        """Asked of the kernel once a second: each look costs a process."""
        now_s = boottime_s()
        if self._vip is not None and now_s >= self._vip_due_s:
            self._vip_there, self._vip_due_s = self._vip.held(), now_s + REFRESH_S
        return self._vip_there

    def _follows_granted(self, facts: LocalFacts, local: LocalState) -> bool:
        """Before adoption any upstream counts; after it only the granted member."""
        upstream = self._board.member_at(local.upstream) if local.upstream else None
        return upstream is not None and (facts.grant is None or upstream == facts.grant.value.member)

    def _gate_word(self, facts: LocalFacts) -> str:
        if facts.released:
            return "released"
        try:
            state = self._gate.adopt()
        except FailoverError as error:
            return f"unknown ({error})"
        if not state.table:
            return "none"
        return "open" if state.open else "shut"

    def _ask(self) -> LocalState | None:
        try:
            state = self._engine.state(self._budget_s)
        except WrongCredentials as error:
            self._trouble = f"the operator account is refused: {error}"
            return None
        except (Unknown, Unreachable) as error:
            self._trouble = f"the database does not answer: {error}"
            return None
        except FailoverError as error:
            self._trouble = f"the database answers nonsense: {error}"
            return None
        self._trouble = None
        return state


class Heart:
    """Inserts a heartbeat row on a fresh connection while we are the proved primary; its failing is a vote of its own.

    Failures are counted by time, one for as long as one that hangs takes: a server that refuses at once, because it is being
    stopped, has not failed more often than one that hangs.
    """

    def __init__(self, board: Board, engine: LocalEngine, budget_s: float) -> None:
        self._board, self._engine, self._budget_s = board, engine, budget_s
        self._sequence = 0
        self._failing_since_s: float | None = None
        self._beating = threading.Lock()

    def beat(self) -> None:
        """One row. Callable from any thread: a new primary beats at once, others wait for its first row."""
        with self._beating:
            self._beat()

    def _beat(self) -> None:
        own, facts = self._board.own, self._board.facts()
        if not facts.running:
            return  # what had failed until now still counts: the receipt of this end is on its way, and says whether it was clean
        if own.served == 0 or not own.prepared or facts.role not in (Role.PRIMARY, Role.UNKNOWN):
            if own.heartbeat_fails:
                self._board.note(heartbeat_fails=0)
            return
        self._sequence = max(self._sequence, self._newest(own.served)) + 1
        try:
            self._engine.heartbeat(own.served, self._sequence, self._budget_s)
        except FailoverError as error:
            now_s = boottime_s()
            self._failing_since_s = now_s if own.heartbeat_fails == 0 else self._failing_since_s or now_s
            fails = 1 + int((now_s - self._failing_since_s) / (FAIL_SHARE * self._budget_s))
            self._board.note(heartbeat_fails=fails)
            log.warning("heartbeat %d failed, for %d intervals now: %s", self._sequence, fails, error)
            return
        if own.heartbeat_fails:
            self._board.note(heartbeat_fails=0)

    def _newest(self, epoch: int) -> int:
        """A restarted guardian counts on: standbys tell a new row by its number, and two rows of one number are refused."""
        local = self._board.local
        return local.heartbeat[1] if local and local.heartbeat and local.heartbeat[0] == epoch else 0
