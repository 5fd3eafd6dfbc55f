"""What is the MySQL family's own: writes stopped in place, received sets, and semi-sync, where the source chooses by account."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pymysql
import pytest

from failover.core.model import Role, SyncSet, Willingness
from failover.engines import engine
from failover.errors import FailoverError, Unknown, Unreachable
from tests.support import mysql_server as my
from tests.support.engine_lab import in_background, took_ms
from tests.support.family import lab, shared, trio
from tests.support.my_lab import MyLab
from tests.support.mysql_server import MyServer, until

__all__ = ["lab", "shared", "trio"]  # fixtures


def servers(trio: MyLab) -> tuple[MyServer, MyServer, MyServer]:
    return trio.cluster.servers["db1"], trio.cluster.servers["db2"], trio.cluster.servers["db3"]


def refused(server: MyServer, user: str = "app") -> bool:
    """True if the server takes no write of `user`."""
    connection = server.connect(user)
    try:
        connection.cursor().execute("INSERT INTO t VALUES (0)")
    except pymysql.MySQLError:
        return True
    finally:
        connection.close()
    return False


# --- promotion applies everything first -------------------------------------------------------------------------------


def quick(server: MyServer) -> None:
    """Durability is not what these stories are about, and 10,000 flushes are 10,000 flushes."""
    server.sql("SET GLOBAL sync_binlog = 0; SET GLOBAL innodb_flush_log_at_trx_commit = 0; SET GLOBAL sync_relay_log = 10000")


def test_ten_thousand_received_transactions_are_applied_before_the_first_new_write(lab: MyLab) -> None:
    db2 = lab.standby("db2")
    lab.db1.sql("CREATE TABLE app.seen (rows_then int)")
    quick(lab.db1)
    quick(db2)
    until(lambda: db2.received(lab.db1), what="the table replayed")
    lab.pause_replay(db2)
    for _ in range(20):
        lab.db1.sql("INSERT INTO t VALUES (1);" * 500)
    lab.caught_up(db2, lab.db1)
    assert lab.rows(db2) == 0
    lab.db1.kill()
    promoted = threading.Event()

    def client() -> None:
        connection = db2.connect("app")
        while not promoted.is_set():
            try:
                connection.cursor().execute("INSERT INTO seen SELECT count(*) FROM t")
            except pymysql.MySQLError:
                if not connection.open:
                    connection = db2.connect("app")

    writing = in_background(client)
    lab.engine(db2).promote(None, [], 60)
    assert lab.rows(db2) == 10_000
    until(lambda: db2.value("SELECT count(*) FROM seen"), what="the client's first row")
    promoted.set()
    writing.join(10)
    assert db2.value("SELECT min(rows_then) FROM seen") == 10_000


def test_a_promotion_that_cannot_drain_in_time_promotes_nobody_and_goes_on_when_asked_again(lab: MyLab) -> None:
    db2 = lab.standby("db2")
    quick(lab.db1)
    db2.sql("SET GLOBAL sync_relay_log = 10000")  # it flushes its commits, so that they take their time
    lab.pause_replay(db2)
    for _ in range(20):
        lab.db1.sql("INSERT INTO t VALUES (1);" * 500)
    lab.caught_up(db2, lab.db1)
    lab.db1.kill()
    local = lab.engine(db2)
    started = time.perf_counter()
    with pytest.raises(Unknown):
        local.promote(None, [], 0.2)
    assert took_ms(started) < 400
    assert local.state(2).role is Role.STANDBY and refused(db2)
    local.promote(None, [], 90)
    assert lab.rows(db2) == 10_000 and not refused(db2)


def test_a_standby_whose_replay_is_broken_is_not_promoted_with_a_hole(lab: MyLab) -> None:
    db2 = lab.standby("db2")
    local = lab.engine(db2)
    switch = "super_read_only" if not lab.is_mariadb else "read_only"
    db2.sql(f"SET GLOBAL {switch} = OFF; SET sql_log_bin = 0; DROP TABLE app.t; SET GLOBAL {switch} = ON")
    lab.write(lab.db1, 10)
    until(lambda: lab.channel(db2)["Replica_SQL_Running"] == "No", what="replay broken")
    lab.caught_up(db2, lab.db1)
    assert local.state(1).replay_paused
    lab.db1.kill()
    with pytest.raises(FailoverError):
        local.promote(None, [], 2)
    assert local.state(1).role is Role.STANDBY


def test_a_position_counts_what_was_received_and_not_yet_executed(trio: MyLab) -> None:
    db1, db2, _ = servers(trio)
    trio.pause_replay(db2)
    before = trio.engine(db2).state(1).position
    trio.write(db1, 1)
    trio.caught_up(db2, db1)
    after = trio.engine(db2).state(1).position
    assert not before.covers(after) and before.behind(after) == 1 and after.unit == "transactions"
    assert not db2.received(db1), "and nothing of it is executed"


def test_following_another_keeps_what_was_received_and_not_yet_executed(lab: MyLab) -> None:
    db2 = lab.standby("db2")
    db3 = lab.standby("db3")
    lab.pause_replay(db3)
    db1_wrote = 500
    lab.db1.sql("INSERT INTO t VALUES (1);" * db1_wrote)
    for standby in (db2, db3):
        lab.caught_up(standby, lab.db1)
    held = lab.engine(db3).state(1).position
    lab.db1.kill()
    lab.engine(db2).promote(None, ["db3"], 20)
    following = lab.engine(db3)
    deadline = time.monotonic() + 20
    while True:
        try:
            following.follow(lab.upstream(db2), 1.0)
        except Unknown:
            pass
        assert following.state(1).position.covers(held), "it could testify for less than it has acknowledged"
        if following.state(1).streaming or time.monotonic() > deadline:
            break
    lab.streams(db3, db2)
    until(lambda: lab.rows(db3) == db1_wrote, what="all of it replayed")
    assert following.state(1).position.covers(held)


# --- writes stopped in place ------------------------------------------------------------------------------------------


Obstacle = Callable[[MyLab, ExitStack], None]


def long_transaction(lab: MyLab, held: ExitStack) -> None:
    held.callback(lab.transaction(lab.db1, "INSERT INTO t VALUES (1)", user="app").close)


def administrators_transaction(lab: MyLab, held: ExitStack) -> None:
    held.callback(lab.transaction(lab.db1, "INSERT INTO t VALUES (1)").close)


def long_statement(lab: MyLab, held: ExitStack) -> None:
    def sleep() -> None:
        try:
            lab.db1.connect("app").cursor().execute("INSERT INTO t SELECT SLEEP(60)")
        except pymysql.MySQLError:
            pass

    in_background(sleep)
    until(lambda: lab.db1.value("SELECT count(*) FROM information_schema.PROCESSLIST WHERE STATE = 'User sleep'"))


def global_read_lock(lab: MyLab, held: ExitStack) -> None:
    connection = lab.db1.connect()
    connection.cursor().execute("FLUSH TABLES WITH READ LOCK")
    held.callback(connection.close)


def table_lock(lab: MyLab, held: ExitStack) -> None:
    connection = lab.db1.connect("app")
    connection.cursor().execute("LOCK TABLES t WRITE")
    held.callback(connection.close)


def metadata_lock(lab: MyLab, held: ExitStack) -> None:
    """A reader in its transaction, a change of the table behind it, and a writer behind that."""
    held.callback(lab.transaction(lab.db1, "SELECT count(*) FROM t", user="app").close)

    def wait(statement: str) -> Callable[[], None]:
        def work() -> None:
            try:
                lab.db1.connect("app").cursor().execute(statement)
            except pymysql.MySQLError:
                pass

        return work

    in_background(wait("ALTER TABLE t COMMENT = 'x'"))
    until(lambda: lab.replay_held_up(lab.db1), what="the change waiting")
    in_background(wait("INSERT INTO t VALUES (1)"))


def every_connection_taken(lab: MyLab, held: ExitStack) -> None:
    try:
        while True:
            held.callback(lab.db1.connect("app").close)
    except pymysql.MySQLError:
        pass


def busy_clients(lab: MyLab, held: ExitStack) -> None:
    rows = lab.rows(lab.db1)
    held.enter_context(lab.clients_that_come_back(lab.db1, "INSERT INTO t VALUES (1)", 8))
    until(lambda: lab.rows(lab.db1) > rows + 20, what="clients writing")


@pytest.mark.parametrize(
    "obstacle",
    [long_transaction, administrators_transaction, long_statement, global_read_lock, table_lock, metadata_lock,
     every_connection_taken, busy_clients],
)  # fmt: skip
def test_nothing_that_clients_do_keeps_writes_from_being_stopped(trio: MyLab, obstacle: Obstacle) -> None:
    db1, db2, _ = servers(trio)
    local = trio.engine(db1)
    with ExitStack() as held:
        obstacle(trio, held)
        before = local.state(2).position
        started = time.perf_counter()
        end = local.stop_writes(3.0)
        assert took_ms(started) < 3100
        assert end is not None and end.covers(before)
        assert refused(db1) and (trio.is_mariadb or refused(db1, "root"))
        state = local.state(2)
        assert (state.role, state.upstream, state.configured_upstream) == (Role.STANDBY, None, "")
        assert end.covers(state.position) and state.position.covers(end), "nothing came after it"
    until(lambda: trio.engine(db2).holds(end), what="the whole log on db2")
    local.promote(None, ["db2", "db3"], 5)
    assert not refused(db1)


def test_writes_are_handed_over_in_place_and_the_old_primary_follows(lab: MyLab) -> None:
    db2 = lab.standby("db2")
    db3 = lab.standby("db3")
    pids = [lab.engine(server).main_pid() for server in (lab.db1, db2, db3)]
    lab.engine(lab.db1).apply_sync(SyncSet(1, ("db2", "db3")), 3)
    for _ in range(3):
        lab.write(lab.db1, 10)
    end = lab.engine(lab.db1).stop_writes(3)
    assert end is not None
    until(lambda: lab.engine(db2).holds(end), what="the whole log on db2")
    lab.engine(db2).promote(SyncSet(1, ("db1", "db3")), ["db1", "db3"], 3)
    lab.follows(lab.db1, db2)
    lab.follows(db3, db2)
    outcome: list[str] = []
    lab.commits_of_app(db2, outcome).join(5)
    assert outcome == ["acknowledged"]
    until(lambda: (lab.rows(lab.db1), lab.rows(db3)) == (31, 31), what="the new row everywhere")
    assert not lab.engine(lab.db1).state(1).position.diverged_from(lab.engine(db2).state(1).position)
    assert [lab.engine(server).main_pid() for server in (lab.db1, db2, db3)] == pids, "nobody was restarted"


def test_a_commit_that_waits_for_its_acknowledgement_is_never_told_yes_by_stopping_writes(trio: MyLab) -> None:
    db1, db2, _ = servers(trio)
    local = trio.engine(db1)
    local.apply_sync(SyncSet(1, ("db2",)), 3)
    db2.freeze()
    outcome: list[str] = []
    writing = trio.commits_of_app(db1, outcome)
    until(lambda: local.state(1).waiting_for_sync == 1, what="the commit waiting")
    started = time.perf_counter()
    try:
        local.stop_writes(1.0)
    except Unknown:
        pass
    assert took_ms(started) < 1200
    assert "acknowledged" not in outcome, "no standby has it"
    local.promote(SyncSet(1, ("db2",)), ["db2"], 5)
    assert "acknowledged" not in outcome
    db2.thaw()
    writing.join(10)
    assert len(outcome) == 1
    local.apply_sync(None, 3)
    assert not refused(db1)


def test_a_read_only_that_a_dead_guardian_left_waiting_does_not_come_after_writes_were_given_back(trio: MyLab) -> None:
    db1, db2, _ = servers(trio)
    local = trio.engine(db1)
    local.apply_sync(SyncSet(1, ("db2",)), 3)
    db2.freeze()
    outcome: list[str] = []
    blocked_commit(trio, db1, outcome)

    def attempt() -> None:
        try:
            db1.sql("SET GLOBAL read_only = ON")
        except pymysql.MySQLError:
            pass

    left_behind = in_background(attempt)
    waits = "SELECT count(*) FROM information_schema.PROCESSLIST WHERE INFO LIKE 'SET GLOBAL%'"
    until(lambda: db1.value(waits), what="the attempt waiting behind the commit")
    local.promote(SyncSet(1, ("db2",)), ["db2"], 5)
    db2.thaw()
    until(lambda: outcome == ["acknowledged"], what="the commit released by db2")
    left_behind.join(10)
    assert local.state(1).role is Role.PRIMARY and not refused(db1)
    local.apply_sync(None, 3)


# --- semi-sync: who may acknowledge -----------------------------------------------------------------------------------


def blocked_commit(lab: MyLab, server: MyServer, outcome: list[str]) -> None:
    waiting = lab.waiting(server)
    lab.commits_of_app(server, outcome)
    until(lambda: lab.waiting(server) > waiting, what="the commit waiting")


def test_commits_that_hold_every_connection_do_not_keep_out_the_standby_they_wait_for(trio: MyLab) -> None:
    """The lab found it: with nobody to acknowledge, clients came until nothing was left, and no standby ever got in again."""
    db1, db2, db3 = servers(trio)
    for standby in (db2, db3):
        trio.engine(standby).stop_receiving(3)
    until(lambda: trio.engine(db1).state(1).attached == (), what="both standbys gone")
    trio.engine(db1).apply_sync(SyncSet(1, ("db2", "db3")), 3)
    before = db1.value("SELECT @@max_connections")
    outcome: list[str] = []
    try:
        db1.sql("SET GLOBAL max_connections = 12")
        for _ in range(16):
            trio.commits_of_app(db1, outcome)
        until(lambda: "error" in outcome, what="a client for which no connection was left")
        trio.engine(db2).follow(trio.upstream(db1), 5)
        until(lambda: len(outcome) == 16 and outcome.count("acknowledged") > 5, what="the commits acknowledged")
    finally:
        trio.engine(db2).follow(trio.upstream(db1), 5)
        until(lambda: len(outcome) == 16, what="every client's answer")
        db1.sql(f"SET GLOBAL max_connections = {before}")
    trio.engine(db1).apply_sync(None, 3)


def test_a_replication_account_that_needs_a_free_connection_is_named(trio: MyLab) -> None:
    db1, db2, _ = servers(trio)
    right = "CONNECTION ADMIN" if trio.is_mariadb else "CONNECTION_ADMIN"
    account = f"'replicator'@'{db2.address}'"
    db1.sql(f"SET sql_log_bin = 0; REVOKE {right} ON *.* FROM {account}")
    try:
        (fault,) = trio.engine(db1).state(3).faults
        assert fault.startswith("db2 cannot come back") and fault.endswith(f"GRANT {right} ON *.* TO {account}")
    finally:
        db1.sql(f"SET sql_log_bin = 0; GRANT {right} ON *.* TO {account}")


def test_a_member_that_left_the_set_is_locked_out_and_let_in_again(trio: MyLab) -> None:
    db1, db2, db3 = servers(trio)
    local = trio.engine(db1)
    local.apply_sync(SyncSet(1, ("db2",)), 3)
    state = local.state(1)
    assert state.sync == SyncSet(1, ("db2",)) and state.attached == ("db2",)
    out = until(lambda: (s := trio.engine(db3).state(1)).streaming is False and s, what="db3 locked out")
    assert (out.upstream, out.configured_upstream) == (db1.address, db1.address), "it follows still, so the set may grow by it"
    until(lambda: trio.engine(db3).state(1).kept_out, what="db3 knowing why")
    assert trio.prober(db3).fresh(1).follows == db1.address
    db2.freeze()
    outcome: list[str] = []
    blocked_commit(trio, db1, outcome)
    local.apply_sync(SyncSet(1, ("db3",)), 3)
    until(lambda: outcome == ["acknowledged"], what="the commit released by db3")
    trio.streams(db3, db1)
    db2.thaw()
    until(lambda: not trio.engine(db2).state(1).streaming, what="db2 locked out")
    local.apply_sync(None, 3)
    trio.streams(db2, db1)
    trio.streams(db3, db1)


def test_an_acknowledgement_of_a_member_that_left_the_set_meanwhile_counts_for_nothing(trio: MyLab) -> None:
    """Frozen, db2 has the commit in its socket, and acknowledges it when it wakes: on a connection that is dead by then."""
    db1, db2, db3 = servers(trio)
    local = trio.engine(db1)
    local.apply_sync(SyncSet(1, ("db2",)), 3)
    before = trio.engine(db2).state(1).position
    db2.freeze()
    outcome: list[str] = []
    blocked_commit(trio, db1, outcome)
    db3.freeze()
    local.apply_sync(SyncSet(1, ("db3",)), 3)
    db2.thaw()
    until(lambda: not before.covers(trio.engine(db2).state(1).position), what="db2 has received it")
    until(lambda: not trio.engine(db2).state(1).streaming, what="db2 locked out")
    assert outcome == [] and trio.waiting(db1) == 1
    db3.thaw()
    until(lambda: outcome == ["acknowledged"], what="the commit released by db3")
    local.apply_sync(None, 3)


def test_no_member_outside_the_set_has_a_dump_thread_when_the_change_is_proved(trio: MyLab) -> None:
    db1, db2, db3 = servers(trio)
    local = trio.engine(db1)
    dumps = "SELECT HOST FROM information_schema.PROCESSLIST WHERE COMMAND LIKE 'Binlog Dump%'"

    def sources() -> set[str]:
        return {host.rpartition(":")[0] for (host,) in db1.sql(dumps)}

    for names, others in ((("db2",), db3.address), (("db3",), db2.address), (("db2",), db3.address)):
        local.apply_sync(SyncSet(1, names), 3)
        assert others not in sources()
    local.apply_sync(None, 3)
    until(lambda: sources() == {db2.address, db3.address}, what="both back")


def test_strict_never_turns_into_asynchronous_by_itself(trio: MyLab) -> None:
    db1, _, _ = servers(trio)
    trio.engine(db1).apply_sync(SyncSet(1, ("db2", "db3")), 3)
    assert trio.semi_sync(db1, "enabled") == 1 and trio.semi_sync(db1, "wait_point") == "AFTER_SYNC"
    assert trio.semi_sync(db1, "timeout") > 1000 * 86400 * 30, "ms"
    assert trio.semi_sync(db1, "wait_no_slave" if trio.is_mariadb else "wait_no_replica") == 1
    trio.engine(db1).apply_sync(None, 3)
    assert trio.semi_sync(db1, "enabled") == 0


def test_with_no_acknowledger_left_strict_blocks_and_says_so_until_nobody_is_waited_for(trio: MyLab) -> None:
    db1, db2, db3 = servers(trio)
    local = trio.engine(db1)
    local.apply_sync(SyncSet(1, ("db2", "db3")), 3)
    for standby in (db2, db3):
        trio.engine(standby).stop_receiving(3)
    until(lambda: local.state(1).attached == (), what="nobody attached")
    outcome: list[str] = []
    blocked_commit(trio, db1, outcome)
    assert local.state(1).waiting_for_sync == 1 and local.state(1).sync == SyncSet(1, ("db2", "db3"))
    started = time.perf_counter()
    for sequence in range(5):
        local.heartbeat(8, sequence, 1.0)
    assert took_ms(started) < 1500, "what waits for an acknowledgement is alive, and more of the same does not help"
    operators = "SELECT count(*) FROM information_schema.PROCESSLIST WHERE USER = 'operator'"
    until(lambda: db1.value(operators) <= 2, what="no sessions of ours piling up")
    assert outcome == []
    local.apply_sync(None, 3)
    until(lambda: outcome == ["acknowledged"], what="the commit released")
    assert local.state(1).sync is None


def test_a_member_that_is_never_chosen_streams_on_and_acknowledges_nothing(trio: MyLab) -> None:
    db1, db2, db3 = servers(trio)

    def told(server: MyServer) -> Any:
        """Its guardian, where the file says `failover: never` of db3."""
        settings = trio.settings(server)
        members = tuple(replace(m, failover=Willingness.NEVER) if m.name == "db3" else m for m in settings.members)
        return engine(trio.name).local(replace(settings, members=members), server.name, Path(trio.cluster.root))

    acknowledges = f"SELECT @@GLOBAL.rpl_semi_sync_{'slave' if trio.is_mariadb else 'replica'}_enabled"
    told(db3).stop_receiving(3)
    told(db3).follow(trio.upstream(db1), 3)
    trio.streams(db3, db1)
    assert db3.value(acknowledges) == 0 and db2.value(acknowledges) == 1
    local = told(db1)
    local.apply_sync(SyncSet(1, ("db2",)), 3)
    trio.streams(db3, db1)
    db2.freeze()
    outcome: list[str] = []
    blocked_commit(trio, db1, outcome)
    trio.caught_up(db3, db1)
    assert outcome == [] and local.state(1).sync == SyncSet(1, ("db2",))
    db2.thaw()
    until(lambda: outcome == ["acknowledged"], what="the commit released by db2")
    local.apply_sync(None, 3)
    trio.engine(db3).stop_receiving(3)


def test_locks_of_accounts_are_nobody_elses_log(trio: MyLab) -> None:
    """An ALTER USER in the binary log would lock the account on every member, and be an errant transaction where it began."""
    db1, db2, _ = servers(trio)
    before = trio.engine(db1).state(1).position
    trio.engine(db1).apply_sync(SyncSet(1, ("db2",)), 3)
    after = trio.engine(db1).apply_sync(None, 3)
    assert before.covers(after)
    assert db2.received(db1)


@pytest.mark.parametrize("end", ["SIGKILL", "immediate", "fast"])
def test_a_commit_that_waits_is_not_acknowledged_by_the_servers_end(lab: MyLab, end: str) -> None:
    db2 = lab.standby("db2")
    local = lab.engine(lab.db1)
    local.apply_sync(SyncSet(1, ("db2",)), 3)
    before = lab.engine(db2).state(1).position
    db2.freeze()
    outcomes: list[list[str]] = [[], [], []]
    clients = [lab.commits_of_app(lab.db1, outcome) for outcome in outcomes]
    until(lambda: local.state(1).waiting_for_sync >= 1, what="commits waiting")
    if end == "SIGKILL":
        lab.db1.kill()
    else:
        lab.db1.stop(local.stop_signal(end))
    for client in clients:
        client.join(10)
    assert outcomes == [["error"]] * 3
    db2.thaw()
    lab.db1.start()
    state = lab.engine(lab.db1).state(2)
    assert state.role is Role.STANDBY
    assert state.position.covers(before)


# --- starts -----------------------------------------------------------------------------------------------------------


def test_a_start_by_whomever_is_read_only_and_receives_from_nobody(lab: MyLab) -> None:
    db2 = lab.standby("db2")
    lab.caught_up(db2, lab.db1)
    lab.db1.kill()
    lab.engine(db2).promote(None, ["db1"], 5)
    for server in (lab.db1, db2):
        local = lab.engine(server)
        server.kill()
        local.arm_standby()
        server.start()  # its my.cnf and nothing else
        state = local.state(2)
        assert (state.role, state.upstream, state.streaming) == (Role.STANDBY, None, False)
        assert refused(server)
    assert lab.is_mariadb or lab.db1.value("SELECT @@super_read_only") == 1


def test_a_writable_my_cnf_is_a_fault_and_our_own_start_is_read_only_all_the_same(lab: MyLab) -> None:
    lines = ["read_only = OFF"] if lab.is_mariadb else ["read_only = OFF", "super_read_only = OFF", "skip_replica_start = OFF"]
    lab.db1.stop()
    lab.db1.configure(*lines)
    local = lab.engine(lab.db1)
    local.arm_standby()
    lab.db1.start(local.start_command())
    assert local.state(2).role is Role.STANDBY and refused(lab.db1)
    assert any("read_only" in fault for fault in local.state(2).faults)


@pytest.fixture
def mysql(request: pytest.FixtureRequest) -> Any:
    if reason := my.missing("mysql"):
        pytest.skip(reason)
    cluster = my.MyCluster("mysql")
    request.addfinalizer(cluster.close)
    return MyLab(cluster)


@pytest.mark.parametrize("running", [True, False])
def test_a_persisted_off_does_not_outlive_the_arming(mysql: MyLab, running: bool) -> None:
    """SET PERSIST beats my.cnf, and the next start by an administrator would be writable."""
    db1, local = mysql.db1, mysql.engine(mysql.db1)
    db1.sql("SET PERSIST read_only = OFF; SET PERSIST super_read_only = OFF; SET PERSIST max_connections = 50")
    if running:
        local.arm_standby()
        db1.kill()
    else:
        db1.kill()
        local.arm_standby()
        local.arm_standby()
    db1.start()
    assert local.state(2).role is Role.STANDBY and refused(db1) and refused(db1, "root")
    assert db1.value("SELECT @@max_connections") == 50, "the rest of that file is not ours"


# --- what a restart loses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("conf", "keeps"), [((), True), (("relay_log_recovery = ON",), False), (("sync_relay_log = 10000",), False)]
)
def test_mysql_keeps_what_it_received_only_as_it_is_configured(mysql: MyLab, conf: tuple[str, ...], keeps: bool) -> None:
    db2 = mysql.standby("db2", None, *conf)
    assert mysql.engine(db2).keeps_received_log() is keeps
    mysql.pause_replay(db2)
    mysql.db1.sql("INSERT INTO t VALUES (1);" * 100)
    mysql.caught_up(db2, mysql.db1)
    held = mysql.engine(db2).state(1).position
    mysql.db1.kill()
    db2.kill()
    db2.start()
    local = mysql.engine(db2)
    if keeps:
        assert local.state(1).position.covers(held)
        local.promote(None, [], 20)
        assert mysql.rows(db2) == 100, "and is promoted with it"
    elif "relay_log_recovery = ON" in conf:
        assert not local.state(1).position.covers(held), "400 acknowledged rows are gone that way"


def test_mariadb_never_keeps_what_it_received_over_a_restart() -> None:
    if reason := my.missing("mariadb"):
        pytest.skip(reason)
    with my.MyCluster("mariadb") as cluster:
        lab = MyLab(cluster)
        db2 = lab.standby("db2")
        assert lab.engine(db2).keeps_received_log() is False
        lab.pause_replay(db2)
        lab.db1.sql("INSERT INTO t VALUES (1);" * 100)
        lab.caught_up(db2, lab.db1)
        held = lab.engine(db2).state(1).position
        db2.kill()
        db2.start()
        assert not lab.engine(db2).state(1).position.covers(held)
        lab.follows(db2, lab.db1)
        lab.caught_up(db2, lab.db1)
        until(lambda: lab.rows(db2) == 100, what="received again")


def test_a_stopped_server_can_be_told_nothing(lab: MyLab) -> None:
    local = lab.engine(lab.db1)
    lab.db1.kill()
    with pytest.raises(Unreachable):
        local.follow(lab.upstream(lab.db1), 1)
    with pytest.raises(Unreachable):
        local.stop_writes(1)


# --- errant transactions ----------------------------------------------------------------------------------------------


def test_a_transaction_of_its_own_makes_a_standby_diverged_and_a_lag_does_not(trio: MyLab) -> None:
    db1, db2, db3 = servers(trio)
    trio.engine(db2).stop_receiving(3)
    trio.write(db1, 10)
    mine, theirs = trio.engine(db2).state(1).position, trio.engine(db1).state(1).position
    assert not mine.diverged_from(theirs) and (mine.behind(theirs) or 0) >= 1
    assert not theirs.diverged_from(theirs)
    trio.caught_up(db3, db1)
    earlier = theirs
    trio.write(db1, 1)
    trio.caught_up(db3, db1)
    assert not trio.engine(db3).state(1).position.diverged_from(earlier), "the primary was asked before, and has moved on"


def test_an_errant_transaction_is_seen_however_far_the_primary_moves_on(lab: MyLab) -> None:
    db2 = lab.standby("db2")
    lab.caught_up(db2, lab.db1)
    lab.engine(db2).stop_receiving(3)
    db2.sql(f"{lab.cluster.flavour.read_write}; INSERT INTO t VALUES (666); SET GLOBAL read_only = ON")
    if not lab.is_mariadb:
        db2.sql("SET GLOBAL super_read_only = ON")
    for _ in range(3):
        mine, theirs = lab.engine(db2).state(1).position, lab.engine(lab.db1).state(1).position
        assert mine.diverged_from(theirs) and not theirs.covers(mine)
        lab.write(lab.db1, 10)


def test_a_tagged_transaction_is_part_of_the_set(mysql: MyLab) -> None:
    db2 = mysql.standby("db2")
    local = mysql.engine(mysql.db1)
    before = local.state(1).position
    mysql.db1.sql("SET gtid_next = 'AUTOMATIC:night'; INSERT INTO t VALUES (1); SET gtid_next = 'AUTOMATIC'")
    after = local.state(1).position
    assert ":night:1" in after.text() and before.behind(after) == 1 and not before.covers(after)
    assert local.parse_position(after.text()) == after
    mysql.caught_up(db2, mysql.db1)
    assert not mysql.engine(db2).state(1).position.diverged_from(before)


# --- what the reference says, and nobody had proved -------------------------------------------------------------------


def replicating(lab: MyLab) -> MyServer:
    """db2, by hand."""
    db2 = lab.cluster.standby("db2", lab.db1)
    db2.replicate_from(lab.db1)
    until(lambda: db2.received(lab.db1), what="db2 replicating")
    return db2


def ten_received(lab: MyLab, db2: MyServer) -> None:
    """Ten more rows are in db2's relay log, and not executed."""
    before = lab.channel(db2)["Read_Source_Log_Pos"]
    lab.db1.sql("INSERT INTO t VALUES (1);" * 10)
    here = lab.db1.record("SHOW MASTER STATUS" if lab.is_mariadb else "SHOW BINARY LOG STATUS")["Position"]
    until(lambda: before < lab.channel(db2)["Read_Source_Log_Pos"] == here, what="ten rows received")


