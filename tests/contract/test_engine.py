"""What every engine must do, shown on real servers of all three. The next engine adds one lab to `LABS`.

What is one engine's own is in test_postgresql.py and test_mysql_family.py.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from failover.core.model import Role, SyncSet
from failover.engines import engine
from failover.engines.base import LocalEngine, Prober
from failover.errors import Corrupt, Refused, Unknown, Unreachable, WrongCredentials
from tests.support import mysql_server as my
from tests.support import postgres_server as pg
from tests.support.engine_lab import EngineLab, Whole, took_ms
from tests.support.my_lab import MyLab
from tests.support.pg_lab import PostgresLab

__all__ = ["LABS", "PostgresLab"]  # the lab is for the rejoiner's suites too


@contextmanager
def _postgresql() -> Iterator[PostgresLab]:
    with pg.PostgresCluster() as cluster:
        yield PostgresLab(cluster)


def _of_the_family(flavour: str) -> Callable[[], AbstractContextManager[MyLab]]:
    @contextmanager
    def made() -> Iterator[MyLab]:
        with my.MyCluster(flavour) as cluster:
            yield MyLab(cluster)

    return made


LABS: dict[str, Callable[[], AbstractContextManager[EngineLab]]] = {
    "postgresql": _postgresql, "mysql": _of_the_family("mysql"), "mariadb": _of_the_family("mariadb"),
}  # fmt: skip


@pytest.fixture(params=LABS)
def lab(request: pytest.FixtureRequest) -> Iterator[EngineLab]:
    """db1 alone, new: the story may do to it what it likes."""
    _or_skip(request.param)
    with LABS[request.param]() as made:
        yield made


@pytest.fixture(params=LABS, scope="module")
def shared(request: pytest.FixtureRequest) -> Iterator[Whole]:
    _or_skip(request.param)
    whole = Whole(LABS[request.param], ("db2",))
    yield whole
    whole.close()


@pytest.fixture
def pair(shared: Whole) -> EngineLab:
    """db1 with its standby db2, shared by all stories that leave them as they were: streaming, and no sync set."""
    return shared.lab()


def _or_skip(name: str) -> None:
    if reason := pg.missing() if name == "postgresql" else my.missing(name):
        pytest.skip(reason)


# --- what it says of itself -------------------------------------------------------------------------------------------


def test_both_halves_have_the_promised_verbs(pair: EngineLab) -> None:
    local: LocalEngine = pair.engine(pair.db1)
    prober: Prober = pair.prober(pair.db1)
    position = local.state(1).position  # asked once: a server writes log of its own accord
    assert local.parse_position(position.text()) == position
    assert engine(pair.name).parse_position(position.text()) == position
    assert prober.fresh(1).alive
    with pytest.raises(Corrupt):
        local.parse_position("nonsense")


def test_a_primary_and_its_standby_describe_themselves(pair: EngineLab) -> None:
    db2 = pair.cluster.servers["db2"]
    pair.engine(pair.db1).heartbeat(4, 17, 2)
    pair.caught_up(db2, pair.db1)
    primary, standby = pair.engine(pair.db1).state(1), pair.engine(db2).state(1)
    assert (primary.role, standby.role) == (Role.PRIMARY, Role.STANDBY)
    assert primary.system_identifier == standby.system_identifier == pair.engine(db2).control_state().system_identifier
    assert primary.attached == ("db2",)
    assert standby.upstream == standby.configured_upstream == pair.db1.address
    assert standby.streaming and not standby.replay_paused
    assert (primary.upstream, primary.configured_upstream, primary.streaming) == (None, "", False)
    assert standby.position.covers(primary.position)
    pg.until(lambda: pair.engine(db2).state(1).heartbeat == (4, 17), what="the heartbeat replayed")
    assert primary.sync is None and primary.waiting_for_sync == 0
    assert (primary.faults, standby.faults) == ((), ()), "servers as the documentation wants them"


def test_check_finds_no_fault_in_servers_as_the_documentation_wants_them(pair: EngineLab) -> None:
    settings = pair.settings(pair.db1)
    found = [engine(pair.name).faults(settings, member, 5.0) for member in settings.members if member.name != "db3"]
    assert found == [(), ()]


def test_positions_of_a_growing_log_cover_each_other_in_order(pair: EngineLab) -> None:
    local = pair.engine(pair.db1)
    before = local.state(1).position
    pair.write(pair.db1, 10)
    after = local.state(1).position
    assert after.covers(before) and not before.covers(after) and before.covers(before)
    assert after.behind(before) == 0 and (before.behind(after) or 0) > 0 and before.unit in ("bytes", "transactions")
    assert after.descends_from(before.history_id()) and after.history_id() == before.history_id()
    assert not before.diverged_from(after) and not after.diverged_from(before), "a primary moves on while one looks"


def test_a_standby_that_received_nothing_since_its_restart_still_knows_its_position(lab: EngineLab) -> None:
    db2 = lab.standby("db2")
    lab.write(lab.db1, 1000)
    lab.caught_up(db2, lab.db1)
    pg.until(lambda: lab.rows(db2) == 1000, what="all of it replayed")
    before = lab.engine(db2).state(1).position
    lab.db1.kill()
    db2.stop()
    db2.start()
    pg.until(lambda: lab.engine(db2).state(1).position.covers(before), what="the same position again")
    assert lab.engine(db2).state(1).upstream is None


def test_replay_that_is_paused_hides_nothing_that_was_received(lab: EngineLab) -> None:
    db2 = lab.standby("db2")
    lab.pause_replay(db2)
    lab.write(lab.db1, 1000)
    lab.caught_up(db2, lab.db1)
    assert lab.engine(db2).state(1).replay_paused
    assert lab.rows(db2) == 0
    lab.engine(db2).free_replay(2)
    pg.until(lambda: lab.rows(db2) == 1000, what="replay going on")
    assert not lab.engine(db2).state(1).replay_paused


def test_the_old_primary_is_not_covered_by_its_successor_if_it_wrote_on(lab: EngineLab) -> None:
    db2 = lab.standby("db2")
    lab.engine(db2).promote(None, [], 5)
    lab.write(lab.db1, 1000)
    lab.write(db2)
    old, new = lab.engine(lab.db1).state(1).position, lab.engine(db2).state(1).position
    assert not new.covers(old) and not old.covers(new)
    assert new.behind(old) != 0, "sets can be counted all the same, offsets cannot"
    assert old.diverged_from(new)


# --- heartbeats and sessions ------------------------------------------------------------------------------------------


def test_heartbeats_are_pruned(pair: EngineLab) -> None:
    local = pair.engine(pair.db1)
    local.prepare(2)
    local.prepare(2)
    for sequence in range(60):
        local.heartbeat(5, sequence, 1)
    assert local.state(1).heartbeat == (5, 59)
    assert pair.db1.sql("SELECT count(*) <= 51, min(epoch) FROM failover.heartbeat") == [(True, 5)]
    local.heartbeat(6, 0, 1)
    assert pair.db1.sql("SELECT epoch, sequence FROM failover.heartbeat") == [(6, 0)]


def test_a_heartbeat_waits_for_no_standby(lab: EngineLab) -> None:
    local = lab.engine(lab.db1)
    local.prepare(2)
    local.apply_sync(SyncSet(1, ("db3",)), 2)
    for sequence in range(10):
        started = time.perf_counter()
        local.heartbeat(2, sequence, 1)
        assert took_ms(started) < 1100
    assert local.state(1).waiting_for_sync <= 1, "beats do not pile up"
    local.apply_sync(None, 2)
    local.heartbeat(2, 10, 1)
    assert local.state(1).heartbeat == (2, 10)


def test_a_heartbeat_on_a_standby_is_refused(pair: EngineLab) -> None:
    with pytest.raises(Refused):
        pair.engine(pair.cluster.servers["db2"]).heartbeat(1, 1, 1)


def test_end_sessions_spares_the_product_and_the_replication(pair: EngineLab) -> None:
    clients = [pair.db1.connect("app") for _ in range(3)]
    prober = pair.prober(pair.db1)
    assert prober.kept(1).alive
    assert pair.engine(pair.db1).end_sessions(2) >= 3
    for client in clients:
        with pytest.raises(pair.error):
            client.cursor().execute("SELECT 1")
    assert len(pair.probes(pair.db1)) == 1
    assert pair.engine(pair.cluster.servers["db2"]).state(1).streaming
    prober.close()


def test_clients_that_come_back_at_once_do_not_keep_sessions_from_being_ended(pair: EngineLab) -> None:
    held = pair.transaction(pair.db1, "SELECT 1", user="app")
    with pair.clients_that_come_back(pair.db1, "SELECT 1", 8):
        assert pair.engine(pair.db1).end_sessions(2) >= 1
        with pytest.raises(pair.error):
            held.cursor().execute("SELECT 1")


# --- promotion --------------------------------------------------------------------------------------------------------


def test_promotion_takes_writes_with_its_sync_set_in_force(lab: EngineLab) -> None:
    db2 = lab.standby("db2")
    lab.caught_up(db2, lab.db1)
    lab.db1.kill()
    lab.engine(db2).promote(SyncSet(1, ("db3",)), ["db3"], 5)
    state = lab.engine(db2).state(1)
    assert state.role is Role.PRIMARY
    assert state.sync == SyncSet(1, ("db3",), state.position.history_id())
    outcome: list[str] = []
    lab.commits_of_app(db2, outcome)
    pg.until(lambda: lab.engine(db2).state(1).waiting_for_sync == 1, what="the commit waiting for db3")
    assert outcome == []
    lab.engine(db2).promote(None, [], 5)
    pg.until(lambda: outcome and outcome[0].startswith("acknowledged"), what="the commit released")
    assert lab.rows(db2) == 1
    assert lab.engine(db2).state(1).sync is None


def test_promotion_at_the_instant_of_the_primarys_death_does_not_sleep(lab: EngineLab) -> None:
    db2 = lab.standby("db2")
    lab.caught_up(db2, lab.db1)
    local = lab.engine(db2)
    lab.db1.kill()
    started = time.perf_counter()
    local.promote(None, [], 8)
    assert took_ms(started) < 1000


def test_promotion_while_replay_is_paused_keeps_everything_received(lab: EngineLab) -> None:
    db2 = lab.standby("db2")
    lab.pause_replay(db2)
    lab.write(lab.db1, 500)
    lab.caught_up(db2, lab.db1)
    lab.db1.kill()
    started = time.perf_counter()
    lab.engine(db2).promote(None, [], 5)
    assert took_ms(started) < lab.quick_ms
    assert lab.rows(db2) == 500


def test_a_standby_sealed_while_its_replay_stood_still_is_promoted_with_everything_it_received(lab: EngineLab) -> None:
    db2 = lab.standby("db2")
    lab.pause_replay(db2)
    lab.write(lab.db1, 500)
    lab.caught_up(db2, lab.db1)
    local = lab.engine(db2)
    held = local.state(1).position
    local.stop_receiving(2)
    pg.until(lambda: local.state(1).configured_upstream == "", what="sealed by SQL")
    assert local.holds(held)
    lab.db1.kill()
    local.free_replay(2)
    assert local.holds(held)
    local.promote(None, [], 5)
    assert lab.rows(db2) == 500 and local.state(1).position.covers(held)


def test_promotion_is_not_held_up_by_a_reader_whose_lock_stops_replay(lab: EngineLab) -> None:
    db2 = lab.standby("db2", None, *lab.patient_standby)
    reader = lab.transaction(db2, "SELECT count(*) FROM t")
    lab.db1.sql("ALTER TABLE t ADD COLUMN x int")
    lab.db1.sql("INSERT INTO t VALUES (1, 0), (2, 0), (3, 0), (4, 0), (5, 0), (6, 0), (7, 0), (8, 0), (9, 0), (10, 0)")
    lab.caught_up(db2, lab.db1)
    pg.until(lambda: lab.replay_held_up(db2), what="replay held up")
    lab.db1.kill()
    started = time.perf_counter()
    lab.engine(db2).promote(None, [], 5)
    assert took_ms(started) < 1000
    assert lab.rows(db2) == 10
    reader.close()


# --- following --------------------------------------------------------------------------------------------------------


def test_following_what_is_followed_already_changes_nothing(pair: EngineLab) -> None:
    db2 = pair.cluster.servers["db2"]
    receiver = pair.receiver(db2)
    assert receiver
    pair.engine(db2).follow(pair.upstream(pair.db1), 2)
    assert pair.receiver(db2) == receiver


def test_the_third_member_follows_the_new_primary_without_a_restart(lab: EngineLab) -> None:
    db2 = lab.standby("db2")
    db3 = lab.standby("db3")
    lab.caught_up(db2, lab.db1)
    lab.caught_up(db3, lab.db1)
    lab.db1.kill()
    lab.engine(db2).promote(SyncSet(1, ("db3",)), ["db3"], 5)
    outcome: list[str] = []
    lab.commits_of_app(db2, outcome)
    pid = lab.engine(db3).main_pid()
    lab.engine(db3).follow(lab.upstream(db2, "db3"), 2)
    lab.streams(db3, db2)
    pg.until(lambda: outcome == ["acknowledged"], what="the commit that waited for db3")
    assert lab.engine(db3).main_pid() == pid
    assert lab.engine(db3).state(1).position.history_id() == lab.engine(db2).state(1).position.history_id()
    pg.until(lambda: lab.rows(db3) == 1, what="the commit replayed")


def test_a_standby_isolated_while_it_was_stopped_receives_from_nobody(pair: EngineLab) -> None:
    db2 = pair.cluster.servers["db2"]
    local = pair.engine(db2)
    db2.stop()
    local.isolate()
    local.isolate()
    db2.start()
    state = local.state(1)
    assert (state.configured_upstream, state.streaming, state.upstream) == ("", False, None)
    assert state.role is Role.STANDBY


def test_a_standby_told_to_stop_receiving_stands_still(pair: EngineLab) -> None:
    db2 = pair.cluster.servers["db2"]
    pair.caught_up(db2, pair.db1)
    local = pair.engine(db2)
    local.stop_receiving(2)
    local.stop_receiving(2)
    pg.until(lambda: local.state(1).upstream is None, what="the receiver gone")
    sealed = local.state(1).position
    pair.write(pair.db1, 1000)
    beyond = pair.engine(pair.db1).state(1).position
    assert local.state(1).position == sealed
    assert not local.holds(beyond) and local.holds(sealed)
    assert sealed.behind(beyond) == local.state(1).position.behind(beyond) != 0
    assert local.state(1).configured_upstream == ""


# --- what a commit waits for ------------------------------------------------------------------------------------------


def test_a_strict_commit_blocks_while_its_sync_member_is_gone(pair: EngineLab) -> None:
    db2 = pair.cluster.servers["db2"]
    local = pair.engine(pair.db1)
    local.apply_sync(SyncSet(1, ("db2",)), 2)
    outcome: list[str] = []
    pair.commits_of_app(pair.db1, outcome).join(5)
    assert outcome == ["acknowledged"]
    db2.stop()
    pair.commits_of_app(pair.db1, outcome)
    pg.until(lambda: local.state(1).waiting_for_sync == 1, what="the commit waiting")
    assert outcome == ["acknowledged"]
    db2.start()
    pair.engine(db2).follow(pair.upstream(pair.db1, "db2"), 2)
    pg.until(lambda: outcome == ["acknowledged"] * 2, what="the commit released by db2")
    local.apply_sync(None, 2)


def test_a_sync_set_grows_and_shrinks_and_the_new_one_alone_counts(lab: EngineLab) -> None:
    db2 = lab.standby("db2")
    lab.standby("db3")
    local = lab.engine(lab.db1)
    local.apply_sync(SyncSet(1, ("db2",)), 2)
    local.apply_sync(SyncSet(1, ("db2", "db3")), 2)
    pg.until(lambda: set(local.state(1).attached) == {"db2", "db3"}, what="both attached")
    db2.freeze()
    outcome: list[str] = []
    lab.commits_of_app(lab.db1, outcome).join(5)
    assert outcome == ["acknowledged"]  # db3 has it
    barrier = local.apply_sync(SyncSet(1, ("db2",)), 2)
    assert local.state(1).sync == SyncSet(1, ("db2",), barrier.history_id())
    lab.commits_of_app(lab.db1, outcome)
    pg.until(lambda: local.state(1).waiting_for_sync == 1, what="the commit waiting for db2 alone")
    assert outcome == ["acknowledged"]
    assert not local.state(1).position.behind(barrier)
    db2.thaw()
    pg.until(lambda: outcome == ["acknowledged"] * 2, what="the commit released by db2")
    local.apply_sync(None, 2)
    assert local.state(1).sync is None


def test_the_barrier_covers_every_commit_of_the_old_policy(pair: EngineLab) -> None:
    local = pair.engine(pair.db1)
    pair.write(pair.db1, 1000)
    before = local.state(1).position
    barrier = local.apply_sync(SyncSet(1, ("db2",)), 2)
    assert barrier.covers(before)
    assert local.state(1).sync == SyncSet(1, ("db2",), barrier.history_id())
    local.apply_sync(None, 2)


@pytest.mark.parametrize("sync", [SyncSet(2, ("db2", "db3")), SyncSet(1, ()), SyncSet(0, ("db2",))])
def test_a_sync_set_without_a_proof_is_refused(pair: EngineLab, sync: SyncSet) -> None:
    with pytest.raises(Refused):
        pair.engine(pair.db1).apply_sync(sync, 2)
    assert pair.engine(pair.db1).state(1).sync is None


def test_a_standby_is_told_no_sync_set(pair: EngineLab) -> None:
    with pytest.raises(Refused):
        pair.engine(pair.cluster.servers["db2"]).apply_sync(SyncSet(1, ("db3",)), 2)


# --- files and processes ----------------------------------------------------------------------------------------------


def test_a_primary_that_stopped_in_order_comes_back_behind_its_successor(lab: EngineLab) -> None:
    db2 = lab.standby("db2")
    lab.write(lab.db1, 10)
    lab.db1.stop()
    control = lab.engine(lab.db1).control_state()
    assert control.clean
    if control.position is not None:
        pg.until(lambda: lab.engine(db2).holds(control.position), what="its whole log on db2")
    lab.engine(db2).promote(None, ["db1"], 5)
    assert control.position is None or lab.engine(db2).state(1).position.covers(control.position)
    db1 = lab.engine(lab.db1)
    db1.arm_standby()
    db1.arm_standby()
    db1.isolate()
    lab.db1.start(db1.start_command())
    assert db1.state(1).role is Role.STANDBY and not db1.state(1).position.diverged_from(lab.engine(db2).state(1).position)
    lab.follows(lab.db1, db2)
    db2.sql("INSERT INTO t VALUES (42)")
    lab.caught_up(lab.db1, db2)
    pg.until(lambda: lab.rows(lab.db1) == 11, what="the row of db2")
    assert db1.state(1).role is Role.STANDBY


def test_a_crashed_server_is_not_clean(lab: EngineLab) -> None:
    lab.write(lab.db1, 10)
    lab.db1.kill()
    crashed = lab.engine(lab.db1).control_state()
    assert not crashed.clean and crashed.position is None and crashed.detail


def test_no_database_is_corrupt(lab: EngineLab) -> None:
    lab.db1.kill()
    lab.lose_database(lab.db1)
    with pytest.raises(Corrupt):
        lab.engine(lab.db1).control_state()


def test_a_crashed_primary_starts_as_a_standby_by_the_engines_command(lab: EngineLab) -> None:
    local = lab.engine(lab.db1)
    lab.db1.kill()
    local.arm_standby()
    local.isolate()
    local.remove_stale_files()
    lab.db1.start(local.start_command())
    assert local.state(1).role is Role.STANDBY
    assert local.main_pid() == lab.db1.main_pid
    lab.db1.stop(local.stop_signal("fast"))
    lab.db1.start(local.start_command())
    lab.db1.stop(local.stop_signal("immediate"))
    assert local.main_pid() is None


def test_a_crashed_primary_is_promoted_again_where_it_stood(lab: EngineLab) -> None:
    local = lab.engine(lab.db1)
    lab.write(lab.db1, 10)
    before = local.state(1).position
    lab.db1.kill()
    local.arm_standby()
    local.isolate()
    local.remove_stale_files()
    lab.db1.start(local.start_command())
    local.promote(None, [], 5)
    assert local.state(1).role is Role.PRIMARY and local.state(1).position.covers(before)
    lab.write(lab.db1, 1)
    assert lab.rows(lab.db1) == 11


def test_a_stale_pid_file_that_names_a_stranger_names_no_server(lab: EngineLab) -> None:
    local = lab.engine(lab.db1)
    pid_file = lab.pid_file(lab.db1)
    true_text = pid_file.read_text()
    other = lab.cluster.standby("db2", lab.db1).main_pid
    for stranger in (os.getpid(), other, 1, 2**22 - 1):
        pid_file.write_text(f"{stranger}\n")
        assert local.main_pid() in (None, lab.db1.main_pid)
    pid_file.write_text(true_text)
    assert local.main_pid() == lab.db1.main_pid
    lab.db1.kill()
    assert local.main_pid() is None
    local.remove_stale_files()
    local.remove_stale_files()
    assert not pid_file.exists()


# --- refusals and silence ---------------------------------------------------------------------------------------------


def test_a_wrong_password_is_not_a_death(pair: EngineLab) -> None:
    wrong = pair.secret("wrong", "wrong")
    with pytest.raises(WrongCredentials):
        pair.engine(pair.db1, wrong).state(1)
    result = pair.prober(pair.db1, wrong).fresh(1)
    assert result.alive is None and result.detail.startswith("credentials refused")
    assert "wrong" not in result.detail.removeprefix("credentials refused")
    assert pair.monitor_password not in result.detail


def test_a_server_that_is_not_there_is_unreachable(lab: EngineLab) -> None:
    lab.db1.stop()
    with pytest.raises(Unreachable):
        lab.engine(lab.db1).state(1)
    assert lab.prober(lab.db1).fresh(1).alive is False


@pytest.mark.parametrize("budget_s", [0.1, 0.5])
def test_a_frozen_server_costs_the_budget_and_no_more(pair: EngineLab, budget_s: float) -> None:
    prober, local = pair.prober(pair.db1), pair.engine(pair.db1)
    assert prober.kept(2).alive and prober.fresh(2).alive
    pair.db1.freeze()
    try:
        for look in (prober.kept, prober.kept, prober.fresh):
            started = time.perf_counter()
            result = look(budget_s)
            assert result.alive is False
            assert took_ms(started) < budget_s * 1000 + 100
        started = time.perf_counter()
        with pytest.raises(Unknown):
            local.state(budget_s)
        assert took_ms(started) < budget_s * 1000 + 100
    finally:
        pair.db1.thaw()
    assert prober.kept(2).alive and prober.fresh(2).alive
    prober.close()


def test_every_verb_keeps_its_budget_against_a_frozen_server(pair: EngineLab) -> None:
    db2 = pair.cluster.servers["db2"]
    on_primary, on_standby = pair.engine(pair.db1), pair.engine(db2)
    position = on_standby.state(1).position
    verbs: list[Callable[[], object]] = [
        lambda: on_primary.prepare(0.3),
        lambda: on_primary.heartbeat(9, 9, 0.3),
        lambda: on_primary.end_sessions(0.3),
        lambda: on_primary.apply_sync(SyncSet(1, ("db2",)), 0.3),
        lambda: on_primary.ensure_slots(["db2"], 0.3),
        lambda: on_primary.checkpoint(0.3),
        lambda: on_primary.promote(None, [], 0.3),
        lambda: on_primary.stop_writes(0.3),
        lambda: on_standby.free_replay(0.3),
        lambda: on_standby.follow(pair.upstream(pair.db1), 0.3),
        lambda: on_standby.stop_receiving(0.3),
    ]
    pair.db1.freeze()
    db2.freeze()
    try:
        for number, verb in enumerate(verbs):
            started = time.perf_counter()
            try:
                verb()
            except Unknown:
                pass
            assert took_ms(started) < 500, f"verb {number}"
        started = time.perf_counter()
        with pytest.raises(Unknown):
            on_standby.holds(position)
        assert took_ms(started) < 1500, "it has no budget of its own"
    finally:
        pair.db1.thaw()
        db2.thaw()
    on_primary.promote(None, ["db2"], 5)  # whatever of it came through after all


def test_who_answered_tells_a_closed_port_from_silence(lab: EngineLab) -> None:
    """Whatever comes back shows that the way there works."""
    prober = lab.prober(lab.db1)
    assert prober.fresh(2).alive
    os.kill(lab.db1.main_pid, signal.SIGSTOP)
    assert (prober.fresh(0.3).alive, prober.fresh(0.3).answered_by) == (False, "")
    os.kill(lab.db1.main_pid, signal.SIGCONT)
    prober.close()
    lab.db1.kill()
    closed = prober.fresh(0.5)
    assert (closed.alive, closed.answered_by) == (False, "host")
    prober.close()


def test_a_probe_does_not_wait_behind_a_lock(pair: EngineLab) -> None:
    """A server that says that a lock is not free is alive; one that we stop waiting for would look dead."""
    prober = pair.prober(pair.db1)
    assert prober.kept(1.0).alive
    blocker = pair.lock_table(pair.db1, "failover.heartbeat")
    try:
        found = prober.kept(1.0)
        assert found.alive, found.detail
        assert prober.fresh(1.0).role is Role.PRIMARY, "its other answers count"
    finally:
        blocker.close()
    prober.close()


def test_the_kept_connection_sees_a_death_at_once_and_survives_being_ended(lab: EngineLab) -> None:
    prober = lab.prober(lab.db1)
    assert prober.kept(1).alive
    (session,) = lab.probes(lab.db1)
    lab.end_session(lab.db1, session)
    assert prober.kept(1).alive
    lab.db1.kill()
    started = time.perf_counter()
    assert prober.kept(1).alive is False
    assert took_ms(started) < 100


def test_a_probe_sees_whom_a_standby_follows(pair: EngineLab) -> None:
    db2 = pair.cluster.servers["db2"]
    seen, primary = pair.prober(db2).fresh(2), pair.prober(pair.db1).fresh(2)
    assert (seen.follows, seen.streaming) == (pair.db1.address, True)
    assert (primary.follows, primary.streaming) == (None, False)
    pair.engine(db2).stop_receiving(2)
    pg.until(lambda: not pair.prober(db2).fresh(2).streaming, what="the probe seeing that it streams no more")


def test_a_probe_reports_role_position_epoch_and_whether_writes_would_pass(pair: EngineLab) -> None:
    db2 = pair.cluster.servers["db2"]
    pair.engine(pair.db1).heartbeat(7, 1, 1)
    pair.caught_up(db2, pair.db1)
    primary, state = pair.prober(pair.db1).fresh(1), pair.engine(pair.db1).state(1)
    assert (primary.role, primary.writable, primary.epoch) == (Role.PRIMARY, True, 7)
    assert primary.system_identifier == state.system_identifier
    assert primary.position is not None and state.position.covers(primary.position)
    standby = pg.until(lambda: (seen := pair.prober(db2).fresh(1)).epoch == 7 and seen, what="the epoch replayed")
    assert (standby.role, standby.writable) == (Role.STANDBY, False)
    assert standby.position is not None and standby.position.history_id() == state.position.history_id()


def test_a_server_with_no_connection_left_is_alive(pair: EngineLab) -> None:
    clients = []
    with pytest.raises(pair.error):
        for _ in range(60):
            clients.append(pair.db1.connect("app"))
    result = pair.prober(pair.db1).fresh(1)
    assert result.alive is True and result.role is Role.UNKNOWN
    assert pair.engine(pair.db1).state(1).role is Role.PRIMARY, "the operator has a place of its own"
    for client in clients:
        client.close()


def test_a_door_that_opens_on_nothing_costs_the_budget(pair: EngineLab) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.9", pair.db1.port))
        listener.listen()
        prober = pair.prober_at("127.0.0.9", pair.db1)
        started = time.perf_counter()
        assert prober.fresh(0.3).alive is False
        assert 290 < took_ms(started) < 400
