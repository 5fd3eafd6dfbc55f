"""Brings this member's database back when it cannot simply follow: the long work of the duties REWIND and RESEED.

The work has a thread of its own, so that a copy of hours holds up no fence; the duty table only starts it and looks at it.
What counts is on the disk (rejoin_files.py): a guardian that died in the middle is followed by one that goes on from there.

Rules: a tail is saved and listed before its member's data is touched. A half rewound directory is never started: the rewind is
done again, and after three failures a person decides. A new copy is made beside the data and takes its place by a rename; the
old data is then kept, and a second copy is refused while an older one is still kept, so the product itself never removes the
last copy of anything. What has begun goes on through a pause or an operation, which never wait for it; only the moments that
stop the database ask again whether the grant is still another's.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from failover.clock import boottime_s, wall_text
from failover.core.duty import LocalFacts, free_to_rejoin
from failover.core.model import MemberStatus, Rejoin, RejoinWay, Role
from failover.core.plan import Kind
from failover.core.rejoin import Data
from failover.engines.base import Discarded, Rejoiner, Upstream, Work
from failover.errors import Corrupt, FailoverError, Refused, Unknown
from failover.guardian.base import Instance, RejoinState
from failover.guardian.board import Board
from failover.guardian.fencer import Memory
from failover.guardian.rejoin_files import Marker, Places, filesystem_of

log = logging.getLogger("failover.guardian.rejoin")
ATTEMPTS = 3
AGAIN_S = 5.0  # after the first failure; longer after each further one
AGAIN_MAX_S = 60.0
STOP_S = 60.0
LOOK_S = 0.2
TAIL_MAX_BYTES = 16 << 30
END_S = 5.0
WAIT_S = 1.0


class Rejoining:
    """`look`, `work`, `settled` are called by the warden's thread only; `state` by anybody."""

    def __init__(
        self, board: Board, rejoiner: Rejoiner, instance: Instance, memory: Memory, places: Places, port: int
    ) -> None:
        self._board, self._rejoiner, self._instance, self._memory = board, rejoiner, instance, memory
        self._places, self._port = places, port
        self._lock = threading.Lock()
        self._looking = threading.Lock()
        self._exclusive = threading.Lock()  # held by whoever starts or promotes the database, or takes it away
        self._state = RejoinState(obstacle=rejoiner.obstacle())
        self._hands_on: RejoinWay | None = None  # about to stop the database, or at work on its directory
        self._given_up: tuple[int, str] | None = None  # epoch, why: a rule said no before anything was touched
        self._record: Rejoin | None = None
        self._rewound_under = 0
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._failures = 0
        self._again_at_s = self._look_at_s = 0.0
        self._home_known = False

    # --- asked -----------------------------------------------------------------------------------------------------------
    @property
    def state(self) -> RejoinState:
        with self._lock:
            state, busy = self._state, self._hands_on
        return state if busy is None else replace(state, startable=False, unfinished=busy)

    def owed(self) -> Rejoin | None:
        """The record that ZooKeeper must hold."""
        return self._record

    def look(self, running: bool) -> None:
        """See what is on the disk, at most five times a second."""
        now_s = boottime_s()
        if now_s >= self._look_at_s:
            self._look_at_s = now_s + LOOK_S
            self._look(running)

    def look_again(self) -> None:
        """The next look is a fresh one."""
        self._look_at_s = 0.0

    @contextmanager
    def hands_off(self) -> Iterator[None]:
        """While the database is started or promoted nobody takes it away. Raises Unknown while somebody does."""
        if not self._exclusive.acquire(blocking=False):
            raise Unknown("a rejoin is at work on this database")
        try:
            yield
        finally:
            self._exclusive.release()

    def _look(self, running: bool) -> None:
        """One look at a time: a slow one must not put an older picture in the place of a newer one."""
        with self._looking:
            try:
                self._look_at(running, self._places.read_marker())
            except Corrupt as error:
                with self._lock:
                    self._state = replace(self._state, data=Data.DOUBTFUL, doubt=str(error), startable=False)

    def _look_at(self, running: bool, marker: Marker | None) -> None:
        data, doubt = (Data.HERE, "") if running else self._places.data(self._memory.now.home)
        under_way = marker if marker and marker.stage != "ready" else None
        given_up = self._given_up[1] if self._given_up and self._given_up[0] == self._board.facts().epoch else None
        broken = under_way is not None and (under_way.spoiled or under_way.stage == "swapping")
        if self._record is None and marker is not None:
            self._record = marker.record
        with self._lock:
            self._state = replace(
                self._state, data=data, doubt=doubt, unfinished=under_way.way if under_way else None,
                startable=data is Data.HERE and not broken, failed=(under_way.failed or None) if under_way else given_up,
                ready=marker is not None and under_way is None,
            )  # fmt: skip

    # --- told ------------------------------------------------------------------------------------------------------------
    def work(self, way: RejoinWay) -> None:
        """Begin or go on, if nobody is at it. Returns at once."""
        if (self._thread is not None and self._thread.is_alive()) or boottime_s() < self._again_at_s:
            return
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._guarded, args=(way, self._stop), name=f"rejoin-{way.value}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the tool that is at work; the marker stays and the next guardian goes on."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(END_S)

    def wait(self, timeout_s: float) -> bool:
        """True once nobody is at work."""
        if self._thread is not None:
            self._thread.join(timeout_s)
        return self._thread is None or not self._thread.is_alive()

    def settled(self, facts: LocalFacts, caught_up: bool) -> None:
        """It follows the granted member: a consent that nothing is left to do for has done its work, and the marker has once
        it has caught up; until then the member may not testify."""
        if self._state.ready and caught_up:
            self._places.remove_marker()
            self._look(running=True)
        if facts.rejoin.order is RejoinWay.REWIND:
            self._memory.change(rejoined=self._request(facts))
        self.remember_home()

    def remember_home(self) -> None:
        """The file system that the data is on while all is well: an empty directory elsewhere is not a loss."""
        if not self._home_known:
            try:
                self._memory.change(home=filesystem_of(self._places.data_dir))
            except OSError as error:
                raise Unknown(f"{self._places.data_dir}: {error.strerror}") from error
            self._home_known = True

    # --- the work, in its thread -------------------------------------------------------------------------------------------
    def _guarded(self, way: RejoinWay, stop: threading.Event) -> None:
        self._again_at_s = boottime_s() + AGAIN_S  # whatever happens
        try:
            with self._places.locked() as lock:
                self._rewind(stop, lock) if way is RejoinWay.REWIND else self._reseed(stop, lock)
            self._failures, self._given_up, self._again_at_s = 0, None, 0.0
        except (FailoverError, OSError) as error:
            if isinstance(error, Refused) and way is RejoinWay.REWIND:
                self._give_up(error)
            self._failures += 1
            pause_s = min(AGAIN_MAX_S, AGAIN_S * self._failures)
            self._again_at_s = boottime_s() + pause_s
            if not stop.is_set():
                log.warning("%s: %s; looked at again in %.0f s", way.value, error, pause_s)
                self._says(f"{_doing(way)} does not succeed: {error}; looked at again in {pause_s:.0f} s")
        finally:
            self._look(running=False)  # before the hands are off: the marker must be seen by whoever would start it now
            self._let_go()
            self._board.wake.set()

    def _let_go(self) -> None:
        with self._lock:
            busy, self._hands_on = self._hands_on, None
        if busy is not None:
            self._exclusive.release()

    def _rewind(self, stop: threading.Event, lock: int) -> None:
        facts, marker = self._board.facts(), self._places.read_marker()
        if marker is None or marker.stage == "ready":
            if self._rewound_under == facts.epoch:
                raise Refused("it was rewound under this epoch and has diverged again")
            record = self._save(facts, RejoinWay.REWIND, stop)
            self._stop_database(RejoinWay.REWIND, stop)
            self._rejoiner.forget()  # before the marker says that something may have been put aside
            marker = Marker(RejoinWay.REWIND, "rewinding", record, spoiled=True, request=self._request(facts))
        elif facts.rejoin.order is RejoinWay.REWIND and marker.failed:
            marker = replace(marker, failed="", attempts=0, request=self._request(facts))
        self._take(RejoinWay.REWIND)
        marker = self._put(marker.at("rewinding", attempts=marker.attempts + 1), state="running")
        primary = _granted(facts)
        try:
            self._rejoiner.rewind(self._upstream(primary), self._work(stop, lock, f"rewinding against {primary}"))
        except FailoverError as error:
            if not stop.is_set() and (isinstance(error, Refused) or marker.attempts >= ATTEMPTS):
                self._put(replace(marker, failed=str(error)), state="failed", says=str(error))
                self._use_up(marker.request)
            elif stop.is_set():
                self._put(replace(marker, attempts=marker.attempts - 1))
            raise
        self._rewound_under = facts.epoch
        self._done(marker, f"rewound against {primary}; {marker.record.says}")

    def _reseed(self, stop: threading.Event, lock: int) -> None:
        facts, marker = self._board.facts(), self._places.read_marker()
        if marker is None or marker.way is not RejoinWay.RESEED or marker.stage == "ready":
            spoiled = marker is not None and marker.spoiled
            record = replace(marker.record, way=RejoinWay.RESEED) if marker and spoiled else self._save_if_any(facts, stop)
            if not spoiled:
                self._rejoiner.forget()
            marker = Marker(RejoinWay.RESEED, "copying", record, spoiled=spoiled, request=self._request(facts))
        if marker.stage != "swapping":
            self._places.make_room()
            marker = self._put(marker.at("copying", attempts=marker.attempts + 1), state="running")
            source = self._source(facts, marker.attempts)
            log.warning("copying the database from %s into %s", source, self._places.new)
            self._rejoiner.copy(self._upstream(source), self._places.new, self._work(stop, lock, f"copying from {source}"))
            self._stop_database(RejoinWay.RESEED, stop)
            says = "; ".join(text for text in (f"copied from {source}", marker.record.says) if text)
            marker = self._put(marker.at("swapping"), says=says)
        self._take(RejoinWay.RESEED)
        kept = self._places.swap(_stamp(marker.record))
        self._done(marker, marker.record.says + (f"; the old data is in {kept}" if kept else ""))

    def _give_up(self, error: Refused) -> None:
        """A consent that led here is used up: the next word of a person is a new look."""
        facts = self._board.facts()
        self._given_up = facts.epoch, str(error)
        self._use_up(self._request(facts))

    def _stop_database(self, way: RejoinWay, stop: threading.Event) -> None:
        """In order, so that its log has a known end; not if the grant came to us or people or an operation came between.

        A copy that took hours waits for them to be through.
        """
        self._take(way)
        while not free_to_rejoin(facts := self._board.facts()) and self._instance.processes().all:
            self._let_go()
            if way is RejoinWay.REWIND or facts.mine or stop.wait(WAIT_S):
                raise Unknown("something came between")
            self._take(way)
        if not self._instance.processes().all:
            return
        self._board.note(stopping=True)
        if not self._instance.stop("fast", STOP_S):
            self._board.note(stopping=False)
            raise Unknown(f"the database does not stop within {STOP_S:.0f} s")

    def _take(self, way: RejoinWay) -> None:
        """From here until the thread ends nobody else starts or promotes this database."""
        if self._hands_on is None:
            if not self._exclusive.acquire(timeout=STOP_S):
                raise Unknown("the database is being started")
            with self._lock:
                self._hands_on = way

    # --- its records ---------------------------------------------------------------------------------------------------------
    def _save_if_any(self, facts: LocalFacts, stop: threading.Event) -> Rejoin:
        """Before a copy: the old data itself is kept, so what cannot be listed is only said."""
        bare = Rejoin(self._board.identity.me, facts.epoch, RejoinWay.RESEED, "running", at_wall=wall_text())
        if facts.rejoin.data is not Data.HERE:
            return replace(bare, says="the data directory was lost: what only it had cannot be listed")
        if facts.position is None or facts.grant_position is None:
            return replace(bare, says="its database did not run: what only it had cannot be listed")
        if facts.grant_position.covers(facts.position):
            return bare
        try:
            return self._save(facts, RejoinWay.RESEED, stop)
        except Refused as error:
            return replace(bare, says=f"what only it had cannot be listed: {error}")

    def _save(self, facts: LocalFacts, way: RejoinWay, stop: threading.Event) -> Rejoin:
        """The tail on the disk and what was in it. Raises Refused if it is gone or too much."""
        if facts.role is not Role.STANDBY or facts.position is None or facts.grant_position is None:
            raise Unknown("the database or the primary's position is not known right now")
        tail = self._rejoiner.tail(facts.position, facts.grant_position)
        if tail.size_bytes > TAIL_MAX_BYTES:
            raise Refused(f"{tail.size_bytes >> 30} GiB of log would be given up, more than the {TAIL_MAX_BYTES >> 30} GiB saved")
        now = wall_text()
        bare = Rejoin(self._board.identity.me, facts.epoch, way, "running", tail.diverged_at.text(), tail.end.text(), at_wall=now)
        with self._places.saving(_stamp(bare)) as folder:
            found = self._rejoiner.save(tail, folder, self._work(stop, None, "saving the log that the primary does not have"))
        saved: str | None = str(self._places.saved / _stamp(bare))
        log.warning("%s; saved in %s", _words(found), saved)
        if not found.commits and not found.unread:
            self._places.forget(_stamp(bare))
            saved = None
        return replace(
            bare, discarded_commits=found.commits, discarded=found.lines, tables=found.tables, saved=saved, says=_words(found)
        )

    def _put(self, marker: Marker, **told: object) -> Marker:
        """The marker on the disk, and its record owed to ZooKeeper."""
        if told:
            marker = replace(marker, record=replace(marker.record, **told))  # type: ignore[arg-type]  # replace checks the names
        self._places.write_marker(marker)
        self._record = marker.record
        return marker

    def _done(self, marker: Marker, says: str) -> None:
        self._use_up(marker.request)
        self._put(marker.at("ready", spoiled=False, failed=""), state="done", says=says)
        self._rejoiner.forget()  # only now: until the marker says so, the next guardian would do it again
        log.warning("%s", says)
        self._says(f"{says.partition(';')[0]}: starting")

    def _use_up(self, request: str) -> None:
        """A consent is used once."""
        if request:
            self._memory.change(rejoined=request)

    # --- small -----------------------------------------------------------------------------------------------------------------
    def _request(self, facts: LocalFacts) -> str:
        policy = facts.policy.value if facts.policy else None
        return next((o.request for o in policy.rejoin if o.member == facts.me), "") if policy and facts.rejoin.order else ""

    def _source(self, facts: LocalFacts, attempt: int) -> str:
        """A standby that streams from the primary spares it the load; every second attempt goes to the primary."""
        primary = _granted(facts)
        members: dict[str, MemberStatus] = {n: s.value for n, s in self._board.records.all(Kind.MEMBER).items()}
        others = [n for n, s in sorted(members.items()) if n not in (facts.me, primary) and s.streaming and s.follows == primary]
        return others[0] if others and attempt % 2 else primary

    def _upstream(self, member: str) -> Upstream:
        return Upstream(member, self._board.address_of(member), self._port, self._board.is_guarded(member))

    def _work(self, stop: threading.Event, lock: int | None, doing: str) -> Work:
        self._says(doing)
        return Work(stop, lambda words: self._says(f"{doing}: {words}"), lock)

    def _says(self, words: str) -> None:
        self._board.note(rejoin=words)


def _granted(facts: LocalFacts) -> str:
    member = facts.grant.value.member if facts.grant else None
    if member is None or member == facts.me:
        raise Unknown("nobody else is granted any more")
    return member


def _stamp(record: Rejoin) -> str:
    """A folder's name from the moment it began: 20261120T160514.123Z."""
    return "".join(c for c in record.at_wall if c.isalnum() or c == ".")


def _words(found: Discarded) -> str:
    rows = ", ".join(f"{table} {count}" for table, count in found.tables[:5])
    if not found.commits:
        return "nothing that anybody would miss is in the log given up" + (f" ({found.unread})" if found.unread else "")
    commits = "1 commit" if found.commits == 1 else f"{found.commits} commits"
    return f"{commits} given up: {rows or 'no rows'}" + (f" ({found.unread})" if found.unread else "")


def _doing(way: RejoinWay) -> str:
    return "the rewind" if way is RejoinWay.REWIND else "the new copy"
