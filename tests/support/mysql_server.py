"""Real MySQL and MariaDB servers for tests, each on a host of its own, in temporary directories, as user mysql.

`MyCluster(flavour)` makes one primary `db1` and empty standbys that can have its whole log. All have the same port; each has an
address and a network namespace of its own (`numbered_hosts`), because a source knows its replicas by the address they come
from. Every server boots read-only and receives from nobody. `close()` ends every process it started, stopped ones too, and
removes the files.
"""

from __future__ import annotations

import atexit
import functools
import itertools
import os
import pwd
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymysql
from pymysql.constants import CLIENT

from failover.lab.processes import is_stopped
from tests.support.numbered_hosts import ADDRESSES, OUTSIDE, Host, taken, why_not
from tests.support.postgres_server import until
from tests.support.scratch import scratch

OS_USER = "mysql"
PORT = 3306
DATABASE = "failover"
OPERATOR, MONITOR, REPLICATION = ("operator", "secret-op"), ("monitor", "secret-mon"), ("replicator", "secret-rep")

_ROOT = Path("/var/cache/failover-lab/mysql")
_OPTIONS = """\
[mysqld]
datadir = {home}/data
socket = {home}/s/mysqld.sock
pid_file = {home}/data/mysqld.pid
bind_address = {address}
port = {port}
server_id = {server_id}
tmpdir = {home}/tmp
log_bin = binlog
relay_log = relay
sync_binlog = 1
sync_relay_log = 1
innodb_flush_log_at_trx_commit = 1
innodb_buffer_pool_size = 32M
max_connections = 40
skip_name_resolve = ON
read_only = ON
"""
_GRANTS = {
    "mysql": """
GRANT PROCESS, REPLICATION CLIENT ON *.* TO 'monitor'@'%';
GRANT SELECT ON performance_schema.* TO 'monitor'@'%';
GRANT REPLICATION SLAVE, CONNECTION_ADMIN, BACKUP_ADMIN ON *.* TO {replicas};
""",
    "mariadb": """
GRANT PROCESS, SLAVE MONITOR, BINLOG MONITOR ON *.* TO 'monitor'@'%';
GRANT REPLICATION SLAVE, CONNECTION ADMIN ON *.* TO {replicas};
""",
}


@dataclass(frozen=True)
class Flavour:
    """What differs between the two for somebody who only runs them. `bin_dir` is what the product is told."""

    name: str
    bin_dir: Path
    program: str
    options: str  # lines of my.cnf
    follow: str  # {host}, {port}: begin to receive, for stories without the product
    read_write: str

    @property
    def mysqld(self) -> Path:
        return self.bin_dir / self.program


MYSQL = Flavour(
    name="mysql",
    bin_dir=_ROOT / "native",
    program="mysqld",
    options=f"""\
basedir = {_ROOT}/usr
lc_messages_dir = {_ROOT}/usr/share/mysql
plugin_dir = {_ROOT}/usr/lib/mysql/plugin
secure_file_priv = NULL
mysqlx = OFF
gtid_mode = ON
enforce_gtid_consistency = ON
log_replica_updates = ON
super_read_only = ON
skip_replica_start = ON
replica_net_timeout = 8
relay_log_recovery = OFF
plugin_load_add = semisync_source.so
plugin_load_add = semisync_replica.so
plugin_load_add = mysql_clone.so
innodb_redo_log_capacity = 16M
""",
    follow=f"CHANGE REPLICATION SOURCE TO SOURCE_HOST='{{host}}', SOURCE_PORT={{port}}, SOURCE_USER='{REPLICATION[0]}',"
    f" SOURCE_PASSWORD='{REPLICATION[1]}', SOURCE_AUTO_POSITION=1, SOURCE_SSL=1, SOURCE_CONNECT_RETRY=1; START REPLICA",
    read_write="SET GLOBAL super_read_only = OFF, GLOBAL read_only = OFF",
)
MARIADB = Flavour(
    name="mariadb",
    bin_dir=Path("/usr/sbin"),
    program="mariadbd",
    options="""\
binlog_format = ROW
log_slave_updates = ON
gtid_strict_mode = ON
skip_slave_start = ON
slave_net_timeout = 8
rpl_semi_sync_master_wait_point = AFTER_SYNC
innodb_log_file_size = 16M
aria_pagecache_buffer_size = 8M
key_buffer_size = 1M
""",
    follow=f"CHANGE MASTER TO MASTER_HOST='{{host}}', MASTER_PORT={{port}}, MASTER_USER='{REPLICATION[0]}',"
    f" MASTER_PASSWORD='{REPLICATION[1]}', MASTER_USE_GTID=slave_pos, MASTER_CONNECT_RETRY=1; START SLAVE",
    read_write="SET GLOBAL read_only = OFF",
)
FLAVOURS = {flavour.name: flavour for flavour in (MYSQL, MARIADB)}
_server_ids = itertools.count(1)


