"""Our own daemons, and ZooKeeper's leader, die beside a healthy primary: that must not cost a client one write."""

from __future__ import annotations

import signal
import threading

import pytest

from failover.lab import Lab
from failover.profiles import PROFILES
from tests.support.lab_cluster import Cluster, Load

pytestmark = pytest.mark.timeout(240)
LEASE_S = PROFILES["lan"].lease_s


def epoch_and_primary(cluster: Cluster) -> tuple[int, str]:
    record = cluster.status()
    return int(record["epoch"]), str(record["primary"])


def assert_nobody_noticed(cluster: Cluster, load: Load, before: tuple[int, str]) -> None:
    """After a whole lease: whatever was armed before the fault has run out by now."""
    threading.Event().wait(LEASE_S + 1.0)
    cluster.wait_whole(30.0, cooldown=False)
    print(f"longest gap {load.acknowledged_gap():.0f} ms; the machine stood still for {load.stalls.total_s() * 1000:.0f} ms")
    assert load.failed() == []
    assert epoch_and_primary(cluster) == before


def zookeeper_leader(lab: Lab) -> str | None:
    ask = "exec 3<>/dev/tcp/127.0.0.1/2181 && printf srvr >&3 && sed -n 's/^Mode: //p' <&3"
    for host in lab.databases_hosts:
        if host.pid_of("zookeeper") and host.run(["bash", "-c", ask], check=False).stdout.strip() == "leader":
            return host.name
    return None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_a_guardian_restarted_beside_a_running_primary_fails_no_write(calm_cluster: Cluster, number: signal.Signals) -> None:
    host = calm_cluster.lab.host(calm_cluster.primary())
    before = epoch_and_primary(calm_cluster)
    with calm_cluster.traffic() as load:
        (old,) = host.kill("guardian", number)
        calm_cluster.lab.wait(lambda: host.pid_of("guardian") is None, 5.0, f"the guardian's end by {number.name}")
        assert host.start("guardian") != old
        assert_nobody_noticed(calm_cluster, load, before)


def test_all_controllers_restarted_fail_no_write(calm_cluster: Cluster) -> None:
    before = epoch_and_primary(calm_cluster)
    hosts = calm_cluster.lab.databases_hosts
    with calm_cluster.traffic() as load:
        for host in hosts:
            assert host.kill("controller", signal.SIGKILL)
        calm_cluster.lab.wait(lambda: not any(h.pid_of("controller") for h in hosts), 5.0, "the end of every controller")
        for host in hosts:
            host.start("controller")
        calm_cluster.lab.wait(lambda: calm_cluster.seen().leader is not None, 20.0, "a leader again")
        assert_nobody_noticed(calm_cluster, load, before)


def test_zookeepers_leader_killed_demotes_nobody(calm_cluster: Cluster) -> None:
    lab, before = calm_cluster.lab, epoch_and_primary(calm_cluster)
    leader = zookeeper_leader(lab)
    assert leader is not None
    with calm_cluster.traffic() as load:
        assert lab.host(leader).kill("zookeeper", signal.SIGKILL)
        lab.wait(lambda: zookeeper_leader(lab) not in (None, leader), 10.0, "another ZooKeeper leader")
        threading.Event().wait(LEASE_S + 1.0)  # two servers of three carry the cluster
        assert epoch_and_primary(calm_cluster) == before
        lab.start(leader, "zookeeper")
        assert_nobody_noticed(calm_cluster, load, before)
