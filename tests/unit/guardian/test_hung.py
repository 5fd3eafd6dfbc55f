"""A guardian that holds its state file and answers nobody is ended, and nothing else ever is: real processes, real locks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from failover.clock import boottime_s
from failover.errors import Refused
from failover.guardian.hung import end_guardian, holder, taken
from failover.guardian.state import SlotStateFile, lock_path, peek

HOLDS = """\
import os, signal, sys
from pathlib import Path
from failover.guardian.state import SlotStateFile
from dataclasses import replace
file = SlotStateFile(Path(sys.argv[-1]))
file.store(replace(file.load(), wrote=7, highest=7))
print("held", flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
"""
WATCHES = """\
import os, signal, sys
open(sys.argv[-1] + ".lock", "a+")
descriptor = os.open(sys.argv[-1] + ".lock", os.O_RDWR)
print("held", flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a stopped process called `name` with the state file `state` among its arguments."""
    started: list[subprocess.Popen[str]] = []

    def make(name: str, *words: str, program: str = HOLDS) -> subprocess.Popen[str]:
        script = tmp_path / name
        script.write_text(program)
        argv = [sys.executable, str(script), *words, str(tmp_path / "state")]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": os.getcwd()})
        started.append(process)
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        return process

    yield make
    for process in started:
        process.kill()
        process.wait(10)
        if process.stdout is not None:
            process.stdout.close()


def test_a_stopped_guardian_is_ended_and_its_state_file_taken(start: Start, tmp_path: Path) -> None:
    guardian = start("failover-guardian", "run")
    with taken(tmp_path / "state", 10.0) as file:
        assert file.load().wrote == 7, "what it promised is kept"
    assert guardian.wait(10) == -signal.SIGKILL


@pytest.mark.parametrize(
    ("name", "words"),
    [("failover-hostagent", ("run",)), ("failover-guardian", ("release",)), ("postgres", ("run", "failover-guardian"))],
)
def test_whoever_else_holds_it_is_left_alone(start: Start, tmp_path: Path, name: str, words: tuple[str, ...]) -> None:
    """Another agent that is fencing right now, above all."""
    other = start(name, *words)
    began_s = boottime_s()
    with pytest.raises(Refused, match="holds"), taken(tmp_path / "state", 0.3):
        pass
    assert boottime_s() - began_s < 5.0 and other.poll() is None


def test_a_guardian_that_has_the_file_open_and_no_lock_on_it_is_left_alone(start: Start, tmp_path: Path) -> None:
    bystander = start("failover-guardian", "run", program=WATCHES)
    assert holder(lock_path(tmp_path / "state")) is None and not end_guardian(lock_path(tmp_path / "state"), 0.2)
    with taken(tmp_path / "state", 5.0):
        assert bystander.poll() is None


def test_the_guardian_of_another_cluster_is_left_alone(start: Start, tmp_path: Path) -> None:
    guardian = start("failover-guardian", "run")
    with SlotStateFile(tmp_path / "other"):
        assert holder(lock_path(tmp_path / "other")) is None
        assert not end_guardian(lock_path(tmp_path / "other"), 0.2)
    assert guardian.poll() is None


def test_one_that_lets_go_in_time_is_not_needed_to_be_ended(tmp_path: Path) -> None:
    with SlotStateFile(tmp_path / "state"):
        pass
    with taken(tmp_path / "state", 0.0) as file:
        assert file.load().wrote == 0


def test_a_look_takes_nothing_from_the_one_that_holds_it(start: Start, tmp_path: Path) -> None:
    assert peek(tmp_path / "state").wrote == 0, "never made: nothing was promised"
    guardian = start("failover-guardian", "run")
    assert peek(tmp_path / "state").wrote == 7 and guardian.poll() is None
