"""Bringing a MySQL or MariaDB member back, on real servers: what is given up is listed, what comes back is the primary's."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from failover.engines.base import Work
from failover.engines.my_tail import files
from failover.errors import FailoverError, Refused, Unknown
from failover.settings import Account
from tests.support import mysql_server as my
from tests.support.my_diverged import Diverged, position, working
from tests.support.postgres_server import until

TAGGED = {"mysql": "SET gtid_next = 'AUTOMATIC:batch'", "mariadb": "SET gtid_domain_id = 7"}


@pytest.fixture(params=["mysql", "mariadb"])
def diverged(request: pytest.FixtureRequest) -> Iterator[Diverged]:
    if reason := my.missing(request.param):
        pytest.skip(reason)
    with my.MyCluster(request.param) as cluster, Diverged(cluster) as made:
        yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "saved").mkdir()
    return tmp_path / "saved"


# --- the tail -----------------------------------------------------------------------------------------------------------
def test_the_commits_given_up_are_listed_by_table_and_their_log_is_saved(diverged: Diverged, folder: Path) -> None:
    diverged.db1.sql("FLUSH BINARY LOGS")
    diverged.wrote_on(
        "INSERT INTO app.t VALUES (11, 'x\n### INSERT INTO `a`.`b`'), (12, 'y')",
        "FLUSH BINARY LOGS",
        "BEGIN; INSERT INTO app.u VALUES (1); ROLLBACK",
        "BEGIN; INSERT INTO app.u VALUES (2); UPDATE app.t SET w = 'z' WHERE id > 10; DELETE FROM app.t WHERE id = 12; COMMIT",
        "INSERT INTO failover.heartbeat VALUES (9)",
        "CREATE TABLE failover.more (id INT)",
        "CREATE TABLE app.late (id INT)",
        "CREATE USER somebody@localhost IDENTIFIED BY 'their secret'",
        "SET binlog_format = STATEMENT; INSERT INTO app.u VALUES (3)",
        f"{TAGGED[diverged.flavour.name]}; INSERT INTO app.u VALUES (4)",
    )
    tail = diverged.tail()
    assert tail.end == position(diverged.db1) and position(diverged.db2).covers(tail.diverged_at)
    found = diverged.rejoiner().save(tail, folder, working())
    assert found.commits == 6 == len(found.lines) and not found.unread, found
    assert dict(found.tables) == {"app.t": 2 + 2 + 1, "app.u": 2}
    said = [line.partition(" UTC: ")[2] for line in found.lines]
    assert said == ["app.t 2", "app.t 3, app.u 1", "CREATE TABLE app.late", "CREATE USER", "INSERT app.u", "app.u 1"]
    assert (folder / "commits.txt").read_text().splitlines() == list(found.lines)
    assert "6 commits" in (folder / "README").read_text() and "their secret" not in (folder / "README").read_text()
    index = files(diverged.db1.data_dir / "binlog.index", diverged.db1.data_dir)
    saved = [path.name for path in index if (folder / path.name).exists()]
    assert saved == [path.name for path in index[1:]], "the first file ends before the fork"
    assert all((folder / name).read_bytes() == (diverged.db1.data_dir / name).read_bytes() for name in saved)
    assert tail.size_bytes == sum((folder / name).stat().st_size for name in saved)


@pytest.mark.parametrize("diverged", ["mariadb"], indirect=True)
def test_heartbeats_alone_are_nobodys_loss(diverged: Diverged, folder: Path) -> None:
    diverged.wrote_on("INSERT INTO failover.heartbeat VALUES (9)", "DELETE FROM failover.heartbeat")
    found = diverged.rejoiner().save(diverged.tail(), folder, working())
    assert (found.commits, found.lines, found.tables, found.unread) == (0, (), (), "")


def test_what_was_received_and_never_applied_is_saved_from_the_relay_log(diverged: Diverged, folder: Path) -> None:
    """db3 followed the old primary and its applier had stopped."""
    db3 = diverged.cluster.standby("db3", diverged.db1)
    diverged.catches_up(db3, diverged.db1)
    words = "SLAVE" if diverged.flavour is my.MARIADB else "REPLICA"
    db3.sql(f"STOP {words} SQL_THREAD")
    diverged.db1.sql("INSERT INTO app.t VALUES (21, 'a'); INSERT INTO app.t VALUES (22, 'b')")
    until(lambda: position(db3).covers(position(diverged.db1)), 10, "received")
    db3.sql(f"STOP {words}")
    rejoiner = diverged.rejoiner(db3)
    tail = rejoiner.tail(position(db3), position(diverged.db2))
    found = rejoiner.save(tail, folder, working())
    assert (found.commits, dict(found.tables), found.unread) == (2, {"app.t": 2}, ""), found.unread


def test_log_that_is_gone_and_a_position_without_strays_are_refused(diverged: Diverged) -> None:
    with pytest.raises(Refused, match="cannot have"):
        diverged.tail()
    diverged.db1.sql("INSERT INTO app.t VALUES (11, 'x'); FLUSH BINARY LOGS; FLUSH BINARY LOGS")
    last = diverged.db1.sql("SHOW BINARY LOGS")[-1][0]
    until(lambda: diverged.db1.sql(f"PURGE BINARY LOGS TO '{last}'") or len(diverged.db1.sql("SHOW BINARY LOGS")) == 1, 10)
    with pytest.raises(Refused, match="gone from this host"):
        diverged.tail()


# --- a copy in its place ------------------------------------------------------------------------------------------------
def test_a_diverged_member_gets_the_primarys_data_and_follows_it(diverged: Diverged, folder: Path) -> None:
    diverged.wrote_on("INSERT INTO app.t VALUES (11, 'lost')", "CREATE TABLE app.lost (id INT)")
    diverged.db2.sql("INSERT INTO app.t VALUES (31, 'kept')")
    assert position(diverged.db1).diverged_from(position(diverged.db2))
    assert diverged.rejoiner().save(diverged.tail(), folder, working()).commits == 2
    own = diverged.db1.data_dir / "server-cert.pem"
    own.write_text("a certificate of this host")
    uuid = (diverged.db1.data_dir / "auto.cnf").read_text() if (diverged.db1.data_dir / "auto.cnf").exists() else ""
    diverged.db1.stop()
    before = diverged.beside()
    told: list[str] = []
    diverged.rewind(working(told.append))
    assert any("%" in words for words in told) or diverged.flavour is my.MARIADB, told
    assert diverged.beside() == before, "nothing of ours is left beside it"
    assert own.read_text() == "a certificate of this host"
    own.unlink()
    diverged.rewind()  # a guardian that died just after: done again
    diverged.db1.start()
    assert diverged.db1.value("SELECT @@read_only") == 1 and not diverged.db1.record("SHOW REPLICA STATUS")
    mine = position(diverged.db1)
    assert position(diverged.db2).covers(mine) and not mine.diverged_from(position(diverged.db2))
    if uuid:
        assert (diverged.db1.data_dir / "auto.cnf").read_text() != uuid
    diverged.catches_up(diverged.db1, diverged.db2)
    assert diverged.db1.sql("SELECT id FROM app.t ORDER BY id") == [(1,), (2,), (31,)]
    diverged.db2.sql("INSERT INTO app.t VALUES (32, 'later')")
    until(lambda: diverged.db1.received(diverged.db2), 10, "it goes on following")
    assert position(diverged.db1).covers(position(diverged.db2))


def test_a_member_without_data_gets_a_copy_from_a_standby_and_is_isolated(diverged: Diverged) -> None:
    """The source follows somebody: the copy does not."""
    db1, db2 = diverged.db1, diverged.db2
    db2.sql("INSERT INTO app.t VALUES (31, 'kept')")
    diverged.catches_up(db1, db2)
    made = my.MyServer("db3", diverged.root / "db3", diverged.cluster.host("db3"), diverged.flavour)
    made.configure()
    diverged.cluster.servers["db3"] = made
    into = made.home / "data.new"
    into.mkdir(mode=0o700)
    my.give_away(into)
    with made.host.inside():
        diverged.rejoiner(made).copy(diverged.upstream(db1), into, working())
    into.rename(made.data_dir)
    made.start()
    assert made.value("SELECT @@read_only") == 1 and not made.record("SHOW REPLICA STATUS")
    assert position(db2).covers(position(made)) and position(made).covers(position(db1))
    assert sorted(path.name for path in made.data_dir.glob(".*")) == []
    diverged.catches_up(made, db2)
    assert made.value("SELECT COUNT(*) FROM app.t") == 3


def test_a_copy_that_is_stopped_leaves_no_process_and_can_be_done_again(diverged: Diverged) -> None:
    diverged.wrote_on("INSERT INTO app.t VALUES (11, 'lost')").db1.stop()
    halted = threading.Event()
    with pytest.raises(Unknown, match="stopped"):
        diverged.rewind(Work(halted, lambda words: halted.set()))
    until(lambda: not processes_below(diverged.db1.home), 10, "no process left")
    assert (diverged.db1.data_dir / "ibdata1").exists(), "the old data is in its place until a new copy is whole"
    diverged.rewind()
    diverged.db1.start()
    diverged.catches_up(diverged.db1, diverged.db2)


def processes_below(home: Path) -> list[str]:
    """Command lines of processes that name a place below `home`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(home) in line:
            found.append(line)
    return found


