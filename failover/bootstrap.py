"""The only place that names concrete classes: settings in, a running controller, guardian or host agent out."""

from __future__ import annotations

import contextlib
import ipaddress
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from failover import __version__
from failover.actuators.base import Seen
from failover.actuators.dns import Rfc2136Dns
from failover.actuators.fencing import SshFencing
from failover.actuators.notify import deliver
from failover.actuators.vip import SshVip
from failover.clock import boottime_s
from failover.coordination.base import Coordinator
from failover.coordination.ledger import Ledger
from failover.coordination.paths import Paths
from failover.coordination.pinned import PinnedCoordinator
from failover.coordination.zookeeper import ZooKeeperCoordinator
from failover.core.lease import LeaseTimes
from failover.core.model import ControllerStatus, Notice, Policy, Problem
from failover.core.plan import Action, Checkpoint, Erase, Fence, Key, Kind, MoveVip, SwitchDns, VerifyWritable
from failover.core.rules import Rules
from failover.engines import engine
from failover.engines.base import ProbeResult
from failover.errors import Conflict, FailoverError, Unreachable
from failover.guardian.base import Guarded, Vip
from failover.guardian.board import Board, Identity
from failover.guardian.deaths import Deaths
from failover.guardian.fencer import Fencer, Memory
from failover.guardian.gate import KernelGate
from failover.guardian.instance import DatabaseInstance
from failover.guardian.keeper import KeeperSettings, LeaseKeeper
from failover.guardian.nft import Nft
from failover.guardian.reporter import Heart, Reporter
from failover.guardian.seal import KernelSealer
from failover.guardian.service import Guardian, Parts
from failover.guardian.state import SlotStateFile
from failover.guardian.vip import LocalVip
from failover.guardian.warden import Hands, Warden
from failover.remote.ssh import Agents
from failover.remote.wire import Facts
from failover.runtime.executor import Executor, Hand
from failover.runtime.leadership import Leadership
from failover.runtime.node import Node, NodeParts
from failover.runtime.notifier import Notifier
from failover.runtime.observer import Observer
from failover.runtime.probes import ProbeBoard, ProbeLoop
from failover.secrets import read_secret
from failover.settings import ClusterSettings, DnsSettings, Settings

CONNECT_S = 1.0
START_S = 10.0
FENCE_S = 8.0
VIP_S = 4.0
DNS_S = 3.0
CHECKPOINT_S = 10.0
NOTICE_S = 5.0
PROBLEM_S = 30.0  # a failed action that nobody wanted again for this long is history
COMMIT_S = 1.0


def rules_of(cluster: ClusterSettings, controllers: tuple[str, ...]) -> Rules:
    """The core's view of one cluster's settings."""
    timings = cluster.timings
    return Rules(
        cluster=cluster.name,
        members=cluster.members,
        controllers=controllers,
        replication=cluster.replication,
        lease_s=timings.lease_s,
        wait_s=timings.wait_s,
        probe_interval_s=timings.probe_interval_s,
        probes_lost=timings.probes_lost,
        cooldown_s=timings.cooldown_s,
        on_clean_stop_wait_s=cluster.on_clean_stop_wait_s,
        crash_recovery_max_s=cluster.crash_recovery_max_s,
        switchover_deadline_s=cluster.switchover_deadline_s,
        lag_max_bytes=cluster.lag_max_bytes,
        has_vip=cluster.vip is not None,
        has_dns=cluster.dns is not None,
        service_address=cluster.vip.address if cluster.vip else "",
        webhooks=tuple(hook.url for hook in cluster.notify),
    )


def coordinator(settings: Settings, hosts: tuple[str, ...], session_s: float, name: str) -> ZooKeeperCoordinator:
    """One client of the ensemble, not started yet."""
    zookeeper = settings.zookeeper
    digest = (zookeeper.user, read_secret(zookeeper.password_file)) if zookeeper.user and zookeeper.password_file else None
    return ZooKeeperCoordinator(hosts, session_s=session_s, connect_timeout_s=CONNECT_S, digest=digest, name=name)


def ledger_of(settings: Settings, cluster: ClusterSettings, client: Coordinator) -> Ledger:
    return Ledger(client, Paths(cluster.name, settings.zookeeper.prefix))


def observer_of(cluster: ClusterSettings, me: str) -> Observer:
    """Who turns records into an Observation, positions parsed by the cluster's own engine."""
    return Observer(me, engine(cluster.engine).parse_position)


