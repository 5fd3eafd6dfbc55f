"""What looks like a dead primary and is none: each a context manager that makes it on a lab's host and ends it again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from failover.clock import boottime_s
from failover.lab.commands import LabError, wait
from failover.lab.configuration import VIP
from failover.lab.host import Host
from failover.lab.lab import Lab
from tests.support import cpu

MONITOR = "failover_monitor"
WAITERS = 20
HEARTBEATS_LOCKED = "LOCK TABLE failover.heartbeat IN ACCESS EXCLUSIVE MODE"
PSQL = ["psql", "-XAtqw", "-v", "ON_ERROR_STOP=1", "-h", "/run/postgresql", "-U", "postgres", "-d", "postgres"]
_FILL = """\
import sys, threading, psycopg2
held = []
def fill():
    while True:
        try:
            held.append(psycopg2.connect(host=sys.argv[1], user="app", dbname="app", connect_timeout=3))
        except psycopg2.OperationalError as error:
            return str(error)
print(fill().splitlines()[0], flush=True)
done = threading.Event()
def again():  # whoever leaves is replaced
    while not done.wait(0.1):
        fill()
threading.Thread(target=again, daemon=True).start()
sys.stdin.read()
"""


@contextmanager
def blip(lab: Lab, host: str, seconds: float) -> Iterator[None]:
    """The host's cable is out for that long; the block runs meanwhile, and the cable is back when it ends."""
    back = threading.Timer(seconds, lab.heal, [host])
    lab.cut(host)
    back.start()
    try:
        yield
    finally:
        back.join()


@contextmanager
def deaf(lab: Lab, controller: str) -> Iterator[None]:
    """The controller's host reaches no other member's database; ZooKeeper and everything else goes on."""
    others = [name for name, _ in lab.members if name != controller]
    for name in others:
        lab.cut(name, controller, port=lab.dialect.port)
    try:
        yield
    finally:
        for name in others:
            lab.heal(name, controller, port=lab.dialect.port)


@contextmanager
def lock_storm(host: Host, *, logins: bool) -> Iterator[None]:
    """A session holds the product's own table, others queue behind it; with `logins` it holds the accounts as well, so that
    nobody gets in any more. Locks of this kind travel in the log: the standbys have them too.
    """
    with ExitStack() as stack:
        holder = stack.enter_context(_psql(host))
        _ask(holder, f"BEGIN; {HEARTBEATS_LOCKED}")
        for waiter in [stack.enter_context(_psql(host)) for _ in range(WAITERS)]:
            _tell(waiter, f"BEGIN; {HEARTBEATS_LOCKED}")
        queued = f"SELECT count(*) >= {WAITERS} FROM pg_locks WHERE NOT granted"
        wait(lambda: host.sql(queued) == "t", 10.0, "a queue of waiting sessions")
        if logins:
            _ask(holder, "LOCK TABLE pg_authid IN ACCESS EXCLUSIVE MODE")
        yield


@contextmanager
def full(lab: Lab) -> Iterator[None]:
    """Clients hold every connection that is not reserved, and take each one that becomes free."""
    secret = {"PGPASSWORD": lab.secrets.password("app")}
    filler = lab.app.popen([sys.executable, "-c", _FILL, VIP], env=secret, log=lab.app.log("filler"))
    try:
        assert filler.stdout is not None
        said = filler.stdout.readline()
        assert "remaining connection slots" in said or "too many clients" in said, said
        yield
    finally:
        lab.app.end(filler)


@contextmanager
def recovering(host: Host) -> Iterator[None]:
    """A backend is killed, the postmaster restarts everybody, and the recovery takes as long as the block.

    Its startup process is stopped as soon as it is there, which is what an hour of log to replay looks like from outside.
    """
    postmaster = host.pid_of("database")
    assert postmaster is not None
    host.sql("CREATE TABLE ballast AS SELECT repeat('x', 900) AS x FROM generate_series(1, 30000)")
    victim = next(p for p in _children(postmaster) if _title(p).startswith("postgres: app "))
    os.kill(victim, signal.SIGKILL)
    startup = _startup_of(postmaster, 20.0)
    os.kill(startup, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(startup, signal.SIGCONT)
    wait(lambda: _accepts(host), 20.0, f"{host.name} to end its recovery")
    host.sql("DROP TABLE ballast")


@contextmanager
def password_rotated(host: Host) -> Iterator[None]:
    """Somebody gave the monitor account another password, and the controllers have the old one."""
    stored = host.sql(f"SELECT rolpassword FROM pg_authid WHERE rolname = '{MONITOR}'")
    host.sql(f"ALTER ROLE {MONITOR} PASSWORD 'another one'")
    try:
        yield
    finally:
        host.sql(f"ALTER ROLE {MONITOR} PASSWORD '{stored}'")


@contextmanager
def starved(host: Host, share: float = 0.05) -> Iterator[None]:
    """The database gets that share of one processor."""
    with cpu.quota(share, lambda: [p.pid for p in host.of_role("database_all")]):
        yield


# --- below --------------------------------------------------------------------------------------------------------------
@contextmanager
def _psql(host: Host) -> Iterator[subprocess.Popen[str]]:
    session = host.popen(PSQL, user="postgres", log=host.log("psql"))
    try:
        yield session
    finally:
        host.end(session)


def _tell(session: subprocess.Popen[str], statement: str) -> None:
    assert session.stdin is not None
    session.stdin.write(f"{statement};\n\\echo done\n")
    session.stdin.flush()


def _ask(session: subprocess.Popen[str], statement: str) -> None:
    """The same, and wait for the answer."""
    _tell(session, statement)
    assert session.stdout is not None
    assert session.stdout.readline().strip() == "done", f"{statement}: psql ended"


def _accepts(host: Host) -> bool:
    try:
        return host.sql("SELECT pg_is_in_recovery()") == "f"
    except LabError:
        return False


def _startup_of(postmaster: int, deadline_s: float) -> int:
    """The startup process, caught as early as can be: it may live for a tenth of a second."""
    end_s, never = boottime_s() + deadline_s, threading.Event()
    while boottime_s() < end_s:
        for pid in _children(postmaster):
            if _title(pid).startswith("postgres: startup"):
                return pid
        never.wait(0.002)
    raise LabError(f"no startup process within {deadline_s:g} s")


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:  # it has ended
        return ""
