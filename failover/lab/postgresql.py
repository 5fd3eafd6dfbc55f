"""PostgreSQL on the lab's hosts: its files and accounts, and its members made as an administrator makes them by hand."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePath

from failover.lab.commands import LabError, private_file, wait
from failover.lab.configuration import NETWORK, Secrets
from failover.lab.databases import LOOK_S, Databases, Shell
from failover.lab.host import Host
from failover.lab.services import Service

PGROOT = "/var/lib/failover-lab/postgresql"
PGDATA = f"{PGROOT}/main"
SOCKETS = "/run/postgresql"
PASSFILE = "replication.pgpass"
CONF = """
# --- lab ---
listen_addresses = '*'
port = 5432
unix_socket_directories = '/run/postgresql'
wal_level = replica
max_wal_senders = 20
max_replication_slots = 20
wal_log_hints = on
hot_standby = on
wal_keep_size = '256MB'
max_wal_size = '512MB'
max_connections = 60
superuser_reserved_connections = 5
shared_buffers = '64MB'
wal_receiver_timeout = '5s'
wal_sender_timeout = '5s'
wal_receiver_status_interval = '1s'
wal_retrieve_retry_interval = '100ms'
fsync = on
logging_collector = off
log_line_prefix = '%m [%p] %q%u@%d '
log_checkpoints = off
log_replication_commands = on
lc_messages = 'C'
"""


class Postgres:
    """The dialect. See databases.py."""

    engine = "postgresql"
    port = 5432
    os_user = "postgres"
    run_folder = "postgresql"
    root = PGROOT
    data_dir = PGDATA
    memory_mib = 90
    forks = True
    accounts: tuple[str, ...] = ("failover_monitor", "failover_operator", "failover_replication", "failover_rewind", "app")
    prober = "app"
    schema = """