def probe_once(cluster: ClusterSettings, member: str, budget_s: float) -> ProbeResult:
    """One look at a member over a fresh connection, as the controllers' probes make it."""
    prober = engine(cluster.engine).prober(cluster, cluster.member(member))
    try:
        return prober.fresh(budget_s)
    finally:
        prober.close()


def look_at_dns(dns: DnsSettings, address: str, epoch: int, budget_s: float) -> Seen:
    """What the authoritative servers answer, beside what they should. Raises what actuators/base.py says."""
    return Rfc2136Dns(dns).inspect(SwitchDns(address, epoch), budget_s)


# --- the controller -----------------------------------------------------------------------------------------------------
class Controller:
    """One `failoverd` for one cluster. `run` returns when `stop` is set; everything it started has ended then."""

    def __init__(self, settings: Settings, cluster: ClusterSettings, me: str) -> None:
        self._settings, self._cluster, self._me = settings, cluster, me
        self._rules = rules_of(cluster, tuple(c.name for c in settings.controllers))
        self._client = coordinator(settings, settings.zookeeper.hosts, cluster.timings.session_s, f"controller {me}")
        self._ledger = ledger_of(settings, cluster, self._client)
        self._agents = Agents(settings.ssh, {m.name: m.address for m in cluster.members})
        self._probes = ProbeBoard(cluster.timings.probes_lost, cluster.crash_recovery_max_s)

    def run(self, stop: threading.Event) -> None:
        """Raises Unreachable only for what can never get better; a ZooKeeper that is away is waited for."""
        self._agents.warm()
        loops = self._start_probes(stop)
        self._wait_for_zookeeper(stop)
        if not stop.is_set():
            paths = self._ledger.paths
            mirror = self._client.mirror(paths.singles(), paths.trees())
            executor = Executor(self._hands(), mirror.changed.set)
            notifier = Notifier(self._deliver, self._erase)
            parts = NodeParts(
                self._me, self._rules, Policy(mode=self._cluster.mode), self._ledger, mirror,
                observer_of(self._cluster, self._me), Leadership(self._me, self._ledger),
                executor, notifier, self._probes, ControllerStatus(self._me, self._settings.digest, __version__),
                lambda: self._problems(executor, notifier),
            )  # fmt: skip
            Node(parts).run(stop)
            executor.close()
            notifier.close()
            mirror.close()
        self._agents.close()
        self._client.close()
        for loop in loops:
            loop.join(2.0)

    def _wait_for_zookeeper(self, stop: threading.Event) -> None:
        """Connect and make what must exist. A cluster needs its database served before its controllers, so this waits."""
        while not stop.is_set():
            with contextlib.suppress(FailoverError):
                self._client.start(START_S)
                self._ledger.bootstrap((m.name for m in self._cluster.members), Policy(mode=self._cluster.mode), COMMIT_S * 3)
                return
            stop.wait(0.5)

    def _start_probes(self, stop: threading.Event) -> list[threading.Thread]:
        timings, kind = self._cluster.timings, engine(self._cluster.engine)
        loops = []
        for member in self._cluster.members:
            for way in ("fresh", "kept"):
                loop = ProbeLoop(
                    member.name, way, lambda m=member: kind.prober(self._cluster, m), self._probes,  # type: ignore[misc]  # binds now
                    timings.probe_interval_s, timings.probe_bound_s,
                )  # fmt: skip
                thread = threading.Thread(target=loop.run, args=(stop,), name=f"{way} {member.name}", daemon=True)
                thread.start()
                loops.append(thread)
        return loops

    def _hands(self) -> Mapping[type, Hand]:
        """What performs each action. `Hand` takes any action; the executor looks up by type, so each gets its own."""
        cluster, name = self._cluster, self._cluster.name
        fencing = SshFencing(self._agents, name)
        hands: dict[type, Hand] = {
            Fence: lambda a: fencing.apply(_as(Fence, a), FENCE_S),
            VerifyWritable: lambda a: self._verify(_as(VerifyWritable, a)),
            Checkpoint: lambda a: self._checkpoint(_as(Checkpoint, a)),
        }
        if cluster.vip:
            vip = SshVip(self._agents, name, cluster.names, cluster.vip)
            hands[MoveVip] = lambda a: vip.apply(_as(MoveVip, a), VIP_S)
        if cluster.dns:
            dns = Rfc2136Dns(cluster.dns)
            hands[SwitchDns] = lambda a: _right(dns, _as(SwitchDns, a))
        return hands

    def _checkpoint(self, action: Checkpoint) -> str:
        return self._agents.call(action.member, "checkpoint", {"cluster": self._cluster.name}, CHECKPOINT_S).evidence

    def _verify(self, action: VerifyWritable) -> str:
        """A fresh connection sees it out of recovery, and the newest heartbeat row carries the epoch."""
        found = probe_once(self._cluster, action.member, self._cluster.timings.probe_bound_s)
        if not found.writable or found.epoch != action.epoch:
            raise Unreachable(f"{action.member}: {found.role.value}, writable {found.writable}, heartbeat epoch {found.epoch}")
        return f"{action.member} is out of recovery and a row of epoch {action.epoch} is committed there"

    def _deliver(self, notice: Notice) -> None:
        hook = next((h for h in self._cluster.notify if h.url == notice.url), None)
        if hook is None:  # the file changed since it was owed: nobody to pay
            return
        deliver(notice, read_secret(hook.secret_file) if hook.secret_file else None, NOTICE_S)

    def _erase(self, key: str, version: int) -> None:
        with contextlib.suppress(Conflict):
            self._ledger.commit([Erase(Key(Kind.NOTICE, key), version)], COMMIT_S)

    def _problems(self, executor: Executor, notifier: Notifier) -> tuple[Problem, ...]:
        latest: dict[type, Problem | None] = {}
        for outcome in executor.outcomes():
            kind, failed_lately = type(outcome.action), not outcome.ok and boottime_s() - outcome.at_s < PROBLEM_S
            text = f"{kind.__name__}: {outcome.evidence}"
            latest[kind] = Problem(f"action-{kind.__name__.lower()}", text, "failoverctl check") if failed_lately else None
        hint = "does the application listen at its webhook? `failoverctl check` tries; the notice is kept until it answers"
        owing = tuple(Problem("notice-owed", f"{key} is not acknowledged by its receiver", hint) for key in notifier.owing())
        return (*self._agents.problems(), *(p for p in latest.values() if p), *owing)


