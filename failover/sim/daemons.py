"""The product's own daemons, put together as bootstrap does, with simulated hands."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from failover.actuators.fencing import SshFencing
from failover.coordination.paths import MANY, SINGLE, Paths
from failover.core.lease import LeaseTimes
from failover.core.model import ControllerStatus, Policy, Role
from failover.core.plan import Action, Checkpoint, Fence, Kind, Stonith, VerifyWritable
from failover.engines.base import ProbeResult
from failover.errors import Unknown, Unreachable
from failover.guardian.board import Board, Identity
from failover.guardian.deaths import Deaths
from failover.guardian.fencer import Fencer, Memory
from failover.guardian.keeper import KeeperSettings, LeaseKeeper
from failover.guardian.reporter import Heart, Reporter
from failover.guardian.service import Guardian, Parts
from failover.guardian.warden import Hands, Warden
from failover.runtime.executor import Executor
from failover.runtime.leadership import Leadership
from failover.runtime.node import Node, NodeParts
from failover.runtime.notifier import Notifier
from failover.runtime.observer import Observer
from failover.runtime.probes import ProbeBoard
from failover.sim.coordinator import Client, SimCoordinator, SimPinned
from failover.sim.engine import SimDisk, SimEngine, SimInstance, parse_position
from failover.sim.kernel import SimGate, SimSealer
from failover.sim.machine import Machine
from failover.sim.mirror import SimLedger, SimMirror
from failover.sim.pledges import SimPledgers
from failover.sim.rejoining import SimRejoining
from failover.sim.remote import Agents
from failover.sim.scheduler import Process
from failover.sim.setting import PORT
from failover.sim.threads import Event
from failover.sim.world import World

IN_A_GUARDIANS_VIEW = (
    Kind.GRANT, Kind.OPERATION, Kind.POLICY, Kind.MEMBER, Kind.RECEIPT, Kind.SEAL, Kind.HANDOVER, Kind.REJOIN,
)  # fmt: skip
LOOK_S = 0.6  # between a guardian's looks at its database: coarser than in production, and no clock of safety


def start_guardian(world: World, machine: Machine) -> Process:
    """The guardian process of one machine. It loads its disk, opens its sessions and begins to look, as after a start by
    the service manager."""
    process = Process(world.sim, f"guardian {machine.name}", machine.clock)
    world.started(machine, process)
    machine.guardian = process
    process.turn = lambda pid: machine.database.turn()
    process.spawn("main", lambda: _guard(world, machine, process))
    return process


def _guard(world: World, machine: Machine, process: Process) -> None:
    setting, me = world.setting, machine.name
    timings = setting.timings
    times = LeaseTimes(timings.lease_s, timings.renew_s, timings.attempt_s, timings.soft_fence_s)
    memory = Memory(SimDisk(machine, process))
    engine, instance = SimEngine(machine, process), SimInstance(machine, process)
    paths = Paths(setting.cluster)
    clients = [Client(process, me, world.ensemble, world.network, (host,), timings.lease_s) for host in world.ensemble.servers]
    pinned = SimPinned(clients)
    ledger = SimLedger(pinned, paths)  # type: ignore[arg-type]  # a Coordinator as far as the product uses it
    mirror = SimMirror(process, clients, world.network, paths.state, IN_A_GUARDIANS_VIEW)
    gate, sealer, vip = SimGate(machine, process, memory.now.closed), SimSealer(machine, process), None
    identity = Identity(
        me, setting.members, times, setting.switchover_deadline_s, 4 * timings.probe_bound_s, timings.wait_s, True
    )
    board = Board(identity, parse_position)
    keeper = LeaseKeeper(
        KeeperSettings(me, times, False, setting.cluster), gate, ledger, pinned, board.facts,  # type: ignore[arg-type]
        lambda grant: mirror.changed.set(), SimPledgers(world, process, me) if setting.pledges else None,
    )  # fmt: skip
    fencer = Fencer(me, gate, keeper, instance, engine, memory, vip)
    rejoin = SimRejoining(machine, process, board, instance, memory)
    board.bind(lambda: keeper.state, lambda: memory.now, lambda: rejoin.state)
    reporter = Reporter(board, ledger, engine, instance, gate, vip, keeper, timings.probe_bound_s)
    hands = Hands(engine, instance, sealer, vip, fencer, keeper, memory, PORT, rejoin)  # type: ignore[arg-type]
    heart = Heart(board, engine, timings.probe_bound_s)
    warden = Warden(board, ledger, hands, reporter.look, lambda: _each(heart.beat, reporter.step))
    deaths = Deaths(board, instance, fencer, lambda: warden.post_receipt(fencer.owed()), reporter.look)
    parts = Parts(
        board, ledger, mirror, gate, sealer, vip, instance, engine, memory, keeper, fencer, warden, reporter,  # type: ignore[arg-type]
        heart, deaths, PORT, timings.renew_s, LOOK_S,
    )  # fmt: skip
    guardian = Guardian(parts)
    guardian.start()
    world.books[process] = board.pledges
    world.handles[process] = guardian.handle


def _each(*acts: Callable[[], None]) -> None:
    for act in acts:
        act()


# --- the controller ---------------------------------------------------------------------------------------------------
def start_controller(world: World, machine: Machine) -> Process:
    """One controller process on a machine's host."""
    process = Process(world.sim, f"controller {machine.name}", machine.clock)
    world.started(machine, process)
    machine.controller = process
    process.spawn("main", lambda: _control(world, machine, process))
    return process


