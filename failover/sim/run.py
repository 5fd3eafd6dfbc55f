"""One seed, from a calm cluster through its faults to a calm cluster: the history, and what it broke.

After the faults everything is healed at one instant (hosts up, links whole, processes running), and the cluster must come to
rest: somebody takes writes, nothing is half done. It ends as soon as that is so, or when its patience is over.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from failover.core.model import Grant, MemberStatus, Operation, Policy, Request, RequestKind
from failover.core.plan import Key, Kind
from failover.sim import faults as trouble
from failover.sim.daemons import start_controller, start_guardian
from failover.sim.faults import Fault
from failover.sim.fleet import Clients
from failover.sim.oracles import PROMISES, Violation
from failover.sim.plans import plan_of, schedule
from failover.sim.scheduler import Process, Sim
from failover.sim.setting import Setting
from failover.sim.threads import simulated
from failover.sim.world import World

WRITE_EVERY_S = 0.08
FAULTY_LEASES, FAULTY_MAX_S = 4.0, 14.0
PATIENCE_LEASES = 12.0
CALM_S = 0.3  # a cluster at rest is looked at once more


@dataclass(frozen=True)
class Result:
    """`violation` is None for a good history. `digest` names the history: one seed, one digest."""

    seed: int
    violation: Violation | None
    digest: str
    events: int
    virtual_s: float
    worst_outage_s: float
    promotions: int
    acknowledged: int
    states: frozenset[int]
    trace: tuple[tuple[float, str, str], ...]
    faults: tuple[Fault, ...]


def play(
    setting: Setting, seed: int, faults: tuple[Fault, ...] | None = None, kinds: Sequence[str] = (),
    judged: Collection[str] = PROMISES,
) -> Result:  # fmt: skip
    """One history. `faults`: instead of those that the seed would draw; `kinds`: what it may draw from. Only what breaks a
    promise in `judged` ends it."""
    heal_s = trouble.QUIET_S + min(FAULTY_LEASES * setting.timings.lease_s, FAULTY_MAX_S)
    wanted = plan_of(seed, setting, heal_s - 0.2, kinds) if faults is None else faults
    sim = Sim(seed)
    with simulated(sim), _silence():
        world = World(setting, sim)
        oracle = world.oracle
        oracle.judged = frozenset(judged)
        violation: Violation | None = None
        try:
            _begin(world, wanted, heal_s)
            sim.run(heal_s, lambda: oracle.violation is not None)
            if oracle.violation is None:
                _heal(world)
                _come_to_rest(world, heal_s + PATIENCE_LEASES * setting.timings.lease_s)
            violation = oracle.violation
        finally:
            end_s = sim.now_s
            sim.end(world.processes)
    lines = "\n".join(f"{at:.6f} {who} {what}" for at, who, what in oracle.trace)
    digest = hashlib.sha256(f"{lines}\n{sim.events} {end_s:.6f}".encode()).hexdigest()[:16]
    return Result(
        seed, violation, digest, sim.events, end_s, oracle.worst_gap_s, oracle.promotions, len(oracle.acknowledged_writes),
        frozenset(oracle.states), tuple(oracle.trace), wanted,
    )  # fmt: skip


@contextmanager
def _silence() -> Iterator[None]:
    """The daemons' logs are not the story; the trace is."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _begin(world: World, faults: tuple[Fault, ...], heal_s: float) -> None:
    for member in world.setting.members:
        start_guardian(world, world.machines[member.name])
    for controller in world.setting.controllers:
        start_controller(world, world.machines[controller])
    members = [world.machines[member.name] for member in world.setting.members]
    Clients(world.sim, members, world.network, WRITE_EVERY_S).start()
    world.sim.after_event = world.oracle.check_writers
    world.ensemble.committed.append(world.oracle.committed)
    world.sim.on_boundary = lambda process, label: _ambush(world, process, label)
    schedule(world, faults, heal_s)


