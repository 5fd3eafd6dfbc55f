"""The leader is killed, or paused for longer than W, after any line of the journal: another finishes, the sleeper does no harm.

`./test` runs one fault or the other for every fourth line of both tables. All, as a soak: LEADER_FAULTS=all with this file, or
`python -m failover.lab.leader_faults`, then with `--silent`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from failover.clock import boottime_s
from failover.lab import leader_faults
from failover.lab.failpoints import Failpoint
from failover.lab.leader_faults import Case, Result, all_cases, headless_cases, silent_cases
from failover.lab.stage import resolved, settle
from tests.support.lab_cluster import Cluster
from tests.support.leader_stage import LeaderStage

pytestmark = pytest.mark.timeout(240)
TABLE = Path(__file__).parents[2] / "build" / "leader-faults.txt"
SOAK = os.environ.get("LEADER_FAULTS") == "all"
EVERY = [*all_cases(), *headless_cases(), *silent_cases()]
SOME = [*all_cases()[::8], *all_cases()[13::8], *headless_cases()[1::4], *silent_cases()[2:3]]


@pytest.fixture(scope="module")
def leader_stage(shared_cluster: Cluster) -> Iterator[LeaderStage]:
    """One lab under traffic for the whole module."""
    made = LeaderStage(shared_cluster)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def results() -> Iterator[list[Result]]:
    """Every run of this module; its table is printed at the end and kept in build/leader-faults.txt."""
    found: list[Result] = []
    yield found
    if found:
        text = leader_faults.table(found)
        TABLE.parent.mkdir(exist_ok=True)
        TABLE.write_text(text)
        print(f"\n{text}")


@pytest.mark.parametrize("case", EVERY if SOAK else SOME, ids=str)
def test_another_leader_finishes_it(case: Case, leader_stage: LeaderStage, results: list[Result]) -> None:
    with leader_stage.given() as stage:
        result = leader_faults.run(stage, case)
        results.append(result)
        assert not result.reasons


REFUSED = {
    "MoveVip": "keeps the VIP: epoch",
    "SwitchDns": "was already written under epoch",
    "Fence": "proved here",
}


@pytest.mark.parametrize("action", REFUSED)
def test_what_a_sleeper_does_after_the_world_moved_on_twice_is_refused(action: str, leader_stage: LeaderStage) -> None:
    """It sleeps with the order in its hand; meanwhile others finish the switchover, and make the old primary primary again."""
    with leader_stage.given() as stage:
        lab, cluster = stage.lab, leader_stage.cluster
        old = cluster.primary()
        trap = Failpoint(lab, f"action.{action}", "stop")
        trap.lay()
        try:
            with ThreadPoolExecutor(1) as person:
                done = person.submit(_moved, cluster, "switchover")
                sleeper = trap.wait(60.0)  # and nobody after it comes to that place
                done.result(60.0)
        finally:
            trap.take_up()
        new = cluster.primary()
        assert new != old and not settle(stage, new)
        _moved(cluster, "switchover", "--to", old)
        assert not settle(stage, old)
        before = leader_faults.record(lab, new)
        words, woke = _words(cluster, sleeper), boottime_s()
        trap.resume()
        lab.wait(lambda: f"{action}(" in words(), 15.0, f"{sleeper} to say what came of its {action}")
        said = next(line for line in words().splitlines() if f"{action}(" in line)
        lab.wait(lambda: "does not lead any more" in words(), 10.0, f"{sleeper} to notice")
        assert REFUSED[action] in said, said
        print(f"{sleeper} woke and said: {said}")
        assert leader_faults.record(lab, new) == before
        assert [s for s in stage.traffic.vip_samples() if s.at > woke and s.present != (s.host == old)] == []
        assert resolved(lab) in lab.host(old).addresses()
        leader_stage.load.flows(3.0, woke)
        assert leader_stage.load.lost() == [] and leader_stage.load.failed(woke) == []
        assert leader_stage.load.dual_writer_ms(woke) == 0


def _moved(cluster: Cluster, *command: str) -> None:
    done = cluster.ctl(*command, "--yes", timeout_s=60.0)
    assert done.returncode == 0, done.stdout + done.stderr


def _words(cluster: Cluster, member: str) -> Callable[[], str]:
    """What that controller logs from now on."""
    log = cluster.lab.host(member).log("controller")
    start = log.stat().st_size
    return lambda: log.read_bytes()[start:].decode(errors="replace")
