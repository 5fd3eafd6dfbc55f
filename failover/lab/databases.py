"""What the lab, its demo and its tests need of a database engine, whichever it is. No other file of the lab names one.

Two halves. A `Dialect` says how one host runs the engine and how it is asked: it starts nothing. `Databases` are the members
of a lab: made, copied and promoted as an administrator does it by hand, before and beside any daemon of ours.
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from failover.lab.commands import LabError, wait

if TYPE_CHECKING:
    from failover.lab.configuration import Secrets
    from failover.lab.host import Host
    from failover.lab.services import Service

ENGINES = ("postgresql", "mariadb", "mysql")
LOOK_S = 2.0  # one question to a database that may be frozen
GONE_S = 10.0


@dataclass(frozen=True)
class Shell:
    """The engine's command line client. It takes statements from stdin, or one by `once`; a password by `password_variable`.

    `login`: the account of the host that runs it, None for root.
    """

    argv: tuple[str, ...]
    password_variable: str
    once: tuple[str, ...]
    login: str | None = None


class Dialect(Protocol):
    """One engine on one host. Paths are those that the host sees."""

    engine: str
    port: int
    os_user: str
    run_folder: str  # of /run, the server's own
    root: str  # mounted: what lies in it can be renamed
    data_dir: str  # in `root`
    memory_mib: int  # of one server at rest
    forks: bool  # it has a main process with children, which may outlive it
    accounts: tuple[str, ...]  # each has a password of its own
    prober: str  # the account of prober.py
    schema: str  # statements that make the tables of the lab's clients
    emptied: str  # statements after which `schema` makes them anew
    cannot_follow: str  # what the server's log says when it has log that its primary's history does not have

    def faults(self) -> list[str]:
        """What this machine lacks to run it, in words."""
        ...

    def instance(self) -> Mapping[str, str]:
        """The section `instance` of failover.yml, without the port."""
        ...

    def service(self) -> Service:
        """The database, started by hand as the lab does before any guardian is there. Ready when it lets clients in."""
        ...

    def write_files(self, host_dir: Path, number: int) -> None:
        """What an administrator writes on the `number`th host before the first start."""
        ...

    def shell(self, user: str | None, dbname: str | None, address: str | None) -> Shell:
        """`user` None: the administrator. `dbname` None: where an administrator is at home. `address` None: local socket."""
        ...

    def lines(self, said: str) -> str:
        """What the client printed as one row a line, columns split by "|", NULL empty."""
        ...

    def databases(self, hosts: Sequence[Host], replication: str, secrets: Secrets) -> Databases: ...


class Databases(ABC):
    """The database of every member. Made before any daemon of ours runs: exactly what adoption finds at a new user's."""

    def __init__(self, hosts: Sequence[Host], replication: str, secrets: Secrets) -> None:
        self.hosts = list(hosts)
        self.replication = replication
        self.secrets = secrets

    @abstractmethod
    def create(self) -> None:
        """Primary on the first host, standbys on the others, all streaming; commits wait for one unless async."""

    @abstractmethod
    def copy(self, source: str, member: str) -> None:
        """Replace the stopped member's data by a copy of `source`, to be started as a standby of it. Starts nothing."""

    @abstractmethod
    def start(self, member: str) -> None:
        """Start a database as an administrator does: one that was a standby receives again."""

    @abstractmethod
    def make_primary(self, member: str) -> None:
        """By hand, as a careless administrator would: a running standby, or a stopped database started as a primary."""

    @abstractmethod
    def wait_for_nobody(self, member: str) -> None:
        """Commits on this member are acknowledged without any standby from now on."""

    @abstractmethod
    def waits(self, member: str) -> bool:
        """True if commits on this member wait for a standby's acknowledgement."""

    @abstractmethod
    def streaming(self, source: str) -> set[str]:
        """Members that receive from `source` and apply it, just now."""

    @abstractmethod
    def _role(self, host: Host) -> bool:
        """True for a primary. Raises LabError if it does not answer."""

    # --- asking ----------------------------------------------------------------------------------------------------
    def primaries(self, but: str | None = None) -> list[str]:
        """Members, all or all but one, whose database answers that it takes writes."""
        running = [host for host in self.hosts if host.is_up and host.name != but]
        with ThreadPoolExecutor(max_workers=max(1, len(running))) as pool:
            return [host.name for host, yes in zip(running, pool.map(self._is_primary, running), strict=True) if yes]

    def is_primary(self, member: str) -> bool:
        """It answers, and takes writes."""
        return self._is_primary(self.named(member))

    def is_standby(self, member: str) -> bool:
        """It answers, and takes no writes."""
        try:
            return not self._role(self.named(member))
        except LabError:
            return False

    def _is_primary(self, host: Host) -> bool:
        try:
            return self._role(host)
        except LabError:
            return False

    # --- acting ----------------------------------------------------------------------------------------------------
    def end(self, member: str) -> None:
        """SIGKILL everything that works in the member's data directory, and see it gone."""
        host = self.named(member)
        host.kill("database_all")
        wait(lambda: not host.of_role("database_all"), GONE_S, f"database gone on {member}")

    def named(self, name: str) -> Host:
        return next(host for host in self.hosts if host.name == name)

    @staticmethod
    def _empty(host: Host) -> None:
        """The directory itself stays: it may be a mount point. What a guardian had begun beside it for the old data goes."""
        data = host.data_dir
        assert data is not None
        for entry in (*data.iterdir(), *data.parent.glob(f"{data.name}.*")):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        data.chmod(0o700)
        shutil.chown(data, host.dialect.os_user, host.dialect.os_user)


def dialect(engine: str) -> Dialect:
    """Raises LabError with the engines there are."""
    if engine == "postgresql":
        from failover.lab.postgresql import Postgres

        return Postgres()
    if engine == "mariadb":
        from failover.lab.mariadb import MariaDb

        return MariaDb()
    if engine == "mysql":
        from failover.lab.mysql import MySql

        return MySql()
    raise LabError(f"the lab has no hosts for {engine!r}; it has: {', '.join(ENGINES)}")
