"""Servers, controllers and guardians are restarted one after the other under load, as an upgrade does: no client notices."""

from __future__ import annotations

import os
import signal

import pytest

from failover.clock import boottime_s
from failover.lab.host import Host
from failover.lab.lab import Lab
from tests.support.ensemble import zookeeper_cut, zookeeper_leaders
from tests.support.lab_cluster import Cluster
from tests.support.undisturbed import Undisturbed, rest, timings

pytestmark = pytest.mark.timeout(240)
ATTEMPTS = 4
CUT_S = 8.0
OPENED = "port open to writers"


@pytest.fixture
def cluster(profiled_cluster: Cluster) -> Cluster:
    """Whole, on the clock of `lan` and then on that of `fast`."""
    return profiled_cluster


def test_every_zookeeper_server(cluster: Cluster) -> None:
    """The leader among them, last: the others follow it until then."""
    lab = cluster.lab
    with cluster.traffic() as load:
        watch = Undisturbed(cluster, load)
        for name in sorted(cluster.options.members, key=lambda one: one == lab.zookeeper_leader()):
            lab.host(name).restart("zookeeper")
        watch.to_the_end()


def test_every_controller(cluster: Cluster) -> None:
    with cluster.traffic() as load:
        watch = Undisturbed(cluster, load)
        for host in cluster.lab.databases_hosts:
            host.restart("controller")
            cluster.lab.wait(lambda: cluster.seen().leader is not None, 20.0, "a leader")
        watch.to_the_end()


def test_every_standbys_guardian(cluster: Cluster) -> None:
    with cluster.traffic() as load:
        watch = Undisturbed(cluster, load)
        for name in cluster.standbys():
            away_s = _guardian_restarted(cluster.lab.host(name), "standby of the granted member")
            print(f"{name}: its guardian was away for {away_s:.2f} s")
        watch.to_the_end()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_the_primarys_guardian(cluster: Cluster, number: signal.Signals) -> None:
    """The kernel's ticket bridges a restart that is shorter than it. On a machine with no time for anybody a restart may be
    longer, and then the gate must shut: such an attempt shows nothing and is made again."""
    clock, host = timings(cluster), cluster.lab.host(cluster.primary())
    bridged_s = clock.lease_s - (0 if number == signal.SIGTERM else clock.renew_s)  # since the last renewal was sent
    with cluster.traffic() as load:
        for _ in range(ATTEMPTS):
            watch = Undisturbed(cluster, load)
            away_s = _guardian_restarted(host, OPENED, number)
            print(f"{cluster.options.profile}: nobody renewed for {away_s:.2f} s, {bridged_s:.1f} s are bridged")
            if away_s < bridged_s:
                break
        assert away_s < bridged_s, f"{ATTEMPTS} restarts, none shorter than the {bridged_s:g} s that the ticket bridges"
        watch.to_the_end()


@pytest.mark.parametrize("beside_primary", [True, False], ids=["beside the primary", "beside a standby"])
def test_zookeepers_leader_cut_off(cluster: Cluster, beside_primary: bool) -> None:
    """The others elect another one; nobody hears the old one but whoever is on its host."""
    lab = cluster.lab
    leader = _zookeepers_leader(cluster, beside_primary)
    with cluster.traffic() as load:
        watch = Undisturbed(cluster, load)
        with zookeeper_cut(lab, leader):
            took_s = lab.wait(lambda: bool({*zookeeper_leaders(lab)} - {leader}), 15.0, "another ZooKeeper leader")
            print(f"{cluster.options.profile}: another leads after {took_s:.2f} s")
            rest(CUT_S)
            watch.so_far()
        watch.to_the_end()


@pytest.mark.skipif(os.environ.get("FAILOVER_SOAK") != "1", reason="a minute and a half; FAILOVER_SOAK=1 runs it")
def test_the_host_of_zookeepers_leader_and_a_standby_cut_off(calm_cluster: Cluster) -> None:
    """An election, and no pledge of that standby: on `lan` the lease outlives it by itself (T3). `fast` is in the guarantees."""
    lab, leader = calm_cluster.lab, _zookeepers_leader(calm_cluster, beside_primary=False)
    with calm_cluster.traffic() as load:
        watch = Undisturbed(calm_cluster, load)
        lab.cut(leader)
        try:
            lab.wait(lambda: bool({*zookeeper_leaders(lab)} - {leader}), 15.0, "another ZooKeeper leader")
            rest(CUT_S)
            watch.so_far()
        finally:
            lab.heal(leader)
        calm_cluster.wait_whole(cooldown=False)
        watch.to_the_end()


def _guardian_restarted(host: Host, until: str, number: signal.Signals = signal.SIGTERM) -> float:
    """End it and start it again; the seconds until the new one says `until`."""
    log = host.log("guardian")
    size, began_s = log.stat().st_size, boottime_s()
    (old,) = host.kill("guardian", number)
    Lab.wait(lambda: host.pid_of("guardian") is None, 10.0, f"the guardian's end by {number.name}")
    assert host.start("guardian") != old
    Lab.wait(lambda: until in log.read_bytes()[size:].decode(errors="replace"), 20.0, f"{host.name}'s guardian: {until}")
    return boottime_s() - began_s


def _zookeepers_leader(cluster: Cluster, beside_primary: bool) -> str:
    """Where ZooKeeper's leader is, once the primary is there too, or is not."""
    lab = cluster.lab
    lab.wait(lambda: lab.zookeeper_leader() is not None, 15.0, "a ZooKeeper leader")
    leader = str(lab.zookeeper_leader())
    if (cluster.primary() == leader) != beside_primary:
        target = leader if beside_primary else cluster.standbys()[0]
        done = cluster.ctl("switchover", "--to", target, "--yes", "--wait", timeout_s=60.0)
        assert done.returncode == 0, done.stderr
        cluster.wait_whole(cooldown=False)
    return leader
