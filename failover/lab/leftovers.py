"""What a lab that was killed leaves behind, found and removed. A living lab holds a lock on its directory."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

from failover.lab.commands import LabError, wait
from failover.lab.network import remove_namespaces

ROOT = Path("/var/tmp")
PREFIX = "failover-lab-"
LOCK = "lock"
LAST_FORK_S = 2.0  # a child forked in its holder's last instant holds the lock until its exec


def make(directory: Path) -> int:
    """Make a lab's directory, locked from its first instant; the descriptor to keep open as long as the lab lives.

    The lock is taken under another name and moved in, so nobody ever sees it free. Descriptors made by Python are not
    inherited by programs it starts, so the lock ends with its holder (and its forks that have not reached exec).
    """
    outside = directory.with_name(f".{directory.name}.{LOCK}")
    handle = os.open(outside, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    fcntl.flock(handle, fcntl.LOCK_EX)
    os.write(handle, str(os.getpid()).encode())
    directory.mkdir(mode=0o711)
    outside.rename(directory / LOCK)
    return handle


def _take(directory: Path) -> int | None:
    """The lock of a directory whose holder is gone; None if somebody holds it, or another remover was faster."""
    try:
        handle = os.open(directory / LOCK, os.O_RDWR)
    except FileNotFoundError:
        return None
    if _locked(handle) or (not _holder_lives(handle) and _locked(handle, LAST_FORK_S)):
        return handle
    os.close(handle)
    return None


def _locked(handle: int, deadline_s: float = 0.0) -> bool:
    def attempt() -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    try:
        wait(attempt, deadline_s, "the lock of a dead lab")
    except LabError:
        return False
    return True


def _holder_lives(handle: int) -> bool:
    """True if the number in the lock file is that of a process, even of a newer one: then the lock alone decides."""
    return Path(f"/proc/{os.pread(handle, 20, 0).decode()}").exists()


def remove(root: Path = ROOT) -> list[str]:
    """Remove every lab whose holder is gone: processes, namespaces, directory. Ids of those removed."""
    removed = []
    for directory in sorted(root.glob(f"{PREFIX}*")):
        handle = _take(directory)
        if handle is None:
            continue  # alive, or kept on purpose (a kept directory has no lock)
        try:
            if not directory.exists():
                continue
            lab_id = directory.name.removeprefix(PREFIX)
            destroy(lab_id, directory)
            removed.append(lab_id)
        finally:
            os.close(handle)
    return removed


def destroy(lab_id: str, directory: Path | None) -> None:
    """End and delete all that belongs to a lab; the directory goes last, because it is what names the rest."""
    remove_namespaces(lab_id)
    if directory is not None:
        shutil.rmtree(directory)
