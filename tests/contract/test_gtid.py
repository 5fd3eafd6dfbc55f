"""The algebra of positions against the servers' own: GTID_SUBSET, GTID_SUBTRACT, and whom a MariaDB server refuses to serve."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from failover.engines.gtid import GtidPosition, GtidSet
from failover.engines.maria_gtid import MariaPosition
from tests.support import mysql_server as my
from tests.support.postgres_server import until

PAIRS, ROUND = 400, 50
UUIDS = tuple(f"{n:08x}-1111-4222-8333-{n:012x}" for n in (1, 2, 3))
REFUSED, OUT_OF_ORDER = 1236, 1950


@pytest.fixture(scope="module", params=["mysql"])
def mysql(request: pytest.FixtureRequest) -> Iterator[my.MyCluster]:
    if reason := my.missing(request.param):
        pytest.skip(reason)
    with my.MyCluster(request.param) as cluster:
        cluster.primary()
        yield cluster


@pytest.fixture
def mariadb() -> Iterator[my.MyCluster]:
    if reason := my.missing("mariadb"):
        pytest.skip(reason)
    with my.MyCluster("mariadb") as cluster:
        yield cluster


# --- MySQL ------------------------------------------------------------------------------------------------------------------
def random_set(dice: random.Random) -> GtidSet:
    """Small numbers, so that sets of three writers and two tags meet, touch, overlap and leave gaps."""
    found: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for _ in range(dice.randint(0, 8)):
        first = dice.randint(1, 20)
        source = dice.choice(UUIDS), dice.choice(("", "", "tag", "a_tag"))
        found.setdefault(source, []).append((first, first + dice.choice((0, 0, 1, 5))))
    return GtidSet.of(found)


def test_sets_agree_with_the_server(mysql: my.MyCluster) -> None:
    dice = random.Random(5)
    pairs = [(random_set(dice), random_set(dice)) for _ in range(PAIRS)]
    pairs += [(one, one.union(other)) for one, other in pairs[:ROUND]] + [(one.union(other), one) for one, other in pairs[:ROUND]]
    subsets = 0
    for start in range(0, len(pairs), ROUND):
        some = pairs[start : start + ROUND]
        row = "SELECT GTID_SUBSET(%s, %s), GTID_SUBTRACT(%s, %s), GTID_SUBTRACT(%s, '')"
        words = [text for one, other in some for text in (one.text(), other.text()) * 2 + (one.text(),)]
        answers = mysql.servers["db1"].sql(" UNION ALL ".join([row] * len(some)), *words)
        for (one, other), (subset, rest, itself) in zip(some, answers, strict=True):
            assert other.contains(one) == bool(subset), (one.text(), other.text())
            assert one.subtract(other) == GtidSet.parse(rest), (one.text(), other.text())
            assert one.text() == itself.replace("\n", "")
            subsets += subset
    assert ROUND < subsets < len(pairs)


def test_the_server_reads_what_we_read(mysql: my.MyCluster) -> None:
    """Its own tolerance: case, blanks, line breaks, empty parts, order."""
    one, other = UUIDS[0], UUIDS[1]
    for text in (f"{other.upper()}:7,\n {one} : 1 - 5 : TAG : 3 , ,{one}:6", f"{one}:9:1-3:2-4", f",{one}:1,"):
        said = mysql.servers["db1"].value(f"SELECT GTID_SUBTRACT('{text}', '')")
        assert GtidSet.parse(text).text() == said.replace("\n", "")


def said(server: my.MyServer) -> GtidPosition:
    retrieved = server.record("SHOW REPLICA STATUS").get("Retrieved_Gtid_Set", "")
    return GtidPosition.reported(server.value("SELECT @@server_uuid"), server.value("SELECT @@gtid_executed"), retrieved)


def test_real_mysql_servers(mysql: my.MyCluster) -> None:
    db1 = mysql.servers["db1"]
    db2 = mysql.standby("db2", db1)
    db2.replicate_from(db1)
    db1.sql("CREATE TABLE app.t (id INT PRIMARY KEY); SET gtid_next = 'AUTOMATIC:Batch'; INSERT INTO app.t VALUES (1)")
    until(lambda: db2.received(db1), 10, "replication")
    assert ":batch:1" in said(db1).text()
    assert said(db2).covers(said(db1)) and said(db1).covers(said(db2)) and said(db1) != said(db2)
    picture = said(db1)
    db1.sql("INSERT INTO app.t VALUES (2), (3); INSERT INTO app.t VALUES (4)")
    until(lambda: db2.received(db1), 10, "replication")
    assert picture.behind(said(db2)) == 2
    assert not said(db2).diverged_from(picture)
    db2.sql("STOP REPLICA SQL_THREAD")
    db1.sql("INSERT INTO app.t VALUES (5)")
    until(lambda: said(db2).covers(said(db1)), 10, "received, not executed")
    db2.sql("START REPLICA SQL_THREAD; SET GLOBAL super_read_only = OFF; INSERT INTO app.t VALUES (6)")
    assert said(db2).strays(said(db1)) == f"{db2.value('SELECT @@server_uuid')}:1"
    assert said(db2).diverged_from(said(db1))


# --- MariaDB ----------------------------------------------------------------------------------------------------------------
def position(server: my.MyServer) -> MariaPosition:
    names = "@@server_id, @@gtid_binlog_state, @@gtid_binlog_pos, @@gtid_slave_pos"
    received = server.record("SHOW ALL SLAVES STATUS").get("Gtid_IO_Pos", "")
    return MariaPosition.reported(*server.sql(f"SELECT {names}")[0], received)


def errors(server: my.MyServer) -> tuple[int, int]:
    status = server.record("SHOW ALL SLAVES STATUS")
    return status["Last_IO_Errno"], status["Last_SQL_Errno"]


def follow(server: my.MyServer, source: my.MyServer) -> None:
    """As an engine does with a server that may have been primary: what it has is what it goes on from."""
    server.sql("STOP SLAVE; SET GLOBAL gtid_slave_pos = @@gtid_current_pos")
    server.replicate_from(source)


def write(server: my.MyServer, count: int, domain: int = 0) -> None:
    for _ in range(count):
        server.sql(f"SET gtid_domain_id = {domain}; INSERT INTO app.t VALUES ()")


@pytest.fixture
def three(mariadb: my.MyCluster) -> tuple[my.MyServer, my.MyServer, my.MyServer]:
    """db1 with rows in two domains, db2 and db3 behind it, all caught up."""
    db1 = mariadb.primary()
    standbys = [mariadb.standby(name, db1) for name in ("db2", "db3")]
    db1.sql("CREATE TABLE app.t (id INT AUTO_INCREMENT PRIMARY KEY)")
    write(db1, 3)
    write(db1, 1, domain=7)
    for standby in standbys:
        standby.replicate_from(db1)
        until(lambda standby=standby: standby.received(db1), 10, "replication")  # type: ignore[misc]  # binds now
        assert position(standby).covers(position(db1)) and position(db1).covers(position(standby))
    return db1, standbys[0], standbys[1]


def taken_over(db1: my.MyServer, db2: my.MyServer, db3: my.MyServer) -> None:
    """db1 has written two more that only db3 has; db2 goes on by itself."""
    db2.sql("STOP SLAVE; RESET SLAVE ALL")
    write(db1, 2)
    until(lambda: db3.received(db1), 10, "replication")
    db3.sql("STOP SLAVE")
    db2.sql("SET GLOBAL read_only = OFF")
    write(db2, 4)


def test_an_old_primary_with_a_tail_is_diverged_and_is_refused(three: tuple[my.MyServer, ...]) -> None:
    db1, db2, db3 = three
    taken_over(db1, db2, db3)
    assert position(db2).domains[0].last.number > position(db1).domains[0].last.number
    for old in (db1, db3):
        assert not position(db2).covers(position(old))
        assert position(old).diverged_from(position(db2))
        assert position(old).strays(position(db2)) == f"0-{db1.server_id}-{position(db1).domains[0].last.number}"
        follow(old, db2)
        until(lambda old=old: errors(old)[0] == REFUSED, 10, "1236")  # type: ignore[misc]  # binds now


def test_an_old_primary_that_has_nothing_more_follows(three: tuple[my.MyServer, ...]) -> None:
    db1, db2, db3 = three
    db3.sql("STOP SLAVE")
    db2.sql("STOP SLAVE; RESET SLAVE ALL; SET GLOBAL read_only = OFF")
    assert position(db2).covers(position(db1)) and position(db1).covers(position(db2))
    write(db2, 2)
    write(db2, 2, domain=7)
    for old in (db1, db3):
        assert position(db2).covers(position(old)) and not position(old).diverged_from(position(db2))
        assert position(old).behind(position(db2)) == 4
        follow(old, db2)
        until(lambda old=old: old.received(db2), 10, "follows")  # type: ignore[misc]  # binds now
        assert position(old).covers(position(db2))
    db1.sql("STOP SLAVE; RESET SLAVE ALL; SET GLOBAL read_only = OFF")
    before = position(db3)
    write(db1, 1)
    assert position(db1).covers(before) and not before.diverged_from(position(db1))


def test_a_stray_on_a_standby_is_seen_behind_what_it_goes_on_receiving(three: tuple[my.MyServer, ...]) -> None:
    db1, db2, _ = three
    write(db2, 1)
    write(db1, 2)
    until(lambda: errors(db2)[1] == OUT_OF_ORDER, 10, "1950")
    until(lambda: f"0-{db1.server_id}-6" in db2.record("SHOW ALL SLAVES STATUS")["Gtid_IO_Pos"], 10, "received")
    assert position(db2).diverged_from(position(db1))
    assert position(db2).strays(position(db1)) == f"0-{db2.server_id}-5"
    assert not position(db2).covers(position(db1))


def test_a_server_with_an_empty_binlog_lags_and_leads_like_any_other(three: tuple[my.MyServer, ...]) -> None:
    """What a backup leaves: gtid_slave_pos and nothing else."""
    db1, db2, db3 = three
    db2.sql("STOP SLAVE; SET @at = @@gtid_slave_pos; RESET MASTER; SET GLOBAL gtid_slave_pos = @at")
    assert db2.value("SELECT @@gtid_binlog_state") == ""
    write(db1, 3)
    assert position(db1).covers(position(db2)) and not position(db2).diverged_from(position(db1))
    assert position(db2).behind(position(db1)) == 3
    db2.sql("START SLAVE")
    until(lambda: db2.received(db1), 10, "replication")
    db2.sql("STOP SLAVE; RESET SLAVE ALL; SET GLOBAL read_only = OFF")
    write(db2, 2)
    for old in (db1, db3):
        assert position(db2).covers(position(old)) and not position(old).diverged_from(position(db2))
        follow(old, db2)
        until(lambda old=old: old.received(db2), 10, "follows")  # type: ignore[misc]  # binds now


def test_received_and_not_applied_counts(three: tuple[my.MyServer, ...]) -> None:
    db1, db2, db3 = three
    db2.sql("STOP SLAVE SQL_THREAD")
    write(db1, 5)
    until(lambda: db3.received(db1), 10, "replication")
    until(lambda: position(db2).covers(position(db1)), 10, "received")
    assert position(db2).covers(position(db3))
    assert not db2.received(db1)


@pytest.mark.parametrize("binlog", ["", "SET @at = @@gtid_slave_pos; RESET MASTER; SET GLOBAL gtid_slave_pos = @at"])
def test_what_is_not_told_apart_is_refused_by_the_server(
    mariadb: my.MyCluster, three: tuple[my.MyServer, ...], binlog: str
) -> None:
    """db1 is made anew from db2 and reigns again; db3 still has the tail that db1 lost, below what it writes now."""
    db1, db2, db3 = three
    taken_over(db1, db2, db3)
    anew = mariadb.standby("anew", db2)
    anew.replicate_from(db2)
    until(lambda: anew.received(db2), 10, "replication")
    db1.stop()
    anew.sql(f"STOP SLAVE; RESET SLAVE ALL; SET GLOBAL server_id = {db1.server_id}, GLOBAL read_only = OFF; {binlog}")
    write(anew, 2)
    assert position(anew).covers(position(db3))
    follow(db3, anew)
    until(lambda: errors(db3)[0] == REFUSED, 10, "1236")
    assert db3.value("SELECT COUNT(*) FROM app.t") == 6
