"""The lab of MySQL and MariaDB for the contract suites. Both know members db1, db2 and db3, whether they run or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pymysql

from failover.core.model import Member
from failover.settings import InstanceSettings
from tests.support import mysql_server as my
from tests.support.engine_lab import MEMBERS, EngineLab
from tests.support.postgres_server import until

NUMBERS = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) SELECT i FROM n"
SEMI_SYNC_WAIT = "SELECT count(*) FROM information_schema.PROCESSLIST WHERE STATE LIKE 'Waiting for semi-sync ACK%'"
_WORDS = {True: {"replica": "SLAVE", "source": "MASTER"}, False: {"replica": "REPLICA", "source": "SOURCE"}}


class MyLab(EngineLab):
    error = pymysql.MySQLError
    monitor_password = my.MONITOR[1]

    def __init__(self, cluster: my.MyCluster, *conf: str) -> None:
        super().__init__(cluster, (my.OPERATOR, my.MONITOR, my.REPLICATION))
        self.name = cluster.flavour.name
        self.db1 = cluster.primary(*conf)
        self.db1.sql("CREATE TABLE app.t (id int)")

    def instance(self, server: my.MyServer) -> InstanceSettings:
        return InstanceSettings(
            port=server.port,
            data_dir=server.data_dir,
            bin_dir=self.cluster.flavour.bin_dir,
            provider="direct",
            unit=None,
            socket_dir=server.socket_dir,
            os_user=my.OS_USER,
            database=my.DATABASE,
            config_file=server.config_file,
        )

    def members(self) -> tuple[Member, ...]:
        return tuple(Member(name, self.cluster.host(name).address) for name in MEMBERS)

    def standby(self, name: str, of: my.MyServer | None = None, *conf: str) -> my.MyServer:
        """It has executed what was there, as a copy of PostgreSQL's has: the table as well."""
        server: my.MyServer = super().standby(name, of, *conf)
        until(lambda: server.received(of or self.db1), what=f"the beginning on {name}")
        return server

    def write(self, server: my.MyServer, rows: int = 1) -> None:
        server.sql(f"INSERT INTO t {NUMBERS.format(rows=rows)}")

    def what_it_was_told(self, connection: Any) -> str:
        return "acknowledged" if not connection.show_warnings() else "acknowledged with a warning"

    def pause_replay(self, server: my.MyServer) -> None:
        server.sql(self.words("STOP {replica} SQL_THREAD"))

    def replay_held_up(self, server: my.MyServer) -> bool:
        waits = "SELECT count(*) FROM information_schema.PROCESSLIST WHERE STATE LIKE 'Waiting for table metadata lock%'"
        return bool(server.value(waits))

    def lock_table(self, server: my.MyServer, table: str) -> Any:
        connection = server.connect()
        connection.cursor().execute(f"LOCK TABLES {table} WRITE")
        return connection

    def receiver(self, server: my.MyServer) -> object:
        return server.sql(
            "SELECT ID FROM information_schema.PROCESSLIST WHERE USER = 'system user'"
            " AND STATE LIKE 'Waiting for % to send event'"
        )

    def probes(self, server: my.MyServer) -> list[int]:
        return [session for (session,) in server.sql("SELECT ID FROM information_schema.PROCESSLIST WHERE USER = 'monitor'")]

    def end_session(self, server: my.MyServer, session: int) -> None:
        server.sql(f"KILL {session}")

    def pid_file(self, server: my.MyServer) -> Path:
        return server.data_dir / "mysqld.pid"

    def lose_database(self, server: my.MyServer) -> None:
        for path in (*server.data_dir.glob("ibdata1"), *server.data_dir.glob("mysql.ibd")):
            path.unlink()

    # --- the family's own -------------------------------------------------------------------------------------------

    def words(self, statement: str) -> str:
        """`statement` with {replica} and {source} in the words of this flavour."""
        return statement.format(**_WORDS[self.is_mariadb])

    @property
    def is_mariadb(self) -> bool:
        return self.name == "mariadb"

    def channel(self, server: my.MyServer) -> dict[str, Any]:
        """What the server says of what it receives; MariaDB's column names in MySQL's words."""
        found = server.record(self.words("SHOW {replica} STATUS"))
        return {name.replace("Master", "Source").replace("Slave", "Replica"): value for name, value in found.items()}

    def semi_sync(self, server: my.MyServer, name: str) -> Any:
        """Global variable of the source half: "enabled", "timeout"."""
        half = "master" if self.is_mariadb else "source"
        return server.value(f"SELECT @@GLOBAL.rpl_semi_sync_{half}_{name}")

    def waiting(self, server: my.MyServer) -> int:
        """Sessions whose commit waits for an acknowledgement."""
        return int(server.value(SEMI_SYNC_WAIT))
