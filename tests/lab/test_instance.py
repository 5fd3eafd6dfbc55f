"""The guardian's hand on a real PostgreSQL: it starts standbys only, sees a death at once, leaves no process behind."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg2
import pytest

from failover.clock import boottime_s
from failover.engines.postgresql import PostgresLocalEngine
from failover.errors import Corrupt, Refused, Unknown
from failover.guardian.instance import DatabaseInstance
from failover.settings import Account, InstanceSettings

BIN = Path("/usr/lib/postgresql/15/bin")
ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="starting a database as its own account needs root"),
    pytest.mark.skipif(not (BIN / "postgres").exists(), reason="PostgreSQL 15 is not installed"),
]


@dataclass(frozen=True)
class Host:
    """A database host as small as it gets: directories, one database, and guardians that come and go."""

    root: Path
    port: int

    @property
    def data_dir(self) -> Path:
        return self.root / "data"

    @property
    def socket_lock(self) -> Path:
        return self.root / f"socket/.s.PGSQL.{self.port}.lock"

    @property
    def settings(self) -> InstanceSettings:
        return InstanceSettings(
            port=self.port,
            data_dir=self.data_dir,
            bin_dir=BIN,
            provider="direct",
            unit=None,
            socket_dir=self.root / "socket",
            os_user="postgres",
            database="postgres",
        )

    def engine(self, kind: type[PostgresLocalEngine] = PostgresLocalEngine) -> PostgresLocalEngine:
        account = Account("postgres")  # initdb -A trust: no password
        return kind(self.settings, account, account, "monitor", "db1", self.root / "run")

    def instance(
        self, identifier: str | None = None, kind: type[PostgresLocalEngine] = PostgresLocalEngine
    ) -> DatabaseInstance:
        """A new guardian's hand, as after a restart of the guardian."""
        engine = self.engine(kind)
        directories = self.root / "run", self.root / "log"
        return DatabaseInstance(engine, self.settings, identifier, *directories, cluster="orders")

    def configure(self, line: str) -> None:
        with (self.data_dir / "postgresql.conf").open("a") as written:
            written.write(f"{line}\n")

    def connect(self) -> psycopg2.extensions.connection:
        connection = psycopg2.connect(
            host=str(self.root / "socket"), port=self.port, user="postgres", dbname="postgres", connect_timeout=2
        )
        connection.autocommit = True
        return connection

    def sql(self, text: str) -> object:
        with contextlib.closing(self.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(text)
            rows = cursor.fetchall() if cursor.description else []
            return rows[0][0] if rows else None

    def make_it_a_primary(self, instance: DatabaseInstance) -> int:
        main = instance.start_standby(30)
        self.sql("select pg_promote(true, 20)")
        return main


def wait_for(condition: Callable[[], object], deadline_s: float = 10.0) -> None:
    end_s = boottime_s() + deadline_s
    while not condition():
        assert boottime_s() < end_s, "the condition did not come true in time"
        threading.Event().wait(0.002)


def cwd_is(pid: int, directory: Path) -> bool:
    try:
        return os.path.samefile(f"/proc/{pid}/cwd", directory)
    except OSError:
        return False


def processes_in(directory: Path) -> set[int]:
    """The plain truth from /proc, found in another way than the product does."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return {pid for pid in pids if cwd_is(pid, directory)}


@pytest.fixture(scope="module")
def template() -> Iterator[Path]:
    root = Path(tempfile.mkdtemp(prefix="failover-instance-"))
    root.chmod(0o755)
    (root / "home").mkdir()
    shutil.chown(root / "home", "postgres", "postgres")
    subprocess.run(
        [BIN / "initdb", "-D", root / "home/data", "-A", "trust", "-U", "postgres", "-N", "--wal-segsize=1"],
        user="postgres",
        group="postgres",
        extra_groups=[],
        cwd="/",
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=60,
        env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8"},
    )
    yield root / "home/data"
    shutil.rmtree(root)


@pytest.fixture
def host(template: Path) -> Iterator[Host]:
    root = Path(tempfile.mkdtemp(prefix="failover-instance-"))
    root.chmod(0o755)
    for name in ("run", "log"):
        (root / name).mkdir()
    (root / "socket").mkdir()
    shutil.chown(root / "socket", "postgres", "postgres")
    subprocess.run(["cp", "-a", str(template), str(root / "data")], check=True, timeout=60)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    made = Host(root, port)
    socket_dir = root / "socket"
    for line in (f"port = {port}", f"unix_socket_directories = '{socket_dir}'", "listen_addresses = ''", "fsync = off"):
        made.configure(line)
    try:
        yield made
    finally:
        for pid in processes_in(made.data_dir):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not processes_in(made.data_dir))
        shutil.rmtree(root)


@pytest.fixture
def stranger(host: Host) -> Iterator[subprocess.Popen[bytes]]:
    """A process of the database's own account that has nothing to do with this data directory."""
    process = subprocess.Popen(["sleep", "300"], user="postgres", group="postgres", extra_groups=[], cwd="/")
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_database_is_started_as_a_standby_and_stopped_in_order(host: Host) -> None:
    instance = host.instance()
    began_s = boottime_s()
    main = instance.start_standby(30)
    print(f"start_standby {boottime_s() - began_s:.3f} s")
    assert host.sql("select pg_is_in_recovery()") is True
    wait_for(lambda: set(instance.processes().all) == processes_in(host.data_dir))  # our session's backend is leaving
    found = instance.processes()
    assert found.main == main and found.all[0] == main and len(found.all) > 1
    began_s = boottime_s()
    assert instance.stop("fast", 20) is True
    print(f"stop fast {boottime_s() - began_s:.3f} s")
    assert instance.processes().all == () and instance.processes().main is None
    assert instance.watch() is None
    assert not os.path.exists(f"/proc/{main}"), "the dead main process was not reaped"


def test_the_database_runs_as_its_own_account_with_nothing_inherited(host: Host) -> None:
    secret = "inherited-secret"
    os.environ["FAILOVER_TEST_SECRET"] = secret
    try:
        main = host.instance().start_standby(30)
    finally:
        del os.environ["FAILOVER_TEST_SECRET"]
    status = Path(f"/proc/{main}/status").read_text()
    assert Path(f"/proc/{main}").stat().st_uid == pwd.getpwnam("postgres").pw_uid
    assert "Umask:\t0077" in status
    assert secret not in Path(f"/proc/{main}/environ").read_text()
    assert Path(f"/proc/{main}/oom_score_adj").read_text().strip() == "0"
    core = next(line for line in Path(f"/proc/{main}/limits").read_text().splitlines() if "core file" in line)
    assert core.split()[4:6] == ["0", "0"]
    assert os.getsid(main) == main
    log_file = host.root / "log/orders-database.log"
    assert log_file.stat().st_uid == Path(f"/proc/{main}").stat().st_uid
    assert "starting PostgreSQL" in log_file.read_text()


def test_a_crashed_primary_comes_back_as_a_standby(host: Host) -> None:
    instance = host.instance()
    host.make_it_a_primary(instance)
    assert not (host.data_dir / "standby.signal").exists()
    host.sql("create table orders (id int)")
    host.sql("insert into orders select generate_series(1, 1000)")
    assert instance.kill_all(10) is True
    assert (host.data_dir / "postmaster.pid").exists(), "a crash leaves its lock file"
    instance.start_standby(30)
    assert host.sql("select pg_is_in_recovery()") is True
    assert host.sql("select count(*) from orders") == 1000


def test_an_orphaned_backend_is_found_and_killed_after_its_postmaster_died(host: Host) -> None:
    instance = host.instance()
    main = host.make_it_a_primary(instance)
    host.sql("create table orders (id int)")
    busy = host.connect()
    orphan = busy.get_backend_pid()
    spin = "do $$ begin loop perform 1; end loop; end $$"  # never waits on a latch, so it never learns of the death
    threading.Thread(target=_run, args=(busy, spin), daemon=True).start()
    wait_for(lambda: host.sql(f"select state from pg_stat_activity where pid = {orphan}") == "active")
    os.kill(main, signal.SIGKILL)
    wait_for(lambda: instance.processes().main is None)
    wait_for(lambda: instance.processes().all == (orphan,))
    with pytest.raises(Refused, match=rf"still live.*{orphan}"):
        instance.start_standby(5)
    assert instance.stop("fast", 0.2) is False, "nobody can stop an orphan in order"
    began_s = boottime_s()
    assert instance.kill_all(5) is True
    print(f"kill_all of an orphan {(boottime_s() - began_s) * 1000:.1f} ms")
    assert processes_in(host.data_dir) == set()
    instance.start_standby(30)


def _run(connection: psycopg2.extensions.connection, text: str) -> None:
    with contextlib.suppress(psycopg2.Error), connection.cursor() as cursor:
        cursor.execute(text)


def test_processes_that_are_stopped_are_killed_too(host: Host) -> None:
    instance = host.instance()
    instance.start_standby(30)
    for pid in instance.processes().all:
        with contextlib.suppress(ProcessLookupError):  # the backend of the start's own question is leaving
            os.kill(pid, signal.SIGSTOP)
    began_s = boottime_s()
    assert instance.kill_all(5) is True
    print(f"kill_all of a frozen database {(boottime_s() - began_s) * 1000:.1f} ms")
    assert processes_in(host.data_dir) == set()


def test_a_child_that_changed_its_directory_belongs_to_the_database(host: Host) -> None:
    instance = host.instance()
    host.make_it_a_primary(instance)
    backend = host.connect()
    long_program = "copy (select 1) to program 'cd / && exec sleep 300'"
    threading.Thread(target=_run, args=(backend, long_program), daemon=True).start()
    parent = backend.get_backend_pid()

    def children() -> list[int]:
        text = Path(f"/proc/{parent}/task/{parent}/children").read_text()
        return [pid for pid in map(int, text.split()) if os.readlink(f"/proc/{pid}/cwd") == "/"]

    wait_for(children)
    (child,) = children()
    assert child in instance.processes().all and child not in processes_in(host.data_dir)
    assert instance.kill_all(5) is True
    wait_for(lambda: not os.path.exists(f"/proc/{child}") or _is_zombie(child))


def _is_zombie(pid: int) -> bool:
    return ") Z " in Path(f"/proc/{pid}/stat").read_text()


def test_the_death_of_the_main_process_is_seen_within_50_ms(host: Host) -> None:
    instance = host.instance()
    main = instance.start_standby(30)
    watch = instance.watch()
    assert watch is not None and watch.pid == main
    assert watch.wait(0.05) is False
    died_s: list[float] = []

    def strike() -> None:
        died_s.append(boottime_s())
        os.kill(main, signal.SIGKILL)

    threading.Timer(0.2, strike).start()
    assert watch.wait(5) is True
    took_s = boottime_s() - died_s[0]
    print(f"death seen after {took_s * 1000:.2f} ms")
    assert took_s < 0.05
    watch.close()
    assert watch.wait(0) is True
    assert instance.kill_all(5) is True


def test_the_database_outlives_its_guardian_and_is_adopted_by_the_next(host: Host) -> None:
    program = (
        "import sys, pathlib, test_instance\n"
        "host = test_instance.Host(pathlib.Path(sys.argv[1]), int(sys.argv[2]))\n"
        "print(host.instance().start_standby(30), flush=True)\n"
        "sys.stdin.read()\n"
    )
    guardian = subprocess.Popen(
        [sys.executable, "-c", program, str(host.root), str(host.port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{Path(__file__).parent}"},
    )
    try:
        assert guardian.stdout is not None
        main = int(guardian.stdout.readline())
    finally:
        os.killpg(guardian.pid, signal.SIGKILL)  # its whole process group, as a service manager or a terminal would
        guardian.communicate(timeout=10)
    threading.Event().wait(0.3)
    instance = host.instance()
    assert instance.processes().main == main
    assert host.sql("select 1") == 1
    watch = instance.watch()
    assert watch is not None and watch.pid == main
    with pytest.raises(Refused, match=rf"already runs.*{main}"):
        instance.start_standby(5)
    assert instance.stop("immediate", 10) is True
    assert watch.wait(0) is True
    watch.close()


def test_a_data_directory_of_another_system_is_refused(host: Host) -> None:
    with pytest.raises(Refused, match="this cluster is system 42"):
        host.instance("42").start_standby(10)
    assert processes_in(host.data_dir) == set()
    assert not (host.data_dir / "standby.signal").exists(), "a refusal changes nothing"


def test_a_missing_or_empty_or_foreign_data_directory_is_refused_with_all_reasons(host: Host) -> None:
    instance = host.instance()
    aside = host.root / "aside"
    host.data_dir.rename(aside)
    with pytest.raises(Refused, match="not mounted"):
        instance.start_standby(10)
    host.data_dir.mkdir(mode=0o777)
    host.data_dir.chmod(0o777)
    with pytest.raises(Refused) as refusal:
        instance.start_standby(10)
    text = str(refusal.value)
    assert "belongs to uid 0" in text and "written by others" in text and "no database in" in text
    host.data_dir.rmdir()
    aside.rename(host.data_dir)
    instance.start_standby(30)


def test_a_stale_lock_file_that_names_a_stranger_harms_neither(host: Host, stranger: subprocess.Popen[bytes]) -> None:
    instance = host.instance()
    instance.start_standby(30)
    assert instance.kill_all(10) is True
    names = [host.data_dir / "postmaster.pid", host.socket_lock]
    for path in names:  # what a crash of the host leaves, once pids have started again from 1
        owner = path.stat()
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join([f"{stranger.pid}\n", *lines[1:]]))
        os.chown(path, owner.st_uid, owner.st_gid)
    assert instance.processes().main is None and instance.processes().all == ()
    assert instance.kill_all(5) is True
    assert stranger.poll() is None
    main = instance.start_standby(30)
    assert main != stranger.pid and stranger.poll() is None
    assert host.sql("select 1") == 1


def test_the_socket_lock_of_another_database_is_not_removed(host: Host, stranger: subprocess.Popen[bytes]) -> None:
    lock = host.socket_lock
    lock.write_text(f"{stranger.pid}\n/another/data\n")
    with pytest.raises(Unknown, match="lock file"):
        host.instance().start_standby(10)
    assert lock.read_text().startswith(f"{stranger.pid}\n/another/data")


def test_a_failed_start_says_why_in_one_line(host: Host) -> None:
    host.configure("shared_buffers = '1 banana'")
    began_s = boottime_s()
    with pytest.raises(Unknown, match="1 banana") as outcome:
        host.instance().start_standby(20)
    assert boottime_s() - began_s < 5 and "\n" not in str(outcome.value)
    print(outcome.value)


def test_a_start_that_hangs_ends_at_the_deadline_as_unknown(host: Host) -> None:
    host.configure("hot_standby = off")
    instance = host.instance()
    began_s = boottime_s()
    with pytest.raises(Unknown, match=r"not ready after 2\.0 s"):
        instance.start_standby(2)
    assert 1.9 < boottime_s() - began_s < 3
    assert instance.processes().main is not None, "unknown: it may be there, and it is"
    assert instance.stop("fast", 10) is True


def test_a_kill_while_the_database_is_starting_wins(host: Host) -> None:
    host.configure("hot_standby = off")
    instance = host.instance()
    outcome: list[BaseException] = []

    def start() -> None:
        try:
            instance.start_standby(20)
        except Unknown as error:
            outcome.append(error)

    starting = threading.Thread(target=start)
    starting.start()
    wait_for(lambda: instance.processes().all)
    assert instance.kill_all(5) is True
    starting.join(5)
    assert not starting.is_alive() and "ended while it was starting" in str(outcome[0])
    assert processes_in(host.data_dir) == set()


def test_a_start_that_makes_a_primary_against_everything_is_ended(host: Host) -> None:
    class Forgetful(PostgresLocalEngine):
        def arm_standby(self) -> None:
            """A defect of an engine: the next start is no standby."""

    with pytest.raises(Corrupt, match="came up as a primary"):
        host.instance(kind=Forgetful).start_standby(20)
    assert processes_in(host.data_dir) == set()


def test_an_operators_shell_in_the_data_directory_is_no_part_of_the_database(host: Host) -> None:
    shell = subprocess.Popen(["sleep", "300"], cwd=host.data_dir)
    try:
        instance = host.instance()
        instance.start_standby(30)
        assert shell.pid not in instance.processes().all
        assert instance.stop("fast", 10) is True
        assert instance.kill_all(5) is True and shell.poll() is None
    finally:
        shell.kill()
        shell.wait()


def test_processes_are_found_through_a_moved_data_directory(host: Host) -> None:
    instance = host.instance()
    instance.start_standby(30)
    assert instance.processes().all
    host.data_dir.rename(host.root / "moved")
    try:
        assert set(instance.processes().all) == processes_in(host.root / "moved") != set()
        assert instance.kill_all(5) is True
        wait_for(lambda: not processes_in(host.root / "moved"))
    finally:
        (host.root / "moved").rename(host.data_dir)


def test_looking_takes_less_than_20_ms_with_300_processes(host: Host) -> None:
    instance = host.instance()
    instance.start_standby(30)
    crowd = [subprocess.Popen(["sleep", "300"]) for _ in range(300)]
    try:
        took_ms = []
        for _ in range(15):
            began = time.thread_time()
            instance.processes()
            took_ms.append((time.thread_time() - began) * 1000)
        entries, median_ms = len(os.listdir("/proc")), sorted(took_ms)[7]
        print(f"processes() with {entries} entries: best {min(took_ms):.1f} ms, median {median_ms:.1f} ms")
        assert median_ms < 20
    finally:
        for process in crowd:
            process.kill()
        for process in crowd:
            process.wait()