@pytest.mark.parametrize("diverged", ["mariadb"], indirect=True)
def test_log_outside_of_the_data_directory_is_refused_before_anything_is_touched(diverged: Diverged) -> None:
    outside = diverged.root / "logs"
    outside.mkdir()
    my.give_away(outside)
    diverged.wrote_on("INSERT INTO app.t VALUES (11, 'x')")
    diverged.db1.configure(f"log_bin = {outside}/binlog")
    with pytest.raises(Refused, match=r"log-bin is .*outside of"):
        diverged.tail()
    with pytest.raises(Refused, match="outside of"):
        diverged.rewind()
    diverged.db1.configure(f"log_bin = {diverged.db1.data_dir}/binlog", f"innodb_log_group_home_dir = {diverged.db1.data_dir}")
    assert diverged.tail().size_bytes


def test_what_the_source_refuses_is_said_without_the_password(diverged: Diverged) -> None:
    wrong = diverged.secret("wrong", "not-the-password")
    rejoiner = diverged.rejoiner(replication=Account(my.REPLICATION[0], wrong))
    if diverged.flavour is my.MARIADB:
        (diverged.root / "operator.secret").write_text("not-the-password")
    diverged.wrote_on("INSERT INTO app.t VALUES (11, 'x')").db1.stop()
    with diverged.db1.host.inside(), pytest.raises(FailoverError, match=r"denied|refused our account") as caught:
        rejoiner.rewind(diverged.upstream(), working())
    assert "not-the-password" not in str(caught.value)
    assert (diverged.db1.data_dir / "ibdata1").exists() and "data.copy" not in diverged.beside()


