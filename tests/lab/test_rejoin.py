"""Whoever was away comes back by itself: rewound, copied anew, or fenced for as long as nobody can say who is primary."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from failover.lab.traffic import DATABASE
from tests.support.lab_cluster import Cluster

pytestmark = pytest.mark.timeout(240)
COMMITS = 7
LOG_FILES = r"[0-9A-F]{24}|binlog\.\d{6}"
BESIDE = ("sshd", "guardian")  # the other hosts' ZooKeeper servers are enough; the rest starts when the test is over


@pytest.fixture
def away(cluster: Cluster) -> Iterator[Cluster]:
    """A whole cluster that is healed at the end, whatever the test left."""
    try:
        yield cluster
    finally:
        for name in cluster.options.members:
            if not cluster.lab.host(name).is_up:
                cluster.lab.boot_host(name, ())
        cluster.lab.heal()
        cluster.start_everything()


def told(cluster: Cluster, member: str) -> dict[str, Any]:
    """What the guardian's record says of that member's last rejoin."""
    found = cluster.answer("rejoin")["rejoins"]
    return next((record for record in found if record["member"] == member), {})


def seen(cluster: Cluster, member: str) -> dict[str, Any]:
    return next(m for m in cluster.status()["members"] if m["name"] == member)


def others_take_over(cluster: Cluster, old: str) -> str:
    on = next(name for name in cluster.options.members if name != old)

    def settled() -> bool:
        record = json.loads(cluster.ctl("status", "-o", "json", on=on).stdout)
        return record["primary"] not in (None, old) and record["operation"] is None

    cluster.lab.wait(settled, 60.0, f"another primary than {old}")
    return str(cluster.status()["primary"])


def rejoined(cluster: Cluster, member: str, within_s: float = 60.0) -> dict[str, Any]:
    lab = cluster.lab
    lab.wait(lambda: seen(cluster, member)["streaming"], within_s, lambda: f"{member} streaming: {seen(cluster, member)}")
    lab.wait(lambda: told(cluster, member).get("state") == "done", 10.0, lambda: f"the record of it: {told(cluster, member)}")
    return told(cluster, member)


def test_an_old_primary_with_commits_of_its_own_is_rewound_and_they_are_listed(away: Cluster) -> None:
    lab, old = away.lab, away.primary()
    host, schema = lab.host(old), {"postgresql": "public"}.get(away.options.engine, DATABASE)
    table, counted = f"{schema}.lost", f"SELECT count(*) FROM {schema}.lost"
    away.sql(old, f"CREATE TABLE IF NOT EXISTS {table} (id int)")
    with away.hand.commits_that_nobody_gets(old, table, COMMITS):
        lab.crash(old)
    new = others_take_over(away, old)
    lab.boot_host(old, BESIDE)
    assert lab.databases.primaries() == [new] and seen(away, old)["gate"] in ("shut", "none") and not seen(away, old)["writable"]
    record = rejoined(away, old)
    assert record["way"] == "rewind" and record["discarded_commits"] == COMMITS == len(record["discarded"])
    assert {"table": table, "rows": COMMITS} in record["tables"]
    assert away.sql(old, counted) == away.sql(new, counted) == "0"
    saved = host.directory / "state" / record["saved"].removeprefix("/var/lib/failover/")
    listed = (saved / "commits.txt").read_text().splitlines()
    assert len(listed) == COMMITS and all(f"{table} 1" in line for line in listed)
    sizes = [path.stat().st_size for path in saved.iterdir() if re.fullmatch(LOG_FILES, path.name)]
    assert 16 << 20 in sizes if away.options.engine == "postgresql" else any(sizes)
    away.sql(new, f"DROP TABLE {table}")


def test_a_host_that_comes_back_without_its_data_gets_a_new_copy(away: Cluster) -> None:
    lab, (member, _) = away.lab, away.standbys()
    host = lab.host(member)
    lab.crash(member)
    assert host.data_dir is not None
    for entry in host.data_dir.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    lab.boot_host(member, BESIDE)
    record = rejoined(away, member)
    assert record["way"] == "reseed" and record["says"].startswith("copied from ")
    assert sorted(path.name for path in host.data_dir.parent.iterdir()) == ["main"], "nothing is left beside it"


def test_a_host_that_comes_back_while_zookeeper_is_away_stays_fenced(away: Cluster) -> None:
    lab, member = away.lab, away.primary()
    lab.crash(member)
    new = others_take_over(away, member)
    for host in lab.databases_hosts:
        if host.is_up:
            host.stop("zookeeper")
    lab.boot_host(member, ("sshd", "guardian"))
    guardian = lab.host(member)
    lab.wait(lambda: "failover_gate" in guardian.run(["nft", "list", "tables"]).stdout, 20.0, "the gate in the kernel")
    rules = guardian.run(["nft", "list", "ruleset"]).stdout
    assert guardian.pid_of("database") is None and "expires" not in rules, "no database, no ticket"
    assert member not in lab.databases.primaries()
    away.start_everything()
    lab.wait(lambda: seen(away, member)["streaming"], 90.0, lambda: f"{member} streaming: {seen(away, member)}")
    assert new in away.options.members