def a_reader_holds_up_replay(lab: MyLab, db2: MyServer) -> Any:
    reader = lab.transaction(db2, "SELECT count(*) FROM t")
    lab.db1.sql("ALTER TABLE t COMMENT = 'x'")
    until(lambda: lab.replay_held_up(db2), what="replay waiting for the reader")
    return reader


def test_mysqls_relay_log_outlives_a_change_of_source_only_while_a_thread_runs(mysql: MyLab) -> None:
    db2 = replicating(mysql)
    reader = a_reader_holds_up_replay(mysql, db2)
    ten_received(mysql, db2)
    db2.sql("STOP REPLICA IO_THREAD")
    with pytest.raises(pymysql.MySQLError, match="3081"):
        db2.sql("CHANGE REPLICATION SOURCE TO SOURCE_AUTO_POSITION = 1")
    db2.sql("CHANGE REPLICATION SOURCE TO SOURCE_HOST = '198.18.0.0', SOURCE_PORT = 3306, SOURCE_SSL = 1")
    reader.close()
    until(lambda: mysql.rows(db2) == 10, what="what was received executed")
    mysql.pause_replay(db2)
    db2.sql("STOP REPLICA IO_THREAD")
    db2.replicate_from(mysql.db1)
    mysql.pause_replay(db2)
    ten_received(mysql, db2)
    db2.sql("STOP REPLICA IO_THREAD; CHANGE REPLICATION SOURCE TO SOURCE_HOST = '198.18.0.0'; START REPLICA SQL_THREAD")
    assert mysql.channel(db2)["Retrieved_Gtid_Set"] == "" and mysql.rows(db2) == 10, "the second ten are gone"


