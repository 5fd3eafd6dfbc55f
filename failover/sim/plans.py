"""The plan that a seed makes of the faults, and how it comes about."""

from __future__ import annotations

import random
from collections.abc import Sequence

from failover.sim.faults import KINDS, QUIET_S, Fault, FaultKind, no_end
from failover.sim.setting import Setting
from failover.sim.world import World


def plan_of(seed: int, setting: Setting, until_s: float, kinds: Sequence[str] = ()) -> tuple[Fault, ...]:
    """A random subset of the kinds, at random rates. One seed in eight has a single kind: simple stories are worth telling.

    `kinds`: only these, one named twice being twice as likely.
    """
    odds = random.Random(f"plan {seed}")
    enabled = list(kinds)
    if not enabled:
        count = 1 if odds.random() < 0.125 else odds.randint(2, 7)
        enabled = odds.sample(tuple(KINDS), count)
    lease_s = setting.timings.lease_s
    faults = []
    for _ in range(odds.randint(2, 9)):
        name = odds.choices(enabled, [KINDS[name].weight for name in enabled])[0]
        kind = KINDS[name]
        at_s = odds.uniform(QUIET_S, QUIET_S + 0.8 * (until_s - QUIET_S))
        faults.append(Fault(at_s, name, kind.target(odds, setting), odds.uniform(*kind.lasts) * lease_s, odds.random()))
    return tuple(sorted(faults, key=lambda fault: fault.at_s))


def schedule(world: World, faults: tuple[Fault, ...], heal_s: float) -> None:
    """Have them happen, and end when their time has come or all is healed."""
    for fault in faults:
        kind = KINDS[fault.kind]

        def begin(fault: Fault = fault, kind: FaultKind = kind) -> None:
            world.oracle.tell("fault", str(fault)[9:])
            kind.begin(world, fault)
            if kind.end is not no_end:
                world.sim.at(min(world.sim.now_s + fault.for_s, heal_s), lambda: end(fault, kind))

        def end(fault: Fault, kind: FaultKind) -> None:
            world.oracle.tell("fault", f"over: {fault.kind} {' '.join(fault.on)}")
            kind.end(world, fault)

        world.sim.at(fault.at_s, begin)