@pytest.mark.parametrize("diverged", ["mysql"], indirect=True)
def test_a_source_without_the_clone_plugin_is_named(diverged: Diverged) -> None:
    diverged.db2.sql("UNINSTALL PLUGIN clone")
    with pytest.raises(Unknown, match=r"db2 cannot be cloned: .*clone"):
        diverged.rewind()


@pytest.mark.parametrize("diverged", ["mariadb"], indirect=True)
def test_a_copy_knows_who_wrote_before_it_was_made(diverged: Diverged) -> None:
    """So it can tell a member that only lags from a stranger; a plain backup knows nothing older than itself."""
    lagging = position(diverged.db1)
    diverged.wrote_on().db1.stop()
    diverged.db2.sql("INSERT INTO app.t VALUES (31, 'kept'); SET gtid_domain_id = 7; INSERT INTO app.t VALUES (32, 'kept')")
    diverged.rewind()
    diverged.db1.start()
    for name in ("gtid_binlog_state", "gtid_binlog_pos"):
        assert set(said(diverged.db1, name)) == set(said(diverged.db2, name))
    assert set(said(diverged.db1, "gtid_slave_pos")) == set(said(diverged.db2, "gtid_binlog_pos"))
    assert position(diverged.db1).covers(lagging)


def said(server: my.MyServer, name: str) -> list[str]:
    return str(server.value(f"SELECT @@GLOBAL.{name}")).split(",")
