"""Operations that a person asked for, and what becomes of them when something dies in the middle."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from failover.clock import boottime_s
from failover.core.model import OperationKind
from failover.core.tables import TABLES
from tests.support.lab_cluster import Cluster, Load

pytestmark = pytest.mark.timeout(240)
DONE, UNDONE = 0, 6
DEADLINE_S = 5.0  # switchover_deadline, by default
STOPPING = "switchover: writes stop, then its log is handed over"
Ended = subprocess.CompletedProcess[str]


def epoch(cluster: Cluster) -> int:
    return int(cluster.status()["epoch"])


def stories(cluster: Cluster) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = cluster.answer("history", "-n", "10000")["operations"]
    return found


def steps(cluster: Cluster, operation: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = cluster.answer("timeline", operation)["steps"]
    return found


def new_words(cluster: Cluster, member: str, role: str) -> Callable[[], str]:
    """What that daemon logs from now on."""
    log = cluster.lab.host(member).log(role)
    start = log.stat().st_size

    def read() -> str:
        with log.open("rb") as lines:
            lines.seek(start)
            return lines.read().decode(errors="replace")

    return read


@contextmanager
def ordered(cluster: Cluster, target: str, on: str) -> Iterator[Future[Ended]]:
    """A switchover under way, asked for on the host `on`."""
    with ThreadPoolExecutor(1) as person:
        yield person.submit(cluster.ctl, "switchover", "--to", target, "--yes", timeout_s=60.0, on=on)


@contextmanager
def silent_guardian(cluster: Cluster, member: str) -> Iterator[None]:
    """What it is asked to prepare is not prepared until the end of the block."""
    host = cluster.lab.host(member)
    host.freeze("guardian")
    try:
        yield
    finally:
        host.thaw("guardian")


def assert_kept(load: Load, since: float) -> None:
    """Nothing acknowledged is missing, nobody else wrote meanwhile."""
    print(f"longest gap {load.acknowledged_gap(since):.0f} ms; stood still {load.stalls.total_s() * 1000:.0f} ms")
    assert load.lost() == []
    assert load.dual_writer_ms() == 0


def test_a_switchover_under_load_loses_nothing_and_its_whole_story_can_be_read(calm_cluster: Cluster) -> None:
    old, (new, _) = calm_cluster.primary(), calm_cluster.standbys()
    with calm_cluster.traffic() as load:
        since = boottime_s()
        done = calm_cluster.ctl("switchover", "--to", new, "--yes", "--reason", "patch night", timeout_s=60.0)
        assert done.returncode == DONE, done.stderr
        load.flows(10.0, boottime_s())
        assert_kept(load, since)
    told = stories(calm_cluster)[-1]
    assert done.stdout.startswith(f"switchover {told['id']} done: {old} -> {new} in ")
    assert (told["kind"], told["old"], told["new"], told["result"]) == ("switchover", old, new, "done")
    assert told["reason"] == "patch night" and told["requester"].startswith("root@db")
    rows = TABLES[OperationKind.SWITCHOVER]
    lines = {line["name"]: line["at_ms"] for line in steps(calm_cluster, told["id"])}
    assert set(lines) == {"opened", *(f"{row.step}.{kind}" for row in rows for kind in ("intent", "done"))}
    for row in rows:
        assert lines[f"{row.step}.intent"] <= lines[f"{row.step}.done"]


@pytest.mark.parametrize("fate", ["its receiver hangs", "its host is cut off"])
def test_writes_come_back_when_the_target_vanishes_after_they_were_stopped(calm_cluster: Cluster, fate: str) -> None:
    lab, old, (target, third) = calm_cluster.lab, calm_cluster.primary(), calm_cluster.standbys()
    operations, before = len(stories(calm_cluster)), epoch(calm_cluster)
    guardian = new_words(calm_cluster, old, "guardian")
    try:
        with calm_cluster.traffic() as load, calm_cluster.hand.receiver_stands_still(target):
            since = boottime_s()
            with ordered(calm_cluster, target, on=third) as asked:
                lab.wait(lambda: STOPPING in guardian(), 20.0, f"writes stopped on {old}")
                if fate == "its host is cut off":
                    lab.cut(target)
                ended = asked.result(60.0)
            assert ended.returncode == UNDONE, ended.stdout + ended.stderr
            assert "undone" in ended.stdout and f"{old} stays primary" in ended.stdout
            load.flows(10.0, boottime_s(), f"writes on {old} again")
            gap_s = load.acknowledged_gap(since) / 1000
            assert gap_s < DEADLINE_S + 6.0, f"writes were away for {gap_s:.1f} s"
            assert_kept(load, since)
    finally:
        lab.heal(target)
    assert calm_cluster.primary() == old
    assert epoch(calm_cluster) == before, "the grant was never touched"
    assert [told["result"] for told in stories(calm_cluster)[operations:]] == ["undone"]


@pytest.mark.parametrize("moment", ["before writes stop", "while it shuts down"])
def test_a_primary_that_dies_in_its_switchover_is_failed_over_by_the_same_operation(cluster: Cluster, moment: str) -> None:
    lab, old, (target, third) = cluster.lab, cluster.primary(), cluster.standbys()
    operations, before = len(stories(cluster)), epoch(cluster)
    leader = cluster.seen().leader
    assert leader is not None
    early = moment == "before writes stop"
    words = new_words(cluster, leader, "controller") if early else new_words(cluster, old, "guardian")
    sign = "checkpoints on both sides" if early else STOPPING
    with cluster.traffic() as load, ExitStack() as still:
        still.enter_context(silent_guardian(cluster, target) if early else cluster.hand.receiver_stands_still(target))
        since = boottime_s()
        with ordered(cluster, target, on=third) as asked:
            lab.wait(lambda: sign in words(), 20.0, f"{sign!r} in the log")
            assert lab.host(old).kill("database", signal.SIGKILL)
            still.close()
            ended = asked.result(60.0)
        load.flows(20.0, boottime_s(), "writes after the death")
        assert_kept(load, since)
    assert ended.returncode == DONE, ended.stdout + ended.stderr
    (told,) = stories(cluster)[operations:]
    assert (told["kind"], told["result"]) == ("switchover, then failover", "done")
    assert cluster.primary() == told["new"] != old
    assert epoch(cluster) == before + 2


def level_plan(cluster: Cluster, old: str) -> dict[str, Any]:
    """The plan at a moment at which both standbys have said that they are level: they report in their own time, a heartbeat may
    come between, and the plan then names whoever has spoken last."""
    plans: list[dict[str, Any]] = []

    def level() -> bool:
        plans.append(cluster.answer("plan", "--if-dies", old))
        return len({rank["lag"] for rank in plans[-1]["ranking"]}) == 1

    cluster.lab.wait(level, 10.0, "standbys that report that they are level")
    return plans[-1]


def test_who_is_named_by_the_plan_is_who_takes_over(cluster: Cluster) -> None:
    old, before = cluster.primary(), epoch(cluster)
    plan = level_plan(cluster, old)
    assert plan["verdict"] == "failover" and plan["at_risk"].startswith("nothing: ")
    named = plan["candidate"]
    assert named in cluster.standbys()
    with cluster.traffic() as load:
        since = boottime_s()
        assert cluster.lab.host(old).kill("database", signal.SIGKILL)
        load.flows(20.0, since, f"writes on {named}")
        cluster.lab.wait(lambda: cluster.lab.primary() == named, 10.0, f"{named} primary")
        cluster.lab.wait(lambda: cluster.seen().operation is None, 30.0, "the operation's end")
        assert_kept(load, since)
    told = stories(cluster)[-1]
    assert (told["kind"], told["old"], told["new"], told["result"]) == ("failover", old, named, "done")
    assert told["requester"].startswith("automatic (")
    taken = {line["name"] for line in steps(cluster, told["id"])}
    assert {f"{step['step']}.done" for step in plan["steps"]} <= taken
    assert epoch(cluster) == before + 2


def test_with_no_standby_left_the_killed_primary_is_granted_back(cluster: Cluster) -> None:
    """Nobody else has what it acknowledged, so nobody else is chosen; it has everything, so it does not wait for ever."""
    lab, old, standbys, before = cluster.lab, cluster.primary(), cluster.standbys(), epoch(cluster)
    with cluster.traffic() as load:
        since = boottime_s()
        for name in standbys:
            lab.host(name).kill("guardian", signal.SIGKILL)
            lab.host(name).kill("database_all", signal.SIGKILL)
        assert lab.host(old).kill("database", signal.SIGKILL)
        lab.wait(lambda: epoch(cluster) == before + 2, 30.0, f"the grant back, epoch {before + 2}")
        assert cluster.status()["primary"] == old
        for name in standbys:
            lab.start(name, "guardian")
        load.flows(60.0, boottime_s(), "writes, once a standby is there to confirm them")
        lab.wait(lambda: cluster.seen().operation is None, 30.0, "the operation's end")
        assert_kept(load, since)
    assert cluster.primary() == old
    told = stories(cluster)[-1]
    assert (told["kind"], told["new"], told["result"]) == ("failover", old, "done")


MOMENTS = {
    "before writes stop": "the old primary's guardian is told to hand over",
    "after the claim": "the candidate is written down before anything is done to it",
    "before the name is switched": "the VIP is on the new primary and nowhere else",
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_switchover_outlives_the_controller_that_led_it(calm_cluster: Cluster, moment: str) -> None:
    lab, old, (target, third) = calm_cluster.lab, calm_cluster.primary(), calm_cluster.standbys()
    leader = calm_cluster.seen().leader
    assert leader is not None
    words = new_words(calm_cluster, leader, "controller")
    try:
        with calm_cluster.traffic() as load:
            since = boottime_s()
            with ordered(calm_cluster, target, on=third) as asked:
                lab.wait(lambda: MOMENTS[moment] in words(), 20.0, f"{MOMENTS[moment]!r} in the leader's log")
                assert lab.host(leader).kill("controller", signal.SIGKILL)
                ended = asked.result(60.0)
            assert ended.returncode == DONE, ended.stdout + ended.stderr
            load.flows(20.0, boottime_s())
            assert_kept(load, since)
    finally:
        calm_cluster.start_everything()
    told = stories(calm_cluster)[-1]
    assert (told["old"], told["new"], told["result"]) == (old, target, "done")
    assert calm_cluster.primary() == target
    lines = steps(calm_cluster, told["id"])
    assert len({line["controller"] for line in lines}) == 2, "two controllers, one after the other, wrote this story"
    assert len({line["name"] for line in lines}) == len(lines), "no step was done twice"
