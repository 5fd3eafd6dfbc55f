"""PostgreSQL's lab for the contract suites."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg2

from failover.core.model import Member
from failover.settings import InstanceSettings
from tests.support import postgres_server as pg
from tests.support.engine_lab import EngineLab


class PostgresLab(EngineLab):
    name = "postgresql"
    error = psycopg2.Error
    monitor_password = pg.MONITOR[1]
    patient_standby = ("max_standby_streaming_delay = -1", "max_standby_archive_delay = -1")
    quick_ms = 500.0  # left to itself, a paused replay looks once a second

    def __init__(self, cluster: pg.PostgresCluster) -> None:
        super().__init__(cluster, (pg.OPERATOR, pg.MONITOR, pg.REPLICATION))
        self.db1 = cluster.primary()
        self.db1.sql("CREATE TABLE t (id int); GRANT ALL ON t TO app")

    def instance(self, server: pg.PostgresServer) -> InstanceSettings:
        return InstanceSettings(
            port=server.port,
            data_dir=server.data_dir,
            bin_dir=pg.BIN_DIR,
            provider="direct",
            unit=None,
            socket_dir=server.socket_dir,
            os_user=pg.OS_USER,
            database="postgres",
        )

    def members(self) -> tuple[Member, ...]:
        return tuple(Member(server.name, server.address) for server in self.cluster.servers.values())

    def write(self, server: pg.PostgresServer, rows: int = 1) -> None:
        server.sql("INSERT INTO t SELECT generate_series(1, %s)", rows)

    def what_it_was_told(self, connection: Any) -> str:
        return "acknowledged" if not connection.notices else "acknowledged with a warning"

    def pause_replay(self, server: pg.PostgresServer) -> None:
        server.sql("SELECT pg_wal_replay_pause()")

    def replay_held_up(self, server: pg.PostgresServer) -> bool:
        return (self.engine(server).state(1).replay_lag_bytes or 0) > 0

    def lock_table(self, server: pg.PostgresServer, table: str) -> Any:
        return self.transaction(server, f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")

    def receiver(self, server: pg.PostgresServer) -> object:
        return server.sql("SELECT pid FROM pg_stat_wal_receiver")

    def probes(self, server: pg.PostgresServer) -> list[int]:
        found = server.sql("SELECT pid FROM pg_stat_activity WHERE application_name = 'failover probe'")
        return [pid for (pid,) in found]

    def end_session(self, server: pg.PostgresServer, session: int) -> None:
        server.sql("SELECT pg_terminate_backend(%s)", session)

    def pid_file(self, server: pg.PostgresServer) -> Path:
        return server.data_dir / "postmaster.pid"

    def lose_database(self, server: pg.PostgresServer) -> None:
        (server.data_dir / "global" / "pg_control").unlink()
