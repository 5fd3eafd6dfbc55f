"""Which processes run inside a host, told by kernel facts (namespace, executable, directory), and safe killing."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """One process as the root pid namespace numbers it. `cwd` is (device, inode) of its working directory."""

    pid: int
    parent: int
    argv: tuple[str, ...]
    executable: str
    cwd: tuple[int, int] | None


Match = Callable[[Process], bool]


def pid_namespace(pid: int) -> int | None:
    """Inode of the pid namespace of a process, None if it is gone."""
    return _inode(f"/proc/{pid}/ns/pid")


def network_namespace(pid: int) -> int | None:
    return _inode(f"/proc/{pid}/ns/net")


def inside(init_pid: int) -> list[Process]:
    """Every living process in the pid namespace of `init_pid`, zombies left out."""
    namespace = pid_namespace(init_pid)
    if namespace is None:
        return []
    pids = (int(name) for name in os.listdir("/proc") if name.isdigit())
    found = (_read(pid) for pid in pids if pid_namespace(pid) == namespace)
    return [process for process in found if process is not None]


def topmost(processes: list[Process], match: Match) -> list[Process]:
    """Those that match and whose parent does not: the main process of a service, not its workers."""
    matching = {p.pid: p for p in processes if match(p)}
    return [p for p in matching.values() if p.parent not in matching]


def is_stopped(pid: int) -> bool:
    """True if every thread of a process is stopped (SIGSTOP), or the process is gone or ended."""
    try:
        states = [_state_and_parent(Path(task, "stat"))[0] for task in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return True
    return all(state in "TtZX" for state in states)


def parent_of(pid: int) -> int | None:
    process = _read(pid)
    return process.parent if process else None


def child_of(pid: int) -> int | None:
    """The first child of a process, None if it has none."""
    try:
        words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return None
    return int(words[0]) if words else None


def kill_verified(
    pid: int, trait: Callable[[int], int | None], expected: int | None, number: int = signal.SIGKILL
) -> bool:
    """Signal `pid` through a pidfd if `trait(pid)`, asked while it is held, is `expected`: never a reused number.

    False if the process is gone or another one.
    """
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if trait(pid) != expected:
            return False
        signal.pidfd_send_signal(handle, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)


def _state_and_parent(stat: Path) -> tuple[str, str]:
    state, parent = stat.read_text().rpartition(")")[2].split()[:2]
    return state, parent


def _inode(path: str) -> int | None:
    try:
        return os.stat(path).st_ino
    except OSError:
        return None


def _read(pid: int) -> Process | None:
    try:
        state, parent = _state_and_parent(Path(f"/proc/{pid}/stat"))
        if state == "Z":
            return None
        raw = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode(errors="replace")
        executable = os.readlink(f"/proc/{pid}/exe")
        place = os.stat(f"/proc/{pid}/cwd")
    except OSError:
        return None
    return Process(pid, int(parent), tuple(raw.split("\0")), executable, (place.st_dev, place.st_ino))
