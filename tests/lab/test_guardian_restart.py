"""Our own daemons, and ZooKeeper's leader, die beside a healthy primary: that must not cost a client one write."""

from __future__ import annotations

import signal
import threading

import pytest

from failover.clock import boottime_s
from failover.lab import Lab
from failover.lab.host import Host
from failover.profiles import PROFILES
from tests.support.lab_cluster import Cluster, Load

pytestmark = pytest.mark.timeout(240)
LEASE_S = PROFILES["lan"].lease_s
BRIDGED_S = LEASE_S - PROFILES["lan"].renew_s  # the last renewal may have been sent that long before
ATTEMPTS = 4


def epoch_and_primary(cluster: Cluster) -> tuple[int, str]:
    record = cluster.status()
    return int(record["epoch"]), str(record["primary"])


def assert_nobody_noticed(cluster: Cluster, load: Load, before: tuple[int, str], since: float | None = None) -> None:
    """After a whole lease: whatever was armed before the fault has run out by now."""
    threading.Event().wait(LEASE_S + 1.0)
    cluster.wait_whole(30.0, cooldown=False)
    gap_ms, stalls_ms = load.acknowledged_gap(since), load.stalls.total_s() * 1000
    print(f"longest gap {gap_ms:.0f} ms; the machine stood still for {stalls_ms:.0f} ms")
    assert load.failed(since) == []
    assert epoch_and_primary(cluster) == before


def zookeeper_leader(lab: Lab) -> str | None:
    ask = "exec 3<>/dev/tcp/127.0.0.1/2181 && printf srvr >&3 && sed -n 's/^Mode: //p' <&3"
    for host in lab.databases_hosts:
        if host.pid_of("zookeeper") and host.run(["bash", "-c", ask], check=False).stdout.strip() == "leader":
            return host.name
    return None


def restart_guardian(host: Host, number: signal.Signals) -> float:
    """End the guardian and start it again; for how many seconds nobody renewed the lease."""

    def openings() -> int:
        return host.log("guardian").read_text().count("port open to writers")

    before, start = openings(), boottime_s()
    (old,) = host.kill("guardian", number)
    Lab.wait(lambda: host.pid_of("guardian") is None, 10.0, f"the guardian's end by {number.name}")
    ended = boottime_s()
    assert host.start("guardian") != old
    Lab.wait(lambda: openings() > before, 20.0, "the new guardian's own proof")
    away_s = boottime_s() - start
    print(f"{number.name}: ended after {ended - start:.2f} s, the next one serves after {away_s:.2f} s")
    return away_s


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_a_guardian_restarted_beside_a_running_primary_fails_no_write(calm_cluster: Cluster, number: signal.Signals) -> None:
    """The kernel's ticket bridges a restart that is shorter than it. On a machine with no time for anybody a restart may be
    longer, and then the gate must shut: such an attempt shows nothing and is made again."""
    host = calm_cluster.lab.host(calm_cluster.primary())
    before = epoch_and_primary(calm_cluster)
    with calm_cluster.traffic() as load:
        for _ in range(ATTEMPTS):
            load.flows(30.0)
            start = boottime_s()
            away_s = restart_guardian(host, number)
            if away_s < BRIDGED_S:
                break
        assert away_s < BRIDGED_S, f"{ATTEMPTS} restarts, none shorter than the {BRIDGED_S:g} s that the ticket bridges"
        assert_nobody_noticed(calm_cluster, load, before, start)


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
