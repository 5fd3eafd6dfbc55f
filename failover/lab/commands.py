"""Run a command with a deadline, wait for a condition with a deadline, and the one error of the lab."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from failover.clock import boottime_s
from failover.errors import FailoverError

LOOK_EVERY_S = 0.02


class LabError(FailoverError):
    """The lab could not do what was asked. One line or more that say what, and where to look."""


def run(
    argv: Sequence[str],
    timeout_s: float = 10.0,
    *,
    check: bool = True,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run to the end, output as text. Past the deadline the whole process group is killed and LabError raised."""
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, errors="replace", env=env, cwd="/", start_new_session=True,
    ) as process:  # fmt: skip
        try:
            out, err = process.communicate(stdin, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            end_group(process)
            raise LabError(f"no end after {timeout_s:g} s: {' '.join(argv[-6:])}") from None
        except BaseException:  # Ctrl-C: it is in a session of its own and would not hear of it
            end_group(process)
            raise
    done = subprocess.CompletedProcess(list(argv), process.returncode, out, err)
    if check and done.returncode != 0:
        raise LabError(f"exit {done.returncode} of: {' '.join(argv[-6:])}\n{(err or out).strip()[-2000:]}")
    return done


def end_group(process: subprocess.Popen[str]) -> None:
    """SIGKILL a process started in a session of its own together with everything it forked, and reap it."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait(timeout=5.0)


def wait(condition: Callable[[], bool], deadline_s: float, says: str | Callable[[], str]) -> float:
    """Look until `condition()` is true; seconds it took. At the deadline: LabError "not within N s: `says`".

    A callable `says` is asked only then, so it can quote a log as it is at that moment.
    """
    start = boottime_s()
    never = threading.Event()
    while not condition():
        if boottime_s() - start > deadline_s:
            raise LabError(f"not within {deadline_s:g} s: {says if isinstance(says, str) else says()}")
        never.wait(LOOK_EVERY_S)
    return boottime_s() - start


def tail(path: Path, lines: int = 15) -> str:
    """The last lines of a log, for an error message."""
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return f"(no log at {path})"


def private_file(path: Path, text: str) -> None:
    """Write a file that only its owner may ever have been able to read."""
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(text)
