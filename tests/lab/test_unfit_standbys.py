"""A standby that is not as the others: `plan` says which, and why, before anybody needs to know.

An errant transaction, a long way behind, an applier that has stopped, a restart that may have lost received log.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from failover.lab.traffic import DATABASE
from tests.support.application import Client
from tests.support.lab_cluster import Cluster

pytestmark = [pytest.mark.timeout(240), pytest.mark.engines("mariadb", "mysql")]
REFUSED = 5
MEGABYTES = 24  # more than lag_max, which is 16 MiB by default


def plan(cluster: Cluster) -> dict[str, Any]:
    return cluster.answer("plan", "--if-dies", cluster.primary())


def planned(cluster: Cluster, member: str, *words: str) -> dict[str, Any]:
    """Wait until the plan says all of that about `member`."""
    last: dict[str, Any] = {}

    def said() -> bool:
        last.update(plan(cluster))
        about = [str(r["why"]) for r in last["ranking"] if r["member"] == member]
        about += [note for note in last["notes"] if note.startswith(f"{member}: ")]
        return all(any(word in text for text in about) for word in words)

    cluster.lab.wait(said, 20.0, lambda: f"{words} about {member}; the plan: {json.dumps(last, indent=1)}")
    print(cluster.ctl("plan").stdout)
    return last


def refused(cluster: Cluster, member: str) -> str:
    done = cluster.ctl("switchover", "--to", member, "--yes", timeout_s=60.0)
    assert done.returncode == REFUSED, done.stdout + done.stderr
    return done.stderr


@contextmanager
def table(cluster: Cluster, name: str, columns: str) -> Iterator[str]:
    """On every member."""
    primary = cluster.lab.host(cluster.primary())
    primary.sql(f"DROP TABLE IF EXISTS {name}; CREATE TABLE {name} ({columns})", "app", DATABASE)
    standbys, hand = cluster.standbys(), cluster.hand
    cluster.lab.wait(lambda: all(hand.sees_table(member, name) for member in standbys), 10.0, "the table on the standbys")
    try:
        yield name
    finally:
        cluster.lab.host(cluster.primary()).sql(f"DROP TABLE {name}", "app", DATABASE)


def test_an_errant_transaction_keeps_a_standby_out_and_is_listed_when_it_is_given_up(calm_cluster: Cluster) -> None:
    cluster, member = calm_cluster, calm_cluster.standbys()[0]
    with table(cluster, "errant", "id int"), cluster.traffic() as load:
        assert cluster.ctl("pause", "--for", "2min", "--yes").returncode == 0  # its guardian would begin to mend it at once
        cluster.hand.write_on_a_standby(member, f"INSERT INTO {DATABASE}.errant VALUES (1)")
        found = planned(cluster, member, "diverged")
        assert found["candidate"] != member, "and under strict nobody is chosen until commits no longer count on it"
        assert member in refused(cluster, member)
        assert cluster.ctl("resume", "--yes").returncode == 0
        cluster.lab.wait(lambda: rejoined(cluster, member).get("state") == "done", 90.0, lambda: str(rejoined(cluster, member)))
        record = rejoined(cluster, member)
        assert record["discarded_commits"] == 1 and {"table": f"{DATABASE}.errant", "rows": 1} in record["tables"]
        cluster.wait_whole(cooldown=False)
        assert cluster.sql(member, "SELECT count(*) FROM errant", dbname=DATABASE) == "0"
        assert load.lost(member) == [] and load.lost() == []


def rejoined(cluster: Cluster, member: str) -> dict[str, Any]:
    return next((one for one in cluster.answer("rejoin")["rejoins"] if one["member"] == member), {})


def test_a_standby_that_lags_may_be_chosen_for_what_it_has_received_but_not_for_a_switchover(calm_cluster: Cluster) -> None:
    cluster, member = calm_cluster, calm_cluster.standbys()[0]
    with table(cluster, "ballast", "id int, x longtext"):
        reader = Client(cluster.lab, cluster.lab.host(member).address)
        try:
            reader.send("BEGIN")
            assert reader.ask("SELECT count(*) FROM ballast") == "0"
            primary = cluster.lab.host(cluster.primary())
            primary.sql("ALTER TABLE ballast ADD COLUMN y int", "app", DATABASE)  # the applier waits for the reader
            for number in range(MEGABYTES):
                primary.sql(f"INSERT INTO ballast (id, x) VALUES ({number}, REPEAT('x', 1000000))", "app", DATABASE)
            planned(cluster, member, "bytes behind, more than lag_max")
            assert "bytes behind, more than lag_max" in refused(cluster, member)
        finally:
            reader.close()
            cluster.hand.end_session(member, reader.number)
        cluster.wait_whole(cooldown=False)


def test_a_standby_whose_applier_has_stopped_may_be_chosen_and_applies_first(calm_cluster: Cluster) -> None:
    cluster, member = calm_cluster, calm_cluster.standbys()[0]
    cluster.hand.pause_replay(member)
    try:
        planned(cluster, member, "its replay is paused")
        assert "its replay is paused" in refused(cluster, member)
    finally:
        cluster.hand.resume_replay(member)
    cluster.wait_whole(cooldown=False)


def test_a_standby_that_may_have_lost_received_log_by_a_restart_does_not_testify_until_it_has_caught_up(
    calm_cluster: Cluster,
) -> None:
    """MariaDB throws its relay log away whenever replication starts, MySQL with relay_log_recovery=ON: what it acknowledged and
    had not applied may be gone. Cut off from its primary it cannot fetch it again."""
    cluster, member, primary = calm_cluster, calm_cluster.standbys()[0], calm_cluster.primary()
    host, port = cluster.lab.host(member), cluster.lab.dialect.port
    with cluster.hand.recovers_relay_log(member):
        try:
            cluster.lab.cut(primary, member, port=port)
            host.kill("database_all")
            planned(cluster, member, "may have lost log that it acknowledged")
            assert member in refused(cluster, member)
        finally:
            cluster.lab.heal(primary, member, port=port)
        cluster.wait_whole(cooldown=False)
        assert "may have lost" not in json.dumps(plan(cluster))
    if cluster.options.engine == "mysql":  # the setting of before takes hold again
        cluster.lab.host(member).kill("database_all")
        cluster.wait_whole(cooldown=False)
