"""The only place that names concrete classes: settings in, a running controller, guardian or host agent out.

What only a controller needs, the drivers of SSH, DNS and webhooks, is imported where it is used: a guardian that restarts
beside a running primary has less than a lease to prove itself in, and those would be a third of its way there.
"""

from __future__ import annotations

import contextlib
import pwd
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, TypeVar

from failover import __version__
from failover.actuators.base import Seen
from failover.actuators.fencing import SshFencing
from failover.actuators.stonith import CommandStonith, first_answer
from failover.actuators.vip import SshVip
from failover.alone import guarded_of, state_path, vip_of
from failover.clock import boottime_s
from failover.config_rules import STONITH_AFTER_S, STONITH_S
from failover.coordination.base import Coordinator
from failover.coordination.ledger import Ledger
from failover.coordination.paths import Paths
from failover.coordination.pinned import PinnedCoordinator
from failover.coordination.zookeeper import ZooKeeperCoordinator
from failover.core.lease import LeaseTimes
from failover.core.model import ControllerStatus, Notice, Policy, Problem
from failover.core.plan import Action, Checkpoint, Erase, Fence, Key, Kind, MoveVip, Stonith, SwitchDns, VerifyWritable
from failover.core.rules import Rules
from failover.engines import engine
from failover.engines.base import ProbeResult
from failover.errors import ConfigurationError, Conflict, FailoverError, Refused, Unreachable
from failover.guardian.board import Board, Identity
from failover.guardian.deaths import Deaths
from failover.guardian.fencer import Fencer, Memory
from failover.guardian.gate import KernelGate
from failover.guardian.instance import DatabaseInstance
from failover.guardian.keeper import KeeperSettings, LeaseKeeper
from failover.guardian.nft import Nft
from failover.guardian.pledge_service import PledgePort, Post
from failover.guardian.rejoin import Rejoining
from failover.guardian.rejoin_files import Places
from failover.guardian.reporter import Heart, Reporter
from failover.guardian.seal import KernelSealer
from failover.guardian.service import Guardian, Parts
from failover.guardian.state import SlotStateFile
from failover.guardian.warden import Hands, Warden
from failover.runtime.agentless import AgentlessWatch
from failover.runtime.executor import Executor, Hand
from failover.runtime.leadership import Leadership
from failover.runtime.node import Node, NodeParts
from failover.runtime.notifier import Notifier
from failover.runtime.observer import Observer
from failover.runtime.probes import ProbeBoard, ProbeLoop
from failover.secrets import read_key, read_secret
from failover.settings import ClusterSettings, DnsSettings, Settings, Timings

if TYPE_CHECKING:
    from failover.actuators.dns import Rfc2136Dns
    from failover.remote.hostagent import Copying

CONNECT_S = 1.0
RENEWAL_SILENCE = 1.5  # of a renewal's bound: TCP's own back-off after a blip would take as long as the blip once more
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
        probes_lost=timings.probes_lost,
        silence_s=timings.silence_s,
        cooldown_s=timings.cooldown_s,
        on_clean_stop_wait_s=cluster.on_clean_stop_wait_s,
        crash_recovery_max_s=cluster.crash_recovery_max_s,
        switchover_deadline_s=cluster.switchover_deadline_s,
        lag_max_bytes=cluster.lag_max_bytes,
        has_vip=cluster.vip is not None,
        has_dns=cluster.dns is not None,
        service_address=cluster.vip.address if cluster.vip else "",
        webhooks=tuple(hook.url for hook in cluster.notify),
        has_stonith=cluster.fencing.has_command,
        stonith_after_s=STONITH_AFTER_S,
    )


def coordinator(
    settings: Settings, hosts: tuple[str, ...], session_s: float, name: str, silence_s: float | None = None
) -> ZooKeeperCoordinator:
    """One client of the ensemble, not started yet. A link that owes an answer for `silence_s` is opened anew."""
    zookeeper = settings.zookeeper
    digest = (zookeeper.user, read_secret(zookeeper.password_file)) if zookeeper.user and zookeeper.password_file else None
    return ZooKeeperCoordinator(
        hosts, session_s=session_s, connect_timeout_s=CONNECT_S, digest=digest, name=name, silence_s=silence_s
    )


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


def rewind_faults(cluster: ClusterSettings, member: str, budget_s: float) -> tuple[str, ...]:
    """What stands in the way of rewinding others against this member, or it against another one."""
    return engine(cluster.engine).rewind_faults(cluster, cluster.member(member), budget_s)


def server_faults(cluster: ClusterSettings, member: str, budget_s: float) -> tuple[str, ...]:
    """What makes this member's server unfit: another product, settings that lose log, missing privileges, a number used twice."""
    return engine(cluster.engine).faults(cluster, cluster.member(member), budget_s)


