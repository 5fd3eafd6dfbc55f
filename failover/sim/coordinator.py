"""The product's clients of the simulated ensemble: one that may move between servers, and one pinned to each server.

Records travel as the frozen values they are; nothing is encoded. What a client *knows* lags behind what is true: it learns
of a lost server late, and of a change when the notice arrives and its process runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from failover.clock import boottime_s
from failover.coordination.base import Committed, LostRace, Op
from failover.errors import Unknown, Unreachable
from failover.sim.network import Network, Stream
from failover.sim.scheduler import Process, Task
from failover.sim.threads import give_way
from failover.sim.zookeeper import Ensemble, Node, Server, Session

LEARNS = 2 / 3  # of the session's time: how late a client sees that its server is silent


class Client:
    """One connection to one of `hosts` at a time, and the session it keeps."""

    def __init__(
        self, process: Process, host: str, ensemble: Ensemble, network: Network, hosts: Sequence[str], session_s: float
    ) -> None:
        self.process, self.host = process, host
        self.ensemble, self._network, self._hosts, self._session_s = ensemble, network, tuple(hosts), session_s
        self.server: Server | None = None
        self.session: Session | None = None
        self._there: Stream | None = None
        self._back: Stream | None = None
        self._looking = False
        self._waiting: list[Task] = []
        self.attached: list[Callable[[Server], None]] = []
        self.expired: list[Callable[[], None]] = []
        self.noticed: list[Callable[[], None]] = []
        ensemble.changed.append(self.reconsider)
        network.changed.append(self.reconsider)
        process.changed.append(self.reconsider)
        self._look_for_server()

    # --- its connection -----------------------------------------------------------------------------------------------
    @property
    def connected(self) -> bool:
        return self.server is not None and self.session is not None

    def _in_touch(self, server: Server) -> bool:
        return server.serving and server.works and self._network.reaches_zookeeper(self.host, server.name)

    def reconsider(self) -> None:
        """The topology changed."""
        if not self.process.alive:
            if self.session is not None:
                self.ensemble.heard(self.session, connected=False)
            return
        server = self.server
        if server is None:
            self._look_for_server()
            return
        touch = self._in_touch(server)
        if self.session is not None:
            self.ensemble.heard(self.session, connected=touch and not self.process.paused)
        if not touch:
            refused = not server.up or (server.works and not server.serving)
            sim = self.process.sim
            sim.after(0.001 if refused else self._session_s * LEARNS, lambda: self._give_up(server))

    def _give_up(self, server: Server) -> None:
        if self.server is server and not self._in_touch(server):
            self.process.receive(lambda: self._lost(server))

    def _ended(self) -> None:
        """The ensemble ended our session; the server hangs up."""
        server = self.server
        if server is not None:
            self.process.receive(lambda: self._lost(server))

    def _lost(self, server: Server) -> None:
        if self.server is not server:
            return
        self.server = None
        waiting, self._waiting = self._waiting, []
        for task in waiting:
            task.wake(Unknown("connection lost"))
        for listener in self.noticed:
            listener()
        self._look_for_server()

    def _look_for_server(self) -> None:
        if self.server is None and not self._looking:
            self._looking = True
            self.process.sim.after(self.process.sim.random.uniform(0.002, 0.03), self._attach)

    def _attach(self) -> None:
        self._looking = False
        if self.server is not None or not self.process.alive:
            return
        if self.process.paused:
            self._look_for_server()
            return
        servers = [self.ensemble.servers[name] for name in self._hosts]
        there = [server for server in servers if self._in_touch(server)]
        if not there:
            return  # the next change of the topology looks again
        server = there[0] if len(there) == 1 else self.process.sim.random.choice(there)
        if self.session is not None and not self.session.alive:
            self.session = None
            for lost in self.expired:
                lost()
        if self.session is None:
            self.session = self.ensemble.open_session(self._session_s)
            self.session.ended = self._ended
        self.ensemble.heard(self.session, connected=True)
        self.server = server
        for old in (self._there, self._back):
            if old is not None:
                old.reset()
        self._there = Stream(self._network, self.host, server.name, outward=True)
        self._back = Stream(self._network, server.name, self.host, outward=False)
        for listener in self.attached:
            listener(server)
        for listener_ in self.noticed:
            listener_()

    # --- requests ---------------------------------------------------------------------------------------------------
    def ask(self, ops: Sequence[Op], heard: Callable[[object], None]) -> None:
        """Send a write. `heard` gets versions or LostRace when the answer arrives, if it ever does."""
        server, session, there, back = self.server, self.session, self._there, self._back
        assert server is not None and session is not None and there is not None and back is not None

        def answer(result: object) -> None:
            back.send(lambda: self.process.receive(lambda: heard(result)))

        there.send(lambda: self.ensemble.request(server, session.number, ops, answer))

    def read(self, path: str, heard: Callable[[Node | None], None]) -> None:
        """Ask the server for its own view of one node."""
        server, there, back = self.server, self._there, self._back
        assert server is not None and there is not None and back is not None

        def arrive() -> None:
            if server.paused:
                server.held.append(arrive)
            elif server.up and server.serving:
                node = server.view.get(path)
                back.send(lambda: self.process.receive(lambda: heard(node)))

        there.send(arrive)

    def wait(self, answers: list[object], deadline_s: float) -> object:
        """Until something is in `answers`, the connection is lost, or the deadline: then Unknown."""
        task = self.process.sim.current
        assert task is not None
        if not answers:
            self._waiting.append(task)
            woken = give_way(deadline_s)
            if task in self._waiting:
                self._waiting.remove(task)
            if not answers:
                return task.value if woken and task.value is not None else Unknown("no answer in time")
        return answers[0]


class SimCoordinator:
    """A controller's client: `base.Coordinator` as far as the product uses it."""

    def __init__(self, client: Client) -> None:
        self.client = client

    @property
    def name(self) -> str:
        return self.client.process.name

    def connected(self) -> bool:
        return self.client.connected

    def session(self) -> int | None:
        session = self.client.session
        return session.number if session is not None and self.client.connected else None

    def commit(self, ops: Sequence[Op], deadline_s: float) -> Committed:
        process = self.client.process
        process.boundary("zookeeper.commit")
        if not self.client.connected:
            raise Unreachable("not connected")
        sent_at_s = boottime_s()
        result = _ask(self.client, ops, deadline_s)
        process.boundary("zookeeper.commit done")
        if isinstance(result, Exception):
            raise result
        assert isinstance(result, tuple)
        return Committed(sent_at_s, result)

    def get(self, path: str, deadline_s: float) -> Node | None:
        self.client.process.boundary("zookeeper.get")
        if not self.client.connected:
            raise Unreachable("not connected")
        answers: list[object] = []
        task = self.client.process.sim.current
        assert task is not None
        wake = task.waker()

        def heard(node: Node | None) -> None:
            answers.append(node)
            wake()

        self.client.read(path, heard)
        result = self.client.wait(answers, deadline_s)
        if isinstance(result, Unknown):
            raise Unreachable("no answer in time")
        assert result is None or isinstance(result, Node)
        return result


