"""Who may acknowledge, decided by accounts: the sums, without a server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from failover.core.model import Member, Mode, Replication, SyncSet, Willingness
from failover.engines import my_semisync
from failover.engines.my_access import Access
from failover.engines.my_dialect import Channel
from failover.engines.my_local import MyLocalEngine
from failover.engines.my_replication import Replication as Receiving
from failover.engines.my_unfit import unfit_to_wait
from failover.errors import Refused
from failover.profiles import PROFILES
from failover.settings import Account, Accounts, ClusterSettings, FencingSettings, InstanceSettings

A1, A2, A3, A4, A5 = (f"10.77.0.{n}" for n in range(11, 16))
MEMBERS = (
    Member("db1", A1), Member("db2", A2), Member("db3", A3), Member("never", A4, failover=Willingness.NEVER),
    Member("alone", A5, guarded=False),
)  # fmt: skip
ACCOUNTS = dict.fromkeys((A1, A2, A3, A4, A5), False)


def cluster(replication: Replication = Replication.STRICT) -> ClusterSettings:
    instance = InstanceSettings(
        port=3306, data_dir=Path("/nowhere/data"), bin_dir=Path("/nowhere/bin"), provider="direct", unit=None,
        socket_dir=Path("/nowhere/run"), os_user="mysql", database="failover",
    )  # fmt: skip
    accounts = Accounts(Account("monitor"), Account("operator"), Account("repl"))
    return ClusterSettings(
        name="main", engine="mysql", mode=Mode.AUTOMATIC, replication=replication, on_clean_stop_wait_s=10.0,
        crash_recovery_max_s=60.0, instance=instance, guarded_ports=(3306,), users=accounts, members=MEMBERS,
        timings=PROFILES["lan"], vip=None, dns=None, notify=(), fencing=FencingSettings(("guardian",)), standby_reads=False,
        switchover_deadline_s=10.0, lag_max_bytes=1 << 24,
    )  # fmt: skip


def access(me: str = "db1", replication: Replication = Replication.STRICT) -> Access:
    return Access(cluster(replication), me)


def test_members_outside_the_set_are_locked_out_and_those_that_never_acknowledge_are_not() -> None:
    assert my_semisync.locked_out(access(), SyncSet(1, ("db2",))) == {A2: False, A3: True, A4: False}
    assert my_semisync.locked_out(access("db2"), SyncSet(1, ("db1", "db3"))) == {A1: False, A3: False, A4: False}


def test_with_no_set_everybody_is_let_in() -> None:
    assert my_semisync.locked_out(access(), None) == {A2: False, A3: False, A4: False}


def test_the_set_in_force_is_read_back_from_the_accounts() -> None:
    assert my_semisync.let_in(access(), {**ACCOUNTS, A3: True}) == SyncSet(1, ("db2",))
    assert my_semisync.let_in(access(), ACCOUNTS) == SyncSet(1, ("db2", "db3"))
    assert my_semisync.let_in(access(), {"%": False}) == SyncSet(1, ())


def test_a_member_without_an_account_of_its_own_can_be_neither_let_in_nor_locked_out() -> None:
    assert my_semisync.missing_accounts(access(), ACCOUNTS) == []
    [only] = my_semisync.missing_accounts(access(), {A2: False, "%": False})
    assert f"CREATE USER 'repl'@'{A3}'" in only and "REPLICATION SLAVE" in only


@pytest.mark.parametrize(
    ("me", "replication", "acknowledges"),
    [("db1", Replication.STRICT, True), ("db2", Replication.SYNC, True), ("db2", Replication.ASYNC, False),
     ("never", Replication.STRICT, False), ("alone", Replication.STRICT, False)],
)  # fmt: skip
def test_who_acknowledges(me: str, replication: Replication, acknowledges: bool) -> None:
    assert access(me, replication).acknowledges is acknowledges


@pytest.mark.parametrize("sync", [SyncSet(2, ("db2", "db3")), SyncSet(1, ()), SyncSet(1, ("db1",)), SyncSet(1, ("stranger",))])
def test_a_set_that_semi_sync_cannot_be_is_refused_before_anybody_is_asked(sync: SyncSet) -> None:
    with pytest.raises(Refused):
        MyLocalEngine(cluster(), "db1").apply_sync(sync, 1.0)
    with pytest.raises(Refused):
        MyLocalEngine(cluster(), "db1").promote(sync, ("db2",), 1.0)


FOLLOWS = Channel(host=A1, port=3306, user="repl", receiving="Yes", applying=True, by_gtid=True, retry_s=1)


def test_what_a_receiver_is_told_to_do_is_what_we_would_tell_it() -> None:
    receiving = Receiving(access("db2"))
    assert receiving.told(FOLLOWS, answering=True) == A1
    assert receiving.told(replace(FOLLOWS, receiving="Connecting"), answering=False) == A1, "locked out, perhaps"
    assert receiving.told(None, answering=False) == ""
    assert receiving.told(replace(FOLLOWS, receiving="No"), answering=False) == ""
    assert receiving.told(replace(FOLLOWS, by_gtid=False), answering=True) == ""


def test_one_that_has_only_just_connected_is_not_told_anew() -> None:
    receiving = Receiving(access("db2"))
    assert receiving.told(FOLLOWS, answering=False) == A1


def test_what_breaks_the_promise_of_an_acknowledged_commit_is_told() -> None:
    good = {"sync_binlog": 1, "innodb_flush_log_at_trx_commit": 1, "skip_name_resolve": 1}
    assert list(unfit_to_wait(good, my_semisync.SemiSync())) == []
    bad = {"sync_binlog": 0, "innodb_flush_log_at_trx_commit": 2, "skip_name_resolve": 0}
    faults = list(unfit_to_wait(bad, my_semisync.SemiSync(wait_point="AFTER_COMMIT")))
    for word in ("AFTER_SYNC", "sync_binlog", "innodb_flush_log_at_trx_commit", "skip_name_resolve"):
        assert any(word in fault for fault in faults)