A = TypeVar("A")


def _as(kind: type[A], action: Action) -> A:
    """The executor looks hands up by type; this only says so to the reader and the type checker."""
    assert isinstance(action, kind)
    return action


def _right(dns: Rfc2136Dns, action: SwitchDns) -> str:
    """Inspect, compare, apply: in a healthy cluster nothing is ever written."""
    seen = dns.inspect(action, DNS_S)
    return seen.evidence if seen.there else dns.apply(action, DNS_S)


# --- the guardian -------------------------------------------------------------------------------------------------------
def make_guardian(settings: Settings, cluster: ClusterSettings, me: str) -> Guardian:
    """The guardian of the member `me`, not started. Raises Refused if another guardian holds this host's lock."""
    run_dir = settings.run_dir / cluster.name
    run_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
    timings = cluster.timings
    times = LeaseTimes(timings.lease_s, timings.renew_s, timings.attempt_s, timings.soft_fence_s)
    memory = Memory(SlotStateFile(state_path(settings, cluster)))
    kind = engine(cluster.engine)
    local = kind.local(cluster, me, run_dir)
    pinned = PinnedCoordinator(
        [coordinator(settings, (host,), timings.lease_s, f"guardian {me} at {host}") for host in settings.zookeeper.hosts]
    )
    with contextlib.suppress(Unreachable):  # ZooKeeper may come later; the kernel's ticket decides until then
        pinned.start(CONNECT_S)
    ledger = ledger_of(settings, cluster, pinned)
    paths = ledger.paths
    mirror = pinned.mirror(
        tuple(paths.of(Key(kind)) for kind in (Kind.GRANT, Kind.OPERATION, Kind.POLICY)),
        tuple(paths.tree(kind) for kind in (Kind.MEMBER, Kind.RECEIPT, Kind.SEAL, Kind.HANDOVER)),
    )
    nft = Nft()
    gate = KernelGate(cluster.name, guarded_of(settings, cluster), nft, memory.now.closed)
    sealer = KernelSealer(cluster.name, nft)
    vip = vip_of(cluster)
    identity = Identity(me, cluster.members, times, cluster.switchover_deadline_s, 4 * timings.probe_bound_s)
    board = Board(identity, kind.parse_position)
    keeper = LeaseKeeper(
        KeeperSettings(me, times, cluster.standby_reads), gate, ledger, pinned, board.facts, lambda grant: mirror.changed.set()
    )
    instance = DatabaseInstance(local, cluster.instance, None, run_dir, settings.state_dir, cluster=cluster.name)
    fencer = Fencer(me, gate, keeper, instance, local, memory, vip)
    board.bind(lambda: keeper.state, lambda: memory.now)
    reporter = Reporter(board, ledger, local, instance, gate, vip, keeper, timings.probe_bound_s)
    hands = Hands(local, instance, sealer, vip, fencer, keeper, memory, cluster.instance.port)
    heart = Heart(board, local, timings.probe_bound_s)
    warden = Warden(board, ledger, hands, reporter.look, lambda: _each(heart.beat, reporter.step))
    deaths = Deaths(board, instance, fencer, lambda: warden.post_receipt(fencer.owed()), reporter.look)
    parts = Parts(
        board, ledger, mirror, gate, sealer, vip, instance, local, memory, keeper, fencer, warden, reporter,
        heart, deaths, cluster.instance.port, timings.renew_s, timings.probe_interval_s,
    )  # fmt: skip
    return Guardian(parts)