def _ask(client: Client, ops: Sequence[Op], deadline_s: float) -> object:
    answers: list[object] = []
    task = client.process.sim.current
    assert task is not None
    wake = task.waker()

    def heard(result: object) -> None:
        answers.append(result)
        wake()

    client.ask(ops, heard)
    return client.wait(answers, deadline_s)


class SimPinned(SimCoordinator):
    """A guardian's clients, one for each server: the first acknowledgement counts."""

    def __init__(self, clients: Sequence[Client]) -> None:
        super().__init__(clients[0])
        self._clients = tuple(clients)
        self._busy_until_s = [0.0] * len(self._clients)

    def connected(self) -> bool:
        return any(client.connected for client in self._clients)

    def session(self) -> int | None:
        first = self._first()
        return first.session.number if first is not None and first.session is not None else None

    def commit(self, ops: Sequence[Op], deadline_s: float) -> Committed:
        self.client = self._first() or self._clients[0]
        return super().commit(ops, deadline_s)

    def get(self, path: str, deadline_s: float) -> Node | None:
        self.client = self._first() or self._clients[0]
        return super().get(path, deadline_s)

    def commit_any(self, ops: Sequence[Op], deadline_s: float) -> Committed:
        """Through every free client at once. Raises LostRace, Unknown, Unreachable (base.Coordinator.commit)."""
        process = self._clients[0].process
        process.boundary("zookeeper.renew")
        task = process.sim.current
        assert task is not None
        wake = task.waker()
        sent_at_s = boottime_s()
        answers: list[object] = []
        asked = 0
        for number, client in enumerate(self._clients):
            if client.connected and self._busy_until_s[number] <= sent_at_s:
                asked += 1
                self._busy_until_s[number] = sent_at_s + deadline_s
                client.ask(ops, self._listener(number, answers, wake))
        if not asked:
            raise Unreachable("no client is connected and free")
        if not answers:
            give_way(deadline_s)
        process.boundary("zookeeper.renew done")
        if not answers:
            raise Unknown("no server answered in time")
        first = answers[0]
        if isinstance(first, LostRace):
            raise first
        assert isinstance(first, tuple)
        return Committed(sent_at_s, first)

    def _listener(self, number: int, answers: list[object], wake: Callable[[], None]) -> Callable[[object], None]:
        def heard(result: object) -> None:
            self._busy_until_s[number] = 0.0
            answers.append(result)
            wake()

        return heard

    def _first(self) -> Client | None:
        return next((client for client in self._clients if client.connected), None)
