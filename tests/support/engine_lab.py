"""One lab per engine for the contract suites: real servers, the product's two halves for each, and the few things that differ.

The halves come from the registry with whole settings, as the daemons get them.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from failover.core.model import Member, Mode, Replication, Role
from failover.engines import engine
from failover.engines.base import LocalEngine, Prober, Upstream
from failover.errors import FailoverError
from failover.profiles import PROFILES
from failover.settings import Account, Accounts, ClusterSettings, FencingSettings, InstanceSettings
from tests.support.postgres_server import until

MEMBERS = ("db1", "db2", "db3")


def took_ms(started: float) -> float:
    return (time.perf_counter() - started) * 1000


def in_background(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


class EngineLab(ABC):
    """A primary db1 with a table `t (id int)`, standbys on demand. A server is a PostgresServer or a MyServer."""

    name: str
    error: type[Exception]  # what the driver raises
    monitor_password: str
    patient_standby: tuple[str, ...] = ()  # configuration with which replay waits for readers, however long
    quick_ms = 1000.0  # a promotion with nothing to do takes less
    cluster: Any
    db1: Any

    def __init__(self, cluster: Any, accounts: tuple[tuple[str, str], ...]) -> None:
        self.cluster = cluster
        self.secrets: dict[str, Path] = {}
        for name, password in accounts:
            self.secrets[name] = self.secret(name, password)

    def secret(self, name: str, password: str) -> Path:
        path = Path(self.cluster.root) / f"{name}.secret"
        path.write_text(password)
        path.chmod(0o600)
        return path

    # --- the product's halves ---------------------------------------------------------------------------------------

    def settings(self, server: Any, operator_secret: Path | None = None, monitor_secret: Path | None = None) -> ClusterSettings:
        accounts = Accounts(
            monitor=Account("monitor", monitor_secret or self.secrets["monitor"]),
            operator=Account("operator", operator_secret or self.secrets["operator"]),
            replication=Account("replicator", self.secrets["replicator"]),
        )
        return ClusterSettings(
            name="main", engine=self.name, mode=Mode.AUTOMATIC, replication=Replication.STRICT, on_clean_stop_wait_s=10.0,
            crash_recovery_max_s=60.0, instance=self.instance(server), guarded_ports=(server.port,), users=accounts,
            members=self.members(), timings=PROFILES["lan"], vip=None, dns=None, notify=(),
            fencing=FencingSettings(("guardian",)), standby_reads=False, switchover_deadline_s=10.0, lag_max_bytes=1 << 24,
        )  # fmt: skip

    @abstractmethod
    def instance(self, server: Any) -> InstanceSettings: ...

    @abstractmethod
    def members(self) -> tuple[Member, ...]: ...

    def engine(self, server: Any, operator_secret: Path | None = None) -> LocalEngine:
        return engine(self.name).local(self.settings(server, operator_secret), server.name, Path(self.cluster.root))

    def prober(self, server: Any, monitor_secret: Path | None = None) -> Prober:
        return self.prober_at(server.address, server, monitor_secret)

    def prober_at(self, address: str, like: Any, monitor_secret: Path | None = None) -> Prober:
        """Looks at the port of `like`'s cluster at another address."""
        settings = self.settings(like, monitor_secret=monitor_secret)
        return engine(self.name).prober(settings, Member(like.name, address))

    def upstream(self, of: Any, for_member: str = "") -> Upstream:
        return Upstream(of.name, of.address, of.port)

    # --- standbys ---------------------------------------------------------------------------------------------------

    def standby(self, name: str, of: Any = None, *conf: str) -> Any:
        """A standby that streams from `of`."""
        upstream = of or self.db1
        server = self.cluster.standby(name, upstream, *conf)
        followers = [n for n, s in self.cluster.servers.items() if s not in (upstream, self.db1)]
        self.engine(upstream).ensure_slots(followers, 5)
        self.follows(server, upstream)
        return server

    def follows(self, server: Any, upstream: Any) -> None:
        """Make it stream from `upstream`, and wait until it does."""
        self.engine(server).follow(self.upstream(upstream, server.name), 5)
        self.streams(server, upstream)

    def streams(self, server: Any, upstream: Any) -> None:
        engine = self.engine(server)

        def there() -> bool:
            state = engine.state(2)
            return state.streaming and state.upstream == upstream.address

        until(there, what=f"{server.name} streaming from {upstream.name}")

    def caught_up(self, server: Any, upstream: Any) -> None:
        """Everything that `upstream` has now is safely stored on `server`, replayed or not."""
        target, engine = self.engine(upstream).state(2).position, self.engine(server)
        until(lambda: engine.holds(target), what=f"{server.name} at {target.text()}")

    # --- what an application does -----------------------------------------------------------------------------------

    @abstractmethod
    def write(self, server: Any, rows: int = 1) -> None:
        """One transaction."""

    def rows(self, server: Any) -> int:
        return int(server.sql("SELECT count(*) FROM t")[0][0])

    def commits_of_app(self, server: Any, outcome: list[str]) -> threading.Thread:
        """One client commit in the background; `outcome` says what the client was told."""

        def commit() -> None:
            try:
                connection = server.connect("app")
                connection.cursor().execute("INSERT INTO t VALUES (1)")
                outcome.append(self.what_it_was_told(connection))
            except self.error:
                outcome.append("error")

        return in_background(commit)

    @contextmanager
    def clients_that_come_back(self, server: Any, statement: str, count: int) -> Iterator[None]:
        """Each repeats `statement`, and connects again at once when its session is ended."""
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                try:
                    connection = server.connect("app")
                    while not stop.is_set():
                        connection.cursor().execute(statement)
                    connection.close()
                except self.error:
                    pass

        threads = [in_background(work) for _ in range(count)]
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join(10)

    @abstractmethod
    def what_it_was_told(self, connection: Any) -> str:
        """ "acknowledged", or "acknowledged with a warning"."""

    def transaction(self, server: Any, *statements: str, user: str | None = None) -> Any:
        """An open transaction that has done `statements`, in a session of `user` or an administrator."""
        connection = server.connect(user) if user else server.connect()
        for statement in ("BEGIN", *statements):
            connection.cursor().execute(statement)
        return connection

    # --- what goes wrong --------------------------------------------------------------------------------------------

    @abstractmethod
    def pause_replay(self, server: Any) -> None: ...

    @abstractmethod
    def replay_held_up(self, server: Any) -> bool:
        """True if replay waits for a reader's lock right now."""

    @abstractmethod
    def lock_table(self, server: Any, table: str) -> Any:
        """A session that lets nobody read `table` until it is closed."""

    @abstractmethod
    def receiver(self, server: Any) -> object:
        """Names the running receiver; another one has another name."""

    @abstractmethod
    def probes(self, server: Any) -> list[int]:
        """Sessions of the product's prober."""

    @abstractmethod
    def end_session(self, server: Any, session: int) -> None: ...

    @abstractmethod
    def pid_file(self, server: Any) -> Path: ...

    @abstractmethod
    def lose_database(self, server: Any) -> None:
        """Of a stopped server: the files without which there is none."""


