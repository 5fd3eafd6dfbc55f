"""The lab's PostgreSQL members: a primary and its streaming standbys, made as an administrator makes them by hand."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from failover.lab.commands import LabError, private_file, wait
from failover.lab.configuration import NETWORK, Secrets
from failover.lab.host import Host
from failover.lab.services import PGDATA, POSTGRESQL_CONF, accounts_sql, postgres_bin, postgresql_hba

PASSFILE = "replication.pgpass"


class Cluster:
    """Creates the members before any daemon of ours runs: exactly what adoption finds at a new user's."""

    def __init__(self, hosts: Sequence[Host], replication: str, secrets: Secrets) -> None:
        self.hosts = list(hosts)
        self.replication = replication
        self.secrets = secrets

    def create(self) -> None:
        """Primary on the first host, standbys on the others, all streaming; then the sync names."""
        first, *others = self.hosts
        self._initialise(first)
        first.start("postmaster")
        # the passwords travel by stdin: an argv is world-readable
        argv = ["psql", "-XAtqw", "-v", "ON_ERROR_STOP=1", "-h", "/run/postgresql", "-d", "postgres"]
        first.run(argv, 20.0, user="postgres", stdin=accounts_sql(self.secrets.password))
        with ThreadPoolExecutor(max_workers=max(1, len(others))) as pool:
            list(pool.map(lambda host: self._standby(first, host), others))
        streaming = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
        wait(lambda: first.psql(streaming) == str(len(others)), 15.0, f"{len(others)} standbys streaming")
        if self.replication != "async" and others:
            names = ", ".join(host.name for host in others)
            first.psql(f"ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 ({names})'")
            first.psql("SELECT pg_reload_conf()")

    def _standby(self, source: Host, host: Host) -> None:
        self.copy(source.name, host.name)
        host.start("postmaster")

    def _initialise(self, host: Host) -> None:
        self._empty(host)
        argv = [str(postgres_bin() / "initdb"), "-D", PGDATA, "--data-checksums", "--no-sync", "--locale=C.UTF-8",
                "--auth-local=peer", "--auth-host=scram-sha-256", "--encoding=UTF8", "--no-instructions"]  # fmt: skip
        host.run(argv, 60.0, user="postgres")
        assert host.data_dir is not None
        with open(host.data_dir / "postgresql.conf", "a") as out:
            out.write(POSTGRESQL_CONF)
        (host.data_dir / "pg_hba.conf").write_text(postgresql_hba([h.address for h in self.hosts], NETWORK))
        self._passfile(host)

    def copy(self, source: str, member: str) -> None:
        """Empty the member's data directory and fill it from `source`, as a standby of it. Starts nothing."""
        host, upstream = self._named(member), self._named(source)
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

    def primaries(self, but: str | None = None) -> list[str]:
        """Members, all or all but one, whose database answers that it is not in recovery."""
        running = [host for host in self.hosts if host.is_up and host.name != but]
        with ThreadPoolExecutor(max_workers=max(1, len(running))) as pool:
            return [host.name for host, yes in zip(running, pool.map(self._is_primary, running), strict=True) if yes]

    @staticmethod
    def _is_primary(host: Host) -> bool:
        try:
            return host.psql("SELECT pg_is_in_recovery()", timeout_s=2.0) == "f"
        except LabError:
            return False

    def _named(self, name: str) -> Host:
        return next(host for host in self.hosts if host.name == name)

    @staticmethod
    def _empty(host: Host) -> None:
        """The directory itself stays: it is a mount point inside the host."""
        assert host.data_dir is not None
        for entry in host.data_dir.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        for left in host.data_dir.parent.glob(f"{host.data_dir.name}.*"):  # what a guardian had begun for the old data
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        shutil.chown(host.data_dir, "postgres", "postgres")
        os.chmod(host.data_dir, 0o700)

    def _passfile(self, host: Host) -> None:
        path = host.directory / "etc-failover/secrets" / PASSFILE
        private_file(path, f"*:*:*:failover_replication:{self.secrets.password('failover_replication')}\n")
        shutil.chown(path, "postgres", "postgres")
