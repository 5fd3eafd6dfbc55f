"""MySQL 8.0 and later: GTID sets, channels, source/replica words from the versions on that know them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from failover.engines.base import Upstream
from failover.engines.gtid import GtidPosition, GtidSet
from failover.engines.my_connection import Session
from failover.engines.my_dialect import NEW_WORDS, OLD_WORDS, Channel, Dialect, Plugins, Version, Words, on

_REPLICA_WORDS = (8, 0, 22)
_SOURCE_WORDS = (8, 0, 23)
_NEW_VARIABLES = (8, 0, 26)
_PROCESSES = (8, 0, 22)
_WAITS_FOR_THE_REST = """
SELECT t.PROCESSLIST_ID
  FROM performance_schema.replication_applier_status_by_coordinator AS c JOIN performance_schema.threads AS t USING (THREAD_ID)
 WHERE c.CHANNEL_NAME = '' AND c.PROCESSING_TRANSACTION <> '' AND t.PROCESSLIST_ID IS NOT NULL
"""
_THREAD = re.compile(r"#\d+")  # the session that owns a GTID
RETRIES = 86_400_000  # one each second: years
HEARTBEAT_S = 0.5
_PLUGINS = (
    "SELECT PLUGIN_NAME FROM information_schema.PLUGINS WHERE PLUGIN_NAME LIKE 'rpl_semi_sync%' AND PLUGIN_STATUS = 'ACTIVE'"
)


class Mysql(Dialect):
    engine = "mysql"
    product = "MySQL"
    changes_while_applying = True
    stops_administrators = True

    def __init__(self, version: Version) -> None:
        super().__init__(version)
        self.replica = "REPLICA" if version >= _REPLICA_WORDS else "SLAVE"
        self._source = "SOURCE" if version >= _SOURCE_WORDS else "MASTER"
        self._log_updates = "log_replica_updates" if version >= _NEW_VARIABLES else "log_slave_updates"
        self.net_timeout = "replica_net_timeout" if version >= _NEW_VARIABLES else "slave_net_timeout"
        self.forget_received = f"RESET {self.replica} FOR CHANNEL ''"
        self.show_channels = f"SHOW {self.replica} STATUS"
        self.variables = (
            "read_only", "super_read_only", "server_uuid", "server_id", "gtid_executed", "gtid_mode", "enforce_gtid_consistency",
            "log_bin", self._log_updates, "sync_binlog", "innodb_flush_log_at_trx_commit", "sync_relay_log",
            "relay_log_recovery", "event_scheduler", "skip_name_resolve", "performance_schema", self.net_timeout,
        )  # fmt: skip

    def position(self, values: Mapping[str, Any], channel: Channel | None) -> GtidPosition:
        received = channel.received if channel else ""
        return GtidPosition.reported(str(values["server_uuid"]), str(values["gtid_executed"]), received)

    def executed(self, values: Mapping[str, Any]) -> GtidPosition:
        return self.position(values, None)

    def plugins(self, session: Session) -> Plugins:
        """Old and new ones cannot be loaded together."""
        known = session.memo.get("plugins")
        if isinstance(known, Plugins):
            return known
        loaded = {str(row[0]).lower() for row in session.run(_PLUGINS)}

        def words(side: str) -> Words | None:
            return next((w for w in (NEW_WORDS, OLD_WORDS) if f"rpl_semi_sync_{getattr(w, side)}" in loaded), None)

        found = Plugins(words("source"), words("replica"))
        session.memo["plugins"] = found
        return found

    def limited(self, select: str, limit_s: float) -> str:
        return select.replace("SELECT", f"SELECT /*+ MAX_EXECUTION_TIME({max(1, int(limit_s * 1000))}) */", 1)

    def processes(self, session: Session) -> str:
        """The performance schema's needs no lock that every session needs; it is empty where that schema is off."""
        if "processes" not in session.memo:
            better = self.version >= _PROCESSES and on(session.value("SELECT @@GLOBAL.performance_schema"))
            session.memo["processes"] = f"{'performance_schema.processlist' if better else 'information_schema.PROCESSLIST'}"
        return str(session.memo["processes"])

    def stop(self, thread: str = "") -> str:
        return f"STOP {self.replica} {thread} FOR CHANNEL ''"

    def start(self, thread: str = "") -> str:
        return f"START {self.replica} {thread} FOR CHANNEL ''"

    def end_of_applying(self, session: Session) -> int | None:
        """Told to stop, a coordinator waits a minute for that rest. Ended, it rolls back what there is and says 1756."""
        rows = session.run(_WAITS_FOR_THE_REST)
        return int(rows[0][0]) if rows else None

    def forget_source(self) -> str:
        return f"RESET {self.replica} ALL FOR CHANNEL ''"

    def forget_other(self, name: str) -> str:
        return f"STOP {self.replica} FOR CHANNEL '{name}'; RESET {self.replica} ALL FOR CHANNEL '{name}'"

    def change(self, upstream: Upstream, account: tuple[str, str], channel: Channel | None, session: Session) -> Sequence[str]:
        """What is not stated keeps its value, the TLS options above all. GTIDs are stated only where they are not in use yet:
        that alone needs both threads stopped, and then the relay logs are deleted."""
        source = self._source
        words = [
            f"{source}_HOST = {session.quoted(upstream.address)}", f"{source}_PORT = {upstream.port}",
            f"{source}_USER = {session.quoted(account[0])}", f"{source}_PASSWORD = {session.quoted(account[1])}",
            f"GET_{source}_PUBLIC_KEY = 1", f"{source}_CONNECT_RETRY = 1", f"{source}_RETRY_COUNT = {RETRIES}",
            f"{source}_HEARTBEAT_PERIOD = {HEARTBEAT_S}",
        ]  # fmt: skip
        if channel is None or not channel.by_gtid:
            words.append(f"{source}_AUTO_POSITION = 1")
        what = "CHANGE REPLICATION SOURCE TO" if source == "SOURCE" else "CHANGE MASTER TO"
        return [f"{what} {', '.join(words)} FOR CHANNEL ''"]

    def apply_all_received(self, session: Session, channel: Channel) -> None:
        """The relay logs stay where they are, also over a restart."""
        session.run(self.start("SQL_THREAD"))

    def wait_applied(self, session: Session, received: str, slice_s: float) -> bool:
        return bool(session.value("SELECT WAIT_FOR_EXECUTED_GTID_SET(%s, %s)", [received, slice_s]) == 0)

    @property
    def read_only(self) -> str:
        return "SET GLOBAL super_read_only = ON"

    @property
    def only_administrators(self) -> str:
        return "SET GLOBAL super_read_only = OFF"

    @property
    def accounts(self) -> str:
        return "SELECT Host, account_locked = 'Y' FROM mysql.user WHERE User = %s"

    operator_needs = (
        "SYSTEM_VARIABLES_ADMIN", "CONNECTION_ADMIN", "REPLICATION_SLAVE_ADMIN", "BINLOG_ADMIN", "PROCESS", "REPLICATION CLIENT",
        "CREATE USER", "RELOAD", "SELECT",
    )  # fmt: skip
    monitor_needs = ("PROCESS", "REPLICATION CLIENT")

    def decided_by_files(self, session: Session, names: Sequence[str]) -> list[str]:
        """Nothing is known where the performance schema is off."""
        listed = ", ".join(f"'{name}'" for name in names)
        select = "SELECT VARIABLE_NAME FROM performance_schema.variables_info WHERE VARIABLE_SOURCE <> 'DYNAMIC'"
        return [str(row[0]).lower() for row in session.run(f"{select} AND VARIABLE_NAME IN ({listed})")]

    def with_commits_under_way(self, session: Session) -> GtidPosition:
        """The owned ones first: who has finished between the two looks is in the executed ones."""
        owned = _THREAD.sub("", str(session.value("SELECT @@GLOBAL.gtid_owned") or ""))
        executed = self.executed(self.read(session))
        return replace(executed, log=executed.log.union(GtidSet.parse(owned)))

    def faults(self, values: Mapping[str, Any]) -> list[str]:
        wanted = {
            "gtid_mode": "positions are GTID sets", "enforce_gtid_consistency": "gtid_mode needs it",
            "log_bin": "a standby must be able to become the source", self._log_updates: "a standby must keep what it applies",
        }  # fmt: skip
        found = [
            f"{name} is {values[name]} ({why}): set {name}=ON in my.cnf"
            for name, why in wanted.items()
            if str(values[name]).upper() not in ("1", "ON")
        ]
        if not values["server_id"]:
            found.append("server_id is 0: give each member a number of its own in my.cnf")
        return found
