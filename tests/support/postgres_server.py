"""Real PostgreSQL servers for tests: on loopback addresses of their own, in temporary directories, as user postgres.

`PostgresCluster` makes one primary and clones standbys from it; every server has the same port and its own 127.x
address, as members have in production. `close()` ends every process it started, stopped ones too, and removes the
files.
"""

from __future__ import annotations

import atexit
import functools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg2

from tests.support.scratch import scratch

BIN_DIR = Path("/usr/lib/postgresql/15/bin")
OS_USER = "postgres"
OPERATOR, MONITOR, REPLICATION = ("operator", "secret-op"), ("monitor", "secret-mon"), ("replicator", "secret-rep")

_HBA = """\
local all postgres peer map=test
local replication replicator scram-sha-256
local all all scram-sha-256
host replication replicator 127.0.0.0/8 scram-sha-256
host all app 127.0.0.0/8 trust
host all all 127.0.0.0/8 scram-sha-256
"""
_CONF = """\
listen_addresses = '{address}'
port = {port}
unix_socket_directories = '{socket_dir}'
wal_log_hints = on
max_connections = 40
shared_buffers = 16MB
log_line_prefix = '%m [%p] %b %a '
hot_standby = on
wal_keep_size = 64MB
"""


def missing() -> str | None:
    """Why these tests cannot run here, or None."""
    if os.geteuid() != 0:
        return "needs root: servers run as user postgres"
    return None if (BIN_DIR / "postgres").exists() else "PostgreSQL 15 is not installed"


def until(condition: Callable[[], Any], within_s: float = 10.0, what: str = "the condition") -> Any:
    """Wait until `condition()` is true and return its value. Fails with `what` at the deadline."""
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not come true within {within_s} s"
        time.sleep(0.002)
    return value


def as_postgres(*command: str | Path) -> list[str]:
    """argv that runs `command` as the database's account."""
    who = ["--reuid", OS_USER, "--regid", OS_USER, "--init-groups"]
    return ["setpriv", *who, *map(str, command)]