@pytest.fixture
def mariadb(request: pytest.FixtureRequest) -> Any:
    if reason := my.missing("mariadb"):
        pytest.skip(reason)
    cluster = my.MyCluster("mariadb")
    request.addfinalizer(cluster.close)
    return MyLab(cluster)


@pytest.mark.parametrize("first", ["IO_THREAD", "SQL_THREAD"])
def test_mariadbs_relay_log_is_gone_with_the_first_thread_that_starts_when_none_runs(mariadb: MyLab, first: str) -> None:
    """So a standby whose replay stands still must go on replaying before its receiver is stopped, or never testify again."""
    db2 = replicating(mariadb)
    mariadb.pause_replay(db2)
    ten_received(mariadb, db2)
    held = mariadb.channel(db2)["Gtid_IO_Pos"]
    mariadb.db1.freeze()
    db2.sql("STOP SLAVE IO_THREAD")
    assert mariadb.channel(db2)["Gtid_IO_Pos"] == held, "still there"
    db2.sql(f"START SLAVE {first}")
    until(lambda: mariadb.channel(db2)["Gtid_IO_Pos"] == db2.value("SELECT @@gtid_slave_pos") != held, what="the ten gone")
    assert mariadb.rows(db2) == 0


def test_mariadbs_receiver_may_be_started_again_while_replay_runs_and_no_source_be_changed(mariadb: MyLab) -> None:
    db2 = replicating(mariadb)
    reader = a_reader_holds_up_replay(mariadb, db2)
    ten_received(mariadb, db2)
    mariadb.db1.freeze()
    db2.sql("STOP SLAVE IO_THREAD")
    with pytest.raises(pymysql.MySQLError, match="1198"):
        db2.sql("CHANGE MASTER TO MASTER_HOST = '198.18.0.0'")
    db2.sql("START SLAVE IO_THREAD")
    reader.close()
    until(lambda: mariadb.rows(db2) == 10, what="what was received executed")


