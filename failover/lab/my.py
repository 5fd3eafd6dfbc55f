"""What MySQL and MariaDB have in common on the lab's hosts. Where their words differ: mysql.py, mariadb.py.

Every server boots read-only and receives from nobody; an administrator opens the primary and starts the standbys by hand. That
is what this product asks of a configuration, so nothing here changes when it comes to it.
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from failover.lab.commands import LabError, run, wait
from failover.lab.configuration import APP, NETWORK
from failover.lab.databases import LOOK_S, Databases, Shell
from failover.lab.host import Host
from failover.lab.services import Service

PORT = 3306
ROOT = "/var/lib/mysql"
DATA = f"{ROOT}/main"
SOCKETS = "/run/mysqld"
SOCKET = f"{SOCKETS}/mysqld.sock"
CONFIG = "/etc/mysql/lab.cnf"
COPY = f"{ROOT}/copy"  # a copy of the data lies here until it is taken to the other host
START_S = 30.0
COPY_S = 120.0
CNF = f"""\
[mysqld]
datadir = {DATA}
socket = {SOCKET}
pid_file = {SOCKETS}/mysqld.pid
tmpdir = {SOCKETS}
port = {PORT}
bind_address = 0.0.0.0
skip_name_resolve = ON
log_bin = binlog
relay_log = relay
binlog_format = ROW
sync_binlog = 1
innodb_flush_log_at_trx_commit = 1
innodb_buffer_pool_size = 64M
innodb_log_buffer_size = 4M
max_connections = 60
table_open_cache = 200
table_definition_cache = 400
read_only = ON
"""


@dataclass(frozen=True)
class Received:
    """What a standby says of its replication: the host it is told to receive from, and whether both halves run."""

    source: str
    receives: bool
    applies: bool


class MyDialect(ABC):
    """The common half of the dialect. See databases.py."""

    engine: str
    memory_mib: int
    port = PORT
    os_user = "mysql"
    run_folder = "mysqld"
    root = ROOT
    data_dir = DATA
    forks = False
    accounts: tuple[str, ...] = (
        "failover_monitor", "failover_operator", "failover_replication", "app", "prober",
    )  # fmt: skip
    prober = "prober"
    schema = """
