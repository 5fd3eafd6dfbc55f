"""Starve processes of a processor: a cgroup of our own with a quota, version 1 or 2, whichever this machine has."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from failover.clock import boottime_s
from failover.lab.commands import wait

V1 = Path("/sys/fs/cgroup/cpu")
V2 = Path("/sys/fs/cgroup")
PERIOD_US = 100_000


def missing() -> str | None:
    """Why no quota can be set here, or None."""
    try:
        group = _make("probe")
    except OSError as error:
        return f"no cgroup with a processor quota can be made here: {error.strerror}"
    group.rmdir()
    return None


@contextmanager
def quota(share: float, pids: Callable[[], Iterable[int]]) -> Iterator[Callable[[], float]]:
    """The processes together get `share` of one processor; their children too. Yields: seconds they were held back so far."""
    group = _make(f"{os.getpid():x}-{int(boottime_s() * 1000):x}")
    try:
        if _is_v1(group):
            (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(int(PERIOD_US * share)))
        else:
            (group / "cpu.max").write_text(f"{int(PERIOD_US * share)} {PERIOD_US}")
        for pid in pids():
            _move(pid, group)
        yield lambda: _held_back_s(group)
    finally:
        _dissolve(group)


def _make(name: str) -> Path:
    if (V1 / "cpu.cfs_quota_us").exists() or (V1 / "cgroup.procs").exists():
        group = V1 / f"failover-test-{name}"
        group.mkdir()
        return group
    (V2 / "cgroup.subtree_control").write_text("+cpu")
    group = V2 / f"failover-test-{name}"
    group.mkdir()
    return group


def _is_v1(group: Path) -> bool:
    return (group / "cpu.cfs_quota_us").exists()


def _move(pid: int, group: Path) -> None:
    try:
        (group / "cgroup.procs").write_text(str(pid))
    except OSError as error:  # it has ended
        if error.errno != errno.ESRCH:
            raise


def _members(group: Path) -> list[int]:
    return [int(word) for word in (group / "cgroup.procs").read_text().split()]


def _dissolve(group: Path) -> None:
    """Everybody goes back to the root group; a child forked in the middle is moved at the next look."""

    def empty() -> bool:
        for pid in _members(group):
            _move(pid, group.parent)
        return not _members(group)

    wait(empty, 5.0, f"{group} to become empty")
    group.rmdir()


def _held_back_s(group: Path) -> float:
    stat = dict(line.split() for line in (group / "cpu.stat").read_text().splitlines())
    return int(stat["throttled_time"]) / 1e9 if "throttled_time" in stat else int(stat["throttled_usec"]) / 1e6
