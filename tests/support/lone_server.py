"""A database server of one test alone on loopback, with the lab's tables, of any engine: no host, no standby, no daemon."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from abc import ABC, abstractmethod
from pathlib import Path

from failover.lab.commands import wait
from failover.lab.databases import dialect
from failover.lab.my import MyDialect
from failover.lab.postgresql import postgres_bin
from failover.lab.session import Login

PASSWORD = "of-this-test-only"
START_S = 30.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def lone_server(engine: str, home: Path) -> "LoneServer":
    """Made and started in the empty directory `home`; stop it at the end."""
    server = LonePostgres(home) if engine == "postgresql" else LoneMy(engine, home)
    server.create()
    return server


class LoneServer(ABC):
    """Started by `create` and `start`. `stop` is sudden."""

    engine: str

    def __init__(self, home: Path, account: str) -> None:
        self.port = free_port()
        self.data = home / "data"
        self._account = account
        shutil.chown(home, account, account)

    @abstractmethod
    def create(self) -> None: ...

    @abstractmethod
    def start(self) -> None: ...

    @abstractmethod
    def stop(self) -> None: ...

    @abstractmethod
    def sql(self, sql: str) -> str:
        """As its administrator."""

    @abstractmethod
    def read_only(self, wanted: bool) -> None:
        """Refuse writes of clients, in their running sessions too, or take them again: as a demotion and a promotion do."""

    @abstractmethod
    def wait_for_a_standby(self, wanted: bool) -> None:
        """From now on a commit waits for a standby's acknowledgement, and there is no standby; or nobody waits."""

    @property
    @abstractmethod
    def main_pid(self) -> int: ...

    @property
    @abstractmethod
    def prober(self) -> str:
        """The account of prober.py."""

    def login(self, user: str) -> Login:
        return Login(self.engine, "127.0.0.1", self.port, "postgres", user, PASSWORD)

    def ids(self) -> list[int]:
        return [int(line) for line in self.sql("SELECT id FROM lab.writes").split()]

    def empty(self) -> None:
        self.sql("DELETE FROM lab.writes; DELETE FROM lab.prober")

    def family(self) -> list[int]:
        """The main process and its children."""
        children = Path(f"/proc/{self.main_pid}/task/{self.main_pid}/children").read_text().split()
        return [self.main_pid, *map(int, children)]

    def _as_account(self, *argv: str) -> list[str]:
        return ["setpriv", f"--reuid={self._account}", f"--regid={self._account}", "--init-groups", *argv]


def _done(argv: list[str]) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, cwd="/")
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


class LonePostgres(LoneServer):
    engine = "postgresql"
    prober = "app"

    def __init__(self, home: Path) -> None:
        super().__init__(home, "postgres")

    def create(self) -> None:
        self._do("initdb", "-D", str(self.data), "-A", "trust", "-U", "postgres", "--no-sync")
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.write(f"port={self.port}\nlisten_addresses='127.0.0.1'\nunix_socket_directories=''\n")
        self.start()
        self.sql("CREATE ROLE app LOGIN")
        self.sql(dialect(self.engine).schema)

    def start(self) -> None:
        self._do("pg_ctl", "start", "-w", "-s", "-D", str(self.data), "-l", str(self.data.with_suffix(".log")))

    def stop(self) -> None:
        self._do("pg_ctl", "stop", "-w", "-s", "-m", "immediate", "-D", str(self.data))

    def sql(self, sql: str) -> str:
        return self._do("psql", "-XAtq", "-h", "127.0.0.1", "-p", str(self.port), "-d", "postgres", "-c", sql)

    def read_only(self, wanted: bool) -> None:
        self._set("default_transaction_read_only", "on" if wanted else "off")

    def wait_for_a_standby(self, wanted: bool) -> None:
        self._set("synchronous_standby_names", "nobody" if wanted else "")

    @property
    def main_pid(self) -> int:
        return int((self.data / "postmaster.pid").read_text().split()[0])

    def _set(self, name: str, value: str) -> None:
        self.sql(f"ALTER SYSTEM SET {name} = '{value}'")
        self.sql("SELECT pg_reload_conf()")
        wait(lambda: self.sql(f"SHOW {name}").strip() == value, 10.0, f"{name} = {value}")

    def _do(self, tool: str, *args: str) -> str:
        return _done(self._as_account(str(postgres_bin() / tool), *args))


class LoneMy(LoneServer):
    """MySQL or MariaDB."""

    prober = "prober"

    def __init__(self, engine: str, home: Path) -> None:
        found = dialect(engine)
        assert isinstance(found, MyDialect)
        self.engine, self._dialect = engine, found
        super().__init__(home, found.os_user)
        self._socket, self._log = home / "socket", home / "log"
        self._process: subprocess.Popen[bytes] | None = None

    def create(self) -> None:
        self.data.with_suffix(".cnf").write_text(self._dialect.cnf(1))
        _done(self._as_account(*self._dialect.init_argv(str(self.data))))
        self.start()
        right = "BINLOG ADMIN" if self.engine == "mariadb" else "SESSION_VARIABLES_ADMIN"
        made = [f"CREATE USER {name}@'127.0.0.1' IDENTIFIED BY '{PASSWORD}'" for name in ("app", "prober")]
        granted = [f"GRANT SELECT, INSERT ON lab.* TO {name}@'127.0.0.1'" for name in ("app", "prober")]
        last = f"GRANT {right} ON *.* TO prober@'127.0.0.1'"
        self.sql(";".join([self._dialect.schema.rstrip("; \n"), *made, *granted, last]))

    def start(self) -> None:
        """Its commits are not synced: what is judged is the client."""
        home = self.data.parent
        argv = [str(self._dialect.server), f"--defaults-file={self.data.with_suffix('.cnf')}", f"--datadir={self.data}",
                f"--socket={self._socket}", f"--pid-file={home}/pid", f"--tmpdir={home}", f"--port={self.port}",
                "--bind-address=127.0.0.1", "--read-only=OFF", "--loose-super-read-only=OFF", "--sync-binlog=0",
                "--innodb-flush-log-at-trx-commit=2"]  # fmt: skip
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._as_account(*argv), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/")
        wait(self._answers, START_S, lambda: f"the server's start:\n{self._log.read_text()[-2000:]}")

    def stop(self) -> None:
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait(10)

    def sql(self, sql: str) -> str:
        done = self._client("-e", sql)
        assert done.returncode == 0, done.stderr + done.stdout
        return self._dialect.lines(done.stdout)

    def read_only(self, wanted: bool) -> None:
        self.sql(f"SET GLOBAL read_only = {int(wanted)}")

    def wait_for_a_standby(self, wanted: bool) -> None:
        word = "master" if self.engine == "mariadb" else "source"
        self.sql(f"SET GLOBAL rpl_semi_sync_{word}_enabled = {int(wanted)}")

    @property
    def main_pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def _answers(self) -> bool:
        assert self._process is not None and self._process.poll() is None, self._log.read_text()[-2000:]
        return self._client("-e", "SELECT 1").returncode == 0

    def _client(self, *args: str) -> subprocess.CompletedProcess[str]:
        argv = [str(self._dialect.client), "--no-defaults", f"--socket={self._socket}", "--batch", "--skip-column-names"]
        return subprocess.run([*argv, "--user=root", *args], capture_output=True, text=True, timeout=30, cwd="/")
