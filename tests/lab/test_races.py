"""Two want something at the same moment, or somebody dies at the worst one: one operation, one primary, nothing lost."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from failover.clock import boottime_s
from failover.lab import leader_faults
from failover.lab.failpoints import Failpoint
from failover.lab.journal import journal_faults
from tests.support.lab_cluster import Cluster, Load

pytestmark = pytest.mark.timeout(240)
DONE, REFUSED, UNDONE, CONFLICT = 0, 5, 6, 9
FILED_S = 2.0  # until `failoverctl` has filed its request, on a busy machine
Ended = subprocess.CompletedProcess[str]


def stories(cluster: Cluster) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = cluster.answer("history", "-n", "10000")["operations"]
    return found


@contextmanager
def nobody_decides(cluster: Cluster) -> Iterator[None]:
    """All controllers stand still; whoever leads afterwards sees all that happened meanwhile in one look."""
    stopped = [pid for host in cluster.lab.databases_hosts for pid in host.kill("controller", signal.SIGSTOP)]
    assert len(stopped) == len(cluster.options.members)
    try:
        yield
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)


def asked(cluster: Cluster, person: ThreadPoolExecutor, *command: str, on: str) -> Future[Ended]:
    return person.submit(cluster.ctl, *command, "--yes", timeout_s=60.0, on=on)


def assert_one_whole_operation(cluster: Cluster, before: int) -> dict[str, Any]:
    (told,) = stories(cluster)[before:]
    assert told["result"] == "done"
    assert journal_faults(cluster.answer("timeline", told["id"])["steps"]) == []
    return told


def assert_kept(load: Load) -> None:
    load.flows(20.0, boottime_s())
    assert load.lost() == []
    assert load.dual_writer_ms() == 0


@pytest.mark.parametrize("command", ["failover", "switchover"])
def test_an_operator_and_the_machine_who_want_the_same_make_one_operation(cluster: Cluster, command: str) -> None:
    """The primary's process is dead and a person has asked: the leader sees both at once."""
    old, (_, third), before = cluster.primary(), cluster.standbys(), len(stories(cluster))
    with cluster.traffic() as load, ThreadPoolExecutor(1) as person:
        with nobody_decides(cluster):
            assert cluster.lab.host(old).kill("database", signal.SIGKILL)
            wish = asked(cluster, person, command, "--expect-primary", old, on=third)
            leader_faults.pause(FILED_S)  # nothing tells that a request waits for controllers which stand still
        ended = wish.result(60.0)
        load.flows(20.0, boottime_s(), "writes on the new primary")
        cluster.lab.wait(lambda: cluster.seen().operation is None, 30.0, "the operation's end")
        told = assert_one_whole_operation(cluster, before)
        assert told["old"] == old and cluster.primary() == told["new"] != old
        assert ended.returncode in ((DONE, CONFLICT) if command == "failover" else (REFUSED, CONFLICT)), ended.stderr
        if ended.returncode == DONE:
            assert told["requester"].startswith("root@") and told["id"] in ended.stdout
        else:
            assert told["requester"].startswith("automatic") and "refused: " in ended.stderr
        assert_kept(load)


def test_of_two_operators_one_is_accepted_and_the_other_is_told_who_holds_it(calm_cluster: Cluster) -> None:
    cluster, before = calm_cluster, len(stories(calm_cluster))
    targets = cluster.standbys()
    with cluster.traffic() as load, ThreadPoolExecutor(2) as people:
        with nobody_decides(cluster):
            wishes = {to: asked(cluster, people, "switchover", "--to", to, on=to) for to in targets}
            leader_faults.pause(FILED_S)  # nothing tells that a request waits for controllers which stand still
        ended = {to: wish.result(60.0) for to, wish in wishes.items()}
        assert sorted(done.returncode for done in ended.values()) == [DONE, CONFLICT], [d.stderr for d in ended.values()]
        winner = next(to for to, done in ended.items() if done.returncode == DONE)
        (loser,) = set(targets) - {winner}
        told = assert_one_whole_operation(cluster, before)
        assert cluster.primary() == told["new"] == winner
        holder = f"refused: switchover {told['id']} is under way (asked for by root@{winner}, phase "
        assert holder in ended[loser].stderr and "nothing was changed" in ended[loser].stderr
        assert_kept(load)


@pytest.mark.parametrize("point", ["switchover.opened", "switchover.prepare.done"])
def test_writes_stay_or_come_back_when_the_target_dies_under_the_switchover(calm_cluster: Cluster, point: str) -> None:
    """The leader stands still at that very line while the target loses its guardian and its database. Until that is seen the
    old primary may have been told to stop writes: its guardian gives them back at its deadline."""
    cluster, before = calm_cluster, len(stories(calm_cluster))
    lab, old, (target, third) = cluster.lab, cluster.primary(), cluster.standbys()
    trap = Failpoint(lab, point, "stop")
    trap.lay()
    try:
        with cluster.traffic() as load, ThreadPoolExecutor(1) as person:
            since = boottime_s()
            wish = asked(cluster, person, "switchover", "--to", target, on=third)
            trap.wait(60.0)
            lab.host(target).kill("guardian", signal.SIGKILL)
            lab.host(target).kill("database_all", signal.SIGKILL)
            trap.resume()
            ended = wish.result(60.0)
            assert ended.returncode == UNDONE, ended.stdout + ended.stderr
            assert f"{old} stays primary" in ended.stdout
            load.flows(10.0, boottime_s(), f"writes on {old}")
            gap_s = load.acknowledged_gap(since) / 1000
            print(f"{point}: longest gap without an acknowledgement {gap_s:.2f} s")
            assert gap_s < 11.0  # switchover_deadline, and a database's start
            (told,) = stories(cluster)[before:]
            assert told["result"] == "undone" and told["new"] is None and cluster.primary() == old
            assert journal_faults(cluster.answer("timeline", told["id"])["steps"]) == []
            assert_kept(load)
    finally:
        trap.take_up()
        cluster.start_everything()