def _ambush(world: World, process: Process, label: str) -> None:
    """A process that walks into an ambush stops or dies at this very effect."""
    if not world.ambushes:
        return
    host = world.host_of(process)
    for ambush in world.ambushes:
        if ambush.host != host or not label.startswith(ambush.label):
            continue
        ambush.left -= 1
        if ambush.left > 0:
            continue
        world.ambushes.remove(ambush)
        world.oracle.tell(process.name, f"{ambush.kind.split()[0]}s at {label}")
        if ambush.kind.startswith("die"):
            process.kill()
            world.sim.after(0.02, lambda: trouble.start_daemons(world, host))
        else:
            process.pause()
            world.sim.after(ambush.for_s, process.go_on)
        return


def _heal(world: World) -> None:
    world.oracle.tell("healing", "everything is whole again")
    world.ambushes.clear()
    world.late_orders = world.late_words_s = 0.0
    world.network.heal()
    nothing = Fault(world.sim.now_s, "healing")
    trouble.unpause_zookeeper(world, nothing)
    for machine in world.machines.values():
        machine.trouble.clear()
        machine.database.thaw()
        if not machine.up:
            trouble.boot(world, Fault(world.sim.now_s, "healing", (machine.name,)))
        else:
            trouble.start_daemons(world, machine.name)
    trouble.start_zookeeper(world, nothing)
    for process in world.processes:
        process.go_on()


def _come_to_rest(world: World, until_s: float) -> None:
    sim, oracle = world.sim, world.oracle
    healed_s = sim.now_s
    calm_since: float | None = None
    asked: set[str] = set()
    while sim.now_s < until_s and oracle.violation is None:
        sim.run(min(sim.now_s + CALM_S, until_s), lambda: oracle.violation is not None)
        _take_back(world, asked)
        restless = unrest(world, healed_s)
        calm_since = None if restless else (calm_since if calm_since is not None else sim.now_s)
        if calm_since is not None and sim.now_s - calm_since >= CALM_S:
            return
    if oracle.violation is None:
        oracle.broken("liveness", f"{until_s - healed_s:.1f} s after everything was healed: {'; '.join(unrest(world, healed_s))}")


def _take_back(world: World, asked: set[str]) -> None:
    """What operators ordered during the faults ends: a pause, members that they fenced. Each is asked for once. A host that a
    late power switch put out is switched on again."""
    for machine in world.machines.values():
        if not machine.up:
            trouble.boot(world, Fault(world.sim.now_s, "healing", (machine.name,)))
    policy = _value(world, Kind.POLICY)
    if not isinstance(policy, Policy):
        return
    if policy.paused and "resume" not in asked:
        trouble.resume_cluster(world, Fault(world.sim.now_s, "healing"))
        asked.add("resume")
    for member in policy.fenced:
        if member not in asked:
            trouble.file_request(world, Request(f"j-{member}", RequestKind.REJOIN, "operator", "simulated", target=member))
            asked.add(member)


def unrest(world: World, healed_s: float) -> list[str]:
    """What is not as it should be in a healthy cluster."""
    found = []
    if world.oracle.last_ack_s < max(healed_s, world.sim.now_s - 1.0):
        found.append("no write is acknowledged")
    operation, grant = _value(world, Kind.OPERATION), _value(world, Kind.GRANT)
    if isinstance(operation, Operation):
        held = f", held: {operation.held}" if operation.held else ""
        found.append(f"{operation.kind.value} of {operation.old} is at {operation.phase}{held}")
    assert isinstance(grant, Grant)
    for member in world.setting.members:
        status = _value(world, Kind.MEMBER, member.name)
        if member.name != grant.member and not (isinstance(status, MemberStatus) and status.streaming):
            policy = _value(world, Kind.POLICY)
            if isinstance(policy, Policy) and (policy.in_maintenance(member.name) or member.name in policy.fenced):
                continue
            says = f" ({status.guardian}; {status.rejoin or 'no rejoin'})" if isinstance(status, MemberStatus) else ""
            found.append(f"{member.name} does not follow {grant.member}{says}")
    return found


def _value(world: World, kind: Kind, name: str = "") -> object:
    node = world.record(Key(kind, name))
    return node.value if node is not None else None