CREATE SCHEMA IF NOT EXISTS lab;
CREATE TABLE IF NOT EXISTS lab.writes (id bigint PRIMARY KEY);
CREATE TABLE IF NOT EXISTS lab.prober (host text NOT NULL, seq bigint NOT NULL);
GRANT USAGE ON SCHEMA lab TO app;
GRANT SELECT, INSERT ON lab.writes, lab.prober TO app;
"""
    emptied = "CREATE SCHEMA IF NOT EXISTS lab; DROP TABLE IF EXISTS lab.writes, lab.prober"
    cannot_follow = "before current recovery point"

    def faults(self) -> list[str]:
        return [] if _installed() else ["no PostgreSQL server is installed"]

    def instance(self) -> Mapping[str, str]:
        return {"data_dir": PGDATA, "bin_dir": str(postgres_bin()), "socket_dir": SOCKETS, "os_user": self.os_user}

    def service(self) -> Service:
        program = postgres_bin()
        ready = [str(program / "pg_isready"), "-q", "-h", SOCKETS, "-t", "2"]
        argv = [str(program / "postgres"), "-D", PGDATA]
        return Service("database", argv, self.os_user, stop_signal=signal.SIGINT, ready=ready)

    def write_files(self, host_dir: Path, number: int) -> None:
        """Nothing: its configuration lies in the data directory."""

    def shell(self, user: str | None, dbname: str | None, address: str | None) -> Shell:
        argv = ("psql", "-XAtqw", "-v", "ON_ERROR_STOP=1", "-h", address or SOCKETS, "-U", user or "postgres",
                "-d", dbname or "postgres")  # fmt: skip
        return Shell(argv, "PGPASSWORD", ("-c",), None if user else self.os_user)

    def lines(self, said: str) -> str:
        return said.strip()

    def databases(self, hosts: Sequence[Host], replication: str, secrets: Secrets) -> Databases:
        return PostgresDatabases(hosts, replication, secrets)


class PostgresDatabases(Databases):
    """Streaming replication with `ANY 1 (...)` unless async."""

    def create(self) -> None:
        first, *others = self.hosts
        self._initialise(first)
        first.start("database")
        first.sql_script(accounts_sql(self.secrets.password))
        with ThreadPoolExecutor(max_workers=max(1, len(others))) as pool:
            list(pool.map(lambda host: self._standby(first, host), others))
        wait(lambda: len(self.streaming(first.name)) == len(others), 15.0, f"{len(others)} standbys streaming")
        if self.replication != "async" and others:
            names = ", ".join(host.name for host in others)
            self._set_sync(first, f"ANY 1 ({names})")

    def copy(self, source: str, member: str) -> None:
        host, upstream = self.named(member), self.named(source)
        self._empty(host)
        self._passfile(host)
        passfile = Secrets.inside(PASSFILE)
        conninfo = f"host={upstream.address} port=5432 user=failover_replication passfile={passfile}"
        argv = [str(postgres_bin() / "pg_basebackup"), "-D", PGDATA, "-d", conninfo, "-X", "stream", "-c", "fast",
                "--no-sync", "-w"]  # fmt: skip
        host.run(argv, 120.0, user="postgres")
        assert host.data_dir is not None
        with open(host.data_dir / "postgresql.auto.conf", "w") as out:
            out.write(f"primary_conninfo = '{conninfo} application_name={member}'\n")
        (host.data_dir / "standby.signal").touch()
        shutil.chown(host.data_dir / "standby.signal", "postgres", "postgres")

    def start(self, member: str) -> None:
        self.named(member).start("database")

    def make_primary(self, member: str) -> None:
        host = self.named(member)
        if host.pid_of("database") is None:
            host.run(["rm", "-f", str(PurePath(PGDATA, "standby.signal"))])
            host.start("database")
        host.sql("SELECT pg_promote(false) WHERE pg_is_in_recovery()")
        wait(lambda: self._role(host), 10.0, f"{member} promoted by hand")

    def wait_for_nobody(self, member: str) -> None:
        self._set_sync(self.named(member), "")

    def waits(self, member: str) -> bool:
        return self.named(member).sql("SHOW synchronous_standby_names") != ""

    def streaming(self, source: str) -> set[str]:
        told = self.named(source).sql("SELECT application_name FROM pg_stat_replication WHERE state = 'streaming'")
        return set(told.split())

    def _role(self, host: Host) -> bool:
        return host.sql("SELECT pg_is_in_recovery()", timeout_s=LOOK_S) == "f"

    def _standby(self, source: Host, host: Host) -> None:
        self.copy(source.name, host.name)
        host.start("database")

    def _initialise(self, host: Host) -> None:
        self._empty(host)
        argv = [str(postgres_bin() / "initdb"), "-D", PGDATA, "--data-checksums", "--no-sync", "--locale=C.UTF-8",
                "--auth-local=peer", "--auth-host=scram-sha-256", "--encoding=UTF8", "--no-instructions"]  # fmt: skip
        host.run(argv, 60.0, user="postgres")
        assert host.data_dir is not None
        with open(host.data_dir / "postgresql.conf", "a") as out:
            out.write(CONF)
        (host.data_dir / "pg_hba.conf").write_text(hba([h.address for h in self.hosts], NETWORK))
        self._passfile(host)

    @staticmethod
    def _set_sync(host: Host, names: str) -> None:
        host.sql(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
        host.sql("SELECT pg_reload_conf()")

    def _passfile(self, host: Host) -> None:
        path = host.directory / "etc-failover/secrets" / PASSFILE
        private_file(path, f"*:*:*:failover_replication:{self.secrets.password('failover_replication')}\n")
        shutil.chown(path, "postgres", "postgres")


def _installed() -> list[Path]:
    return [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")]


def postgres_bin() -> Path:
    """Directory of the newest installed server."""
    found = _installed()
    if not found:
        raise LabError("no PostgreSQL server under /usr/lib/postgresql")
    return max(found, key=lambda path: int(path.parent.name))


def hba(hosts: Sequence[str], network: str) -> str:
    """Service users only from the database hosts, the application from the whole network, postgres only locally."""
    users = "failover_monitor,failover_operator,failover_rewind,failover_replication"
    lines = ["local all postgres peer", f"local all {users} scram-sha-256", "local app app scram-sha-256"]
    for address in hosts:
        lines.append(f"host replication failover_replication {address}/32 scram-sha-256")
        lines.append(f"host all {users} {address}/32 scram-sha-256")
        lines.append(f"host app app {address}/32 reject")  # these addresses pass the gate: service users only (G7)
    return "\n".join([*lines, f"host app app {network} scram-sha-256", ""])


def accounts_sql(password: Callable[[str], str]) -> str:
    """Statements that make every account with the privileges it needs and no more. Holds secrets: feed it by stdin."""
    rewind = ["pg_ls_dir(text, boolean, boolean)", "pg_stat_file(text, boolean)", "pg_read_binary_file(text)",
              "pg_read_binary_file(text, bigint, bigint, boolean)"]  # fmt: skip
    return "\n".join(
        [
            f"CREATE ROLE failover_monitor LOGIN PASSWORD '{password('failover_monitor')}';",
            "GRANT pg_monitor TO failover_monitor;",
            f"CREATE ROLE failover_operator LOGIN SUPERUSER PASSWORD '{password('failover_operator')}';",
            f"CREATE ROLE failover_replication LOGIN REPLICATION PASSWORD '{password('failover_replication')}';",
            f"CREATE ROLE failover_rewind LOGIN PASSWORD '{password('failover_rewind')}';",
            *(f"GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO failover_rewind;" for function in rewind),
            f"CREATE ROLE app LOGIN PASSWORD '{password('app')}';",
            "CREATE DATABASE app OWNER app;",
        ]
    )