def _each(*acts: Callable[[], None]) -> None:
    for act in acts:
        act()


def guarded_of(settings: Settings, cluster: ClusterSettings) -> Guarded:
    """The ports behind the gate, and who passes without a ticket: database hosts and controllers (G7)."""
    peers = {m.address for m in cluster.members} | {c.address for c in settings.controllers}
    return Guarded(cluster.guarded_ports, tuple(sorted(peers)))


def vip_of(cluster: ClusterSettings) -> Vip | None:
    """As a /32 (or /128): no second route, and its removal never takes another address of the host with it."""
    if cluster.vip is None:
        return None
    whole = ipaddress.ip_address(cluster.vip.address).max_prefixlen
    return LocalVip(cluster.vip.address, whole, cluster.vip.interface)


def state_path(settings: Settings, cluster: ClusterSettings) -> Path:
    return settings.state_dir / f"{cluster.name}.state"


# --- break-glass and fencing without a guardian ---------------------------------------------------------------------------
@contextlib.contextmanager
def _alone(settings: Settings, cluster: ClusterSettings) -> Iterator[Memory]:
    """The state file, held exclusively: no guardian runs here meanwhile. Raises Refused if one does."""
    with SlotStateFile(state_path(settings, cluster)) as file:
        yield Memory(file)


class _Shut:
    """Without a guardian there is no lease to drop: shutting the gate is all."""

    def __init__(self, gate: KernelGate) -> None:
        self.suspend = gate.shut


def fence_alone(settings: Settings, cluster: ClusterSettings, me: str, closes: int) -> tuple[str, Facts]:
    """What the host agent does when no guardian answers: the same fence, by the same hands, then read back."""
    with _alone(settings, cluster) as memory:
        kind, nft = engine(cluster.engine), Nft()
        run_dir = settings.run_dir / cluster.name
        local = kind.local(cluster, me, run_dir)
        gate = KernelGate(cluster.name, guarded_of(settings, cluster), nft, memory.now.closed)
        gate.install_shut()
        instance = DatabaseInstance(local, cluster.instance, None, run_dir, settings.state_dir, cluster=cluster.name)
        vip = vip_of(cluster)
        evidence = Fencer(me, gate, _Shut(gate), instance, local, memory, vip).fence(closes, "no guardian answers here")
        state, processes = gate.read_back(), instance.processes()
        facts: Facts = {
            "guardian": False, "closed": memory.now.closed, "gate": "open" if state.open else "shut",
            "processes": len(processes.all), "main_pid": processes.main, "vip": vip.held() if vip else False,
        }  # fmt: skip
        return evidence, facts


def release_alone(settings: Settings, cluster: ClusterSettings) -> str:
    """Open the gate for good where no guardian runs: one nft line, and remembered so that the next guardian respects it."""
    KernelGate(cluster.name, guarded_of(settings, cluster), Nft()).release()
    vip = vip_of(cluster)
    if vip is not None and vip.held():
        vip.hold(None, announce=False)
    try:
        with _alone(settings, cluster) as memory:
            memory.change(released=True)
    except FailoverError as error:
        return f"the gate is open; the state file could not remember it: {error}"
    return "the gate is open for good; `failover-guardian arm` brings it back"


def arm_alone(settings: Settings, cluster: ClusterSettings) -> str:
    """Take a release back where no guardian runs; the next guardian makes the gate."""
    with _alone(settings, cluster) as memory:
        memory.change(released=False)
    return "armed: the gate comes back when the guardian starts"
