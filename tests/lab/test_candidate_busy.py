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
from tests.support.application import Client
from tests.support.lab_cluster import Cluster

pytestmark = pytest.mark.timeout(240)
@contextmanager
def readers_in_the_way(cluster: Cluster, standbys: list[str]) -> Iterator[None]:
    """A long query on every standby, and on the primary the change of its table: replay waits for the reader, for ever."""
    hand, primary = cluster.hand, cluster.lab.host(cluster.primary())
    primary.sql("DROP TABLE IF EXISTS blocked; CREATE TABLE blocked (a int); INSERT INTO blocked VALUES (1)", "app", DATABASE)
    readers: dict[str, Client] = {}
    try:
        for name in standbys:
            hand.let_readers_block_replay(name, True)
            cluster.lab.wait(lambda name=name: hand.sees_table(name, "blocked"), 5.0, f"the table on {name}")
            reader = readers[name] = Client(cluster.lab, cluster.lab.host(name).address)
            reader.send(hand.begin_sql)
            cluster.lab.wait(lambda reader=reader: reader.ask("SELECT count(*) FROM blocked") == "1", 5.0, "its row")
            reader.send(hand.busy_sql.format(seconds=120, table="blocked"))
        primary.sql("ALTER TABLE blocked ADD COLUMN b int", "app", DATABASE)
        threading.Event().wait(1.0)
        for name in standbys:
            behind = hand.not_replayed(name), hand.replay_paused(name)
            assert behind == (True, False), f"the reader on {name} is not in the way, so this shows nothing"
        yield
    finally:
        for name, reader in readers.items():
            reader.close()
            hand.end_session(name, reader.number)  # its sleep does not notice the client's end
        for name in standbys:
            hand.let_readers_block_replay(name, False)


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


def sealed_at(cluster: Cluster, member: str, against: str) -> str:
    """Where the newest seal of the member's guardian says that its log ends."""
    said = cluster.log_of(member, "guardian")
    found = re.findall(rf"sealed against {against} for epoch \d+ at (.+), (?:not )?quiet", said)
    assert found, f"{member} was not sealed against {against}"
    return str(found[-1])


def test_with_replay_paused_the_seal_holds_and_the_promotion_goes_through(calm_cluster: Cluster) -> None:
    """The old primary lives and acknowledges until it is fenced. What it acknowledged after a standby was sealed, and that
    standby does not have, would be lost: SQL alone cannot stop a receiver whose replay is paused, the kernel can."""
    cluster, hand, old, standbys = calm_cluster, calm_cluster.hand, calm_cluster.primary(), calm_cluster.standbys()
    with cluster.traffic() as load:
        try:
            for name in standbys:
                hand.pause_replay(name)
                cluster.lab.wait(lambda name=name: hand.replay_paused(name), 5.0, f"replay paused on {name}")
            threading.Event().wait(1.0)
            assert [hand.not_replayed(name) for name in standbys] == [True, True]
            asked = boottime_s()
            done = cluster.ctl("failover", "--yes", "--reason", "replay is paused", timeout_s=60.0)
            assert done.returncode == 0, done.stderr
            cluster.lab.wait(lambda: load.traffic.takers() & set(standbys) != set(), 30.0, "a standby that takes writes")
            new = cluster.primary()
            assert hand.came_after_the_seal(new, old, sealed_at(cluster, new, old)) == ""
        finally:
            for name in standbys:
                hand.resume_replay(name)
        load.flows(30.0, asked)
        print(f"longest time without an acknowledgement {load.acknowledged_gap(asked):.0f} ms")
        assert cluster.primary() != old
        cluster.wait_whole(cooldown=False)
        assert load.dual_writer_ms(asked) == 0
        assert [load.lost(name) for name in cluster.options.members] == [[], [], []]
