"""MariaDB 10.6 and later: one line of transactions for each domain, and relay logs that a start throws away.

Whenever a thread of replication starts while neither runs, the server deletes all relay logs, applied or not. So received log is
safe only while the applier goes on; `apply_all_received` is the way out where it stood still.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from failover.engines.base import Upstream
from failover.engines.maria_gtid import Gtid, MariaPosition, parse_gtids
from failover.engines.my_connection import Session
from failover.engines.my_dialect import OLD_WORDS, Channel, Dialect, Plugins, Version, on
from failover.engines.mysql import HEARTBEAT_S

_DEMOTES = (10, 10, 0)


class Mariadb(Dialect):
    engine = "mariadb"
    product = "MariaDB"
    changes_while_applying = False
    forget_received = "RESET SLAVE"
    stops_administrators = False
    show_channels = "SHOW ALL SLAVES STATUS"
    replica = "SLAVE"
    net_timeout = "slave_net_timeout"
    variables = (
        "read_only", "server_id", "gtid_binlog_state", "gtid_binlog_pos", "gtid_slave_pos", "gtid_strict_mode", "log_bin",
        "log_slave_updates", "sync_binlog", "innodb_flush_log_at_trx_commit", "event_scheduler", "skip_name_resolve",
        "slave_net_timeout",
    )  # fmt: skip

    def __init__(self, version: Version) -> None:
        super().__init__(version)

    def position(self, values: Mapping[str, Any], channel: Channel | None) -> MariaPosition:
        return MariaPosition.reported(
            int(values["server_id"]), str(values["gtid_binlog_state"]), str(values["gtid_binlog_pos"]),
            str(values["gtid_slave_pos"]), channel.received if channel else "",
        )  # fmt: skip

    def executed(self, values: Mapping[str, Any]) -> MariaPosition:
        return self.position(values, None)

    def plugins(self, session: Session) -> Plugins:
        """Built in."""
        return Plugins(OLD_WORDS, OLD_WORDS)

    def limited(self, select: str, limit_s: float) -> str:
        return f"SET STATEMENT max_statement_time = {max(0.001, limit_s):.3f} FOR {select}"

    def processes(self, session: Session) -> str:
        return "information_schema.PROCESSLIST"

    def stop(self, thread: str = "") -> str:
        return f"STOP SLAVE {thread}"

    def start(self, thread: str = "") -> str:
        return f"START SLAVE {thread}"

    def forget_source(self) -> str:
        return "RESET SLAVE ALL"

    def forget_other(self, name: str) -> str:
        return f"STOP SLAVE '{name}'; RESET SLAVE '{name}' ALL"

    def change(self, upstream: Upstream, account: tuple[str, str], channel: Channel | None, session: Session) -> Sequence[str]:
        """What is not stated keeps its value, but not the use of GTIDs: RESET SLAVE quietly changes that.

        A server that was primary has written what `gtid_slave_pos` does not know of, and would ask for it again: its own log is
        made part of that first.
        """
        words = [
            f"MASTER_HOST = {session.quoted(upstream.address)}", f"MASTER_PORT = {upstream.port}",
            f"MASTER_USER = {session.quoted(account[0])}", f"MASTER_PASSWORD = {session.quoted(account[1])}",
            "MASTER_CONNECT_RETRY = 1", f"MASTER_HEARTBEAT_PERIOD = {HEARTBEAT_S}", "MASTER_USE_GTID = slave_pos",
        ]  # fmt: skip
        before: list[str] = []
        written, replicated = session.run("SELECT @@GLOBAL.gtid_binlog_pos, @@GLOBAL.gtid_slave_pos")[0]
        whole = merged(str(written), str(replicated))
        if whole != parse_gtids(str(replicated)):
            if self.version >= _DEMOTES:
                words.append("MASTER_DEMOTE_TO_SLAVE = 1")
            else:
                before.append(f"SET GLOBAL gtid_slave_pos = '{','.join(map(str, whole))}'")
        return [*before, f"CHANGE MASTER TO {', '.join(words)}"]

    def apply_all_received(self, session: Session, channel: Channel) -> None:
        """While the receiver runs a start of the applier harms nothing. If neither runs, the relay logs are named by file and
        byte, without GTIDs: only so are they kept."""
        if channel.stopped and channel.received:
            row = session.table(self.show_channels)
            ours = next(r for r in row if not r["Connection_name"])
            file, position = ours["Relay_Log_File"], int(ours["Relay_Log_Pos"])
            session.run(
                f"CHANGE MASTER TO RELAY_LOG_FILE = {session.quoted(file)}, RELAY_LOG_POS = {position}, MASTER_USE_GTID = no"
            )
        session.run(self.start("SQL_THREAD"))

    def wait_applied(self, session: Session, received: str, slice_s: float) -> bool:
        return bool(session.value("SELECT MASTER_GTID_WAIT(%s, %s)", [received, slice_s]) == 0)

    @property
    def read_only(self) -> str:
        return "SET GLOBAL read_only = ON"

    @property
    def only_administrators(self) -> str:
        return "SET GLOBAL read_only = ON"

    @property
    def accounts(self) -> str:
        return "SELECT Host, COALESCE(JSON_VALUE(Priv, '$.account_locked'), 0) FROM mysql.global_priv WHERE User = %s"

    operator_needs = (
        "READ_ONLY ADMIN", "CONNECTION ADMIN", "REPLICATION SLAVE ADMIN", "REPLICATION MASTER ADMIN", "BINLOG ADMIN",
        "SLAVE MONITOR", "PROCESS", "CREATE USER", "RELOAD", "SELECT", "SUPER",
    )  # fmt: skip
    monitor_needs = ("PROCESS", "SLAVE MONITOR", "BINLOG MONITOR")

    def decided_by_files(self, session: Session, names: Sequence[str]) -> list[str]:
        listed = ", ".join(f"'{name.upper()}'" for name in names)
        select = "SELECT VARIABLE_NAME FROM information_schema.SYSTEM_VARIABLES WHERE GLOBAL_VALUE_ORIGIN <> 'SQL'"
        return [str(row[0]).lower() for row in session.run(f"{select} AND VARIABLE_NAME IN ({listed})")]

    def faults(self, values: Mapping[str, Any]) -> list[str]:
        wanted = {
            "gtid_strict_mode": "else a member could write into a line that it is not on",
            "log_bin": "a standby must be able to become the source", "log_slave_updates": "a standby must keep what it applies",
        }  # fmt: skip
        found = [
            f"{name} is {values[name]} ({why}): set {name}=ON in my.cnf" for name, why in wanted.items() if not on(values[name])
        ]
        if not values["server_id"]:
            found.append("server_id is 0: give each member a number of its own in my.cnf")
        return found


def merged(*positions: str) -> tuple[Gtid, ...]:
    """The newest of each domain, in ascending order. Raises Corrupt."""
    newest: dict[int, Gtid] = {}
    for text in positions:
        for gtid in parse_gtids(text):
            if gtid.domain not in newest or gtid.number > newest[gtid.domain].number:
                newest[gtid.domain] = gtid
    return tuple(newest[domain] for domain in sorted(newest))