CREATE DATABASE IF NOT EXISTS lab;
CREATE TABLE IF NOT EXISTS lab.writes (id bigint PRIMARY KEY);
CREATE TABLE IF NOT EXISTS lab.prober (n bigint AUTO_INCREMENT PRIMARY KEY, host varchar(63) NOT NULL, seq bigint NOT NULL);
"""
    emptied = "CREATE DATABASE IF NOT EXISTS lab; DROP TABLE IF EXISTS lab.writes, lab.prober"
    cannot_follow = "Got fatal error 1236"
    server: Path
    client: Path
    admin: Path

    def instance(self) -> Mapping[str, str]:
        return {"data_dir": DATA, "bin_dir": str(self.server.parent), "socket_dir": SOCKETS, "os_user": self.os_user,
                "database": "failover", "config_file": CONFIG}  # fmt: skip

    def service(self) -> Service:
        ready = [str(self.admin), "--no-defaults", "--connect-timeout=2", f"--socket={SOCKET}", "--silent", "ping"]
        return Service("database", [str(self.server), f"--defaults-file={CONFIG}"], self.os_user, ready=ready)

    def write_files(self, host_dir: Path, number: int) -> None:
        path = host_dir / "overlay" / CONFIG.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.cnf(number))
        shutil.chown(host_dir / "database", self.os_user, self.os_user)

    def cnf(self, number: int) -> str:
        """All of my.cnf, for the server of that number."""
        return f"{CNF}server_id = {number}\n{self.configuration()}"

    @abstractmethod
    def configuration(self) -> str:
        """The lines of my.cnf that the other flavour does not know."""

    @abstractmethod
    def init_argv(self, data: str) -> Sequence[str]:
        """The command that makes an empty database in the empty directory `data`; root logs in over the socket."""

    def shell(self, user: str | None, dbname: str | None, address: str | None) -> Shell:
        where = [f"--host={address}", f"--port={PORT}"] if address else [f"--socket={SOCKET}"]
        argv = (str(self.client), "--no-defaults", *where, f"--user={user or 'root'}", "--batch", "--skip-column-names",
                "--unbuffered", *([f"--database={dbname}"] if dbname else []))  # fmt: skip
        return Shell(argv, "MYSQL_PWD", ("-e",))

    def lines(self, said: str) -> str:
        rows = [line.split("\t") for line in said.strip("\n").splitlines()]
        return "\n".join("|".join("" if field == "NULL" else field for field in row) for row in rows)


class MyDatabases(Databases):
    """A primary and standbys by GTID; commits wait for one standby's acknowledgement unless async."""

    # --- the flavour's own words -----------------------------------------------------------------------------------
    @abstractmethod
    def accounts(self) -> str:
        """Statements that make every account with the privileges it needs and no more. Hold secrets."""

    @abstractmethod
    def received(self, host: Host) -> Received | None:
        """None: it is told to receive from nobody."""

    @abstractmethod
    def point_sql(self, source: Host, password: str) -> str:
        """A statement that points a standby at `source` and starts nothing."""

    @abstractmethod
    def take_copy(self, source: Host) -> str:
        """Make a consistent copy of the running `source` in COPY on its host; a statement to be run on the copy first."""

    dialect: MyDialect
    open_sql: str  # the server takes writes and receives from nobody
    start_sql: str  # an administrator's way to let a started standby receive again
    end_sql: str  # forget what it was told to receive from
    semi_sync_source: str  # name of the variable
    semi_sync_replica: str
    connected: str  # name of the status variable: standbys that may acknowledge

    # --- the same for both -----------------------------------------------------------------------------------------
    def create(self) -> None:
        """All from one empty database; the standbys get everything, accounts included, from the primary's log."""
        first, *others = self.hosts
        for host in self.hosts:
            self._empty(host)
        first.run(self.dialect.init_argv(DATA), 60.0, user=self.dialect.os_user)
        with ThreadPoolExecutor(max_workers=len(self.hosts)) as pool:
            list(pool.map(lambda host: self._fill(outside(first, DATA), host), others))
            list(pool.map(lambda host: host.start("database", START_S), self.hosts))
            first.sql_script(f"{self.open_sql}\n{self.accounts()}")
            list(pool.map(lambda host: self._follow(first, host), others))
        wait(lambda: len(self.streaming(first.name)) == len(others), 15.0, f"{len(others)} standbys streaming")
        if self.replication != "async" and others:
            first.sql(f"SET GLOBAL {self.semi_sync_source} = ON")
            ready = f"SHOW GLOBAL STATUS LIKE '{self.connected}'"
            wait(lambda: first.sql(ready) == f"{self.connected}|{len(others)}", 10.0, "standbys that acknowledge")

    def copy(self, source: str, member: str) -> None:
        """Where it goes on from is set by SQL, so the copy runs for a moment, receiving from nobody."""
        host, upstream = self.named(member), self.named(source)
        self._empty(host)
        taken = outside(upstream, COPY)
        shutil.rmtree(taken, ignore_errors=True)
        try:
            first_sql = self.take_copy(upstream)
            self._fill(taken, host)
        finally:
            shutil.rmtree(taken, ignore_errors=True)
        host.start("database", START_S)
        host.sql_script(f"{self.end_sql} {first_sql}\n{self._point(upstream)}")
        host.stop("database")

    def start(self, member: str) -> None:
        host = self.named(member)
        host.start("database", START_S)
        if self.received(host) is not None:
            host.sql(f"{self._acknowledging()} {self.start_sql}")

    def make_primary(self, member: str) -> None:
        host = self.named(member)
        host.start("database", START_S)
        host.sql(f"{self.end_sql} {self.open_sql}")
        wait(lambda: self._role(host), 10.0, f"{member} promoted by hand")

    def wait_for_nobody(self, member: str) -> None:
        self.named(member).sql(f"SET GLOBAL {self.semi_sync_source} = OFF")

    def waits(self, member: str) -> bool:
        return self.named(member).sql(f"SELECT @@{self.semi_sync_source}") == "1"

    def streaming(self, source: str) -> set[str]:
        address = self.named(source).address
        return {host.name for host in self.hosts if host.is_up and host.name != source and self._streams(host, address)}

    def _streams(self, host: Host, source: str) -> bool:
        try:
            return self.received(host) == Received(source, True, True)
        except LabError:
            return False

    def _role(self, host: Host) -> bool:
        return host.sql("SELECT @@global.read_only", timeout_s=LOOK_S) == "0"

    def _follow(self, source: Host, host: Host) -> None:
        host.sql_script(f"{self._point(source)}\n{self._acknowledging()} {self.start_sql}")

    def _point(self, source: Host) -> str:
        return self.point_sql(source, self.secrets.password("failover_replication"))

    def _acknowledging(self) -> str:
        return "" if self.replication == "async" else f"SET GLOBAL {self.semi_sync_replica} = ON;"

    @staticmethod
    def _fill(data: Path, host: Host) -> None:
        """Copy a whole data directory into the empty one of `host`, as another server: that is what auto.cnf would deny."""
        assert host.data_dir is not None
        run(["cp", "-a", "--reflink=auto", f"{data}/.", str(host.data_dir)], COPY_S)
        run(["chown", "-R", "mysql:mysql", str(host.data_dir)])
        (host.data_dir / "auto.cnf").unlink(missing_ok=True)


