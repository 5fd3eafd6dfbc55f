"""An ensemble of three: a leader that commits, followers that lag, sessions, elections, and writes whose answer is lost.

What it promises is what ZooKeeper promises and no more. A transaction is all or nothing and in one order; a session's own
requests are in order; a read is of *some* earlier state of the server that answers it; a write whose answer does not come may
have been done, or may be done later (it waits in a stopped server); nothing that was committed is forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count

from failover.coordination.base import CheckOp, CreateOp, LostRace, Op, SetOp
from failover.sim.network import Network
from failover.sim.scheduler import Sim

SYNC_S = (0.0005, 0.003)  # a majority has it on disk
NOTICE_S = 1.0  # tick 200 ms x sync limit 5: as long as a leader that was cut off takes to see it
ELECTION_S = (0.25, 0.7)
TICK_S = 0.2  # sessions are ended on its beat


@dataclass(frozen=True)
class Node:
    value: object
    version: int
    mzxid: int
    owner: int


Changes = dict[str, Node | None]


class Server:
    """One of the three. `view` is what it has applied; `serving`: it has a leader, or is one."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.view: dict[str, Node] = {}
        self.zxid = 0
        self.arrives_s = 0.0
        self.up, self.paused, self.serving = True, False, True
        self.held: list[Callable[[], None]] = []
        self.listeners: list[Callable[[Changes, int], None]] = []

    @property
    def works(self) -> bool:
        return self.up and not self.paused


@dataclass
class Session:
    """`heard`: its client's last sign of life reached a server that serves; `since_s`: not heard since then."""

    number: int
    timeout_s: float
    alive: bool = True
    silent_since_s: float | None = None
    ended: Callable[[], None] | None = None