class PostgresServer:
    """One server. `data_dir` belongs to postgres; `address` is its own loopback address."""

    def __init__(self, name: str, home: Path, address: str, port: int) -> None:
        self.name, self.home, self.address, self.port = name, home, address, port
        self.data_dir = home / "data"
        self.socket_dir = home / "s"
        self.log = home / "server.log"
        self._process: subprocess.Popen[bytes] | None = None
        for directory in (home, self.socket_dir):
            directory.mkdir(exist_ok=True)
            _give_away(directory)

    def configure(self, *lines: str, into: Path | None = None) -> None:
        folder = into or self.data_dir
        conf = _CONF.format(address=self.address, port=self.port, socket_dir=self.socket_dir)
        (folder / "postgresql.conf").write_text(conf + "".join(f"{line}\n" for line in lines))
        (folder / "pg_hba.conf").write_text(_HBA)
        (folder / "pg_ident.conf").write_text("test root postgres\ntest postgres postgres\n")
        for name in ("postgresql.conf", "pg_hba.conf", "pg_ident.conf"):
            _give_away(folder / name)

    def start(self, command: tuple[str, ...] = (), wait: bool = True) -> None:
        argv = as_postgres(*(command or (BIN_DIR / "postgres", "-D", self.data_dir)))
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                argv, cwd=self.data_dir, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        if wait:
            until(self.accepts, 20, f"{self.name} accepting connections")

    def accepts(self) -> bool:
        assert self._process is None or self._process.poll() is None, self.log.read_text()[-2000:]
        try:
            self.sql("SELECT 1")
        except psycopg2.OperationalError:
            return False
        return True

    def sql(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Run as superuser over the local socket; every row."""
        with_self = self.connect()
        try:
            cursor = with_self.cursor()
            cursor.execute(statement, parameters or None)
            return list(cursor.fetchall()) if cursor.description else []
        finally:
            with_self.close()

    def connect(self, user: str = "postgres") -> Any:
        """An open autocommit connection: as postgres over the socket, as any other user over TCP."""
        host = str(self.socket_dir) if user == "postgres" else self.address
        connection = psycopg2.connect(host=host, port=self.port, user=user, dbname="postgres", connect_timeout=5)
        connection.autocommit = True
        return connection

    @property
    def main_pid(self) -> int:
        """The postmaster's pid, as this process started it."""
        assert self._process is not None
        return self._process.pid

    def pids(self) -> list[int]:
        """Every process of the data directory, postmaster or not."""
        return [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and _cwd(p) == str(self.data_dir)]

    def stop(self, mode: int = signal.SIGINT, within_s: float = 20.0) -> None:
        """Stop in order (SIGINT: fast) and wait until every process is gone."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(mode)
            self._process.wait(within_s)
        until(lambda: not self.pids(), within_s, f"{self.name} gone")

    def kill(self) -> None:
        """SIGKILL every process of the data directory."""
        while pids := self.pids():
            _signal(pids, signal.SIGKILL)
            if self._process is not None:
                self._process.poll()
            time.sleep(0.001)
        if self._process is not None:
            self._process.wait(5)

    def freeze(self) -> None:
        _signal(self.pids(), signal.SIGSTOP)

    def thaw(self) -> None:
        _signal(self.pids(), signal.SIGCONT)


class PostgresCluster:
    """A primary `db1` and standbys cloned from it, on one free port."""

    def __init__(self) -> None:
        self.root = scratch("fpg")
        self.root.chmod(0o755)
        self.net = f"127.{77 + os.getpid() % 100}.{os.getpid() // 100 % 250}"
        self.servers: dict[str, PostgresServer] = {}
        self.port = _free_port(f"{self.net}.1")

    def primary(self, *conf: str) -> PostgresServer:
        """Make and start db1 with the accounts the product needs. All of one test run share a system identifier."""
        server = self._new("db1")
        subprocess.run(["cp", "-a", _template() / "data", server.data_dir], check=True)
        server.configure(*conf)
        server.start()
        roles = [(OPERATOR, "SUPERUSER"), (MONITOR, "IN ROLE pg_monitor"), (REPLICATION, "REPLICATION")]
        for (name, password), attributes in roles:
            server.sql(f"CREATE ROLE {name} LOGIN PASSWORD '{password}' {attributes}")
        server.sql("CREATE ROLE app LOGIN; GRANT ALL ON SCHEMA public TO app")
        return server

    def standby(self, name: str, of: PostgresServer, *conf: str, start: bool = True) -> PostgresServer:
        """Clone `of` with pg_basebackup, armed as a standby that follows nobody yet."""
        server = self._new(name)
        _tool(
            "pg_basebackup", "--no-sync", "-c", "fast", "-h", of.socket_dir, "-p", str(of.port), "-U", "replicator",
            "-D", server.data_dir, password=REPLICATION[1],
        )  # fmt: skip
        server.configure(*conf)
        (server.data_dir / "standby.signal").touch()
        _give_away(server.data_dir / "standby.signal")
        if start:
            server.start()
        return server

    def close(self) -> None:
        for server in self.servers.values():
            server.thaw()
            server.kill()
        shutil.rmtree(self.root, ignore_errors=True)

    def __enter__(self) -> PostgresCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _new(self, name: str) -> PostgresServer:
        address = f"{self.net}.{len(self.servers) + 1}"
        server = PostgresServer(name, self.root / name, address, self.port)
        self.servers[name] = server
        return server


@functools.cache
def _template() -> Path:
    """A data directory made once per test run: initdb costs more than everything else."""
    home = scratch("fpg")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    _give_away(home)
    _tool("initdb", "--no-sync", "-A", "trust", "-U", "postgres", "-D", home / "data")
    return home


def _tool(name: str, *arguments: str | Path, password: str = "") -> None:
    environment = {**os.environ, "LC_ALL": "C", "PGPASSWORD": password}
    command = as_postgres(BIN_DIR / name, *arguments)
    done = subprocess.run(command, cwd="/tmp", env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def _give_away(path: Path) -> None:
    account = pwd.getpwnam(OS_USER)
    os.chown(path, account.pw_uid, account.pw_gid)


def _cwd(process: Path) -> str:
    try:
        return os.readlink(process / "cwd")
    except OSError:
        return ""


def _signal(pids: list[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass
