"""ZooKeeper's twin in memory, with hands to break it: for tests, and for the simulator, which also owns the clocks.

Nothing here waits and no thread is started, with one exception: a call to a client that was frozen with `freeze` waits
out its deadline in real time, as a call to a stopped server does. One lock makes every commit atomic.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import count
from types import MappingProxyType

from failover.clock import boottime_s
from failover.coordination.base import (
    CheckOp,
    Committed,
    CreateOp,
    Entry,
    LostRace,
    Op,
    SetOp,
    refuse_oversize,
)
from failover.errors import FailoverError, Unknown, Unreachable


@dataclass(frozen=True)
class _Node:
    data: bytes
    version: int
    mzxid: int
    owner: int


class MemoryEnsemble:
    """The znodes and the sessions. `clock` is the ensemble's own: sessions expire by it, in `expire_silent`."""

    def __init__(self, clock: Callable[[], float] = boottime_s) -> None:
        self.clock = clock
        self.lock = threading.RLock()
        self.zxid = 0
        self._nodes: dict[str, _Node] = {}
        self._numbers = count(0x1000)
        self._clients: list[MemoryCoordinator] = []

    def client(
        self, name: str = "memory", session_s: float = 1.0, clock: Callable[[], float] | None = None
    ) -> MemoryCoordinator:
        """A client that is not started yet. Its times (`sent_at_s`, `seen_at_s`) are by its own `clock`."""
        client = MemoryCoordinator(self, name, session_s, clock or self.clock)
        self._clients.append(client)
        return client

    def expire(self, session: int | None) -> None:
        """End a session as the ensemble does: its ephemerals go, then its client learns of it if its link is up."""
        with self.lock:
            self.end_session(session)
            for client in self._clients:
                client.learn_of_expiry(session)

    def expire_silent(self) -> tuple[int, ...]:
        """Expire every session whose client was cut off, frozen or closed for its whole session time. Returns them."""
        with self.lock:
            late = tuple(s for c in self._clients for s in c.sessions_silent_at(self.clock()))
            for session in late:
                self.expire(session)
            return late

    def node(self, path: str) -> _Node | None:
        return self._nodes.get(path)

    def names(self, tree: str) -> tuple[str, ...]:
        return tuple(sorted(p.rpartition("/")[2] for p in self._nodes if p.rpartition("/")[0] == tree))

    def new_session(self) -> int:
        return next(self._numbers)

    def end_session(self, session: int | None) -> None:
        with self.lock:
            gone = {path: None for path, node in self._nodes.items() if session and node.owner == session}
            if gone:
                self._install(gone)

    def apply(self, session: int, ops: Sequence[Op]) -> tuple[int, ...]:
        """All of `ops` or none. Raises LostRace."""
        with self.lock:
            changes: dict[str, _Node | None] = {}
            versions = tuple(self._apply_one(index, op, session, changes) for index, op in enumerate(ops))
            if changes:
                self._install(changes)
            return versions

    def _install(self, changes: Mapping[str, _Node | None]) -> None:
        self.zxid += 1
        for path, node in changes.items():
            if node is None:
                self._nodes.pop(path, None)
            else:
                self._nodes[path] = node
        for client in self._clients:
            client.notice(changes)

    def _apply_one(self, index: int, op: Op, session: int, changes: dict[str, _Node | None]) -> int:
        def look(path: str) -> _Node | None:
            return changes[path] if path in changes else self._nodes.get(path)

        found = look(op.path)
        if isinstance(op, CreateOp):
            parent = op.path.rpartition("/")[0]
            if parent and look(parent) is None:
                raise LostRace(index, op.path, "missing")
            if found is not None:
                raise LostRace(index, op.path, "exists")
            changes[op.path] = _Node(op.data, 0, self.zxid + 1, session if op.ephemeral else 0)
            return 0
        if found is None:
            raise LostRace(index, op.path, "missing")
        if op.version not in (-1, found.version):
            raise LostRace(index, op.path, "version")
        if isinstance(op, CheckOp):
            return op.version
        if isinstance(op, SetOp):
            changes[op.path] = replace(found, data=op.data, version=found.version + 1, mzxid=self.zxid + 1)
            return found.version + 1
        if any(path.startswith(f"{op.path}/") and look(path) for path in {*self._nodes, *changes}):
            raise LostRace(index, op.path, "exists")
        changes[op.path] = None
        return -1


class _Link(Enum):
    UP = "up"
    CUT = "cut"  # refused at once, and the client knows
    SILENT = "silent"  # requests are taken and nothing comes back


