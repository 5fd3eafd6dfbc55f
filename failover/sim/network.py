"""Links between hosts: delay, loss, one-way cuts, duplicates. A host is never cut off from itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from failover.sim.scheduler import Sim

LOOPBACK_S = 0.00005
RETRY_S = 0.2
RETRY_MAX_S = 2.0


class Stream:
    """One direction of a connection: in order, nothing lost while it lives. On a link that is down it tries again, ever
    more slowly, so that what was sent long ago may still arrive."""

    __slots__ = ("_network", "_outward", "_queue", "_source", "_target")

    def __init__(self, network: Network, source: str, target: str, outward: bool) -> None:
        """`outward`: from a client of ZooKeeper to its server; else the way back."""
        self._network, self._source, self._target, self._outward = network, source, target, outward
        self._queue: deque[tuple[float, Callable[[], None]]] = deque()

    def send(self, act: Callable[[], None]) -> None:
        network = self._network
        arrives_s = network.sim.now_s + network.delay_s(self._source, self._target)
        if self._source != self._target and network.loss and network.sim.random.random() < network.loss:
            arrives_s += RETRY_S
        self._queue.append((arrives_s, act))
        if len(self._queue) == 1:
            network.sim.at(arrives_s, lambda: self._arrive(RETRY_S))

    def reset(self) -> None:
        """The connection has ended: what was on its way is gone."""
        self._queue.clear()

    def _arrive(self, retry_s: float) -> None:
        if not self._queue:
            return
        sim = self._network.sim
        if not self._network.carries(self._source, self._target, self._outward):
            if retry_s > RETRY_MAX_S:
                self._queue.clear()
            else:
                sim.after(retry_s, lambda: self._arrive(2 * retry_s))
            return
        _, act = self._queue.popleft()
        if self._queue:
            sim.at(max(sim.now_s, self._queue[0][0]), lambda: self._arrive(RETRY_S))
        act()


class Network:
    """What is sent arrives later, or never. `loss` and `twice` are the odds of one message; cuts have a direction."""

    def __init__(self, sim: Sim, hosts: Iterable[str]) -> None:
        self.sim = sim
        self.hosts = tuple(hosts)
        self.down: set[str] = set()
        self.cuts: set[tuple[str, str]] = set()
        self.slow_s: dict[tuple[str, str], float] = {}
        self.muted: set[str] = set()  # what clients of ZooKeeper there say does not get out
        self.deafened: set[str] = set()  # what ZooKeeper says does not get in
        self.loss = 0.0
        self.twice = 0.0
        self.changed: list[Callable[[], None]] = []

    def passes(self, source: str, target: str) -> bool:
        """Would a packet sent now arrive?"""
        if source == target:
            return source not in self.down
        return source not in self.down and target not in self.down and (source, target) not in self.cuts

    def connected(self, source: str, target: str) -> bool:
        """Both directions: a connection can live."""
        return self.passes(source, target) and self.passes(target, source)

    def carries(self, source: str, target: str, outward: bool) -> bool:
        """Would a segment of a client's connection to ZooKeeper arrive?"""
        barred = source in self.muted if outward else target in self.deafened
        return not barred and self.passes(source, target)

    def reaches_zookeeper(self, host: str, server: str) -> bool:
        """Can a client there keep a connection?"""
        return host not in self.muted and host not in self.deafened and self.connected(host, server)

    def bar(self, host: str, mute: bool, deaf: bool) -> None:
        """ZooKeeper's port alone, on that host alone: members still reach each other."""
        if mute:
            self.muted.add(host)
        if deaf:
            self.deafened.add(host)
        self._tell()

    def unbar(self, host: str) -> None:
        self.muted.discard(host)
        self.deafened.discard(host)
        self._tell()

    def delay_s(self, source: str, target: str) -> float:
        if source == target:
            return LOOPBACK_S
        return 0.0001 + 0.0004 * self.sim.random.random() + self.slow_s.get((source, target), 0.0)

    def send(self, source: str, target: str, act: Callable[[], None]) -> None:
        """One datagram: lost, late or doubled as the network likes."""
        odds = self.sim.random
        if source != target and self.loss and odds.random() < self.loss:
            return
        self._deliver(source, target, act)
        if source != target and self.twice and odds.random() < self.twice:
            self._deliver(source, target, act)

    def cut(self, source: str, target: str) -> None:
        """One direction of one link."""
        self._change(self.cuts.add, (source, target))

    def isolate(self, host: str) -> None:
        """Every link of a host, both directions."""
        pairs = [p for other in self.hosts if other != host for p in ((host, other), (other, host))]
        self.cuts.update(pairs)
        self._tell()

    def mend(self, source: str, target: str) -> None:
        self._change(self.cuts.discard, (source, target))

    def reconnect(self, host: str) -> None:
        """Every link of a host is up again."""
        self.cuts = {pair for pair in self.cuts if host not in pair}
        self._tell()

    def heal(self) -> None:
        self.cuts.clear()
        self.slow_s.clear()
        self.muted.clear()
        self.deafened.clear()
        self.loss = self.twice = 0.0
        self._tell()

    def fell(self, host: str) -> None:
        self._change(self.down.add, host)

    def rose(self, host: str) -> None:
        self._change(self.down.discard, host)

    def _change(self, how: Callable[..., None], what: object) -> None:
        how(what)
        self._tell()

    def _tell(self) -> None:
        for listener in self.changed:
            listener()

    def _deliver(self, source: str, target: str, act: Callable[[], None]) -> None:
        if self.passes(source, target):
            self.sim.after(self.delay_s(source, target), lambda: act() if self.passes(source, target) else None)
