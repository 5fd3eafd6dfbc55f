"""All of ZooKeeper is away: a healthy primary goes on, on the pledges of those that could be chosen; without them it ends itself.

With FAILOVER_SOAK=1 the long absence is 10 minutes, and the servers come back in one more order.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from failover.clock import boottime_s
from tests.support.ensemble import zookeeper_start, zookeeper_stop
from tests.support.lab_cluster import Cluster, Load
from tests.support.undisturbed import Undisturbed, rest, timings

SOAK = os.environ.get("FAILOVER_SOAK") == "1"
AWAY_S = 600.0 if SOAK else 20.0
APART_S = 1.5  # between the starts of two servers: the first one is alone for a while, then a majority
BACK_S = 30.0
LIVING = "living on pledges of"
pytestmark = pytest.mark.timeout(AWAY_S + 300)


@pytest.fixture
def cluster(profiled_cluster: Cluster) -> Cluster:
    """Whole, on the clock of `lan` and then on that of `fast`."""
    return profiled_cluster


@contextmanager
def back_at_the_end(cluster: Cluster) -> Iterator[None]:
    """Whatever was stopped runs again, also after a failed assertion."""
    try:
        yield
    finally:
        cluster.start_everything()


def _goes_on_for(seconds: float, watch: Undisturbed) -> None:
    """Looked at again and again, so that a soak does not end before it says what went wrong."""
    end_s = boottime_s() + seconds
    while (left_s := end_s - boottime_s()) > 0:
        rest(min(left_s, 30.0))
        watch.so_far()


ORDERS = {"long": (AWAY_S, ("db1", "db2", "db3")), "backwards": (8.0, ("db3", "db2", "db1"))}
if SOAK:
    ORDERS["mixed"] = (8.0, ("db2", "db3", "db1"))


@pytest.mark.parametrize(("away_s", "order"), ORDERS.values(), ids=ORDERS)
def test_every_server_stopped(cluster: Cluster, away_s: float, order: tuple[str, ...]) -> None:
    with cluster.traffic() as load, back_at_the_end(cluster):
        watch = Undisturbed(cluster, load)
        zookeeper_stop(cluster.lab)
        _goes_on_for(away_s, watch)
        assert LIVING in watch.guardian_said()
        zookeeper_start(cluster.lab, order, APART_S)
        watch.to_the_end()
        assert "acknowledges again" in watch.guardian_said()


def test_every_server_silent(cluster: Cluster) -> None:
    """Stopped processes refuse nothing: every link hangs until somebody's patience ends."""
    hosts = cluster.lab.databases_hosts
    with cluster.traffic() as load:
        watch = Undisturbed(cluster, load)
        try:
            for host in hosts:
                assert host.kill("zookeeper", signal.SIGSTOP)
            _goes_on_for(8.0, watch)
            assert LIVING in watch.guardian_said()
        finally:
            for host in hosts:
                host.kill("zookeeper", signal.SIGCONT)
        watch.to_the_end()


def test_a_standbys_guardian_gone_as_well(cluster: Cluster) -> None:
    """Two faults: one pledge is missing, so the primary ends itself within its lease. Nobody is promoted, and it comes back."""
    lab, clock = cluster.lab, timings(cluster)
    away = cluster.standbys()[-1]
    before = cluster.status()
    with cluster.traffic() as load, back_at_the_end(cluster):
        watch = Undisturbed(cluster, load)
        assert lab.host(away).kill("guardian", signal.SIGKILL)
        zookeeper_stop(lab)
        gone_s = boottime_s()
        _nobody_writes_from(gone_s + clock.lease_s, cluster, load)
        assert f"want of pledges of {away}: no answer" in watch.guardian_said()
        zookeeper_start(lab)
        back_s = boottime_s()
        took_s = load.flows(BACK_S, since=back_s)
        print(f"{cluster.options.profile}: writes {took_s:.1f} s after ZooKeeper was back")
        assert "ending sessions" in watch.guardian_said()
        lab.start(away, "guardian")
        cluster.wait_whole(60.0, cooldown=False)
        assert load.lost() == [] and load.dual_writer_ms() == 0
        after = cluster.status()
        assert (after["epoch"], after["primary"]) == (before["epoch"], before["primary"]), "granted to whom it was"


def _nobody_writes_from(closed_s: float, cluster: Cluster, load: Load) -> None:
    """No write is acknowledged after `closed_s`, through the VIP or by any host, and no standby is promoted."""
    rest(closed_s - boottime_s() + 2 * timings(cluster).wait_s)
    done = [w.done for w in load.acknowledged()]
    last_s = max(done) - closed_s
    print(f"{cluster.options.profile}: the last acknowledgement {-last_s:.2f} s before the lease's end")
    assert last_s <= 0
    assert [p for p in load.traffic.probes() if p.outcome == "ok" and p.done > closed_s] == []
    assert cluster.lab.databases.primaries() == []


def test_a_standby_in_maintenance_is_not_asked(cluster: Cluster) -> None:
    """Taken out of the promotable list beforehand, it owes no pledge, and its guardian may be gone as well."""
    lab, (asked, away) = cluster.lab, cluster.standbys()
    logs = [host.log("controller") for host in lab.databases_hosts]
    sizes = [log.stat().st_size for log in logs]
    done = cluster.ctl("maintenance", "on", away, "--for", "10min", "--yes", "--wait")
    assert done.returncode == 0, done.stderr
    try:
        edited = f'"promotable: {asked}"'
        lab.wait(lambda: any(edited in _after(log, size) for log, size in zip(logs, sizes, strict=True)), 10.0, edited)
        with cluster.traffic() as load, back_at_the_end(cluster):
            watch = Undisturbed(cluster, load)
            assert lab.host(away).kill("guardian", signal.SIGKILL)
            zookeeper_stop(lab)
            _goes_on_for(3 * timings(cluster).wait_s, watch)
            assert f'{LIVING} {asked}"' in watch.guardian_said()
            zookeeper_start(lab)
            lab.start(away, "guardian")
            watch.to_the_end()
    finally:
        cluster.ctl("maintenance", "off", away, "--yes", "--wait")


def _after(log: Path, size: int) -> str:
    """What was logged beyond that size."""
    return log.read_bytes()[size:].decode(errors="replace")