@dataclass
class _Stuck:
    """A commit in the hands of a frozen server: it happens when the server thaws, whoever still waits for it."""

    ops: tuple[Op, ...]
    answered: threading.Event = field(default_factory=threading.Event)
    versions: tuple[int, ...] = ()
    error: FailoverError | None = None


class MemoryCoordinator:
    """One client of a MemoryEnsemble. Satisfies `base.Coordinator`; tests harm it by `cut`, `freeze`, `lose_reply`."""

    def __init__(self, ensemble: MemoryEnsemble, name: str, session_s: float, clock: Callable[[], float]) -> None:
        self._ensemble, self._name, self._session_s, self._clock = ensemble, name, session_s, clock
        self._link = _Link.UP
        self._session: int | None = None
        self._silent_since_s: float | None = None
        self._closed = False
        self._lost_replies: list[bool] = []
        self._stuck: list[_Stuck] = []
        self._thawed = threading.Event()
        self._mirrors: list[MemoryMirror] = []

    # Breaking it.

    def cut(self) -> None:
        """The link breaks and the client notices. The session lives on at the ensemble until it is expired."""
        self._down(_Link.CUT)

    def freeze(self) -> None:
        """The server stops without a word: the client thinks it is connected, commits are carried out at `thaw`."""
        self._down(_Link.SILENT)

    def heal(self) -> None:
        """The link is back; the session too, unless it was expired meanwhile: then a new one. Mirrors read again."""
        with self._ensemble.lock:
            self._link, self._silent_since_s = _Link.UP, None
            self._thawed.set()
            stuck, self._stuck = self._stuck, []
            for one in stuck:
                self._carry_out(one)
            if self._session is None and not self._closed:
                self._session = self._ensemble.new_session()
            for mirror in self._mirrors:
                mirror.read_all()

    thaw = heal

    def lose_reply(self, done: bool, times: int = 1) -> None:
        """The next `times` commits end in Unknown at once, and were carried out or not."""
        self._lost_replies += [done] * times

    def expire(self) -> None:
        """The ensemble ends this client's session."""
        self._ensemble.expire(self._session)

    # Coordinator.

    @property
    def name(self) -> str:
        return self._name

    def start(self, deadline_s: float) -> None:
        if self._link is not _Link.UP:
            raise Unreachable(f"{self._name}: not connected")
        if self._session is None and not self._closed:
            self.heal()

    def connected(self) -> bool:
        return self._link is not _Link.CUT and self._session is not None

    def session(self) -> int | None:
        return self._session if self.connected() else None

    def negotiated_session_s(self) -> float | None:
        return self._session_s if self._session is not None else None

    def get(self, path: str, deadline_s: float) -> Entry | None:
        self._ask(deadline_s)
        with self._ensemble.lock:
            node = self._ensemble.node(path)
            return _entry(path, node, self._clock()) if node else None

    def children(self, path: str, deadline_s: float) -> tuple[str, ...]:
        self._ask(deadline_s)
        with self._ensemble.lock:
            return self._ensemble.names(path)

    def commit(self, ops: Sequence[Op], deadline_s: float) -> Committed:
        refuse_oversize(ops)
        self._require_connection()
        sent_at_s = self._clock()
        one = _Stuck(tuple(ops))
        with self._ensemble.lock:
            done = self._lost_replies.pop(0) if self._lost_replies else None
            if self._link is _Link.SILENT:
                self._stuck.append(one)
            elif done is not False:
                self._carry_out(one)
        if done is not None:
            raise Unknown(f"{self._name}: sent, no answer")
        if not one.answered.wait(deadline_s):
            raise Unknown(f"{self._name}: sent, no answer within {deadline_s:.2f} s")
        if one.error:
            raise one.error
        return Committed(sent_at_s, one.versions)

    def ensure(self, path: str, deadline_s: float) -> None:
        steps = path.split("/")[1:]
        for step in ("/" + "/".join(steps[: i + 1]) for i in range(len(steps))):
            if self.get(step, deadline_s) is None:
                try:
                    self.commit([CreateOp(step, b"")], deadline_s)
                except LostRace as lost:
                    if lost.why != "exists":
                        raise Unknown(f"{self._name}: {step} was removed meanwhile") from lost

    def mirror(
        self, nodes: Sequence[str] = (), trees: Sequence[str] = (), changed: threading.Event | None = None
    ) -> MemoryMirror:
        with self._ensemble.lock:
            mirror = MemoryMirror(self._ensemble, self._clock, nodes, trees, changed or threading.Event())
            self._mirrors.append(mirror)
            if self._link is _Link.UP and self._session is not None:
                mirror.read_all()
            return mirror

    def close(self) -> None:
        """A client whose link is down cannot say goodbye: its session then ends by `expire_silent`, as in ZooKeeper."""
        with self._ensemble.lock:
            self._closed, session = True, self._session
            if self._link is _Link.UP:
                self._session = None
                self._ensemble.end_session(session)
            else:
                self._link = _Link.CUT
            self._mirrors.clear()

    # For the ensemble.

    def notice(self, paths: Iterable[str]) -> None:
        if self._link is _Link.UP and self._session is not None:
            for mirror in self._mirrors:
                mirror.notice(paths)

    def learn_of_expiry(self, session: int | None) -> None:
        if session is None or session != self._session:
            return
        self._session = None
        for one in self._stuck:
            one.error = Unknown(f"{self._name}: session expired before an answer")
            one.answered.set()
        self._stuck.clear()
        for mirror in self._mirrors:
            mirror.lose_session()
        if self._link is _Link.UP:
            self.heal()

    def sessions_silent_at(self, now_s: float) -> tuple[int, ...]:
        silent = self._silent_since_s is not None and now_s - self._silent_since_s >= self._session_s
        return (self._session,) if silent and self._session is not None else ()

    def _down(self, link: _Link) -> None:
        with self._ensemble.lock:
            self._link = link
            self._thawed.clear()
            self._silent_since_s = self._ensemble.clock()
            for mirror in self._mirrors:
                mirror.changed.set()

    def _carry_out(self, one: _Stuck) -> None:
        if self._session is None:
            one.error = Unreachable(f"{self._name}: not connected")
        else:
            try:
                one.versions = self._ensemble.apply(self._session, one.ops)
            except LostRace as error:
                one.error = error
        one.answered.set()

    def _require_connection(self) -> None:
        if not self.connected():
            raise Unreachable(f"{self._name}: not connected")

    def _ask(self, deadline_s: float) -> None:
        self._require_connection()
        if self._link is _Link.SILENT and not self._thawed.wait(deadline_s):
            raise Unreachable(f"{self._name}: no answer within {deadline_s:.2f} s")


