"""Adoption beside a running database, and the way out again: no client notices the one, nobody can block the other."""

from __future__ import annotations

import signal
import threading

import pytest

from failover.guardian.processes import life_of
from failover.lab.commands import run
from failover.lab.configuration import VIP
from failover.profiles import PROFILES
from tests.support.application import Client, can_write
from tests.support.lab_cluster import Cluster

pytestmark = pytest.mark.timeout(240)
LEASE_S = PROFILES["lan"].lease_s
GAP_MS = 300.0


def databases(cluster: Cluster) -> dict[str, str]:
    """This very run of every member's database."""
    mains = {host.name: host.pid_of("database") for host in cluster.lab.databases_hosts}
    assert all(mains.values())
    return {name: life_of(main) for name, main in mains.items() if main is not None}


def table_there(cluster: Cluster, member: str) -> bool:
    """Is our table in this host's kernel?"""
    listed = run(["ip", "netns", "exec", cluster.lab.host(member).namespace, "nft", "list", "tables"]).stdout
    return "failover" in listed


def gate_word(cluster: Cluster, member: str) -> str:
    return next(str(m["gate"]) for m in cluster.status()["members"] if m["name"] == member)


def test_no_client_notices_the_adoption_and_nothing_is_restarted(shared_cluster: Cluster) -> None:
    """A primary and two standbys as an administrator runs them, the VIP put there by hand, under load."""
    shared_cluster.close()
    cluster, lab = shared_cluster, shared_cluster.lab
    run(["ip", "-n", lab.host("db1").namespace, "addr", "add", f"{VIP}/24", "dev", "eth0"])
    before = databases(cluster)
    reader = Client(lab, lab.host("db2").address)
    try:
        with cluster.traffic() as load:
            writer = cluster.hand.session_of_the_writer("db1")
            assert not table_there(cluster, "db1")
            cluster.adopt()
            threading.Event().wait(2 * LEASE_S)  # the kernel's tickets, not what was before them, carry the clients now
            assert table_there(cluster, "db1") and gate_word(cluster, "db1") == "open"
            gap_ms = load.acknowledged_gap()
            print(f"longest gap {gap_ms:.0f} ms, the machine stood still for {load.stalls.total_s() * 1000:.0f} ms")
            assert load.failed() == []
            assert gap_ms < GAP_MS
            assert cluster.hand.session_of_the_writer("db1") == writer
        assert databases(cluster) == before
        assert reader.ask_number() == reader.number
    finally:
        reader.close()
    assert lab.host("db1").has_vip()


def test_released_beside_a_running_guardian_and_armed_again_no_client_notices(calm_cluster: Cluster) -> None:
    primary = calm_cluster.primary()
    with calm_cluster.traffic() as load:
        released = calm_cluster.guardian(primary, "release")
        assert released.returncode == 0, released.stderr
        assert not table_there(calm_cluster, primary)
        threading.Event().wait(LEASE_S)  # renewals would have put it back by now
        assert not table_there(calm_cluster, primary) and gate_word(calm_cluster, primary) == "released"
        armed = calm_cluster.guardian(primary, "arm")
        assert armed.returncode == 0, armed.stderr
        calm_cluster.lab.wait(lambda: gate_word(calm_cluster, primary) == "open", 10.0, "the gate armed and open again")
        assert table_there(calm_cluster, primary)
        threading.Event().wait(LEASE_S)
        assert load.failed() == [] and load.acknowledged_gap() < GAP_MS
    assert calm_cluster.primary() == primary


def test_release_opens_the_gate_with_zookeeper_and_every_daemon_of_ours_gone(calm_cluster: Cluster) -> None:
    """The break-glass: the kernel has cut every client, nobody renews, and one command on the host lets them in."""
    lab, primary = calm_cluster.lab, calm_cluster.primary()
    address = lab.host(primary).address
    with calm_cluster.traffic() as load:
        lab.wait(lambda: load.traffic.takers() == {primary}, 5.0, "the prober to write to the primary alone")
        for host in lab.databases_hosts:
            for role in ("controller", "guardian", "zookeeper"):
                host.kill(role, signal.SIGKILL)
        lab.wait(lambda: not load.traffic.takers(), LEASE_S + 5.0, "the gate shut by the kernel alone")
        assert lab.databases.is_primary(primary), "the database itself is alive and writable"
        assert not can_write(lab, address)
        released = calm_cluster.guardian(primary, "release")
        assert released.returncode == 0, released.stderr
        assert not table_there(calm_cluster, primary)
        lab.wait(lambda: can_write(lab, address), 5.0, "a write through the released gate")
        lab.wait(lambda: load.traffic.takers() == {primary}, 5.0, "the prober through the released gate")
        calm_cluster.start_everything(but="guardian")
        lab.start(primary, "guardian")
        lab.wait(lambda: gate_word(calm_cluster, primary) == "released", 20.0, "the new guardian knows of the release")
        assert not table_there(calm_cluster, primary)
        armed = calm_cluster.guardian(primary, "arm")
        assert armed.returncode == 0, armed.stderr
        calm_cluster.start_everything()
        calm_cluster.wait_whole(60.0, cooldown=False)
        assert table_there(calm_cluster, primary)
        load.flows(10.0)
        assert load.lost() == [] and load.dual_writer_ms() == 0
    assert calm_cluster.primary() == primary
