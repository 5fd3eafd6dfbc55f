"""Ending our own guardian when it holds its state file and answers nobody: stopped by a signal, stuck, swapped out.

Killing a guardian enables nothing: what it let in ends with the kernel's ticket, and the next one boots fenced (G5). It is
recognised by what the kernel says, never by a number in a file: a `failover-guardian run` that has a lock on *this* file.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

from failover.clock import boottime_s
from failover.errors import Refused
from failover.guardian.deathwatch import PidfdDeathwatch
from failover.guardian.state import SlotStateFile, lock_path

log = logging.getLogger("failover.guardian.hung")
AGAIN_S = 0.05


@contextlib.contextmanager
def taken(path: Path, budget_s: float) -> Iterator[SlotStateFile]:
    """The state file at `path`, held; a guardian that holds it is ended first. For whoever asked that guardian and got no answer.

    Raises Refused if it cannot be had in time: held by something that is no guardian (another agent that fences now), or by
    one that even SIGKILL does not end (a hung disk).
    """
    until_s = boottime_s() + budget_s
    pause = threading.Event()
    while True:
        try:
            file = SlotStateFile(path)
            break
        except Refused:
            left_s = until_s - boottime_s()
            if left_s <= 0:
                raise
            if not end_guardian(lock_path(path), left_s):
                pause.wait(min(AGAIN_S, left_s))
    with file:
        yield file


def end_guardian(lock: Path, budget_s: float) -> bool:
    """SIGKILL the guardian that holds `lock` and wait for its end. False if there is none, or it does not end in time."""
    handle = holder(lock)
    if handle is None:
        return False
    try:
        log.critical("the guardian (pid %d) holds %s and does not answer: ending it", handle.pid, lock)
        handle.send(signal.SIGKILL)
        return handle.wait(budget_s)
    finally:
        handle.close()


def holder(lock: Path) -> PidfdDeathwatch | None:
    """A handle on the one process that runs as a guardian and has a lock on this very file, or None."""
    for name in os.listdir("/proc"):
        if name.isdigit() and _is_guardian(int(name)):
            pid = int(name)
            handle = PidfdDeathwatch.open(pid, lambda pid=pid: _is_guardian(pid) and _holds(pid, lock))  # type: ignore[misc]  # binds now
            if handle is not None:
                return handle
    return None


def _is_guardian(pid: int) -> bool:
    """`failover-guardian` is the program, or the script that the interpreter runs; told to `run`."""
    try:
        argv = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(os.path.basename(word) == b"failover-guardian" for word in argv[:2]) and b"run" in argv


def _holds(pid: int, lock: Path) -> bool:
    """The kernel lists a lock under each descriptor that holds one (proc(5), fdinfo)."""
    try:
        wanted = os.stat(lock)
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):  # closed meanwhile
                found = os.stat(f"/proc/{pid}/fd/{name}")
                this = (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino)
                if this and "FLOCK" in Path(f"/proc/{pid}/fdinfo/{name}").read_text():
                    return True
    except OSError:
        return False
    return False