def outside(host: Host, path: str) -> Path:
    """Where a path below ROOT on a lab's host lies."""
    assert host.data_dir is not None
    return host.data_dir.parent / Path(path).relative_to(ROOT)


def accounts_sql(
    password: Callable[[str], str], members: Sequence[str], monitor: str, replication: str, prober: str, copies: str = ""
) -> str:
    """Statements that make every account with the privileges it needs and no more. Holds secrets: feed it by stdin.

    `copies`: what the account that fetches copies may do, where there is one. Replication has an account for each member's
    address. The application's is locked for them: these addresses pass the gate, for service users only (G7), and the more
    exact address wins over the network's.
    """
    network = NETWORK.replace("0/24", "%")

    def made(name: str, *addresses: str, rest: str = "") -> list[str]:
        return [f"CREATE USER '{name}'@'{host}' IDENTIFIED BY '{password(name)}'{rest};" for host in addresses]

    def granted(name: str, what: str, *addresses: str, rest: str = "") -> list[str]:
        return [f"GRANT {what} TO '{name}'@'{host}'{rest};" for host in addresses]

    return "\n".join(
        [
            *made("failover_monitor", "%"),
            *granted("failover_monitor", f"{monitor} ON *.*", "%"),
            *granted("failover_monitor", "SELECT ON failover.*", "%"),
            *made("failover_operator", "localhost"),
            *granted("failover_operator", "ALL PRIVILEGES ON *.*", "localhost", rest=" WITH GRANT OPTION"),
            *made("failover_replication", *members),
            *granted("failover_replication", f"{replication} ON *.*", *members),
            *(made("failover_rewind", *members) if copies else ()),
            *(granted("failover_rewind", f"{copies} ON *.*", *members) if copies else ()),
            "CREATE DATABASE app;",
            *made("app", network, "localhost"),
            *made("app", *members, rest=" ACCOUNT LOCK"),
            *granted("app", "ALL PRIVILEGES ON app.*", network, "localhost"),
            *granted("app", "SELECT, INSERT ON lab.*", network, "localhost"),
            *made("prober", APP),
            *granted("prober", f"{prober} ON *.*", APP),
            *granted("prober", "SELECT, INSERT ON lab.*", APP),
        ]
    )
