"""What is PostgreSQL's own: timelines, slots, pages of log, and the processes that a setting has to reach."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import psycopg2
import pytest

from failover.core.model import Role, SyncSet
from failover.engines.lsn import parse_offset
from failover.engines.pg_files import read_control, record_end
from failover.errors import Refused, Unknown, Unreachable
from tests.support import postgres_server as pg
from tests.support.engine_lab import in_background, took_ms
from tests.support.pg_lab import PostgresLab

pytestmark = pytest.mark.skipif(pg.missing() is not None, reason=pg.missing() or "")


@pytest.fixture
def lab() -> Iterator[PostgresLab]:
    with pg.PostgresCluster() as cluster:
        yield PostgresLab(cluster)


def test_it_has_to_be_stopped_to_stop_writes_and_keeps_what_it_received(lab: PostgresLab) -> None:
    local = lab.engine(lab.db1)
    assert local.stop_writes(2) is None
    lab.write(lab.db1)
    assert local.state(1).role is Role.PRIMARY and local.keeps_received_log()


def test_replay_that_is_paused_shows_how_far_it_is_behind(lab: PostgresLab) -> None:
    db2 = lab.standby("db2")
    db2.sql("SELECT pg_wal_replay_pause()")
    lab.db1.sql("INSERT INTO t SELECT generate_series(1, 1000)")
    lab.caught_up(db2, lab.db1)
    state = lab.engine(db2).state(1)
    assert state.replay_paused and state.replay_lag_bytes is not None and state.replay_lag_bytes > 1000


def test_two_histories_have_no_distance(lab: PostgresLab) -> None:
    db2 = lab.standby("db2")
    lab.engine(db2).promote(None, [], 5)
    lab.write(lab.db1, 1000)
    old, new = lab.engine(lab.db1).state(1).position, lab.engine(db2).state(1).position
    assert not new.covers(old) and not old.covers(new) and new.behind(old) is None


def test_a_standby_that_crosses_to_the_next_timeline_keeps_all_it_stored(lab: PostgresLab) -> None:
    db2 = lab.standby("db2")
    db3 = lab.standby("db3")
    db3.sql("SELECT pg_wal_replay_pause()")
    lab.db1.sql("INSERT INTO t SELECT generate_series(1, 100)")
    lab.caught_up(db3, lab.db1)
    lab.caught_up(db2, lab.db1)
    lab.db1.kill()
    lab.engine(db2).promote(None, ["db3"], 5)
    before = lab.engine(db3).state(1).position
    assert before.history_id() == "1"
    lab.engine(db3).follow(lab.upstream(db2, "db3"), 2)
    db3.sql("SELECT pg_wal_replay_resume()")
    lab.caught_up(db3, db2)
    after = lab.engine(db3).state(1).position
    assert after.history_id() == "2" and after.descends_from("1") and after.covers(before)


def test_heartbeats_are_pruned_while_their_standby_is_away(lab: PostgresLab) -> None:
    engine = lab.engine(lab.db1)
    engine.prepare(2)
    engine.prepare(2)
    engine.apply_sync(SyncSet(1, ("nobody",)), 2)
    for sequence in range(60):
        engine.heartbeat(2, sequence, 1)
    assert engine.state(1).heartbeat == (2, 59)
    engine.heartbeat(3, 0, 1)
    assert lab.db1.sql("SELECT epoch, sequence FROM failover.heartbeat") == [(3, 0)]


def test_promotion_takes_writes_on_a_new_timeline_with_its_sync_names_and_slots_set(lab: PostgresLab) -> None:
    db2 = lab.standby("db2")
    lab.caught_up(db2, lab.db1)
    lab.db1.kill()
    lab.engine(db2).promote(SyncSet(1, ("db3",)), ["db3"], 5)
    state = lab.engine(db2).state(1)
    assert state.role is Role.PRIMARY
    assert state.position.history_id() == "2" and state.position.descends_from("1")
    assert state.sync == SyncSet(1, ("db3",), "2")
    assert db2.sql("SELECT slot_name, restart_lsn IS NOT NULL FROM pg_replication_slots") == [("failover_db3", True)]
    outcome: list[str] = []
    lab.commits_of_app(db2, outcome)
    pg.until(lambda: lab.engine(db2).state(1).waiting_for_sync == 1, what="the commit waiting for db3")
    assert outcome == []
    lab.engine(db2).promote(None, [], 5)
    pg.until(lambda: outcome == ["acknowledged"], what="the commit released")


@pytest.mark.parametrize("retry_interval", ["100ms", "5s"])
def test_promotion_at_the_instant_of_a_death_does_not_sleep_out_its_retries(lab: PostgresLab, retry_interval: str) -> None:
    db2 = lab.standby("db2")
    lab.caught_up(db2, lab.db1)
    engine = lab.engine(db2)
    db2.sql(f"ALTER SYSTEM SET wal_retrieve_retry_interval = '{retry_interval}'")
    db2.sql("SELECT pg_reload_conf()")
    lab.db1.kill()
    started = time.perf_counter()
    engine.promote(None, [], 8)
    assert took_ms(started) < 1000


def test_the_password_is_in_a_file_of_the_databases_account_and_nowhere_else(lab: PostgresLab) -> None:
    db2 = lab.standby("db2")
    passfile = lab.cluster.root / "db2.pgpass"
    assert passfile.stat().st_mode & 0o777 == 0o600
    assert passfile.stat().st_uid == db2.data_dir.stat().st_uid
    assert pg.REPLICATION[1] in passfile.read_text()
    assert pg.REPLICATION[1] not in (db2.data_dir / "postgresql.auto.conf").read_text()


def test_following_what_is_followed_already_writes_no_file(lab: PostgresLab) -> None:
    db2 = lab.standby("db2")
    receiver = db2.sql("SELECT pid FROM pg_stat_wal_receiver")
    written = (db2.data_dir / "postgresql.auto.conf").stat().st_mtime_ns
    lab.engine(db2).follow(lab.upstream(lab.db1, "db2"), 2)
    assert (db2.data_dir / "postgresql.auto.conf").stat().st_mtime_ns == written
    assert db2.sql("SELECT pid FROM pg_stat_wal_receiver") == receiver


def test_follow_and_isolate_also_work_on_a_stopped_server(lab: PostgresLab) -> None:
    db2 = lab.standby("db2")
    engine = lab.engine(db2)
    db2.stop()
    engine.isolate()
    engine.isolate()
    db2.start()
    assert engine.state(1).configured_upstream == ""
    assert not engine.state(1).streaming
    db2.stop()
    engine.follow(lab.upstream(lab.db1, "db2"), 2)
    db2.start()
    lab.streams(db2, lab.db1)
    settings = (db2.data_dir / "postgresql.auto.conf").read_text()
    assert settings.count("primary_conninfo") == 1


def test_a_standby_that_left_the_sync_set_streams_on_and_releases_nobody(lab: PostgresLab) -> None:
    db2 = lab.standby("db2")
    db3 = lab.standby("db3")
    engine = lab.engine(lab.db1)
    engine.apply_sync(SyncSet(1, ("db2",)), 2)
    engine.apply_sync(SyncSet(1, ("db2", "db3")), 2)
    db2.freeze()
    outcome: list[str] = []
    lab.commits_of_app(lab.db1, outcome).join(5)
    assert outcome == ["acknowledged"]  # db3 has it
    barrier = engine.apply_sync(SyncSet(1, ("db2",)), 2)
    lab.commits_of_app(lab.db1, outcome)
    pg.until(lambda: engine.state(1).waiting_for_sync == 1, what="the commit waiting for db2 alone")
    lab.caught_up(db3, lab.db1)  # db3 has this one too, and may not release it
    assert outcome == ["acknowledged"]
    assert not engine.state(1).position.behind(barrier)
    db2.thaw()
    pg.until(lambda: outcome == ["acknowledged"] * 2, what="the commit released by db2")
    engine.apply_sync(None, 2)
    assert engine.state(1).sync is None


def test_a_walsender_stuck_under_the_old_set_keeps_the_change_unproved(lab: PostgresLab) -> None:
    lab.standby("db2")
    engine = lab.engine(lab.db1)
    engine.apply_sync(SyncSet(1, ("db2",)), 2)
    counted = "SELECT pid FROM pg_stat_replication WHERE sync_priority > 0"
    [(walsender,)] = pg.until(lambda: lab.db1.sql(counted), what="db2 counted as synchronous")
    os.kill(walsender, signal.SIGSTOP)
    try:
        with pytest.raises(Unknown):
            engine.apply_sync(SyncSet(1, ("db3",)), 0.5)
    finally:
        os.kill(walsender, signal.SIGCONT)
    engine.apply_sync(SyncSet(1, ("db3",)), 2)


def test_a_checkpointer_that_has_not_read_the_new_set_keeps_the_change_unproved(lab: PostgresLab) -> None:
    engine = lab.engine(lab.db1)
    [(checkpointer,)] = lab.db1.sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'")
    os.kill(checkpointer, signal.SIGSTOP)
    try:
        with pytest.raises(Unknown):
            engine.apply_sync(SyncSet(1, ("db2",)), 0.5)
        outcome: list[str] = []
        lab.commits_of_app(lab.db1, outcome).join(5)
        assert outcome == ["acknowledged"]  # although every new connection shows the new names
    finally:
        os.kill(checkpointer, signal.SIGCONT)
    engine.apply_sync(SyncSet(1, ("db2",)), 2)


def test_a_spread_checkpoint_does_not_keep_a_sync_set_from_being_proved(lab: PostgresLab) -> None:
    engine = lab.engine(lab.db1)
    lab.db1.sql("INSERT INTO t SELECT generate_series(1, 100000)")
    backup = lab.db1.connect()

    def spread() -> None:
        with contextlib.suppress(psycopg2.Error):  # its server is killed in the end
            backup.cursor().execute("SELECT pg_backup_start('spread', false)")

    waiting = in_background(spread)
    doing = "SELECT wait_event FROM pg_stat_activity WHERE backend_type = 'checkpointer'"
    pg.until(lambda: lab.db1.sql(doing) == [("CheckpointWriteDelay",)], what="a checkpoint that takes its time")
    engine.apply_sync(SyncSet(1, ("db2",)), 3)
    outcome: list[str] = []
    lab.commits_of_app(lab.db1, outcome)
    pg.until(lambda: engine.state(1).waiting_for_sync == 1, what="the commit waiting")
    assert waiting.is_alive()
    lab.db1.kill()
    waiting.join(5)


def test_slots_are_exactly_those_asked_for(lab: PostgresLab) -> None:
    engine = lab.engine(lab.db1)
    lab.db1.sql("SELECT pg_create_physical_replication_slot('someone_elses')")
    engine.ensure_slots(["db-2", "DB3"], 2)
    engine.ensure_slots(["DB3"], 2)
    names = lab.db1.sql("SELECT slot_name FROM pg_replication_slots ORDER BY 1")
    assert names == [("failover_db3",), ("someone_elses",)]
    with pytest.raises(Refused):
        engine.ensure_slots(["db-2", "db_2"], 2)


@pytest.mark.parametrize("filler", [0, 5])
def test_a_clean_stop_ends_where_the_standby_stands_and_needs_no_rewind(lab: PostgresLab, filler: int) -> None:
    db2 = lab.standby("db2")
    for _ in range(filler):  # moves the shutdown checkpoint about on its page
        lab.db1.sql("SELECT pg_logical_emit_message(true, 'filler', repeat('x', 1009))")
    lab.db1.stop()
    control = lab.engine(lab.db1).control_state()
    assert control.clean and control.position is not None
    assert control.position.offset == lab.engine(db2).state(1).position.offset  # type: ignore[attr-defined]  # Lsn
    assert lab.engine(db2).holds(control.position)
    lab.engine(db2).promote(None, ["db1"], 5)
    assert lab.engine(db2).state(1).position.covers(control.position)
    db1 = lab.engine(lab.db1)
    db1.arm_standby()
    db1.arm_standby()
    db1.follow(lab.upstream(db2, "db1"), 2)
    lab.db1.start()
    lab.streams(lab.db1, db2)
    db2.sql("INSERT INTO t VALUES (42)")
    lab.caught_up(lab.db1, db2)
    assert db1.state(1).role is Role.STANDBY


def test_the_end_of_every_record_in_a_real_log_is_computed_to_the_byte(lab: PostgresLab) -> None:
    start = lab.engine(lab.db1).state(1).position
    many = "SELECT pg_logical_emit_message(false, 'x', repeat('x', n * 7 % 12000)) FROM generate_series(1, 3500) n"
    lab.db1.sql(many)
    control = read_control(pg.BIN_DIR, lab.db1.data_dir)
    where = [str(lab.db1.data_dir / "pg_wal"), "-s", start.text().split("@")[1]]
    shown = subprocess.run([pg.BIN_DIR / "pg_waldump", "-p", *where], capture_output=True, text=True).stdout
    found = re.findall(r"rec/tot\):\s*\d+/\s*(\d+), tx:\s*\d+, lsn: (\S+),", shown)
    records = [(parse_offset(lsn), int(length)) for length, lsn in found]
    at_page_end = 0
    for (this, length), (following, _) in pairwise(records):
        end = record_end(this, length, control.page_bytes, control.segment_bytes)
        header = 40 if end % control.segment_bytes == 0 else 24
        at_page_end += end % control.page_bytes == 0
        assert end + (header if end % control.page_bytes == 0 else 0) == following
    assert len(records) > 2500 and at_page_end > 0
    assert records[0][0] // control.segment_bytes < records[-1][0] // control.segment_bytes


def test_a_standby_that_missed_only_the_shutdown_checkpoint_does_not_hold_the_end(lab: PostgresLab) -> None:
    db2 = lab.standby("db2")
    lab.caught_up(db2, lab.db1)
    lab.engine(db2).stop_receiving(2)
    pg.until(lambda: lab.engine(db2).state(1).upstream is None, what="the receiver gone")
    lab.db1.stop()
    position = lab.engine(lab.db1).control_state().position
    assert position is not None
    assert not lab.engine(db2).holds(position)


def test_a_stopped_standby_says_what_it_stores_and_a_crashed_server_says_nothing(lab: PostgresLab) -> None:
    db2 = lab.standby("db2")
    db2.sql("SELECT pg_wal_replay_pause()")
    lab.db1.sql("INSERT INTO t SELECT generate_series(1, 1000)")
    lab.caught_up(db2, lab.db1)
    stored = lab.engine(db2).state(1).position
    db2.stop()
    control = lab.engine(db2).control_state()
    assert control.clean and control.position is not None
    assert control.position.covers(stored) and stored.covers(control.position)
    lab.db1.kill()
    crashed = lab.engine(lab.db1).control_state()
    assert not crashed.clean and crashed.position is None and crashed.detail == "in production"


def test_a_stale_pid_file_that_names_a_stranger_or_a_backend_names_no_server(lab: PostgresLab) -> None:
    engine = lab.engine(lab.db1)
    pid_file = lab.db1.data_dir / "postmaster.pid"
    true_text = pid_file.read_text()
    other = lab.cluster.standby("db2", lab.db1).main_pid
    child = next(pid for pid in lab.db1.pids() if pid != lab.db1.main_pid)
    for stranger in (os.getpid(), child, other, 1, 2**22 - 1):
        pid_file.write_text(f"{stranger}\n")
        assert engine.main_pid() is None
    pid_file.write_text(true_text)
    assert engine.main_pid() == lab.db1.main_pid


def test_a_frozen_postmaster_behind_live_backends_shows_on_a_fresh_connection_only(lab: PostgresLab) -> None:
    prober = lab.prober(lab.db1)
    assert prober.kept(2).alive
    os.kill(lab.db1.main_pid, signal.SIGSTOP)
    assert prober.kept(0.5).alive
    assert prober.fresh(0.5).alive is False
    os.kill(lab.db1.main_pid, signal.SIGCONT)
    prober.close()


def test_who_answered_tells_a_closed_port_from_silence_and_from_a_login_that_hangs(lab: PostgresLab) -> None:
    """Whatever comes back shows that the way there works; and a login that hangs is more than a frozen server."""
    prober = lab.prober(lab.db1)
    assert prober.kept(2).alive
    blocker = lab.db1.connect()
    blocker.autocommit = False
    blocker.cursor().execute("LOCK TABLE pg_authid IN ACCESS EXCLUSIVE MODE")
    hangs = prober.fresh(0.5)
    assert (hangs.alive, hangs.answered_by) == (False, "server") and "login did not finish" in hangs.detail
    assert prober.kept(0.5).alive, "those who are in are served"
    blocker.close()
    assert prober.fresh(2).alive
    os.kill(lab.db1.main_pid, signal.SIGSTOP)
    assert (prober.fresh(0.3).alive, prober.fresh(0.3).answered_by) == (False, "")
    os.kill(lab.db1.main_pid, signal.SIGCONT)
    prober.close()
    lab.db1.kill()
    closed = prober.fresh(0.5)
    assert (closed.alive, closed.answered_by) == (False, "host")
    prober.close()


@pytest.mark.parametrize("table", ["failover.heartbeat", "pg_class"])
def test_a_probe_waits_for_no_lock_of_a_catalog_either(lab: PostgresLab, table: str) -> None:
    """A server that says that a lock is not free is alive; one that we stop waiting for would look dead."""
    prober = lab.prober(lab.db1)
    lab.db1.sql("CREATE SCHEMA failover; CREATE TABLE failover.heartbeat (epoch int, sequence bigint)")
    lab.db1.sql("GRANT USAGE ON SCHEMA failover TO monitor; GRANT SELECT ON failover.heartbeat TO monitor")
    assert prober.kept(1.0).alive
    blocker = lab.db1.connect()
    blocker.autocommit = False
    blocker.cursor().execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
    found = prober.kept(1.0)
    assert found.alive, found.detail
    if table == "failover.heartbeat":
        assert prober.fresh(1.0).role is Role.PRIMARY, "its other answers count"
    blocker.close()
    prober.close()


def test_where_no_guardian_keeps_a_slot_a_standby_follows_without_one_and_a_probe_sees_it(lab: PostgresLab) -> None:
    db2 = lab.standby("db2")
    seen, primary = lab.prober(db2).fresh(2), lab.prober(lab.db1).fresh(2)
    assert (seen.follows, seen.streaming) == (lab.db1.address, True)
    assert (primary.follows, primary.streaming) == (None, False)
    lab.engine(db2).stop_receiving(2)
    pg.until(lambda: not lab.prober(db2).fresh(2).streaming, what="the probe seeing that it streams no more")
    lab.db1.sql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")
    lab.engine(db2).follow(replace(lab.upstream(lab.db1, "db2"), slot=False), 2)
    lab.streams(db2, lab.db1)
    assert db2.sql("SHOW primary_slot_name") == [("",)]


def test_a_probe_sees_transactions_that_are_read_only_by_default(lab: PostgresLab) -> None:
    db2 = lab.standby("db2")
    lab.engine(lab.db1).prepare(2)
    lab.engine(lab.db1).heartbeat(7, 1, 1)
    lab.caught_up(db2, lab.db1)
    primary, state = lab.prober(lab.db1).fresh(1), lab.engine(lab.db1).state(1)
    assert (primary.role, primary.writable, primary.epoch) == (Role.PRIMARY, True, 7)
    assert primary.system_identifier == state.system_identifier
    assert primary.position is not None and state.position.covers(primary.position)
    standby = pg.until(lambda: (seen := lab.prober(db2).fresh(1)).epoch == 7 and seen, what="the epoch replayed")
    assert (standby.role, standby.writable) == (Role.STANDBY, False)
    assert standby.position is not None and standby.position.history_id() == "1"
    lab.db1.sql("ALTER SYSTEM SET default_transaction_read_only = on")
    lab.db1.sql("SELECT pg_reload_conf()")
    pg.until(lambda: not lab.prober(lab.db1).fresh(1).writable, what="read-only seen")


def test_a_server_in_recovery_is_alive(lab: PostgresLab) -> None:
    db2 = lab.cluster.standby("db2", lab.db1, "hot_standby = off", start=False)
    db2.start(wait=False)
    look = lab.prober(db2).fresh
    result = pg.until(lambda: (seen := look(1)).alive and seen, what="an answer")
    assert result.role is Role.RECOVERING
    with pytest.raises(Unreachable):
        lab.engine(db2).state(1)
