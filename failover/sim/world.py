"""The simulated world at one instant: hosts, network, ensemble, and what its people have been told.

Nothing here decides or schedules; it puts the parts together and answers what can be seen from where.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from failover.coordination.base import CreateOp
from failover.coordination.paths import Paths
from failover.core.model import Grant, Lease, Policy, Receipt, Replication, Role, SyncSet
from failover.core.plan import Key, Kind
from failover.engines.base import ProbeResult
from failover.guardian.pledges import PledgeBook
from failover.sim.database import SYSTEM_IDENTIFIER, Database
from failover.sim.machine import Machine
from failover.sim.network import Network
from failover.sim.oracles import Oracle
from failover.sim.scheduler import Clock, Process, Sim
from failover.sim.setting import Setting
from failover.sim.zookeeper import Ensemble, Node

APPLICATION = "app"  # the host that the clients are on
Handle = Callable[[str, dict[str, object]], tuple[str, dict[str, object]]]  # the guardian's local socket


@dataclass
class Ambush:
    """A process of `host` that is about to have the `left`-th effect from here whose name begins with `label` stops or dies."""

    host: str
    label: str
    left: int
    kind: str
    for_s: float


class World:
    """`machines` by host name; the first ones, as many as there are members, carry databases."""

    def __init__(self, setting: Setting, sim: Sim) -> None:
        self.setting, self.sim = setting, sim
        self.network = Network(self.sim, (*setting.hosts, APPLICATION))
        self.ensemble = Ensemble(self.sim, self.network, setting.hosts)
        self.late_orders = 0.0
        self.late_words_s = 0.0  # how late a pledge comes
        self.ambushes: list[Ambush] = []
        self.machines: dict[str, Machine] = {}
        self.handles: dict[Process, Handle] = {}
        self.books: dict[Process, PledgeBook] = {}
        self.processes: list[Process] = []
        self._home: dict[Process, str] = {}
        self.oracle = Oracle(self.sim, setting, self.machines)
        rho = setting.timings.clock_rate_error
        for number, host in enumerate(setting.hosts, start=1):
            rate = 1.0 + self.sim.random.choice((-rho, 0.0, rho, self.sim.random.uniform(-rho, rho))) * 0.999
            clock = Clock(self.sim, rate, self.sim.random.uniform(0.0, 100_000.0))
            self.machines[host] = Machine(self.sim, host, f"10.0.0.{number}", clock)
        peers: dict[str, Database] = {}
        timelines = count(2)
        for machine in self.machines.values():
            Database(self.sim, machine, self.network, self.oracle, peers, lambda: next(timelines))
        self.paths = Paths(setting.cluster)
        self._adopt()

    def _adopt(self) -> None:
        """A cluster that runs and was just adopted: its first primary takes writes, the others stream from it."""
        setting = self.setting
        first, *others = (member.name for member in setting.members)
        names = tuple(sorted(others))
        primary = self.machines[first].database
        primary.run_now(Role.PRIMARY)
        for name in others:
            self.machines[name].database.run_now(Role.STANDBY, self.machines[first].address)
        sync: tuple[SyncSet, ...] = ()
        if setting.replication is not Replication.ASYNC:
            sync = (SyncSet(1, names, primary.wal.position.history_id()),)
            primary.sync = sync[0]
        records: dict[Key, object] = {
            Key(Kind.TERM): 0,
            Key(Kind.POLICY): Policy(mode=setting.mode),
            Key(Kind.GRANT): Grant(
                first, 1, setting.rules.promotable_beside(first), sync, None, None, SYSTEM_IDENTIFIER
            ),
        }
        for member in setting.members:
            records[Key(Kind.LEASE, member.name)] = Lease(member.name, 0)
            records[Key(Kind.RECEIPT, member.name)] = Receipt(member.name, 0, "never had a grant")
        for key, value in records.items():
            self.ensemble.nodes[self.paths.of(key)] = Node(value, 0, 1, 0)
        self.ensemble.zxid = 1
        for server in self.ensemble.servers.values():
            server.view, server.zxid = dict(self.ensemble.nodes), 1

    def record(self, key: Key) -> Node | None:
        """What is committed, whoever has seen it."""
        return self.ensemble.nodes.get(self.paths.of(key))

    def put(self, key: Key, value: object) -> None:
        """Somebody else's write: an operator's command. Lost if the ensemble is away, as the command would say."""
        path = self.paths.of(key)
        if self.ensemble.leader is not None and path not in self.ensemble.nodes:
            self.ensemble.transact(0, [CreateOp(path, value)])  # type: ignore[arg-type]  # values travel undecoded

    def look(self, source: str, member: str) -> ProbeResult | None:
        """What a probe from `source` finds; None is silence."""
        machine = self.machines[member]
        if not machine.up or not self.network.connected(source, member):
            return None
        return machine.database.probe("fresh")

    def started(self, machine: Machine, process: Process) -> None:
        """A process of the product runs on this machine."""
        self.processes.append(process)
        self._home[process] = machine.name

    def host_of(self, process: Process) -> str:
        return self._home[process]

    def crash(self, host: str) -> None:
        """Power is gone: nobody says goodbye."""
        machine = self.machines[host]
        if not machine.up:
            return
        self.network.fell(host)
        machine.power_off()
        for process in self.processes:
            if self._home[process] == host:
                process.kill()
        self.ensemble.stop(host)

    def power_off(self, host: str) -> bool:
        """What STONITH does; False if the power switch lies."""
        if self.machines[host].trouble.get("power") == "lies":
            return False
        self.oracle.tell("power", f"{host} is switched off")
        self.crash(host)
        return True
