"""A stand-in for guardian/rejoin.py: the same face and the same rules for who may touch the database, tools made of time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from failover.clock import boottime_s
from failover.core.duty import LocalFacts, free_to_rejoin
from failover.core.model import Rejoin, RejoinWay, Role
from failover.core.rejoin import Data
from failover.errors import FailoverError, Unknown
from failover.guardian.base import Instance, RejoinState
from failover.guardian.board import Board
from failover.guardian.fencer import Memory
from failover.sim.database import Database
from failover.sim.kernel import Hand
from failover.sim.machine import Machine
from failover.sim.scheduler import Process
from failover.sim.threads import Event, Lock, Thread
from failover.sim.wal import Wal

AGAIN_S = 5.0
STOP_S = 60.0
MARKER_S, TOOL_S, COPY_S = (0.0005, 0.003), (0.2, 0.5), (0.3, 0.8)


class SimRejoining(Hand):
    """Not in here: what was in the tail, giving up after three failures, and the tools' own refusals."""

    def __init__(self, machine: Machine, process: Process, board: Board, instance: Instance, memory: Memory) -> None:
        super().__init__(machine, process)
        self._board, self._instance, self._memory = board, instance, memory
        self._exclusive = Lock()
        self._hands_on: RejoinWay | None = None
        self._record: Rejoin | None = None
        self._thread: Thread | None = None
        self._stop = Event()
        self._again_at_s = 0.0
        self._state, self._seen = RejoinState(), (Data.HERE, None, None, False)  # type: tuple[RejoinState, tuple[object, ...]]

    # --- asked -----------------------------------------------------------------------------------------------------------
    @property
    def state(self) -> RejoinState:
        disk, busy = self.machine.disk, self._hands_on
        seen = (self._data(), disk.rejoin, busy, disk.rejoined)
        if seen != self._seen:
            data, begun = seen[0], busy or disk.rejoin
            startable = data is Data.HERE and begun is None
            self._seen = seen
            self._state = RejoinState(data, "", begun, startable, ready=disk.rejoined and disk.rejoin is None)
        return self._state

    def owed(self) -> Rejoin | None:
        return self._record

    def look(self, running: bool) -> None:
        """Every question looks at the disk itself."""

    def look_again(self) -> None:
        """As `look`."""

    @contextmanager
    def hands_off(self) -> Iterator[None]:
        if not self._exclusive.acquire(blocking=False):
            raise Unknown("a rejoin is at work on this database")
        try:
            yield
        finally:
            self._exclusive.release()

    def _data(self) -> Data:
        if not self.machine.database.lost:
            return Data.HERE
        return Data.LOST if self._memory.now.home else Data.DOUBTFUL

    # --- told ------------------------------------------------------------------------------------------------------------
    def work(self, way: RejoinWay) -> None:
        if (self._thread is not None and self._thread.is_alive()) or boottime_s() < self._again_at_s:
            return
        self._stop = Event()
        self._thread = Thread(target=self._guarded, args=(way, self._stop), name=f"rejoin-{way.value}")
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self.wait(5.0)

    def wait(self, timeout_s: float) -> bool:
        if self._thread is not None:
            self._thread.join(timeout_s)
        return self._thread is None or not self._thread.is_alive()

    def settled(self, facts: LocalFacts, caught_up: bool) -> None:
        if self.machine.disk.rejoined and caught_up:
            self._begin("rejoin.remove_marker", MARKER_S)
            self.machine.disk.rejoined = False
            self._done("rejoin.remove_marker")
        if facts.rejoin.order is RejoinWay.REWIND:
            self._use_up(facts)
        self.remember_home()

    def remember_home(self) -> None:
        self._memory.change(home="data")

    # --- the work, in its thread -------------------------------------------------------------------------------------------
    def _guarded(self, way: RejoinWay, stop: Event) -> None:
        self._again_at_s = boottime_s() + AGAIN_S
        try:
            self._rewind(stop) if way is RejoinWay.REWIND else self._reseed(stop)
            self._again_at_s = 0.0
        except FailoverError as error:
            self._again_at_s = boottime_s() + AGAIN_S
            if not stop.is_set():
                self._board.note(rejoin=f"{way.value} does not succeed: {error}")
        finally:
            busy, self._hands_on = self._hands_on, None
            if busy is not None:
                self._exclusive.release()
            self._board.wake.set()

    def _rewind(self, stop: Event) -> None:
        facts, disk = self._board.facts(), self.machine.disk
        source = self._source(facts)
        if disk.rejoin is not RejoinWay.REWIND:
            if facts.role is not Role.STANDBY or facts.position is None:
                raise Unknown("the database or the primary's position is not known right now")
            self._stop_database(RejoinWay.REWIND)
        self._take(RejoinWay.REWIND)
        self._mark(RejoinWay.REWIND, facts)
        self._tool("rejoin.rewind", TOOL_S, stop)
        self._reach(source)
        if source.checkpointed != source.wal.position.timeline:
            raise Unknown("the source's control file still names its old history")
        mine = self.machine.database
        mine.wal = Wal(mine.wal.entries[: mine.wal.shared_with(source.wal)])
        self._through(RejoinWay.REWIND, facts)

    def _reseed(self, stop: Event) -> None:
        facts = self._board.facts()
        source = self._source(facts)
        self._tool("rejoin.copy", COPY_S, stop)
        self._reach(source)
        copied = tuple(source.wal.entries)
        self._stop_database(RejoinWay.RESEED)
        self._take(RejoinWay.RESEED)
        self._mark(RejoinWay.RESEED, facts)
        self._begin("rejoin.swap", MARKER_S)
        mine = self.machine.database
        mine.wal, mine.lost = Wal(copied), False
        self._through(RejoinWay.RESEED, facts)

    def _tool(self, label: str, takes_s: tuple[float, float], stop: Event) -> None:
        """The tool is at work; it ends early if it is told to, and with its guardian."""
        self._begin(label, MARKER_S)
        if stop.wait(self._sim.random.uniform(*takes_s)):
            raise Unknown("stopped")
        self._done(label)

    def _stop_database(self, way: RejoinWay) -> None:
        """Not if the grant came to us, or people or an operation came between."""
        self._take(way)
        if not self._instance.processes().all:
            return
        if not free_to_rejoin(self._board.facts()):
            raise Unknown("something came between")
        self._board.note(stopping=True)
        if not self._instance.stop("fast", STOP_S):
            self._board.note(stopping=False)
            raise Unknown("the database does not stop")

    def _take(self, way: RejoinWay) -> None:
        """From here until the thread ends nobody else starts or promotes this database."""
        if self._hands_on is None:
            if not self._exclusive.acquire(timeout=STOP_S):
                raise Unknown("the database is being started")
            self._hands_on = way

    def _mark(self, way: RejoinWay, facts: LocalFacts) -> None:
        """The marker is on the disk before anything is touched."""
        self._begin("rejoin.mark", MARKER_S)
        assert not self.machine.database.children, "a tool under a running server"
        self.machine.disk.rejoin, self.machine.disk.rejoined = way, False
        self._record = Rejoin(facts.me, facts.epoch, way, "running")
        self._done("rejoin.mark")

    def _through(self, way: RejoinWay, facts: LocalFacts) -> None:
        """The data is whole again, and the marker says so; between the two the next guardian would do it again."""
        database, disk = self.machine.database, self.machine.disk
        database.standby_signal, database.receiving.upstream, database.clean = True, "", False
        self._use_up(facts)
        self._begin("rejoin.through", MARKER_S)
        disk.rejoin, disk.rejoined = None, True
        assert self._record is not None
        self._record = replace(self._record, state="done")
        self._done("rejoin.through")

    def _source(self, facts: LocalFacts) -> Database:
        member = facts.grant.value.member if facts.grant else None
        if member is None or member == facts.me:
            raise Unknown("nobody else is granted any more")
        return self.machine.database.peers[self._board.address_of(member)]

    def _reach(self, source: Database) -> None:
        mine = self.machine.database
        reachable = mine.network.connected(mine.name, source.name) and mine.machine.kernel.passes(source.address)
        if not (reachable and source.machine.kernel.passes(mine.address) and source.writable) or source.frozen:
            raise Unknown(f"{source.name} does not answer")

    def _use_up(self, facts: LocalFacts) -> None:
        """A consent is used once."""
        policy = facts.policy.value if facts.policy else None
        request = next((o.request for o in policy.rejoin if o.member == facts.me), "") if policy and facts.rejoin.order else ""
        if request:
            self._memory.change(rejoined=request)