def semi_sync_by_hand(lab: MyLab) -> MyServer:
    db2 = lab.cluster.standby("db2", lab.db1)
    source, replica = ("master", "slave") if lab.is_mariadb else ("source", "replica")
    db2.sql(f"SET GLOBAL rpl_semi_sync_{replica}_enabled = ON")
    db2.replicate_from(lab.db1)
    lab.db1.sql(f"SET GLOBAL rpl_semi_sync_{source}_timeout = 4294967295; SET GLOBAL rpl_semi_sync_{source}_enabled = ON")
    until(lambda: db2.received(lab.db1), what="db2 replicating")
    db2.freeze()
    return db2


def test_ending_the_session_of_a_waiting_commit_tells_its_client_nothing(lab: MyLab) -> None:
    """MariaDB commits it, and readers see what no standby has; on MySQL it waits on, and so does read-only."""
    db2 = semi_sync_by_hand(lab)
    outcome: list[str] = []
    blocked_commit(lab, lab.db1, outcome)
    [(client,)] = lab.db1.sql("SELECT ID FROM information_schema.PROCESSLIST WHERE USER = 'app'")
    lab.db1.sql(f"KILL {client}")
    until(lambda: outcome == ["error"], what="the client without an answer")
    if not lab.is_mariadb:
        assert (lab.rows(lab.db1), lab.waiting(lab.db1)) == (0, 1)
        db2.thaw()
    until(lambda: lab.rows(lab.db1) == 1, what="its row all the same")