def copy_of(settings: Settings, cluster: ClusterSettings) -> AbstractContextManager[Copying]:
    """A copy of this host's database, for another member that asks for it over SSH. Raises Refused where the engine makes none
    that way."""
    backup = engine(cluster.engine).backup
    if backup is None:
        raise Refused(f"{cluster.engine} gives no copies over SSH")
    return backup(cluster, settings.run_dir / cluster.name)


def look_at_dns(dns: DnsSettings, address: str, epoch: int, budget_s: float) -> Seen:
    """What the authoritative servers answer, beside what they should. Raises what actuators/base.py says."""
    from failover.actuators.dns import Rfc2136Dns

    return Rfc2136Dns(dns).inspect(SwitchDns(address, epoch), budget_s)


# --- the controller -----------------------------------------------------------------------------------------------------
class Controller:
    """One `failoverd` for one cluster. `run` returns when `stop` is set; everything it started has ended then."""

    def __init__(self, settings: Settings, cluster: ClusterSettings, me: str) -> None:
        from failover.remote.ssh import Agents

        self._settings, self._cluster, self._me = settings, cluster, me
        self._rules = rules_of(cluster, tuple(c.name for c in settings.controllers))
        self._client = coordinator(settings, settings.zookeeper.hosts, cluster.timings.session_s, f"controller {me}")
        self._ledger = ledger_of(settings, cluster, self._client)
        self._agents = Agents(settings.ssh, {m.name: m.address for m in cluster.members})
        here = next((c.address for c in settings.controllers if c.name == me), None)
        beside = next((m.name for m in cluster.members if m.address == here), None)
        self._probes = ProbeBoard(
            cluster.timings.probes_lost, cluster.crash_recovery_max_s, cluster.timings.silence_s, beside,
            cluster.timings.probe_bound_s,
        )  # fmt: skip

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
            loops += AgentlessWatch(self._cluster.members, self._ledger, mirror, self._probes, self._host_facts).start(stop)
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
                    timings.probe_interval_s, timings.probe_bound_s, timings.probes_lost + 1,
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
        if cluster.fencing.has_command:
            addresses = {m.name: m.address for m in cluster.members}
            power = CommandStonith(cluster.fencing.command, name, addresses, self._answers)
            hands[Stonith] = lambda a: power.apply(_as(Stonith, a), STONITH_S)
        if cluster.vip:
            vip = SshVip(self._agents, name, cluster.names, cluster.vip)
            hands[MoveVip] = lambda a: vip.apply(_as(MoveVip, a), VIP_S)
        if cluster.dns:
            from failover.actuators.dns import Rfc2136Dns

            dns = Rfc2136Dns(cluster.dns)
            hands[SwitchDns] = lambda a: _right(dns, _as(SwitchDns, a))
        return hands

    def _host_facts(self, member: str, budget_s: float) -> Mapping[str, object]:
        return self._agents.call(member, "status", {"cluster": self._cluster.name}, budget_s).facts

    def _answers(self, member: str, budget_s: float) -> str | None:
        """Does the host agent's sshd or the database there take, or refuse, a fresh connection?"""
        ports = (self._settings.ssh.port, self._cluster.instance.port)
        return first_answer(self._cluster.member(member).address, ports, budget_s)

    def _checkpoint(self, action: Checkpoint) -> str:
        return self._agents.call(action.member, "checkpoint", {"cluster": self._cluster.name}, CHECKPOINT_S).evidence

    def _verify(self, action: VerifyWritable) -> str:
        """A fresh connection sees it out of recovery, and the newest heartbeat row carries the epoch."""
        found = probe_once(self._cluster, action.member, self._cluster.timings.probe_bound_s)
        if not found.writable or found.epoch != action.epoch:
            raise Unreachable(f"{action.member}: {found.role.value}, writable {found.writable}, heartbeat epoch {found.epoch}")
        return f"{action.member} is out of recovery and a row of epoch {action.epoch} is committed there"

    def _deliver(self, notice: Notice) -> None:
        from failover.actuators.notify import deliver

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
        return (*self._agents.problems(), *self._probes.problems(), *(p for p in latest.values() if p), *owing)


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
    """The guardian of the member `me`, not started. Raises Refused if another guardian holds this host's lock, or none
    belongs here."""
    if not cluster.member(me).guarded:
        raise Refused(f"{settings.source}: {me} is configured with guardian: false; change that everywhere, or do not start it")
    run_dir = settings.run_dir / cluster.name
    run_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
    timings = cluster.timings
    times = LeaseTimes(timings.lease_s, timings.renew_s, timings.attempt_s, timings.soft_fence_s)
    memory = Memory(SlotStateFile(state_path(settings, cluster)))
    kind = engine(cluster.engine)
    local = kind.local(cluster, me, run_dir)
    pinned = _pinned(settings, timings, me)
    ledger = ledger_of(settings, cluster, pinned)
    paths = ledger.paths
    mirror = pinned.mirror(
        tuple(paths.of(Key(kind)) for kind in (Kind.GRANT, Kind.OPERATION, Kind.POLICY)),
        tuple(paths.tree(kind) for kind in (Kind.MEMBER, Kind.RECEIPT, Kind.SEAL, Kind.HANDOVER, Kind.REJOIN)),
    )
    nft = Nft()
    gate = KernelGate(cluster.name, guarded_of(settings, cluster), nft, memory.now.closed)
    sealer = KernelSealer(cluster.name, nft, uid_of(cluster.instance.os_user))
    vip = vip_of(cluster)
    identity = Identity(
        me, cluster.members, times, cluster.switchover_deadline_s, 4 * timings.probe_bound_s, timings.wait_s,
        cluster.rejoin_automatic,
    )  # fmt: skip
    board = Board(identity, kind.parse_position)
    pledges = _pledge_port(cluster, me, board)
    keeper = LeaseKeeper(
        KeeperSettings(me, times, cluster.standby_reads, cluster.name), gate, ledger, pinned, board.facts,
        lambda grant: mirror.changed.set(), pledges,
    )  # fmt: skip
    instance = DatabaseInstance(local, cluster.instance, None, run_dir, settings.state_dir, cluster=cluster.name)
    fencer = Fencer(me, gate, keeper, instance, local, memory, vip)
    rejoiner = kind.rejoiner(settings.ssh, cluster, me, run_dir)
    rejoin = Rejoining(board, rejoiner, instance, memory, places_of(settings, cluster), cluster.instance.port)
    board.bind(lambda: keeper.state, lambda: memory.now, lambda: rejoin.state)
    ways = pledges.problems if pledges else tuple
    reporter = Reporter(board, ledger, local, instance, gate, vip, keeper, timings.probe_bound_s, ways)
    hands = Hands(local, instance, sealer, vip, fencer, keeper, memory, cluster.instance.port, rejoin)
    heart = Heart(board, local, timings.probe_bound_s)
    warden = Warden(board, ledger, hands, reporter.look, lambda: _each(heart.beat, reporter.step))
    deaths = Deaths(board, instance, fencer, lambda: warden.post_receipt(fencer.owed()), reporter.look)
    parts = Parts(
        board, ledger, mirror, gate, sealer, vip, instance, local, memory, keeper, fencer, warden, reporter,
        heart, deaths, cluster.instance.port, timings.renew_s, timings.probe_interval_s, pledges,
    )  # fmt: skip
    return Guardian(parts)


