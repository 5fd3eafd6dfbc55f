"""A pause: nothing automatic, no lease that could run out, and it always ends. Maintenance: the same for one standby."""

from __future__ import annotations

import signal
import threading
from typing import Any

import pytest

from failover.clock import boottime_s
from failover.lab.commands import LabError
from failover.profiles import PROFILES
from tests.support.lab_cluster import Cluster

pytestmark = pytest.mark.timeout(180)
LEASE_S = PROFILES["lan"].lease_s
QUIET_S = 3.0  # far longer than a guardian or a leader needs to begin something


def asked(cluster: Cluster, *args: str) -> None:
    done = cluster.ctl(*args, "--yes")
    assert done.returncode == 0, f"{' '.join(args)}: {done.stdout}{done.stderr}"


def paused(cluster: Cluster) -> dict[str, Any] | None:
    found: dict[str, Any] | None = cluster.status()["paused"]
    return found


def record(cluster: Cluster) -> tuple[int, str, int]:
    seen = cluster.status()
    return int(seen["epoch"]), str(seen["primary"]), len(cluster.answer("history", "-n", "10000")["operations"])


def test_zookeeper_may_be_restarted_in_a_pause_without_one_failed_write(calm_cluster: Cluster) -> None:
    """All three servers are gone for two leases: unpaused, the kernel would have shut the gate long before."""
    lab, before = calm_cluster.lab, record(calm_cluster)
    hosts = lab.databases_hosts
    with calm_cluster.traffic() as load:
        asked(calm_cluster, "pause", "--for", "5min", "--reason", "new ZooKeeper packages")
        status = calm_cluster.status()
        assert status["paused"]["reason"] == "new ZooKeeper packages"
        assert any(p["code"] == "paused" for p in status["problems"])
        threading.Event().wait(LEASE_S)  # a person takes longer than the guardian, which suspends the lease meanwhile
        gone_at = boottime_s()
        for host in hosts:
            assert host.kill("zookeeper", signal.SIGKILL)
        threading.Event().wait(2 * LEASE_S)
        assert load.traffic.flowing(), "writes flow with ZooKeeper gone for two leases"
        calm_cluster.start_everything()
        lab.wait(lambda: _answers(calm_cluster), 30.0, "ZooKeeper again")
        assert paused(calm_cluster) is not None
        asked(calm_cluster, "resume")
        threading.Event().wait(LEASE_S + 1.0)  # the lease is timed again by now
        print(f"longest gap {load.acknowledged_gap(gone_at):.0f} ms")
        assert load.failed() == []
        calm_cluster.wait_whole(30.0, cooldown=False)
        assert load.failed() == [] and load.lost() == []
    assert record(calm_cluster) == before


def _answers(cluster: Cluster) -> bool:
    try:
        return cluster.seen().leader is not None
    except LabError:
        return False


def test_a_pause_ends_by_itself(calm_cluster: Cluster) -> None:
    with calm_cluster.traffic() as load:
        asked(calm_cluster, "pause", "--for", "8s")
        assert paused(calm_cluster) is not None
        calm_cluster.lab.wait(lambda: paused(calm_cluster) is None, 20.0, "the end of a pause of 8 s")
        threading.Event().wait(LEASE_S + 1.0)
        assert load.failed() == []
    calm_cluster.wait_whole(20.0, cooldown=False)


def test_a_database_killed_in_a_pause_waits_for_its_operator_and_starts_as_a_standby(cluster: Cluster) -> None:
    """Whoever starts it, it comes up as a standby: only a guardian's own proof makes a primary of it."""
    lab, (epoch, primary, operations) = cluster.lab, record(cluster)
    host = lab.host(primary)
    with cluster.traffic() as load:
        since = boottime_s()
        asked(cluster, "pause", "--for", "5min")
        assert host.kill("database", signal.SIGKILL)
        lab.wait(lambda: not host.of_role("database"), 5.0, "the death of the primary's main process")
        threading.Event().wait(QUIET_S)
        assert record(cluster) == (epoch, primary, operations), "nobody took over"
        assert host.pid_of("database") is None, "nobody started it"
        lab.wait(lambda: not host.of_role("database_all"), 10.0, "the end of what the dead main process left")
        began = host.log("database").stat().st_size
        host.start("database")
        started = host.log("database").read_bytes()[began:].decode()
        assert cluster.hand.began_as_a_standby(primary, started), f"started by hand it is a standby first:\n{started}"
        threading.Event().wait(QUIET_S)
        assert record(cluster)[1:] == (primary, operations)
        asked(cluster, "resume")
        load.flows(30.0, boottime_s(), "writes after the resume")
        assert load.lost() == [] and load.dual_writer_ms(since) == 0
    cluster.wait_whole(cooldown=False)
    assert record(cluster)[0] >= epoch


def test_a_standby_in_maintenance_is_no_candidate_and_is_left_alone_until_it_is_taken_back(calm_cluster: Cluster) -> None:
    lab, primary, (aside, other) = calm_cluster.lab, calm_cluster.primary(), calm_cluster.standbys()
    host, before = lab.host(aside), record(calm_cluster)
    asked(calm_cluster, "maintenance", "on", aside, "--for", "5min", "--reason", "a new disk")
    plan = calm_cluster.answer("plan", "--if-dies", primary)  # without load: members report where they stand one by one
    why = {rank["member"]: rank["why"] for rank in plan["ranking"]}
    assert (plan["candidate"], why[aside]) == (other, "in maintenance"), plan
    assert any(p["code"] == "maintenance" and "a new disk" in p["text"] for p in calm_cluster.status()["problems"])
    with calm_cluster.traffic() as load:
        host.kill("database_all", signal.SIGKILL)
        lab.wait(lambda: not host.of_role("database_all"), 5.0, f"the end of the database on {aside}")
        threading.Event().wait(QUIET_S)
        assert host.pid_of("database") is None, "the guardian leaves it down"
        asked(calm_cluster, "maintenance", "off", aside)
        lab.wait(lambda: host.pid_of("database") is not None, 15.0, f"the guardian's start on {aside}")
        calm_cluster.wait_whole(30.0, cooldown=False)
        assert load.failed() == []
    assert record(calm_cluster) == before


def test_maintenance_ends_by_itself(calm_cluster: Cluster) -> None:
    aside = calm_cluster.standbys()[1]
    asked(calm_cluster, "maintenance", "on", aside, "--for", "6s")
    assert f"{aside} is in maintenance" in " ".join(calm_cluster.seen().problems)
    calm_cluster.lab.wait(
        lambda: "maintenance" not in {p["code"] for p in calm_cluster.status()["problems"]}, 20.0, "the end of 6 s of maintenance"
    )
