"""What looks like a dead primary and is none: each a context manager that makes it on a lab's host and ends it again."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import failover
from failover.clock import boottime_s
from failover.lab.commands import LabError, wait
from failover.lab.configuration import VIP
from failover.lab.host import Host
from failover.lab.lab import Lab
from failover.lab.session import Login
from failover.lab.traffic import DATABASE
from tests.support import cpu, filler
from tests.support.stagehand import stagehand

MONITOR = "failover_monitor"
ROOT = str(Path(failover.__file__).resolve().parent.parent)


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
def full(lab: Lab) -> Iterator[None]:
    """Clients hold every connection that is not reserved, and take each one that becomes free."""
    login = Login(lab.options.engine, VIP, lab.dialect.port, DATABASE, "app", lab.secrets.password("app"))
    process = lab.app.popen([sys.executable, filler.__file__], log=lab.app.log("filler"), env={"PYTHONPATH": ROOT})
    try:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(f"{login}\n")
        process.stdin.flush()
        said = process.stdout.readline()
        assert re.search(stagehand(lab).full, said), said
        yield
    finally:
        lab.app.end(process)


@contextmanager
def recovering(host: Host) -> Iterator[None]:
    """PostgreSQL only. A backend is killed, the postmaster restarts everybody, and the recovery takes as long as the block.

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
def password_rotated(lab: Lab, primary: str) -> Iterator[None]:
    """Somebody gave the monitor account another password, and the controllers have the old one."""
    hand = stagehand(lab)
    hand.change_password(primary, MONITOR, "another one")
    try:
        yield
    finally:
        hand.change_password(primary, MONITOR, lab.secrets.password(MONITOR))


@contextmanager
def starved(host: Host, share: float = 0.05) -> Iterator[None]:
    """The database gets that share of one processor."""
    with cpu.quota(share, lambda: [p.pid for p in host.of_role("database_all")]):
        yield


# --- below --------------------------------------------------------------------------------------------------------------
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