def missing(flavour: str = "mysql") -> str | None:
    """Why tests of this flavour cannot run here, or None."""
    if reason := why_not():
        return reason
    where = FLAVOURS[flavour].mysqld
    return None if where.exists() else f"{flavour} is not installed: no {where}"


class MyServer:
    """One server on `host`. `data_dir` belongs to mysql; `config_file` is its my.cnf, beside the data."""

    def __init__(self, name: str, home: Path, host: Host, flavour: Flavour) -> None:
        self.name, self.home, self.host, self.flavour = name, home, host, flavour
        self.address, self.port = host.address, PORT
        self.data_dir, self.socket_dir = home / "data", home / "s"
        self.config_file, self.log = home / "my.cnf", home / "server.log"
        self.server_id = next(_server_ids)
        self._process: subprocess.Popen[bytes] | None = None
        for directory in (home, self.socket_dir, home / "tmp"):
            directory.mkdir(exist_ok=True)
            give_away(directory)

    def configure(self, *lines: str) -> None:
        """Write my.cnf; `lines` ("name = value") come last, so they win."""
        text = _OPTIONS.format(home=self.home, address=self.address, port=self.port, server_id=self.server_id)
        self.config_file.write_text(text + self.flavour.options + "".join(f"{line}\n" for line in lines))
        self.config_file.chmod(0o644)

    def start(self, command: tuple[str, ...] = (), wait: bool = True) -> None:
        """Run `command`, or the server with its my.cnf and nothing else, as a careless administrator would."""
        argv = as_mysql(*(command or (self.flavour.mysqld, f"--defaults-file={self.config_file}")))
        with self.log.open("ab") as log, self.host.inside():
            self._process = subprocess.Popen(
                argv, cwd=self.data_dir, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        if wait:
            until(self.accepts, 30, f"{self.name} accepting connections")

    def accepts(self) -> bool:
        assert self._process is None or self._process.poll() is None, self.log.read_text(errors="replace")[-2000:]
        try:
            self.sql("SELECT 1")
        except pymysql.err.OperationalError:
            return False
        return True

    def sql(self, statements: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Run as root over the local socket; every row of the last statement that has rows."""
        connection = self.connect()
        try:
            cursor, rows = connection.cursor(), []
            cursor.execute(statements, parameters or None)
            while True:
                rows = list(cursor.fetchall()) if cursor.description else rows
                if not cursor.nextset():
                    return rows
        finally:
            connection.close()

    def record(self, statement: str) -> dict[str, Any]:
        """The first row by column names, {} if there is none: SHOW REPLICA STATUS has sixty of them."""
        connection = self.connect()
        try:
            cursor = connection.cursor(pymysql.cursors.DictCursor)
            cursor.execute(statement)
            return dict(cursor.fetchone() or {})
        finally:
            connection.close()

    def value(self, statement: str) -> Any:
        return self.sql(statement)[0][0]

    def connect(self, user: str = "root", read_timeout_s: float | None = 60.0) -> Any:
        """An open autocommit connection to schema `app`: as root over the socket, as any other user over TCP."""
        where: dict[str, Any] = {"host": self.address, "port": self.port}
        if user == "root":
            where = {"unix_socket": str(self.socket_dir / "mysqld.sock")}
        return pymysql.connect(
            **where, user=user, password="", database="app", autocommit=True, connect_timeout=5,
            read_timeout=read_timeout_s, client_flag=CLIENT.MULTI_STATEMENTS,
            ssl_disabled=True,  # the driver reads every certificate authority of the machine for each connection: 20 ms
        )  # fmt: skip

    def replicate_from(self, source: MyServer) -> None:
        """By hand, without the product."""
        self.sql(self.flavour.follow.format(host=source.address, port=source.port))

    def received(self, source: MyServer) -> bool:
        """True if this server has executed all that `source` has written so far."""
        if self.flavour is MARIADB:
            return bool(self.value("SELECT @@gtid_current_pos") == source.value("SELECT @@gtid_current_pos"))
        return bool(self.value(f"SELECT GTID_SUBSET('{source.value('SELECT @@gtid_executed')}', @@gtid_executed)"))

    @property
    def main_pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def pids(self) -> list[int]:
        """Every process of the data directory."""
        return [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and _cwd(p) == str(self.data_dir)]

    def stop(self, mode: int = signal.SIGTERM, within_s: float = 30.0) -> None:
        """Stop in order and wait until every process is gone."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(mode)
            self._process.wait(within_s)
        until(lambda: not self.pids(), within_s, f"{self.name} gone")

    def kill(self) -> None:
        """SIGKILL every process of the data directory."""

        def gone() -> bool:
            _signal(pids := self.pids(), signal.SIGKILL)
            if self._process is not None:
                self._process.poll()
            return not pids

        until(gone, 10, f"{self.name} killed")
        if self._process is not None:
            self._process.wait(5)

    def freeze(self) -> None:
        """Returns when every thread stands still: they stop one after another."""
        _signal(self.pids(), signal.SIGSTOP)
        until(lambda: all(is_stopped(pid) for pid in self.pids()), 5, f"{self.name} frozen")

    def thaw(self) -> None:
        _signal(self.pids(), signal.SIGCONT)


class MyCluster:
    """A primary `db1` and standbys of the same flavour, which share an empty beginning."""

    def __init__(self, flavour: str) -> None:
        self.flavour = FLAVOURS[flavour]
        self.root = scratch("fmy")
        self.root.chmod(0o755)
        self.servers: dict[str, MyServer] = {}
        self._hosts: dict[str, Host] = {}

    def host(self, name: str) -> Host:
        """Where `name` runs, or would run."""
        if name not in self._hosts:
            self._hosts[name] = taken()
        return self._hosts[name]

    def primary(self, *conf: str) -> MyServer:
        """Make and start db1, writable."""
        server = self.standby("db1", None, *conf)
        server.sql(self.flavour.read_write)
        return server

    def standby(self, name: str, of: MyServer | None, *conf: str, start: bool = True) -> MyServer:
        """A new server with the accounts, no log and nobody to follow; all of `of`'s log is still there for it."""
        assert of is None or of.flavour is self.flavour
        server = MyServer(name, self.root / name, self.host(name), self.flavour)
        self.servers[name] = server
        subprocess.run(["cp", "-a", _template(self.flavour.name), server.data_dir], check=True)
        server.configure(*conf)
        if start:
            server.start()
        return server

    def close(self) -> None:
        for server in self.servers.values():
            server.thaw()
            server.kill()
        for host in self._hosts.values():
            host.release()
        shutil.rmtree(self.root, ignore_errors=True)

    def __enter__(self) -> MyCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def as_mysql(*command: str | Path) -> list[str]:
    """argv that runs `command` as the database's account, and not longer than the thread that started it."""
    who = ["--reuid", OS_USER, "--regid", OS_USER, "--init-groups", "--pdeathsig", "KILL"]
    return ["setpriv", *who, *map(str, command)]


def give_away(path: Path) -> None:
    account = pwd.getpwnam(OS_USER)
    os.chown(path, account.pw_uid, account.pw_gid)


@functools.cache
def _template(flavour: str) -> Path:
    """A data directory with the accounts in it and no log, made once per test run: it costs seconds."""
    home = scratch("fmy")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    give_away(home)
    accounts = home / "accounts.sql"
    accounts.write_text(_accounts(flavour))
    data, kind = home / "data", FLAVOURS[flavour]
    if kind is MARIADB:
        small = ["--no-defaults", f"--datadir={data}", "--innodb-log-file-size=16M", "--innodb-buffer-pool-size=32M"]
        _run("mariadb-install-db", *small, "--auth-root-authentication-method=normal", "--skip-test-db")
        _run(kind.mysqld, *small, "--bootstrap", stdin=f"FLUSH PRIVILEGES;\n{accounts.read_text()}")
    else:
        places = [f"--basedir={_ROOT}/usr", f"--lc-messages-dir={_ROOT}/usr/share/mysql"]
        _run(kind.mysqld, "--no-defaults", "--initialize-insecure", f"--datadir={data}", *places, f"--init-file={accounts}")
        (data / "auto.cnf").unlink()  # every copy is a server of its own
    return data


def _accounts(flavour: str) -> str:
    replicas = [f"'{REPLICATION[0]}'@'{address}'" for address in (*ADDRESSES, OUTSIDE)]
    made = [("'operator'@'localhost'", OPERATOR[1]), ("'monitor'@'%'", MONITOR[1]), ("'app'@'%'", "")]
    made += [(replica, REPLICATION[1]) for replica in replicas]
    users = "".join(f"CREATE USER {who} IDENTIFIED BY '{password}';\n" for who, password in made)
    schemas = f"CREATE DATABASE app;\nGRANT ALL ON app.* TO 'app'@'%';\nGRANT SELECT ON {DATABASE}.* TO 'monitor'@'%';\n"
    operator = "GRANT ALL ON *.* TO 'operator'@'localhost' WITH GRANT OPTION;\n"
    grants = _GRANTS[flavour].strip().format(replicas=", ".join(replicas))
    return users + schemas + operator + grants + "\n"


def _run(program: str | Path, *arguments: str, stdin: str = "") -> None:
    done = subprocess.run(as_mysql(program, *arguments), cwd="/tmp", input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


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
