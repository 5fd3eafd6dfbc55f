"""The standby that is to take over is busy with something of its own: a reader in its way, or a replay that was paused."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from failover.clock import boottime_s
from failover.lab.traffic import DATABASE
from tests.support.application import Psql
from tests.support.lab_cluster import Cluster

pytestmark = pytest.mark.timeout(240)
NOT_REPLAYED = "SELECT pg_last_wal_receive_lsn() > pg_last_wal_replay_lsn()"


def answers(cluster: Cluster, member: str, sql: str, wanted: str) -> None:
    """Wait until the member's database answers that."""
    cluster.lab.wait(lambda: cluster.sql(member, sql, dbname=DATABASE) == wanted, 5.0, f"{wanted!r} from {member}: {sql}")


@contextmanager
def readers_in_the_way(cluster: Cluster, standbys: list[str]) -> Iterator[None]:
    """A long query on every standby, and on the primary the change of its table: replay waits for the reader, for ever."""
    primary = cluster.primary()
    cluster.sql(primary, "DROP TABLE IF EXISTS blocked; CREATE TABLE blocked AS SELECT 1 AS a; GRANT SELECT ON blocked TO app",
                dbname=DATABASE)  # fmt: skip
    readers: dict[str, Psql] = {}
    try:
        for name in standbys:
            cluster.sql(name, "ALTER SYSTEM SET max_standby_streaming_delay = -1")
            cluster.sql(name, "SELECT pg_reload_conf()")
            answers(cluster, name, "SHOW max_standby_streaming_delay", "-1")
            answers(cluster, name, "SELECT count(*) FROM pg_class WHERE relname = 'blocked'", "1")
            reader = readers[name] = Psql(cluster.lab, cluster.lab.host(name).address)
            reader.send("BEGIN ISOLATION LEVEL REPEATABLE READ")
            assert reader.ask("SELECT count(*) FROM blocked") == "1"
            reader.send("SELECT count(*), pg_sleep(120) FROM blocked")
        cluster.sql(primary, "ALTER TABLE blocked ADD COLUMN b int", dbname=DATABASE)
        threading.Event().wait(1.0)
        for name in standbys:
            behind = cluster.sql(name, NOT_REPLAYED), cluster.sql(name, "SELECT pg_is_wal_replay_paused()")
            assert behind == ("t", "f"), f"the reader on {name} is not in the way, so this shows nothing"
        yield
    finally:
        for name, reader in readers.items():
            reader.close()
            cluster.sql(name, f"SELECT pg_terminate_backend({reader.pid})")  # its sleep does not notice the client's end
        for name in standbys:
            cluster.sql(name, "ALTER SYSTEM RESET max_standby_streaming_delay")
            cluster.sql(name, "SELECT pg_reload_conf()")


def test_a_reader_on_the_candidate_does_not_hold_up_its_promotion(cluster: Cluster) -> None:
    """Both standbys have one, so whichever is chosen was in its way."""
    old, standbys = cluster.primary(), cluster.standbys()
    with cluster.traffic() as load:
        with readers_in_the_way(cluster, standbys):
            killed = boottime_s()
            cluster.lab.host(old).kill("database", signal.SIGKILL)
            cluster.lab.wait(lambda: load.traffic.takers() & set(standbys) != set(), 30.0, "a standby that takes writes")
            first = min(p.done for p in load.traffic.probes() if p.host in standbys and p.outcome == "ok" and p.done > killed)
            stood_s = load.stalls.within_s(killed, first)
            print(f"writable {first - killed:.2f} s after the kill, of which the machine stood still {stood_s:.2f} s")
            assert first - killed - stood_s < 2.0
        load.flows(30.0, killed)
        cluster.wait_whole(cooldown=False)
        assert load.dual_writer_ms(killed - 1.0) == 0
        assert [load.lost(name) for name in cluster.options.members] == [[], [], []]


def sealed_at(cluster: Cluster, member: str, against: str) -> int:
    """Where the newest seal of the member's guardian says that its log ends."""
    said = cluster.log_of(member, "guardian")
    found = re.findall(rf"sealed against {against} for epoch \d+ at \d+@([0-9A-F]+/[0-9A-F]+)", said)
    assert found, f"{member} was not sealed against {against}"
    return lsn(found[-1])


def forked_at(cluster: Cluster, member: str) -> int:
    """Where the new primary's history leaves the old one: the end of everything that it had received."""
    name = "'pg_wal/' || left(pg_walfile_name(pg_current_wal_lsn()), 8) || '.history'"
    return lsn(cluster.sql(member, f"SELECT pg_read_file({name})").splitlines()[-1].split()[1])


def lsn(text: str) -> int:
    high, low = text.split("/")
    return (int(high, 16) << 32) + int(low, 16)


def test_with_replay_paused_the_seal_holds_and_the_promotion_goes_through(calm_cluster: Cluster) -> None:
    """The old primary lives and acknowledges until it is fenced. What it acknowledged after a standby was sealed, and that
    standby does not have, would be lost: SQL alone cannot stop a receiver whose replay is paused, the kernel can."""
    cluster, old, standbys = calm_cluster, calm_cluster.primary(), calm_cluster.standbys()
    with cluster.traffic() as load:
        try:
            for name in standbys:
                cluster.sql(name, "SELECT pg_wal_replay_pause()")
                answers(cluster, name, "SELECT pg_get_wal_replay_pause_state()", "paused")
            threading.Event().wait(1.0)
            assert [cluster.sql(name, NOT_REPLAYED) for name in standbys] == ["t", "t"]
            asked = boottime_s()
            done = cluster.ctl("failover", "--yes", "--reason", "replay is paused", timeout_s=60.0)
            assert done.returncode == 0, done.stderr
            cluster.lab.wait(lambda: load.traffic.takers() & set(standbys) != set(), 30.0, "a standby that takes writes")
            assert forked_at(cluster, cluster.primary()) <= sealed_at(cluster, cluster.primary(), old), "log came after the seal"
        finally:
            for name in standbys:
                cluster.sql(name, "SELECT pg_wal_replay_resume() WHERE pg_is_in_recovery()")
        load.flows(30.0, asked)
        print(f"longest time without an acknowledgement {load.acknowledged_gap(asked):.0f} ms")
        assert cluster.primary() != old
        cluster.wait_whole(cooldown=False)
        assert load.dual_writer_ms(asked) == 0
        assert [load.lost(name) for name in cluster.options.members] == [[], [], []]
