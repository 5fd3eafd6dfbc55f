"""PostgreSQL's long-running tools as child processes: heard line by line, ended when they must, never outliving us."""

from __future__ import annotations

import codecs
import os
import select
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from failover.engines.base import Work
from failover.errors import Unknown, Unreachable

_LOOK_S = 0.2
_END_S = 5.0
_LAST_LINES = 3
_CHUNK = 1 << 16


def run_tool(argv: Sequence[str | Path], os_user: str, work: Work, heard: Callable[[str], None]) -> None:
    """Run as `os_user` to its end; every line it says goes to `heard`. Raises Unknown if it fails or `work.stop` is set.

    It dies with us (pdeathsig), and what it may leave behind for a moment still holds `work.lock`.
    """
    name = Path(argv[0]).name
    try:
        child = subprocess.Popen(
            _become(os_user) + [str(word) for word in argv], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, cwd="/", env={"LC_ALL": "C", "PATH": os.defpath}, start_new_session=True,
            pass_fds=() if work.lock is None else (work.lock,),
        )  # fmt: skip
    except OSError as error:
        raise Unreachable(f"{name} cannot be run: {error.strerror}") from error
    last: deque[str] = deque(maxlen=_LAST_LINES)
    try:
        assert child.stdout is not None
        for line in _Lines(child.stdout.fileno(), work):
            last.append(line)
            heard(line)
        status = child.wait(_END_S)
    except subprocess.TimeoutExpired as error:
        raise Unknown(f"{name} said its last word and does not end") from error
    finally:
        _end(child)
    if status != 0:
        raise Unknown(f"{name} failed: {' | '.join(last) or f'status {status}'}")


def _become(os_user: str) -> list[str]:
    return ["setpriv", "--reuid", os_user, "--regid", os_user, "--init-groups", "--pdeathsig", "KILL", "--"]


class _Lines:
    """The lines of a descriptor, as they come. Raises Unknown as soon as `work.stop` is set."""

    def __init__(self, descriptor: int, work: Work) -> None:
        self._descriptor, self._work = descriptor, work
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)
        self._decode = codecs.getincrementaldecoder("utf-8")("replace")
        self._ready: deque[str] = deque()
        self._rest = ""
        self._ended = False

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        while not self._ready:
            if self._ended:
                raise StopIteration
            if self._work.stop.is_set():
                raise Unknown("stopped before its end")
            if self._poll.poll(_LOOK_S * 1000):
                self._read()
        return self._ready.popleft()

    def _read(self) -> None:
        raw = os.read(self._descriptor, _CHUNK)
        self._ended = not raw
        *whole, self._rest = (self._rest + self._decode.decode(raw, self._ended)).replace("\r", "\n").split("\n")
        if self._ended and self._rest:
            whole.append(self._rest)
        self._ready.extend(line for line in whole if line.strip())


def _end(child: subprocess.Popen[bytes]) -> None:
    """Its whole session (pg_basebackup has a second process), first kindly. The pid cannot be another's: it is unreaped."""
    if child.stdout is not None:
        child.stdout.close()
    for number in (signal.SIGTERM, signal.SIGKILL):
        if child.poll() is not None:
            return
        os.killpg(child.pid, number)
        try:
            child.wait(_END_S)
        except subprocess.TimeoutExpired:
            continue