def _control(world: World, machine: Machine, process: Process) -> None:
    setting, me = world.setting, machine.name
    timings = setting.timings
    paths = Paths(setting.cluster)
    client = Client(process, me, world.ensemble, world.network, tuple(world.ensemble.servers), timings.session_s)
    coordinator = SimCoordinator(client)
    ledger = SimLedger(coordinator, paths)  # type: ignore[arg-type]  # a Coordinator as far as the product uses it
    mirror = SimMirror(process, [client], world.network, paths.state, (*SINGLE, *MANY))
    probes = ProbeBoard(timings.probes_lost, setting.crash_recovery_max_s, timings.silence_s, me, timings.probe_bound_s)
    eye = Eye(world, process, me, probes)
    agents = Agents(world, process, me)
    executor = Executor(_hands(world, process, me, agents), mirror.changed.set)
    parts = NodeParts(
        me, setting.rules, Policy(mode=setting.mode), ledger, mirror, Observer(me, parse_position), Leadership(me, ledger),  # type: ignore[arg-type]
        executor, Notifier(lambda notice: None, lambda key, version: None), probes, ControllerStatus(me, "", "simulated"),
        lambda: (),
    )  # fmt: skip
    eye.open()
    Node(parts).run(Event())  # type: ignore[arg-type]  # the simulation's Event


def _hands(world: World, process: Process, me: str, agents: Agents) -> Mapping[type, Callable[[Action], str]]:
    fencing = SshFencing(agents, world.setting.cluster)

    def fence(action: Action) -> str:
        assert isinstance(action, Fence)
        return fencing.apply(action, 8.0)

    def verify(action: Action) -> str:
        assert isinstance(action, VerifyWritable)
        process.boundary("probe.verify")
        world.sim.sleep(0.002)
        found = world.look(me, action.member)
        if found is None or not found.writable or found.epoch != action.epoch:
            raise Unreachable(f"{action.member} does not take writes under epoch {action.epoch}")
        return f"{action.member} takes writes under epoch {action.epoch}"

    def power(action: Action) -> str:
        assert isinstance(action, Stonith)
        process.boundary("stonith")
        world.sim.sleep(0.8)
        if not world.power_off(action.member):
            raise Unknown(f"the command says off, but {action.member} answers")
        return f"{action.member} reads back off"

    def checkpoint(action: Action) -> str:
        assert isinstance(action, Checkpoint)
        return "checkpoint done"

    return {Fence: fence, VerifyWritable: verify, Stonith: power, Checkpoint: checkpoint}


class Eye:
    """A controller's probes, all members in one round: what an answer means is the product's business (ProbeBoard)."""

    def __init__(self, world: World, process: Process, me: str, board: ProbeBoard) -> None:
        self._world, self._process, self._me, self._board = world, process, me, board

    def open(self) -> None:
        self._process.spawn("probes", self._rounds)

    def _rounds(self) -> None:
        timings, sim, clock = self._world.setting.timings, self._world.sim, self._process.clock
        while True:
            for member in self._world.setting.members:
                self._probe(member.name, timings.probe_bound_s)
            sim.sleep(clock.true_s(timings.probe_interval_s))

    def _probe(self, member: str, bound_s: float) -> None:
        found = self._world.look(self._me, member)
        if found is not None:
            self._board.found(member, "fresh", found)
            return
        silent = ProbeResult(False, Role.UNKNOWN, "no answer", bound_s)
        self._process.sim.after(bound_s, lambda: self._process.receive(lambda: self._board.found(member, "fresh", silent)))
