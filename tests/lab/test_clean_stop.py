"""An operator stops the primary's database in good order, asking nobody: ten seconds of patience, then a failover, and the
old one comes back only as a standby, whoever starts it."""

from __future__ import annotations

import pytest

from failover.clock import boottime_s
from tests.support.lab_cluster import Cluster, Load

pytestmark = pytest.mark.timeout(240)
WAIT_S = 10.0  # on_clean_stop, as the configuration has it by default


def assert_nobody_is_promoted_for(cluster: Cluster, seconds: float, epoch: int) -> None:
    end = boottime_s() + seconds
    while boottime_s() < end:
        assert cluster.lab.databases.primaries() == []
    record = cluster.status()
    assert (record["epoch"], record["operation"]) == (epoch, None)


def assert_one_writer_and_nothing_lost(cluster: Cluster, load: Load) -> None:
    cluster.wait_whole(cooldown=False)
    assert load.dual_writer_ms() == 0
    assert [load.lost(name) for name in cluster.options.members] == [[], [], []]


def test_a_clean_stop_is_waited_for_and_only_then_somebody_else_is_promoted(cluster: Cluster) -> None:
    old = cluster.lab.host(cluster.primary())
    epoch = cluster.status()["epoch"]
    with cluster.traffic() as load:
        old.stop("database")
        stopped = boottime_s()
        assert_nobody_is_promoted_for(cluster, WAIT_S - 3.0, epoch)
        load.flows(WAIT_S + 15.0, stopped, "writes on another primary after on_clean_stop")
        resumed_s = load.acknowledged(stopped)[0].done - stopped
        print(f"writes again {resumed_s:.1f} s after the clean stop")
        assert resumed_s > WAIT_S - 1.0
        assert cluster.primary() != old.name
        assert_one_writer_and_nothing_lost(cluster, load)
    assert cluster.lab.databases.is_standby(old.name)


def test_the_stopped_primary_started_by_hand_within_the_wait_comes_up_as_a_standby(cluster: Cluster) -> None:
    """Whether it is granted back or another one is chosen then is the controllers' business; two writers are not."""
    old = cluster.lab.host(cluster.primary())
    epoch = cluster.status()["epoch"]
    told = len(cluster.log_of(old.name, "guardian"))
    with cluster.traffic() as load:
        old.stop("database")
        stopped = boottime_s()
        began = old.log("database").stat().st_size
        cluster.lab.wait(lambda: "fenced: " in cluster.log_of(old.name, "guardian")[told:], 5.0, "its fence, which kills")
        old.start("database")
        load.flows(WAIT_S + 20.0, stopped, "writes again, on whomever")
        print(f"writes again after {load.acknowledged(stopped)[0].done - stopped:.1f} s, on {cluster.primary()}")
        said = old.log("database").read_bytes()[began:].decode(errors="replace")
        assert cluster.hand.began_as_a_standby(old.name, said), said
        assert cluster.status()["epoch"] > epoch
        assert_one_writer_and_nothing_lost(cluster, load)