def _pinned(settings: Settings, timings: Timings, me: str) -> PinnedCoordinator:
    """One client to each ZooKeeper server, started."""
    pinned = PinnedCoordinator(
        [
            coordinator(settings, (host,), timings.lease_s, f"guardian {me} at {host}", RENEWAL_SILENCE * timings.attempt_s)
            for host in settings.zookeeper.hosts
        ]
    )
    with contextlib.suppress(Unreachable):  # ZooKeeper may come later; the kernel's ticket decides until then
        pinned.start(CONNECT_S)
    return pinned


def _pledge_port(cluster: ClusterSettings, me: str, board: Board) -> PledgePort | None:
    """The way to the other guardians, not open yet; None where the file has no `pledges:`."""
    if cluster.pledges is None:
        return None
    peers = {m.name: m.address for m in cluster.members if m.guarded and m.name != me}
    key = read_key(cluster.pledges.key_file)
    post = Post(cluster.name, me, cluster.member(me).address, cluster.pledges.port, peers, key)
    return PledgePort(post, board.pledges.give, board.hears)


def places_of(settings: Settings, cluster: ClusterSettings) -> Places:
    """Where a rejoin leaves what it saves, and the lock that its tools hold."""
    saved = settings.state_dir / cluster.name / "discarded"
    return Places(cluster.instance.data_dir, cluster.instance.os_user, saved, settings.run_dir / cluster.name / "rejoin.lock")


def _each(*acts: Callable[[], None]) -> None:
    for act in acts:
        act()


def uid_of(account: str) -> int:
    """Raises ConfigurationError if there is no such account on this host."""
    try:
        return pwd.getpwnam(account).pw_uid
    except KeyError as error:
        raise ConfigurationError([f"instance.os_user: there is no account {account} on this host"]) from error
