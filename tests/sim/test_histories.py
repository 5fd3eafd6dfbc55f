"""Whole histories: the product's own daemons in a simulated world. One seed, one history; and the world is able to break."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from failover.sim.campaign import setting_of, smallest, story
from failover.sim.faults import Fault
from failover.sim.mutants import named
from failover.sim.oracles import Oracle
from failover.sim.run import play
from failover.sim.scheduler import Sim
from failover.sim.setting import of_profile, with_members
from failover.sim.zookeeper import Node

pytestmark = pytest.mark.timeout(120)
FAST = of_profile("fast")
DIGESTS = """
from failover.sim.campaign import setting_of
from failover.sim.run import play
from failover.sim.scheduler import Sim
from failover.sim.setting import of_profile
print([play(setting_of(seed, of_profile("fast"), True), seed).digest for seed in range(40, 48)])
"""


def test_the_same_seed_is_the_same_history_whatever_order_sets_have() -> None:
    said = set()
    for hashseed in ("0", "1", "4711"):
        environment = {**os.environ, "PYTHONHASHSEED": hashseed}
        done = subprocess.run([sys.executable, "-c", DIGESTS], env=environment, capture_output=True, text=True, check=True)
        said.add(done.stdout)
    assert len(said) == 1, said


def test_two_seeds_are_two_histories() -> None:
    assert play(FAST, 1).digest != play(FAST, 2).digest


def test_nothing_happens_where_nothing_fails() -> None:
    calm = play(FAST, 7, faults=())
    assert calm.violation is None and calm.promotions == 0
    assert calm.worst_outage_s < 0.5 and calm.acknowledged > 40


def test_a_primary_that_dies_is_followed_within_a_second() -> None:
    told = play(FAST, 7, faults=(Fault(2.0, "kill database", ("db1",), part=0.9),))
    assert told.violation is None and told.promotions == 1
    assert told.worst_outage_s < 1.0, story(told)


def test_a_silent_host_is_followed_by_the_clock_and_not_before_w() -> None:
    told = play(FAST, 7, faults=(Fault(2.0, "isolate", ("db1",), 3.0),))
    assert told.violation is None and told.promotions >= 1
    promoted = next(at for at, who, what in told.trace if what == "is primary" and who != "db1")
    rho = FAST.timings.clock_rate_error
    assert promoted - 2.0 > FAST.timings.wait_s * (1 - rho) - FAST.timings.renew_s, story(told)
    assert promoted - 2.0 < FAST.timings.wait_s + 2.0, story(told)


def test_zookeeper_may_be_away_for_ever_under_a_healthy_primary() -> None:
    told = play(FAST, 7, faults=(Fault(1.5, "stop all zookeepers", (), 60.0),))
    assert told.violation is None and told.promotions == 0 and told.worst_outage_s < 0.5


def test_with_a_promotable_standby_away_too_the_primary_fences_itself_and_serves_again() -> None:
    faults = (Fault(1.2, "kill guardian", ("db3",), 60.0), Fault(1.5, "stop all zookeepers", (), 60.0))
    told = play(FAST, 7, faults=faults)
    assert told.violation is None
    assert told.worst_outage_s > 2.0 and told.promotions == 1, "the same member, promoted again under the same epoch"


def test_without_pledges_it_fences_itself_too() -> None:
    told = play(replace(FAST, pledges=False), 7, faults=(Fault(1.5, "stop all zookeepers", (), 60.0),))
    assert told.violation is None and told.worst_outage_s > 2.0


def test_two_members_and_a_witness_do_as_well() -> None:
    told = play(with_members(FAST, 2), 7, faults=(Fault(2.0, "kill database", ("db1",), part=0.9),))
    assert told.violation is None and told.promotions == 1


@pytest.mark.parametrize("first", range(100, 160, 20))
def test_random_histories_keep_every_promise(first: int) -> None:
    """A sample of what `failoverctl simulate` does by the thousand."""
    histories = [play(setting_of(seed, FAST, True), seed) for seed in range(first, first + 20)]
    assert not [f"{told.seed}: {told.violation}" for told in histories if told.violation is not None]


REWOUND_TOO_SOON = (Fault(1.05, "isolate", ("db1",), 60.0), Fault(4.0, "isolate", ("db2",), 1.4))
LEFT_SEALED = (
    Fault(1.9, "die at an effect", ("db2", "engine.promote done"), 0.1, 0.0), Fault(2.0, "kill database", ("db1",), part=0.9),
)  # fmt: skip


@pytest.mark.parametrize(
    ("seed", "faults"),
    [
        # a primary promoted again under its epoch was called a source for a rewind before its checkpoint
        (1082, REWOUND_TOO_SOON), (1083, REWOUND_TOO_SOON),
        # a guardian that died in its promotion left the new primary sealed against the old one
        (3063, LEFT_SEALED), (3064, LEFT_SEALED),
    ],
)  # fmt: skip
def test_a_history_that_once_broke_a_promise_keeps_it(seed: int, faults: tuple[Fault, ...]) -> None:
    told = play(FAST, seed, faults)
    assert told.violation is None and told.promotions >= 1, story(told)[-20:]


def test_a_failing_history_is_made_small() -> None:
    """Under a mutant that believes one pledge: of the faults around its story only those that matter stay."""
    mutant = named("one pledge enough")
    assert mutant.faults is not None
    noise = (Fault(1.1, "lossy network", (), 0.2, 0.1), Fault(4.6, "kill controller", ("db1",), 0.3))
    with mutant.applied():
        failed = play(mutant.where, mutant.seed, (*mutant.faults, *noise), judged=("S1",))
        assert failed.violation is not None and failed.violation.promise == "S1", story(failed)
        small = smallest(mutant.where, failed)
    assert set(small.faults) <= set(mutant.faults) and any("S1 BROKEN" in line for line in story(small))


def test_a_grant_before_the_proof_is_seen_in_the_journal_alone() -> None:
    granted = {"/failover/simulated/journal/op-1/04-grant.done": Node(None, 0, 2, 0)}
    proved = {"/failover/simulated/journal/op-1/02-confirm.done": Node(None, 0, 1, 0)}
    hasty, orderly = Oracle(Sim(1), FAST, {}), Oracle(Sim(1), FAST, {})
    hasty.committed(granted)
    orderly.committed(proved)
    orderly.committed(granted)
    assert hasty.violation is not None and hasty.violation.promise == "records" and orderly.violation is None
