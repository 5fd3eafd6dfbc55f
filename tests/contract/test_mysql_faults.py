"""MySQL and MariaDB servers that are not as the documentation wants them: what the engine and `failoverctl check` say of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from failover.core.model import Member, Role, SyncSet
from failover.engines import engine
from failover.errors import FailoverError, Refused
from tests.support.family import lab, shared, trio
from tests.support.my_lab import MyLab
from tests.support.mysql_server import MyServer, until

__all__ = ["lab", "shared", "trio"]  # fixtures

# lines of my.cnf, each with the word that its fault must name
UNFIT = {
    "mysql": {
        "gtid_mode = OFF": "gtid_mode",
        "enforce_gtid_consistency = OFF": "enforce_gtid_consistency",
        "log_replica_updates = OFF": "log_replica_updates",
        "rpl_semi_sync_source_wait_point = AFTER_COMMIT": "AFTER_SYNC",
        "read_only = OFF": "read_only",
        "super_read_only = OFF": "super_read_only",
    },
    "mariadb": {
        "gtid_strict_mode = OFF": "gtid_strict_mode",
        "log_slave_updates = OFF": "log_slave_updates",
        "rpl_semi_sync_master_wait_point = AFTER_COMMIT": "AFTER_SYNC",
        "read_only = OFF": "read_only",
    },
}


def said_by_check(lab: MyLab, server: MyServer, as_engine: str = "") -> str:
    """What `failoverctl check` says of one member, over the network."""
    settings = lab.settings(server)
    settings = replace(settings, engine=as_engine or settings.engine)
    return "\n".join(engine(settings.engine).faults(settings, Member(server.name, server.address), 5.0))


def said_by_itself(lab: MyLab, server: MyServer) -> str:
    return "\n".join(lab.engine(server).state(3).faults)


def unlogged(server: MyServer, *statements: str) -> None:
    """Nobody else hears of it."""
    server.sql("; ".join(("SET sql_log_bin = 0", *statements)))


def test_every_setting_that_makes_a_server_unfit_is_named_with_the_others(lab: MyLab) -> None:
    wrong = UNFIT[lab.name]
    server = lab.cluster.standby("db2", lab.db1, *wrong)
    for said in (said_by_itself(lab, server), said_by_check(lab, server)):
        missed = [word for word in wrong.values() if word not in said]
        assert not missed, said
    assert said_by_itself(lab, lab.db1) == "" and said_by_check(lab, lab.db1) == ""


def test_a_server_without_a_binary_log_is_unfit(lab: MyLab) -> None:
    server = lab.cluster.standby("db2", lab.db1, "skip_log_bin", *(["gtid_strict_mode = OFF"] if lab.is_mariadb else []))
    assert "log_bin" in said_by_itself(lab, server)
    assert "log_bin" in said_by_check(lab, server)


def test_a_relay_log_that_a_restart_may_lose_is_told_by_check(lab: MyLab) -> None:
    if lab.is_mariadb:
        pytest.skip("it always may, and nobody can configure it otherwise")
    for number, line in enumerate(("relay_log_recovery = ON", "sync_relay_log = 10000"), 2):
        server = lab.cluster.standby(f"db{number}", lab.db1, line)
        assert line.partition(" ")[0] in said_by_check(lab, server)


def test_the_other_flavour_is_refused_by_name_and_still_answers(trio: MyLab) -> None:
    other = "mysql" if trio.is_mariadb else "mariadb"
    settings = replace(trio.settings(trio.db1), engine=other)
    says = "MariaDB" if trio.is_mariadb else "MySQL"
    state = engine(other).local(settings, "db1", Path(trio.cluster.root)).state(3)
    assert any(says in fault for fault in state.faults), state.faults
    assert state.role is Role.PRIMARY
    assert says in said_by_check(trio, trio.db1, other)
    seen = engine(other).prober(settings, Member("db1", trio.db1.address)).fresh(2)
    assert seen.alive is not False, "it is not what we thought, but it is there"


def test_two_members_with_one_server_id_are_told_by_check_and_by_the_one_that_cannot_receive(lab: MyLab) -> None:
    db2 = lab.cluster.standby("db2", lab.db1, f"server_id = {lab.db1.server_id}")
    assert "server_id" in said_by_check(lab, db2)
    lab.engine(db2).follow(lab.upstream(lab.db1), 3)
    until(lambda: "server_id" in said_by_itself(lab, db2), what="its own fault")


def test_privileges_that_the_operator_misses_are_named(trio: MyLab) -> None:
    revoked = "SUPER, READ_ONLY ADMIN, CONNECTION ADMIN" if trio.is_mariadb else "SUPER, SYSTEM_VARIABLES_ADMIN, CONNECTION_ADMIN"
    unlogged(trio.db1, f"REVOKE {revoked} ON *.* FROM operator@localhost")
    try:
        said = said_by_itself(trio, trio.db1)
        assert "operator" in said and "GRANT" in said, said
    finally:
        unlogged(trio.db1, "GRANT ALL ON *.* TO operator@localhost WITH GRANT OPTION")
    assert said_by_itself(trio, trio.db1) == ""


def test_a_monitor_that_may_see_nothing_is_no_death_and_told_by_check(trio: MyLab) -> None:
    rights = "PROCESS, SLAVE MONITOR, BINLOG MONITOR" if trio.is_mariadb else "PROCESS, REPLICATION CLIENT"
    unlogged(trio.db1, f"REVOKE {rights} ON *.* FROM monitor")
    try:
        assert trio.prober(trio.db1).fresh(2).alive is not False
        said = said_by_check(trio, trio.db1)
        assert "monitor" in said and "GRANT" in said, said
    finally:
        unlogged(trio.db1, f"GRANT {rights} ON *.* TO monitor")
    assert said_by_check(trio, trio.db1) == ""


def test_a_member_without_an_account_of_its_own_is_named_with_the_statement_that_makes_one(trio: MyLab) -> None:
    db1, db2 = trio.db1, trio.cluster.servers["db2"]
    unlogged(db1, f"RENAME USER replicator@'{db2.address}' TO replicator@'198.18.0.0'")
    try:
        assert db2.address in said_by_itself(trio, db1)
        with pytest.raises(Refused, match=rf"CREATE USER .*{db2.address}"):
            trio.engine(db1).apply_sync(SyncSet(1, ("db2",)), 3)
        assert trio.engine(db1).state(2).sync is None
    finally:
        unlogged(db1, f"RENAME USER replicator@'198.18.0.0' TO replicator@'{db2.address}'")


def test_an_application_that_could_write_to_a_read_only_mariadb_is_named(trio: MyLab) -> None:
    if not trio.is_mariadb:
        pytest.skip("super_read_only stops everybody there")
    unlogged(trio.db1, "GRANT READ_ONLY ADMIN ON *.* TO app")
    try:
        said = said_by_itself(trio, trio.db1)  # the monitor cannot see what others may do
        assert "app@%" in said and "REVOKE READ_ONLY ADMIN" in said
    finally:
        unlogged(trio.db1, "REVOKE READ_ONLY ADMIN ON *.* FROM app")


def test_no_secret_is_in_what_is_said(trio: MyLab) -> None:
    """A refused login, a missing account, a source that refuses us: none of it quotes a password."""
    db1, db2 = trio.db1, trio.cluster.servers["db2"]
    unlogged(db1, f"ALTER USER replicator@'{db2.address}' IDENTIFIED BY 'another'")
    said = []
    try:
        local = trio.engine(db2)
        local.stop_receiving(3)
        local.follow(trio.upstream(db1), 3)
        until(lambda: trio.channel(db2)["Last_IO_Errno"], what="the source's refusal")
        said.append(str(local.state(2)))
        said.append(str(trio.prober(db2).fresh(2)))
    except FailoverError as error:
        said.append(str(error))
    finally:
        unlogged(db1, f"ALTER USER replicator@'{db2.address}' IDENTIFIED BY 'secret-rep'")
    assert "secret" not in " ".join(said)
    assert "secret" not in " ".join(map(str, db2.sql("SHOW PROCESSLIST")))
    assert b"secret-rep" not in Path(f"/proc/{db2.main_pid}/cmdline").read_bytes()