class MemoryMirror:
    """The picture of one client; changed within the very commit that changed the ensemble. Satisfies `base.Mirror`."""

    def __init__(
        self,
        ensemble: MemoryEnsemble,
        clock: Callable[[], float],
        nodes: Sequence[str],
        trees: Sequence[str],
        changed: threading.Event,
    ) -> None:
        self._ensemble, self._clock = ensemble, clock
        self._nodes, self._trees = frozenset(nodes), frozenset(trees)
        self._changed = changed
        self._entries: Mapping[str, Entry] = MappingProxyType({})
        self._zxid = 0  # the change up to which the picture is complete
        self._ready = False
        self._closed = False

    @property
    def changed(self) -> threading.Event:
        return self._changed

    def entries(self) -> Mapping[str, Entry]:
        return self._entries

    def ready(self) -> bool:
        return self._ready

    def absent_zxid(self, path: str) -> int:
        with self._ensemble.lock:
            return self._zxid if self._covers(path) and path not in self._entries else 0

    def close(self) -> None:
        self._closed = True

    def lose_session(self) -> None:
        self._ready = False
        self._changed.set()

    def read_all(self) -> None:
        names = {f"{tree}/{name}" for tree in self._trees for name in self._ensemble.names(tree)}
        self.notice(self._nodes | names | set(self._entries))
        self._ready = True
        self._changed.set()

    def notice(self, paths: Iterable[str]) -> None:
        """Look again at those of `paths` that are in view."""
        if self._closed:
            return
        self._zxid = self._ensemble.zxid
        covered = [path for path in paths if self._covers(path)]
        if not covered:
            return
        entries = dict(self._entries)
        for path in covered:
            node, known = self._ensemble.node(path), entries.get(path)
            if node is None:
                entries.pop(path, None)
            elif known is None or known.mzxid != node.mzxid:
                entries[path] = _entry(path, node, self._clock())
        self._entries = MappingProxyType(entries)
        self._changed.set()

    def _covers(self, path: str) -> bool:
        return path in self._nodes or path.rpartition("/")[0] in self._trees


def _entry(path: str, node: _Node, seen_at_s: float) -> Entry:
    return Entry(path, node.data, node.version, node.owner, seen_at_s, node.mzxid)
