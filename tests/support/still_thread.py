"""One thread of a running program stands still, as if the scheduler had forgotten it; all the others run on.

By ptrace(2), which is the only thing that stops a thread and not its process. The thread that stops must be the one that lets
go, so use it in one thread; if this program ends, the kernel lets go for it.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SEIZE, INTERRUPT, DETACH = 0x4206, 0x4207, 17
WALL = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_libc.ptrace.restype = ctypes.c_long


@contextmanager
def stands_still(pid: int, thread: int) -> Iterator[None]:
    """`thread` as the program's own pid namespace numbers it; `pid` as ours does. ProcessLookupError if there is none."""
    here = _here(pid, thread)
    _ptrace(SEIZE, here)
    try:
        _ptrace(INTERRUPT, here)
        os.waitpid(here, WALL)
        yield
    finally:
        _libc.ptrace(DETACH, here, None, None)  # it may have ended meanwhile


def _here(pid: int, thread: int) -> int:
    for task in Path(f"/proc/{pid}/task").iterdir():
        status = (task / "status").read_text()
        numbers = next(line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:"))
        if int(numbers[-1]) == thread:
            return int(task.name)
    raise ProcessLookupError(f"process {pid} has no thread {thread}")


def _ptrace(request: int, thread: int) -> None:
    if _libc.ptrace(request, thread, None, None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"ptrace: {os.strerror(number)}")
