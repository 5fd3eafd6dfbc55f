"""Nobody is left who could acknowledge a commit: strict blocks and says so; sync goes on, says so, and keeps a record of it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from failover.clock import boottime_s
from tests.support.lab_cluster import Cluster

pytestmark = pytest.mark.timeout(240)
SAID_S = 20.0  # a record is old after 3 s, a standby leaves the set after 5 more
BLOCKED_S = 12.0  # longer than it takes `sync` to go on without them
CLOCKS_S = 0.2  # the record is of wall clocks, in milliseconds


@contextmanager
def nobody_acknowledges(cluster: Cluster) -> Iterator[None]:
    """Both standbys are dead, and their guardians with them, or they would be started again."""
    standbys = [cluster.lab.host(name) for name in cluster.standbys()]
    for host in standbys:
        host.kill("guardian", signal.SIGKILL)
        host.kill("database_all", signal.SIGKILL)
    try:
        yield
    finally:
        cluster.start_everything()


def problem(cluster: Cluster, code: str) -> str:
    """Wait until `status` tells of it; its words."""
    found: dict[str, str] = {}

    def told() -> bool:
        found.update({one["code"]: one["text"] for one in cluster.status()["problems"]})
        return code in found

    cluster.lab.wait(told, SAID_S, lambda: f"{code} in `status`; there are: {found}")
    return found[code]


def degraded(cluster: Cluster) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = cluster.status()["degraded"]
    return found


def now() -> datetime:
    return datetime.now(UTC)


def test_under_strict_writes_wait_until_somebody_can_acknowledge_them(calm_cluster: Cluster) -> None:
    primary, names = calm_cluster.primary(), set(calm_cluster.standbys())
    with calm_cluster.traffic() as load:
        load.flows(10.0)
        with nobody_acknowledges(calm_cluster):
            gone = boottime_s()
            words = problem(calm_cluster, "writes-block")
            assert words.startswith("writes block: a commit waits for one of (") and words.endswith("and none streams")
            threading.Event().wait(BLOCKED_S)
            assert load.acknowledged(gone + 1.0) == [], "a write was acknowledged that is on one member only"
            seats = calm_cluster.status()["sync"]
            assert all(pair["names"] and set(pair["names"]) <= names for pair in seats), "no set lets commits wait for nobody"
        load.flows(60.0, boottime_s(), "writes, once a standby acknowledges them")
        assert degraded(calm_cluster) == []
        calm_cluster.wait_whole(cooldown=False)
        assert load.dual_writer_ms() == 0
        assert [load.lost(name) for name in calm_cluster.options.members] == [[], [], []]
    assert calm_cluster.primary() == primary


def test_under_sync_writes_go_on_and_every_second_of_it_is_on_record(own_cluster: Callable[..., Cluster]) -> None:
    cluster = own_cluster(replication="sync")
    cluster.make_whole()
    primary = cluster.primary()
    with cluster.traffic() as load:
        load.flows(10.0)
        assert degraded(cluster) == []
        with nobody_acknowledges(cluster):
            gone, gone_at = boottime_s(), now()
            assert "a commit waits for nobody" in problem(cluster, "sync-degraded")
            load.flows(10.0, boottime_s(), "writes that wait for nobody")
            (record,) = degraded(cluster)
            assert record["ended_at"] is None and record["epoch"] == cluster.status()["epoch"]
            first = load.acknowledged(gone + 1.0)[0].done  # a commit under way when they died may have been acknowledged by them
            alone_at = now()
        cluster.wait_whole(cooldown=False)
        cluster.lab.wait(lambda: degraded(cluster)[-1]["ended_at"] is not None, 30.0, "the record's end")
        (record,) = degraded(cluster)
        began, ended = (datetime.fromisoformat(record[name]) for name in ("began_at", "ended_at"))
        waited_s = first - gone
        print(f"writes waited {waited_s:.1f} s, then for {(ended - began).total_seconds():.1f} s for nobody, by the record")
        assert 0 <= (began - gone_at).total_seconds() <= waited_s + CLOCKS_S, "it begins no later than the first such write"
        assert ended >= alone_at, "and ends no earlier than the last"
        assert "sync-degraded" not in {one["code"] for one in cluster.status()["problems"]}
        assert load.dual_writer_ms() == 0
        assert [load.lost(name) for name in cluster.options.members] == [[], [], []]
    assert cluster.primary() == primary