def test_ending_the_statement_of_a_waiting_commit_acknowledges_it_on_mariadb(lab: MyLab) -> None:
    """So nothing of ours may ever say KILL QUERY there."""
    db2 = semi_sync_by_hand(lab)
    outcome: list[str] = []
    blocked_commit(lab, lab.db1, outcome)
    [(client,)] = lab.db1.sql("SELECT ID FROM information_schema.PROCESSLIST WHERE USER = 'app'")
    lab.db1.sql(f"KILL QUERY {client}")
    if lab.is_mariadb:
        until(lambda: outcome == ["acknowledged"], what="a lie")
    else:
        db2.thaw()
        until(lambda: outcome == ["acknowledged"], what="the truth")


@pytest.mark.parametrize("as_replica", ["OFF", "ON"])
def test_a_crashed_mariadb_keeps_what_nobody_acknowledged_however_it_is_started(mariadb: MyLab, as_replica: str) -> None:
    """A server that boots as a semi-sync replica is said to cut that off its log; this version does not."""
    semi_sync_by_hand(mariadb)
    outcome: list[str] = []
    blocked_commit(mariadb, mariadb.db1, outcome)
    written = mariadb.db1.value("SELECT @@gtid_binlog_pos")
    mariadb.db1.kill()
    program, config = str(mariadb.cluster.flavour.mysqld), f"--defaults-file={mariadb.db1.config_file}"
    mariadb.db1.start((program, config, f"--rpl-semi-sync-slave-enabled={as_replica}"))
    assert (mariadb.db1.value("SELECT @@gtid_binlog_pos"), mariadb.rows(mariadb.db1)) == (written, 1)


def test_turning_semi_sync_off_acknowledges_what_waits_and_read_only_waits_for_it(lab: MyLab) -> None:
    """Why sessions are ended first, and why read-only is no way to stop a commit that waits."""
    semi_sync_by_hand(lab)
    outcome: list[str] = []
    blocked_commit(lab, lab.db1, outcome)
    done = threading.Event()

    def make_read_only() -> None:
        lab.db1.sql("SET GLOBAL read_only = ON")
        done.set()

    in_background(make_read_only)
    words = "Waiting for backup lock" if lab.is_mariadb else "Waiting for global read lock"
    until(lambda: lab.db1.value(f"SELECT count(*) FROM information_schema.PROCESSLIST WHERE STATE = '{words}'"))
    assert not done.is_set() and outcome == []
    lab.db1.sql(f"SET GLOBAL rpl_semi_sync_{'master' if lab.is_mariadb else 'source'}_enabled = OFF")
    until(lambda: outcome == ["acknowledged"], what="a lie")
    assert done.wait(5)