class Ensemble:
    """Servers named after the hosts they run on."""

    def __init__(self, sim: Sim, network: Network, hosts: Sequence[str]) -> None:
        self._sim, self._network = sim, network
        self.servers = {host: Server(host) for host in hosts}
        self.nodes: dict[str, Node] = {}
        self.zxid = 0
        self.leader: str | None = sim.random.choice(hosts)
        self.sessions: dict[int, Session] = {}
        self.committed: list[Callable[[Changes], None]] = []
        self.changed: list[Callable[[], None]] = []
        self._numbers = count(0x1000)
        self._doubts = 0
        network.changed.append(self.reconsider)

    # --- its life ---------------------------------------------------------------------------------------------------
    def stop(self, name: str) -> None:
        """SIGKILL of a server. What it had committed is on its disk."""
        server = self.servers[name]
        server.up, server.serving, server.held = False, False, []
        self.reconsider()

    def start(self, name: str) -> None:
        self.servers[name].up = True
        self.reconsider()

    def pause(self, name: str) -> None:
        """SIGSTOP: what was sent to it waits there."""
        self.servers[name].paused = True
        self.reconsider()

    def go_on(self, name: str) -> None:
        server = self.servers[name]
        server.paused = False
        held, server.held = server.held, []
        for act in held:
            self._sim.soon(act)
        self.reconsider()

    def has_quorum(self, leader: str | None) -> bool:
        if leader is None or not self.servers[leader].works:
            return False
        beside = [s for s in self.servers.values() if s.works and (s.name == leader or self._network.connected(s.name, leader))]
        return len(beside) * 2 > len(self.servers)

    def reconsider(self) -> None:
        """The topology changed: followers that lost the leader stop serving after a while; a lost leader is replaced."""
        self._doubts += 1
        doubt = self._doubts
        leader = self.leader
        if leader is not None and self.has_quorum(leader):
            for server in self.servers.values():
                self._follow_or_leave(server, leader, doubt)
        else:
            gone = leader is None or not self.servers[leader].up
            self._sim.after(0.05 if gone else NOTICE_S, lambda: self._elect(doubt))
        for listener in self.changed:
            listener()

    def _follow_or_leave(self, server: Server, leader: str, doubt: int) -> None:
        attached = server.works and (server.name == leader or self._network.connected(server.name, leader))
        if attached and not server.serving:
            self._sim.after(self._sim.random.uniform(0.05, 0.3), lambda: self._join(server, doubt))
        elif not attached and server.serving:
            self._sim.after(0.0 if not server.up else NOTICE_S, lambda: self._leave(server, doubt))

    def _join(self, server: Server, doubt: int) -> None:
        if doubt == self._doubts and server.works:
            server.serving = True
            self._sync(server)
            for listener in self.changed:
                listener()

    def _leave(self, server: Server, doubt: int) -> None:
        if doubt == self._doubts:
            server.serving = False
            for listener in self.changed:
                listener()

    def _elect(self, doubt: int) -> None:
        if doubt != self._doubts:
            return
        self.leader = None
        for server in self.servers.values():
            server.serving = False
        able = [name for name in self.servers if self.has_quorum(name)]
        if able:
            took_s = self._sim.random.uniform(*ELECTION_S)
            chosen = self._sim.random.choice(able)
            self._sim.after(took_s, lambda: self._won(chosen, doubt))
        for listener in self.changed:
            listener()

    def _won(self, name: str, doubt: int) -> None:
        if doubt != self._doubts or not self.has_quorum(name):
            return
        self.leader = name
        for server in self.servers.values():
            if server.works and self._network.connected(server.name, name):
                server.serving = True
                self._sync(server)
        for session in self.sessions.values():  # a new leader gives everybody a whole session time
            session.silent_since_s = None if session.silent_since_s is None else self._sim.now_s
        for listener in self.changed:
            listener()

    def _sync(self, server: Server) -> None:
        changes: Changes = {path: node for path, node in self.nodes.items() if server.view.get(path) != node}
        changes.update({path: None for path in server.view if path not in self.nodes})
        self._apply(server, changes, self.zxid)

    # --- requests ---------------------------------------------------------------------------------------------------
    def request(self, server: Server, session: int, ops: Sequence[Op], answer: Callable[[object], None]) -> None:
        """A write has arrived at a server. `answer` gets versions or LostRace, or is never called."""
        if server.paused:
            server.held.append(lambda: self.request(server, session, ops, answer))
            return
        leader = self.leader
        if not server.up or not server.serving or leader is None:
            return
        if not self._network.connected(server.name, leader) or not self.has_quorum(leader):
            return  # it waits for a majority and loses its connection first: for its client unknown, in truth never done
        took_s = self._sim.random.uniform(*SYNC_S) + 2 * self._network.delay_s(server.name, leader)
        self._sim.after(took_s, lambda: self._commit(leader, server, session, ops, answer))

    def _commit(
        self, leader: str, server: Server, session: int, ops: Sequence[Op], answer: Callable[[object], None]
    ) -> None:
        if self.leader != leader or not self.has_quorum(leader):
            return
        known = self.sessions.get(session)
        if known is None or not known.alive:
            return
        try:
            versions = self.transact(session, ops)
        except LostRace as lost:
            result: object = lost
        else:
            result = versions
        zxid = self.zxid
        self._when_applied(server, zxid, lambda: answer(result))

    def transact(self, session: int, ops: Sequence[Op]) -> tuple[int, ...]:
        """All of `ops` or none, at the leader, now. Raises LostRace."""
        changes: Changes = {}
        versions = tuple(self._one(index, op, session, changes) for index, op in enumerate(ops))
        if changes:
            self._install(changes)
        return versions

    def _one(self, index: int, op: Op, session: int, changes: Changes) -> int:
        found = changes[op.path] if op.path in changes else self.nodes.get(op.path)
        if isinstance(op, CreateOp):
            if found is not None:
                raise LostRace(index, op.path, "exists")
            changes[op.path] = Node(op.data, 0, self.zxid + 1, session if op.ephemeral else 0)
            return 0
        if found is None:
            raise LostRace(index, op.path, "missing")
        if op.version not in (-1, found.version):
            raise LostRace(index, op.path, "version")
        if isinstance(op, CheckOp):
            return op.version
        if isinstance(op, SetOp):
            changes[op.path] = replace(found, value=op.data, version=found.version + 1, mzxid=self.zxid + 1)
            return found.version + 1
        changes[op.path] = None
        return -1

    def _install(self, changes: Changes) -> None:
        self.zxid += 1
        for path, node in changes.items():
            if node is None:
                self.nodes.pop(path, None)
            else:
                self.nodes[path] = node
        for listener in self.committed:
            listener(changes)
        zxid, leader = self.zxid, self.leader
        for server in self.servers.values():
            if server.name == leader:
                self._apply(server, changes, zxid)
            elif leader is not None and server.serving and self._network.connected(leader, server.name):
                lag_s = self._network.delay_s(leader, server.name)
                server.arrives_s = max(self._sim.now_s + lag_s, server.arrives_s)
                self._sim.at(server.arrives_s, lambda server=server: self._replicate(server, changes, zxid))  # type: ignore[misc]

    def _replicate(self, server: Server, changes: Changes, zxid: int) -> None:
        if server.paused:
            server.held.append(lambda: self._replicate(server, changes, zxid))
        elif server.serving and server.zxid == zxid - 1:
            self._apply(server, changes, zxid)
        elif server.serving and server.zxid < zxid:
            self._sync(server)

    def _apply(self, server: Server, changes: Changes, zxid: int) -> None:
        server.zxid = max(server.zxid, zxid)
        for path, node in changes.items():
            if node is None:
                server.view.pop(path, None)
            else:
                server.view[path] = node
        for listener in server.listeners:
            listener(changes, zxid)

    def _when_applied(self, server: Server, zxid: int, act: Callable[[], None], tries: int = 0) -> None:
        """A server answers its client only when it has applied the transaction itself."""
        if not server.up or not server.serving or tries > 2000:
            return
        if server.zxid >= zxid and not server.paused:
            act()
        else:
            self._sim.after(0.0005, lambda: self._when_applied(server, zxid, act, tries + 1))

    # --- sessions ---------------------------------------------------------------------------------------------------
    def open_session(self, timeout_s: float) -> Session:
        session = Session(next(self._numbers), timeout_s)
        self.sessions[session.number] = session
        return session

    def heard(self, session: Session, connected: bool) -> None:
        """The session's client is, or is not, in touch with a server that serves."""
        if connected:
            session.silent_since_s = None
        elif session.silent_since_s is None:
            session.silent_since_s = self._sim.now_s
            self._expire_later(session)

    def _expire_later(self, session: Session) -> None:
        since_s = self._sim.now_s if session.silent_since_s is None else session.silent_since_s
        ends_s = max(since_s + session.timeout_s, self._sim.now_s)
        self._sim.at(ends_s + TICK_S * (0.1 + self._sim.random.random()), lambda: self._expire(session))

    def _expire(self, session: Session) -> None:
        since_s = session.silent_since_s
        if since_s is None or not session.alive:
            return
        if self.leader is None or self._sim.now_s - since_s < session.timeout_s or not self.has_quorum(self.leader):
            self._expire_later(session)  # nobody to expire it, or heard meanwhile
            return
        self.end_session(session)

    def end_session(self, session: Session) -> None:
        """Its ephemerals go."""
        if not session.alive:
            return
        session.alive = False
        gone: Changes = {path: None for path, node in self.nodes.items() if node.owner == session.number}
        if gone and self.leader is not None:
            self._install(gone)
        elif gone:
            session.alive = True
            self._expire_later(session)
            return
        if session.ended is not None:
            session.ended()
