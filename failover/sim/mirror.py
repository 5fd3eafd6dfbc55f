"""What a process has seen of the records, and the product's ledger over it.

Values travel undecoded. What is learnt late is learnt late: a change is known when its notice has arrived and its process runs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from failover.clock import boottime_s
from failover.coordination.ledger import Ledger, Records
from failover.coordination.paths import MANY, SINGLE
from failover.core.model import Stored
from failover.core.plan import Key, Kind
from failover.sim.coordinator import Client
from failover.sim.network import Network, Stream
from failover.sim.scheduler import Process
from failover.sim.threads import Event
from failover.sim.zookeeper import Changes, Node, Server

WAKES_S = (0.001, 0.006)  # until a thread that waits for a change has its turn; what comes meanwhile is one change


class SimMirror:
    """What a process has seen of the records, through one client or several: `base.Mirror`, and the records themselves."""

    def __init__(
        self, process: Process, clients: Sequence[Client], network: Network, prefix: str, kinds: Collection[Kind]
    ) -> None:
        """`kinds`: what is kept in view; everything else below `prefix` is nobody's business here."""
        self._process, self._network = process, network
        self._words = {kind.value: kind for kind in kinds}
        self._prefix = len(prefix) + 1
        self._root = prefix + "/"
        self.changed = Event()
        self._clients = clients
        self._picture: dict[str, Node] = {}
        self._zxids: dict[str, int] = {}
        self._ready: set[int] = set()
        self._inboxes: dict[int, Stream] = {}
        self._told = False
        self._single: dict[Kind, Stored[object]] = {}
        self._many: dict[Kind, dict[str, Stored[object]]] = {kind: {} for kind in MANY}
        self._records: Records | None = None
        self._listening: list[tuple[Server, Callable[[Changes, int], None]]] = []
        for number, client in enumerate(clients):
            client.attached.append(lambda server, n=number, c=client: self._attach(n, c, server))  # type: ignore[misc]
            client.expired.append(lambda n=number: self._expired(n))  # type: ignore[misc]  # binds now
            client.noticed.append(self.changed.set)
            if client.server is not None:
                self._attach(number, client, client.server)

    def ready(self) -> bool:
        return bool(self._ready)

    def entries(self) -> Mapping[str, Node]:
        return self._picture

    def close(self) -> None:
        """Nothing is held."""

    def records(self) -> Records:
        """All that is in view; the same object until something changes."""
        if self._records is None:
            self._records = Records(dict(self._single), {kind: dict(found) for kind, found in self._many.items()})
        return self._records

    def _attach(self, number: int, client: Client, server: Server) -> None:
        """Watch this server from now on, and read all of it once."""
        inbox = Stream(self._network, server.name, client.host, outward=False)
        self._inboxes[number] = inbox  # what an earlier connection still has on its way is nobody's any more

        def current() -> bool:
            return client.server is server and self._inboxes[number] is inbox

        def notice(changes: Changes, zxid: int) -> None:
            if current() and self._process.alive:
                inbox.send(lambda: self._process.receive(lambda: self._learn(changes, zxid) if current() else None))

        server.listeners.append(notice)
        whole: Changes = dict(server.view)
        zxid = server.zxid

        def read() -> None:
            if not current():
                return
            gone: Changes = {path: None for path in self._picture if path not in whole}
            self._learn({**whole, **gone}, zxid)
            self._ready.add(number)
            self.changed.set()

        inbox.send(lambda: self._process.receive(read))

    def _expired(self, number: int) -> None:
        self._ready.discard(number)
        self.changed.set()

    def _learn(self, changes: Changes, zxid: int) -> None:
        now_s, learnt = self._process.clock.now_s(), False
        for path, node in changes.items():
            kind = self._words.get(path[self._prefix :].partition("/")[0]) if path.startswith(self._root) else None
            if kind is None:
                continue
            as_of = zxid if node is None else node.mzxid
            if self._zxids.get(path, 0) >= as_of:
                continue
            self._zxids[path] = as_of
            self._show(kind, path, node, now_s)
            learnt = True
        if learnt and not self._told:
            self._told = True
            sim = self._process.sim
            sim.after(sim.random.uniform(*WAKES_S), lambda: self._process.receive(self._tell))

    def _tell(self) -> None:
        self._told = False
        self.changed.set()

    def _show(self, kind: Kind, path: str, node: Node | None, now_s: float) -> None:
        name = path[self._prefix :].partition("/")[2]
        self._records = None
        if node is None:
            self._picture.pop(path, None)
            self._single.pop(kind, None)
            self._many.get(kind, {}).pop(name, None)
            return
        self._picture[path] = node
        stored: Stored[object] = Stored(node.value, node.version, now_s, node.owner)
        if kind in SINGLE:
            self._single[kind] = stored
        else:
            self._many[kind][name] = stored


class SimLedger(Ledger):
    """The product's ledger without the codec: `simulated` hands values through as they are."""

    def view(self, mirror: object) -> Records:
        assert isinstance(mirror, SimMirror)
        return mirror.records()

    def read(self, key: Key, deadline_s: float) -> Stored[object] | None:
        node = self.coordinator.get(self.paths.of(key), deadline_s)
        return None if node is None else Stored(node.value, node.version, boottime_s(), node.owner)  # type: ignore[attr-defined]  # a Node