class Whole:
    """A booted lab that many stories share. Whatever a failed story left behind, the next one gets it whole, or a new one."""

    def __init__(self, make: Callable[[], AbstractContextManager[EngineLab]], standbys: tuple[str, ...]) -> None:
        self._make, self._standbys = make, standbys
        self._open = ExitStack()
        self._lab: EngineLab | None = None

    def lab(self) -> EngineLab:
        if self._lab is None or not self._mended(self._lab):
            self.close()
            self._lab = self._open.enter_context(self._make())
            for name in self._standbys:
                self._lab.standby(name)
            self._lab.engine(self._lab.db1).prepare(5)
        return self._lab

    def close(self) -> None:
        self._lab = None
        self._open.close()

    def _mended(self, lab: EngineLab) -> bool:
        """db1 is the primary and waits for nobody, the standbys follow it, and nobody else is there."""
        try:
            if set(lab.cluster.servers) != {"db1", *self._standbys}:
                return False
            state = lab.engine(lab.db1).state(2)
            if state.role is not Role.PRIMARY or state.sync is not None:
                return False
            for name in self._standbys:
                server = lab.cluster.servers[name]
                lab.follows(server, lab.db1)
                lab.engine(server).free_replay(5)
                lab.caught_up(server, lab.db1)
        except (FailoverError, AssertionError):
            return False
        return True
