"""MariaDB on the lab's hosts: Debian's own packages."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from failover.lab import my
from failover.lab.configuration import Secrets
from failover.lab.databases import Databases
from failover.lab.host import Host

BACKUP_S = 120.0
ENDS_AT = ("mariadb_backup_binlog_info", "xtrabackup_binlog_info")  # the newer name first


class MariaDb(my.MyDialect):
    """The dialect. See databases.py."""

    engine = "mariadb"
    memory_mib = 100
    server = Path("/usr/sbin/mariadbd")
    client = Path("/usr/bin/mariadb")
    admin = Path("/usr/bin/mariadb-admin")

    def faults(self) -> list[str]:
        needed = [self.server, self.client, self.admin, Path("/usr/bin/mariadb-install-db"), Path("/usr/bin/mariadb-backup")]
        return [f"{path} is not installed" for path in needed if not os.access(path, os.X_OK)]

    def configuration(self) -> str:
        return """\
gtid_strict_mode = ON
log_slave_updates = ON
skip_slave_start = ON
slave_net_timeout = 4
rpl_semi_sync_master_wait_point = AFTER_SYNC
rpl_semi_sync_master_timeout = 4294967295
innodb_log_file_size = 32M
log_warnings = 2
"""

    def init_argv(self, data: str) -> Sequence[str]:
        return ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--force", "--skip-test-db", "--skip-name-resolve",
                "--auth-root-authentication-method=socket", "--innodb-log-file-size=32M"]  # fmt: skip

    def databases(self, hosts: Sequence[Host], replication: str, secrets: Secrets) -> Databases:
        return MariaDbDatabases(hosts, replication, secrets)


class MariaDbDatabases(my.MyDatabases):
    """Masters and slaves, in its own words."""

    dialect = MariaDb()
    open_sql = "SET GLOBAL read_only = OFF;"
    start_sql = "START SLAVE;"
    end_sql = "STOP SLAVE; RESET SLAVE ALL;"
    semi_sync_source = "rpl_semi_sync_master_enabled"
    semi_sync_replica = "rpl_semi_sync_slave_enabled"
    connected = "Rpl_semi_sync_master_clients"

    def accounts(self) -> str:
        monitor = "PROCESS, SLAVE MONITOR, BINLOG MONITOR"
        members = [host.address for host in self.hosts]
        return my.accounts_sql(self.secrets.password, members, monitor, "REPLICATION SLAVE, CONNECTION ADMIN", "BINLOG ADMIN")

    def received(self, host: Host) -> my.Received | None:
        shell = host.dialect.shell(None, None, None)
        argv = [*shell.argv, "--column-names", *shell.once, "SHOW ALL SLAVES STATUS"]
        told = host.run(argv, 10.0, user=shell.login).stdout.splitlines()
        if len(told) < 2:
            return None
        row = dict(zip(told[0].split("\t"), told[1].split("\t"), strict=True))
        return my.Received(row["Master_Host"], row["Slave_IO_Running"] == "Yes", row["Slave_SQL_Running"] == "Yes")

    def point_sql(self, source: Host, password: str) -> str:
        return (
            f"CHANGE MASTER TO MASTER_HOST = '{source.address}', MASTER_PORT = {my.PORT},"
            f" MASTER_USER = 'failover_replication', MASTER_PASSWORD = '{password}', MASTER_USE_GTID = slave_pos,"
            " MASTER_CONNECT_RETRY = 1, MASTER_HEARTBEAT_PERIOD = 1;"
        )

    def take_copy(self, source: Host) -> str:
        """By file, so where it ends stands beside it: the tables that it has copied say where an earlier standby stood."""
        backup = ["mariadb-backup", f"--target-dir={my.COPY}"]
        source.run([*backup, "--backup", "--user=root", f"--socket={my.SOCKET}"], BACKUP_S)
        source.run([*backup, "--prepare"], BACKUP_S)
        taken = my.outside(source, my.COPY)
        told = next((taken / name).read_text() for name in ENDS_AT if (taken / name).exists())
        return f"SET GLOBAL gtid_slave_pos = '{told.split()[-1]}';"
