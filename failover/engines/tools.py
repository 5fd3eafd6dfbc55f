"""Long-running tools of a database as child processes: heard line by line, ended when they must, never outliving us."""

from __future__ import annotations

import codecs
import os
import select
import shutil
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from failover.engines.base import Work
from failover.errors import Refused, Unknown, Unreachable

LINE_MAX = 1 << 16  # of a longer line only the beginning is heard: a row may hold a gigabyte
_LOOK_S = 0.2
_END_S = 5.0
_LAST_LINES = 3
_CHUNK = 1 << 16
_TOLD_MAX = 400


def tool_path(bin_dir: Path, *names: str) -> Path:
    """The first of these programs that is there, in `bin_dir` or else in PATH. Raises Refused."""
    for name in names:
        if (bin_dir / name).exists():
            return bin_dir / name
        if (found := shutil.which(name, path=f"{os.defpath}:/usr/local/bin")) is not None:
            return Path(found)
    raise Refused(f"{names[0]} is not installed: neither in {bin_dir} nor in the usual places")


@contextmanager
def child(
    argv: Sequence[str | Path], os_user: str, lock: int | None, *, environment: Mapping[str, str] | None = None,
    stdin: int | IO[bytes] = subprocess.DEVNULL, stdout: int | IO[bytes] = subprocess.PIPE,
    stderr: int | IO[bytes] = subprocess.STDOUT, cwd: Path = Path("/"),
) -> Iterator[subprocess.Popen[bytes]]:  # fmt: skip
    """Run as `os_user` in a session of its own, which is ended with the block. It dies with the thread that began it
    (pdeathsig), and what it may leave behind for a moment still holds `lock`. Raises Unreachable.
    """
    try:
        process = subprocess.Popen(
            _become(os_user) + [str(word) for word in argv], stdin=stdin, stdout=stdout, stderr=stderr, cwd=cwd,
            env={"LC_ALL": "C", "PATH": os.defpath, **(environment or {})}, start_new_session=True,
            pass_fds=() if lock is None else (lock,),
        )  # fmt: skip
    except OSError as error:
        raise Unreachable(f"{Path(argv[0]).name} cannot be run: {error.strerror}") from error
    try:
        yield process
    finally:
        _end(process)


def run_tool(
    argv: Sequence[str | Path], os_user: str, work: Work, heard: Callable[[str], None],
    environment: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """Run to its end; every line it says goes to `heard`. Raises Unknown if it fails or `work.stop` is set."""
    name = Path(argv[0]).name
    last: deque[str] = deque(maxlen=_LAST_LINES)
    with child(argv, os_user, work.lock, environment=environment) as process:
        assert process.stdout is not None
        for line in _Lines(process.stdout.fileno(), work):
            last.append(line)
            heard(line)
        status = ended(process, name)
    if status != 0:
        raise Unknown(f"{name} failed: {' | '.join(last)[:_TOLD_MAX] or f'status {status}'}")


def ended(process: subprocess.Popen[bytes], name: str) -> int:
    """The status of one that has closed its output. Raises Unknown if it lives on."""
    try:
        return process.wait(_END_S)
    except subprocess.TimeoutExpired as error:
        raise Unknown(f"{name} said its last word and does not end") from error


def last_words(path: Path) -> str:
    """The end of a log that a tool has written, for an error message."""
    try:
        lines = path.read_bytes()[-_CHUNK:].decode(errors="replace").splitlines()
    except OSError:
        return "it left no log"
    told = [line.strip() for line in lines if "ERROR" in line or "error" in line] or [line.strip() for line in lines if line]
    return " | ".join(told[-_LAST_LINES:])[:_TOLD_MAX] or "its log is empty"


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
        *whole, rest = (self._rest + self._decode.decode(raw, self._ended)).replace("\r", "\n").split("\n")
        self._rest = rest[:LINE_MAX]
        if self._ended and self._rest:
            whole.append(self._rest)
        self._ready.extend(line for line in whole if line.strip())


def _end(process: subprocess.Popen[bytes]) -> None:
    """Its whole session, first kindly. The pid cannot be another's: it is unreaped."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except BrokenPipeError:
                pass
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        os.killpg(process.pid, number)
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            continue


def copy_durably(source: Path, target: Path) -> None:
    """A copy of our own, on the disk when it returns."""
    shutil.copyfile(source, target)
    target.chmod(0o600)
    sync_file(target)


def write_durably(path: Path, text: str) -> None:
    path.write_text(text)
    sync_file(path)


def sync_file(path: Path) -> None:
    """A file or a folder is on the disk when it returns."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
