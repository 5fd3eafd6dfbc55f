"""MySQL on the lab's hosts: the programs of a Debian sid root that prepare.sh has made to run here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from failover.lab import my
from failover.lab.configuration import Secrets
from failover.lab.databases import Databases
from failover.lab.host import Host

SID = Path("/var/cache/failover-lab/mysql")
WHY_NOT = SID.with_name("mysql.why-not")  # prepare.sh's reason, if it has tried
NATIVE = SID / "native"
CLONE_S = 120.0


class MySql(my.MyDialect):
    """The dialect. See databases.py."""

    engine = "mysql"
    memory_mib = 380
    accounts = (*my.MyDialect.accounts, "failover_rewind")
    server = NATIVE / "mysqld"
    client = NATIVE / "mysql"
    admin = NATIVE / "mysqladmin"

    def faults(self) -> list[str]:
        if os.access(self.server, os.X_OK):
            return []
        why = WHY_NOT.read_text().strip() if WHY_NOT.exists() else "failover/lab/prepare.sh lab mysql makes it"
        return [f"no MySQL server: {self.server} is not there ({why})"]

    def configuration(self) -> str:
        return f"""\
basedir = {SID}/usr
lc_messages_dir = {SID}/usr/share/mysql
plugin_dir = {SID}/usr/lib/mysql/plugin
secure_file_priv = NULL
mysqlx = OFF
plugin_load_add = semisync_source.so
plugin_load_add = semisync_replica.so
plugin_load_add = mysql_clone.so
plugin_load_add = auth_socket.so
gtid_mode = ON
enforce_gtid_consistency = ON
log_replica_updates = ON
super_read_only = ON
skip_replica_start = ON
replica_net_timeout = 4
relay_log_recovery = OFF
sync_relay_log = 1
loose_rpl_semi_sync_source_wait_point = AFTER_SYNC
loose_rpl_semi_sync_source_timeout = 4294967295
innodb_redo_log_capacity = 64M
log_error_verbosity = 2
performance_schema_digests_size = 200
performance_schema_max_sql_text_length = 256
performance_schema_max_digest_length = 256
performance_schema_max_thread_instances = 200
"""

    def init_argv(self, data: str) -> Sequence[str]:
        usr = SID / "usr"
        return [str(self.server), "--no-defaults", "--initialize-insecure", f"--datadir={data}", f"--basedir={usr}",
                f"--lc-messages-dir={usr}/share/mysql", f"--plugin-dir={usr}/lib/mysql/plugin", "--secure-file-priv=NULL",
                "--innodb-redo-log-capacity=8M", "--skip-log-bin"]  # fmt: skip

    def databases(self, hosts: Sequence[Host], replication: str, secrets: Secrets) -> Databases:
        return MySqlDatabases(hosts, replication, secrets)


class MySqlDatabases(my.MyDatabases):
    """Sources and replicas."""

    dialect = MySql()
    open_sql = "SET GLOBAL super_read_only = OFF; SET GLOBAL read_only = OFF;"
    start_sql = "START REPLICA;"
    end_sql = "STOP REPLICA; RESET REPLICA ALL;"
    semi_sync_source = "rpl_semi_sync_source_enabled"
    semi_sync_replica = "rpl_semi_sync_replica_enabled"
    connected = "Rpl_semi_sync_source_clients"

    def accounts(self) -> str:
        """The administrator's first: until then it has no password, which is what a server without its plugins can make."""
        monitor, replication, copies = "PROCESS, REPLICATION CLIENT", "REPLICATION SLAVE, CONNECTION_ADMIN", "BACKUP_ADMIN"
        members = [host.address for host in self.hosts]
        made = my.accounts_sql(self.secrets.password, members, monitor, replication, "SESSION_VARIABLES_ADMIN", copies)
        schema = "GRANT SELECT ON performance_schema.* TO 'failover_monitor'@'%';"
        return f"ALTER USER root@localhost IDENTIFIED WITH auth_socket;\n{made}\n{schema}"

    def received(self, host: Host) -> my.Received | None:
        told = host.sql(
            "SELECT c.host, s.service_state, a.service_state FROM performance_schema.replication_connection_configuration c"
            " JOIN performance_schema.replication_connection_status s USING (channel_name)"
            " JOIN performance_schema.replication_applier_status a USING (channel_name) WHERE channel_name = ''"
        )
        source, _, states = told.partition("|")
        receives, _, applies = states.partition("|")
        return my.Received(source, receives == "ON", applies == "ON") if source else None

    def point_sql(self, source: Host, password: str) -> str:
        return (
            f"CHANGE REPLICATION SOURCE TO SOURCE_HOST = '{source.address}', SOURCE_PORT = {my.PORT},"
            f" SOURCE_USER = 'failover_replication', SOURCE_PASSWORD = '{password}', SOURCE_AUTO_POSITION = 1,"
            " SOURCE_CONNECT_RETRY = 1, SOURCE_RETRY_COUNT = 1000000, SOURCE_HEARTBEAT_PERIOD = 1, GET_SOURCE_PUBLIC_KEY = 1;"
        )

    def take_copy(self, source: Host) -> str:
        source.sql(f"CLONE LOCAL DATA DIRECTORY = '{my.COPY}'", timeout_s=CLONE_S)
        return ""  # the copy knows what it has executed
