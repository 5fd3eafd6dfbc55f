"""What MySQL and MariaDB say, read without a server: greetings, status rows of both and of old and new versions, switches."""

from __future__ import annotations

from typing import Any

import pytest

from failover.engines.mariadb import Mariadb, merged
from failover.engines.my_dialect import is_mariadb, off, on, parse_channel, version_of
from failover.engines.my_sessions import Someone, _address
from failover.engines.mysql import Mysql

NEW = {
    "Replica_IO_State": "Waiting for source to send event", "Source_Host": "10.77.0.11", "Source_User": "repl",
    "Source_Port": 3306, "Connect_Retry": 1, "Source_Log_File": "binlog.000002", "Read_Source_Log_Pos": 5035,
    "Relay_Log_File": "relay.000002", "Relay_Log_Pos": 5246, "Relay_Source_Log_File": "binlog.000002",
    "Replica_IO_Running": "Yes", "Replica_SQL_Running": "Yes", "Exec_Source_Log_Pos": 4035, "Relay_Log_Space": 5447,
    "Last_IO_Errno": 0, "Last_IO_Error": "", "Last_SQL_Errno": 0, "Last_SQL_Error": "", "SQL_Delay": 0,
    "Retrieved_Gtid_Set": "7cf314bf-eb66-11f1-935e-02fc00000001:1-19,\n8cf314bf-eb66-11f1-935e-02fc00000001:1",
    "Executed_Gtid_Set": "7cf314bf-eb66-11f1-935e-02fc00000001:1-18", "Auto_Position": 1, "Channel_Name": "",
}  # fmt: skip
MARIADB = {
    "Connection_name": "", "Slave_SQL_State": "", "Master_Host": "10.77.0.11", "Master_User": "repl", "Master_Port": 3306,
    "Connect_Retry": 60, "Master_Log_File": "binlog.000003", "Read_Master_Log_Pos": 100, "Relay_Log_File": "relay.000002",
    "Relay_Log_Pos": 300, "Relay_Master_Log_File": "binlog.000001", "Slave_IO_Running": "Connecting", "Slave_SQL_Running": "No",
    "Exec_Master_Log_Pos": 2803, "Relay_Log_Space": 3398, "Last_IO_Errno": 4151, "Last_IO_Error": "account is locked",
    "Last_SQL_Errno": 1062, "SQL_Delay": 5, "Using_Gtid": "Slave_Pos", "Gtid_IO_Pos": "0-1-15",
    "Last_SQL_Error": "Error 'Duplicate entry' on query. Default database: 'app'. Query: 'INSERT INTO people VALUES ('Mary')'",
}  # fmt: skip


def old_words(row: dict[str, Any]) -> dict[str, Any]:
    return {name.replace("Replica", "Slave").replace("Source", "Master"): value for name, value in row.items()}


@pytest.mark.parametrize("row", [NEW, old_words(NEW)])
def test_a_channel_reads_the_same_in_the_words_of_every_version(row: dict[str, Any]) -> None:
    channel = parse_channel(row)
    assert (channel.host, channel.port, channel.user, channel.retry_s) == ("10.77.0.11", 3306, "repl", 1)
    assert channel.receiving == "Yes" and channel.applying and channel.by_gtid and not channel.stopped
    assert channel.received == "7cf314bf-eb66-11f1-935e-02fc00000001:1-19,8cf314bf-eb66-11f1-935e-02fc00000001:1"
    assert channel.lag_bytes == 1000
    assert channel.upstream == "10.77.0.11"


def test_a_receiver_that_keeps_knocking_still_has_an_upstream_and_a_stopped_one_has_none() -> None:
    assert parse_channel(MARIADB).upstream == "10.77.0.11"
    assert parse_channel({**MARIADB, "Slave_IO_Running": "No"}).upstream is None
    assert parse_channel({**MARIADB, "Slave_IO_Running": "Preparing"}).upstream == "10.77.0.11"


def test_mariadbs_gtids_are_in_use_only_by_slave_pos() -> None:
    """A former primary that goes by current_pos would ask for what it wrote itself."""
    assert parse_channel(MARIADB).by_gtid
    for other in ("No", "Current_Pos"):
        assert not parse_channel({**MARIADB, "Using_Gtid": other}).by_gtid


def test_over_several_files_the_lag_is_what_lies_in_the_relay_logs() -> None:
    assert parse_channel(MARIADB).lag_bytes == 3098


def test_an_error_is_told_without_the_rows_of_the_application() -> None:
    channel = parse_channel(MARIADB)
    assert channel.apply_error == "Error 'Duplicate entry' on query."
    assert "Mary" not in str(channel)


