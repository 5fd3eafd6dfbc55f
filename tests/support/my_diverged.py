"""A MySQL or MariaDB member that wrote on after another had taken over, and the product's rejoiner for it."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from failover.core.model import Position
from failover.engines.base import Tail, Upstream, Work
from failover.engines.gtid import GtidPosition
from failover.engines.maria_gtid import MariaPosition
from failover.engines.mariadb_backup import MariaBackup
from failover.engines.my_layout import MARIADB, MYSQL, Layout
from failover.engines.my_rejoin import Copier, MyRejoiner
from failover.engines.mysql_clone import ClonePlugin
from failover.settings import Account, InstanceSettings, SshSettings
from tests.support import backup_agent
from tests.support import mysql_server as my
from tests.support.postgres_server import until
from tests.support.sshd_server import REPOSITORY, Sshd, make_key

SSH_PORT = 2222
TABLES = "CREATE TABLE app.t (id INT PRIMARY KEY, w TEXT); CREATE TABLE app.u (id INT PRIMARY KEY)"
HEARTBEAT = "CREATE DATABASE failover; CREATE TABLE failover.heartbeat (epoch INT)"
STOP = {"mysql": "STOP REPLICA; RESET REPLICA ALL", "mariadb": "STOP SLAVE; RESET SLAVE ALL"}


def position(server: my.MyServer) -> Position:
    """What an engine would report."""
    if server.flavour is my.MARIADB:
        names = "@@server_id, @@gtid_binlog_state, @@gtid_binlog_pos, @@gtid_slave_pos"
        return MariaPosition.reported(
            *server.sql(f"SELECT {names}")[0], server.record("SHOW ALL SLAVES STATUS").get("Gtid_IO_Pos", "")
        )
    retrieved = server.record("SHOW REPLICA STATUS").get("Retrieved_Gtid_Set", "")
    return GtidPosition.reported(*server.sql("SELECT @@server_uuid, @@gtid_executed")[0], retrieved)


def working(told: Callable[[str], None] = lambda words: None) -> Work:
    return Work(threading.Event(), told)


class Diverged:
    """db1 was primary, db2 has taken over; both share a beginning. Every host has an sshd with an agent where that is needed."""

    def __init__(self, cluster: my.MyCluster) -> None:
        self.cluster, self.flavour = cluster, cluster.flavour
        self.root = cluster.root
        self.secrets = {name: self.secret(name, password) for name, password in (my.OPERATOR, my.REPLICATION)}
        self._open = ExitStack()
        self.db1 = cluster.primary()
        self.db1.sql(f"{TABLES}; {HEARTBEAT}; INSERT INTO app.t VALUES (1, 'both'), (2, 'both')")
        self.db2 = cluster.standby("db2", self.db1)
        self.catches_up(self.db2, self.db1)
        self.db2.sql(f"{STOP[self.flavour.name]}; {self.flavour.read_write}")
        if self.flavour is my.MARIADB:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd demands it and its service makes it
            self.public = make_key(self.root / "ssh_key")
            for server in (self.db1, self.db2):
                self.agent(server)

    def __enter__(self) -> Diverged:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def catches_up(self, server: my.MyServer, source: my.MyServer) -> None:
        server.replicate_from(source)
        until(lambda: server.received(source), 20, f"{server.name} with all of {source.name}")

    def secret(self, name: str, password: str) -> Path:
        path = self.root / f"{name}.secret"
        path.write_text(password)
        path.chmod(0o600)
        return path

    def agent(self, server: my.MyServer) -> None:
        """An sshd on the server's host whose forced command gives backups."""
        said = {name: str(v) if isinstance(v, Path) else v for name, v in asdict(self.instance(server)).items()}
        said |= {"run_dir": str(self.root / f"run-{server.name}"), "operator": my.OPERATOR[0]}
        told = self.root / f"{server.name}.json"
        told.write_text(json.dumps({**said, "password_file": str(self.secrets[my.OPERATOR[0]])}))
        command = f"env PYTHONPATH={REPOSITORY} {sys.executable} {backup_agent.__file__} {told}"
        with server.host.inside():
            sshd = Sshd(self.root / f"ssh-{server.name}", server.address, SSH_PORT, self.public, command)
        self._open.callback(sshd.stop)
        with (self.root / "known_hosts").open("a") as known:
            known.write(sshd.known_hosts_line)

    def wrote_on(self, *statements: str) -> Diverged:
        """Ends as a crash and comes back as the guardian starts it: read-only, receiving from nobody."""
        for statement in statements:
            self.db1.sql(statement)
        self.db1.kill()
        self.db1.start()
        return self

    def instance(self, server: my.MyServer) -> InstanceSettings:
        return InstanceSettings(
            server.port, server.data_dir, self.flavour.bin_dir, "direct", None, server.socket_dir, my.OS_USER, my.DATABASE,
            server.config_file,
        )  # fmt: skip

    def rejoiner(self, server: my.MyServer | None = None, replication: Account | None = None) -> MyRejoiner:
        mine = server or self.db1
        instance, operator = self.instance(mine), Account(my.OPERATOR[0], self.secrets[my.OPERATOR[0]])
        layout = Layout(instance, MARIADB if self.flavour is my.MARIADB else MYSQL)
        ssh = SshSettings("root", SSH_PORT, self.root / "ssh_key", self.root / "known_hosts")
        account = replication or Account(my.REPLICATION[0], self.secrets[my.REPLICATION[0]])
        copier: Copier = ClonePlugin(instance, operator, account)
        if self.flavour is my.MARIADB:
            copier = MariaBackup(instance, layout, operator, ssh, "main")
        return MyRejoiner(instance, layout, copier, mine.name, lambda statement, budget_s: mine.sql(statement))

    def upstream(self, server: my.MyServer | None = None) -> Upstream:
        source = server or self.db2
        return Upstream(source.name, source.address, source.port)

    def tail(self) -> Tail:
        return self.rejoiner().tail(position(self.db1), position(self.db2))

    def rewind(self, work: Work | None = None) -> None:
        """As the guardian of db1 does, on its host."""
        with self.db1.host.inside():
            self.rejoiner().rewind(self.upstream(), work or working())

    def beside(self) -> list[str]:
        return sorted(path.name for path in self.db1.home.iterdir())
