"""The guardian's client: one client pinned to each ZooKeeper server, so that no single server can silence it.

A client that may move between servers needs a second or more to notice that its server is gone; three pinned ones need
nothing but the next acknowledgement. Measured: a cut follower costs 0.02 s instead of seconds.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Generic, TypeVar

from failover.coordination.base import Committed, Coordinator, Entry, LostRace, Mirror, Op, refuse_oversize
from failover.errors import FailoverError, Unknown, Unreachable

T = TypeVar("T")
_log = logging.getLogger("failover.coordination")


class PinnedCoordinator:
    """Satisfies `base.Coordinator` over several clients of one ensemble, and adds `commit_any`.

    `clients` are not started yet and are owned from here on. Each has one thread, so that a slow server delays nobody.
    """

    def __init__(self, clients: Sequence[Coordinator], *, name: str = "pinned") -> None:
        self._name = name
        self._lanes = tuple(_Lane(client) for client in clients)

    @property
    def name(self) -> str:
        return self._name

    def start(self, deadline_s: float) -> None:
        """Connect all; returns as soon as one is connected, the others go on. Raises Unreachable if none is in time."""
        opening: _Round[None] = _Round()
        for lane in self._lanes:
            opening.ask(lane, lambda client: client.start(deadline_s))
        try:
            opening.first(deadline_s)
        except (Unreachable, Unknown) as error:
            raise Unreachable(f"{self._name}: no server answers within {deadline_s:.2f} s") from error

    def connected(self) -> bool:
        connected = [lane.client.connected() for lane in self._lanes]  # all of them: each logs its changes when asked
        return any(connected)

    def session(self) -> int | None:
        """Of the first connected client: the one `commit` would use first."""
        return next((session for session in self.sessions().values() if session is not None), None)

    def sessions(self) -> Mapping[str, int | None]:
        """The session of each client by its name, None for one that is not connected."""
        return {lane.client.name: lane.client.session() for lane in self._in_order()}

    def negotiated_session_s(self) -> float | None:
        """The shortest that a server granted."""
        granted = [s for lane in self._lanes if (s := lane.client.negotiated_session_s()) is not None]
        return min(granted, default=None)

    def get(self, path: str, deadline_s: float) -> Entry | None:
        return self._first_answer(lambda client, bound_s: client.get(path, bound_s), deadline_s)

    def children(self, path: str, deadline_s: float) -> tuple[str, ...]:
        return self._first_answer(lambda client, bound_s: client.children(path, bound_s), deadline_s)

    def commit(self, ops: Sequence[Op], deadline_s: float) -> Committed:
        """Through one client; another one is tried only if nothing was done, so that nothing is done twice."""
        end_s = time.monotonic() + deadline_s
        error = Unreachable(f"{self._name}: no client")
        for lane in self._in_order():
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                break  # sending with no time to listen would only turn "not done" into "unknown"
            try:
                return lane.client.commit(ops, left_s)
            except Unreachable as failed:
                error = failed
        raise error

    def ensure(self, path: str, deadline_s: float) -> None:
        self._first_answer(lambda client, bound_s: client.ensure(path, bound_s), deadline_s)

    def mirror(
        self, nodes: Sequence[str] = (), trees: Sequence[str] = (), changed: threading.Event | None = None
    ) -> PinnedMirror:
        shared = changed or threading.Event()
        return PinnedMirror([lane.client.mirror(nodes, trees, shared) for lane in self._lanes], shared)

    def close(self) -> None:
        """End every session, all at once: a silent server takes its time."""
        threads = [threading.Thread(target=lane.close, daemon=True) for lane in self._lanes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def commit_any(self, ops: Sequence[Op], deadline_s: float) -> Committed:
        """Send the same commit through every connected client at once; the first acknowledgement counts.

        ONLY for a commit that may happen several times, now and later: checks, and sets with version -1 of records
        that nobody else writes. A renewal is one: `check(grant, v)` and `set(lease, ..., -1)`. A copy that is carried
        out late does no harm, because it still needs the same grant.

        `sent_at_s` is that of the copy that was acknowledged. A client whose last copy is still outstanding is passed
        over. Raises LostRace as soon as one client says so, without waiting for the rest: a check that failed fails
        for every later copy, versions never go back. (An earlier copy may have been carried out: the caller looks
        again, G6.) Otherwise, when all failed or `deadline_s` is over: Unknown if any copy may have happened, else the
        refusal a client gave (WrongCredentials), else Unreachable.
        """
        refuse_oversize(ops)
        ops = tuple(ops)
        renewal: _Round[Committed] = _Round()
        for lane in self._lanes:
            if lane.client.connected():
                renewal.ask(lane, lambda client: client.commit(ops, deadline_s))
        return renewal.first(deadline_s)

    def _in_order(self) -> list[_Lane]:
        """Connected clients that owe nothing first: a silent server is asked last."""
        return sorted(self._lanes, key=lambda lane: (not lane.client.connected(), lane.busy))

    def _first_answer(self, ask: Callable[[Coordinator, float], T], deadline_s: float) -> T:
        """Ask one client after the other, each for its share of the time. For what may be asked twice."""
        end_s = time.monotonic() + deadline_s
        error: FailoverError = Unreachable(f"{self._name}: no client")
        for position, lane in enumerate(self._in_order()):
            share_s = max(end_s - time.monotonic(), 0.0) / (len(self._lanes) - position)
            try:
                return ask(lane.client, share_s)
            except (Unreachable, Unknown) as failed:
                error = failed
        raise error


class _Lane:
    """One client and the thread that talks through it; at most one thing at a time."""

    def __init__(self, client: Coordinator) -> None:
        self.client = client
        self._wake = threading.Condition()
        self._job: Callable[[], None] | None = None
        self._closed = False
        threading.Thread(target=self._run, name=f"lane {client.name}", daemon=True).start()

    @property
    def busy(self) -> bool:
        return self._job is not None

    def offer(self, job: Callable[[], None]) -> bool:
        """Have `job` done by the thread; False if it still has one."""
        with self._wake:
            if self._job is not None or self._closed:
                return False
            self._job = job
            self._wake.notify()
            return True

    def close(self) -> None:
        with self._wake:
            self._closed = True
            self._wake.notify()
        self.client.close()

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._job is not None or self._closed)
                job = self._job
            if job is None:
                return
            job()
            with self._wake:
                self._job = None


class _Round(Generic[T]):
    """One question to several clients at once, and what they said so far."""

    def __init__(self) -> None:
        self._said = threading.Condition()
        self._open = 0
        self._answers: list[T] = []
        self._errors: list[FailoverError] = []

    def ask(self, lane: _Lane, question: Callable[[Coordinator], T]) -> None:
        """Ask through `lane`, unless it still has something outstanding."""

        def job() -> None:
            answer: T | FailoverError
            try:
                answer = question(lane.client)
            except FailoverError as error:
                answer = error
            except Exception:  # a bug in one client must not silence its lane for good; whatever it did is unknown
                _log.exception("%s: unexpected error", lane.client.name)
                answer = Unknown(f"{lane.client.name}: unexpected error")
            with self._said:
                self._open -= 1
                if isinstance(answer, FailoverError):
                    self._errors.append(answer)
                else:
                    self._answers.append(answer)
                self._said.notify_all()

        with self._said:
            self._open += lane.offer(job)

    def first(self, deadline_s: float) -> T:
        """The first answer, or the error that says best what is known. Returns early on an answer or a lost race."""
        with self._said:
            self._said.wait_for(lambda: self._answers or self._lost() or not self._open, deadline_s)
            if self._answers:
                return self._answers[0]
            raise self._lost() or self._worst()

    def _lost(self) -> LostRace | None:
        return next((error for error in self._errors if isinstance(error, LostRace)), None)

    def _worst(self) -> FailoverError:
        if self._open:
            return Unknown("no server answered in time")
        unknown = [error for error in self._errors if isinstance(error, Unknown)]
        refusals = [error for error in self._errors if not isinstance(error, Unreachable)]
        return next(iter([*unknown, *refusals, *self._errors]), Unreachable("no client is connected and free"))


class PinnedMirror:
    """The newest of what several servers say. Satisfies `base.Mirror`.

    For each path the entry with the highest `mzxid` is shown, first seen when the first client saw it; it is gone as
    soon as one client knows it to be absent as of a later change. So a cut-off server cannot hold the picture back.
    """

    def __init__(self, mirrors: Sequence[Mirror], changed: threading.Event) -> None:
        self._mirrors = tuple(mirrors)
        self._changed = changed

    @property
    def changed(self) -> threading.Event:
        return self._changed

    def entries(self) -> Mapping[str, Entry]:
        views = [mirror.entries() for mirror in self._mirrors]
        shown = {path: self._newest(path, views) for path in set().union(*views)}
        return MappingProxyType({path: entry for path, entry in shown.items() if entry is not None})

    def ready(self) -> bool:
        return any(mirror.ready() for mirror in self._mirrors)

    def absent_zxid(self, path: str) -> int:
        return 0 if path in self.entries() else max(mirror.absent_zxid(path) for mirror in self._mirrors)

    def close(self) -> None:
        for mirror in self._mirrors:
            mirror.close()

    def _newest(self, path: str, views: Sequence[Mapping[str, Entry]]) -> Entry | None:
        seen = [view[path] for view in views if path in view]
        newest = max(entry.mzxid for entry in seen)
        if any(mirror.absent_zxid(path) >= newest for mirror in self._mirrors):
            return None
        return min((entry for entry in seen if entry.mzxid == newest), key=lambda entry: entry.seen_at_s)