@pytest.mark.parametrize(
    ("greeting", "version", "maria"),
    [
        ("9.7.4", (9, 7, 4), False), ("8.0.36-0ubuntu0.22.04.1", (8, 0, 36), False), ("26.10.0", (26, 10, 0), False),
        ("5.5.5-10.11.19-MariaDB-0+deb12u1-log", (10, 11, 19), True), ("11.8.2-MariaDB", (11, 8, 2), True),
        ("nonsense", (0, 0, 0), False),
    ],
)  # fmt: skip
def test_a_server_is_known_by_its_greeting(greeting: str, version: tuple[int, int, int], maria: bool) -> None:
    assert (version_of(greeting), is_mariadb(greeting)) == (version, maria)


def test_words_change_from_a_version_on_and_stay_changed() -> None:
    assert Mysql((8, 0, 21)).show_channels == "SHOW SLAVE STATUS"
    for version in ((8, 0, 22), (8, 4, 0), (9, 7, 4), (26, 10, 0)):
        assert Mysql(version).show_channels == "SHOW REPLICA STATUS"
    assert "log_slave_updates" in Mysql((8, 0, 25)).variables
    assert "log_replica_updates" in Mysql((8, 0, 26)).variables
    assert Mysql((8, 0, 22)).net_timeout == "slave_net_timeout"


@pytest.mark.parametrize("value", [0, "0", "OFF", "off"])
def test_off_is_off(value: object) -> None:
    assert off(value) and not on(value)


@pytest.mark.parametrize("value", [1, "ON", "NO_LOCK", "NO_LOCK_NO_ADMIN"])
def test_whatever_else_read_only_says_it_is_read_only(value: object) -> None:
    """MariaDB 12 has four values."""
    assert not off(value)


def test_of_two_positions_the_newer_of_each_domain_counts() -> None:
    assert ",".join(map(str, merged("0-1-15,7-3-2", "0-2-9,5-1-1,7-4-3"))) == "0-1-15,5-1-1,7-4-3"
    assert merged("", "") == ()


@pytest.mark.parametrize(
    ("host", "address"),
    [("10.77.0.12:40412", "10.77.0.12"), ("10.77.0.12", "10.77.0.12"), ("localhost", "localhost"), ("", ""),
     ("2001:db8::12:40412", "2001:db8::12")],
)  # fmt: skip
def test_where_a_session_comes_from(host: str, address: str) -> None:
    assert _address(host) == address


def test_who_is_a_client() -> None:
    def someone(user: str, command: str) -> Someone:
        return Someone(7, user, "10.77.0.12", command, "")

    assert someone("app", "Sleep").is_client and someone("root", "Killed").is_client
    for user, command in (
        ("repl", "Binlog Dump"), ("repl", "Binlog Dump GTID"), ("system user", "Connect"), ("event_scheduler", "Daemon"),
        ("unauthenticated user", "Connect"), ("", "Daemon"),
    ):  # fmt: skip
        assert not someone(user, command).is_client


def test_limits_are_the_servers_own() -> None:
    select = "SELECT a FROM t"
    assert Mysql((9, 7, 4)).limited(select, 0.2) == "SELECT /*+ MAX_EXECUTION_TIME(200) */ a FROM t"
    assert Mariadb((10, 11, 0)).limited(select, 0.2) == "SET STATEMENT max_statement_time = 0.200 FOR SELECT a FROM t"


def test_a_server_unlike_the_documentation_is_told_every_fault_with_its_remedy() -> None:
    mysql = Mysql((9, 7, 4))
    good = {"gtid_mode": "ON", "enforce_gtid_consistency": "ON", "log_bin": 1, "log_replica_updates": 1, "server_id": 3}
    assert mysql.faults(good) == []
    bad = dict(good, gtid_mode="ON_PERMISSIVE", enforce_gtid_consistency="WARN", log_bin=0, log_replica_updates=0, server_id=0)
    assert [fault.split(" ")[0] for fault in mysql.faults(bad)] == [
        "gtid_mode", "enforce_gtid_consistency", "log_bin", "log_replica_updates", "server_id",
    ]  # fmt: skip
    maria = Mariadb((10, 11, 19))
    assert maria.faults({"gtid_strict_mode": 1, "log_bin": 1, "log_slave_updates": 1, "server_id": 3}) == []
    faults = maria.faults({"gtid_strict_mode": 0, "log_bin": 0, "log_slave_updates": 0, "server_id": 3})
    assert [fault.split(" ")[0] for fault in faults] == ["gtid_strict_mode", "log_bin", "log_slave_updates"]
