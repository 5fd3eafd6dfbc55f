"""Failpoints: off unless the environment says so; one that is laid fires once, in the process that comes to it."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from failover.core.model import Operation, OperationKind, Step
from failover.core.plan import Create, Erase, Key, Kind, Swap
from failover.runtime import failpoints as module
from failover.runtime.failpoints import ENVIRONMENT, Failpoints, from_environment

OPERATION = Operation("op-1", OperationKind.SWITCHOVER, "stopping", "db1", 3, "why", "ann")


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What the process would have sent to itself."""
    sent: list[int] = []
    monkeypatch.setattr(module.signal, "pthread_kill", lambda thread, number: sent.append(number))
    return sent


def line(name: str) -> Create:
    return Create(Key(Kind.JOURNAL, f"op-1/01-{name}"), Step("op-1", 1, name, name.rsplit(".", 1)[-1], "c1", 7, ""))


def test_they_are_off_outside_tests(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    off = from_environment()
    off.announce()
    off.reach("failover.claim.done")
    off.committed([line("claim.done")], OPERATION)
    assert not caplog.records


def test_on_they_say_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path))
    from_environment().announce()
    assert caplog.records[0].levelno == logging.WARNING and str(tmp_path) in caplog.text


@pytest.mark.parametrize(("deed", "number"), [("kill", signal.SIGKILL), ("stop", signal.SIGSTOP)])
def test_one_that_is_laid_fires_once(tmp_path: Path, signals: list[int], deed: str, number: int) -> None:
    (tmp_path / "failover.claim.done").write_text(f"{deed}\n")
    points = Failpoints(tmp_path)
    points.reach("failover.claim.intent")
    assert signals == []
    points.reach("failover.claim.done")
    points.reach("failover.claim.done")
    assert signals == [number]
    assert [path.name for path in tmp_path.iterdir()] == ["failover.claim.done.reached"]


def test_an_unknown_word_does_nothing_but_is_told(tmp_path: Path, signals: list[int], caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a").write_text("reboot")
    Failpoints(tmp_path).reach("a")
    assert signals == [] and "it can say: kill, stop" in caplog.text


def test_a_folder_that_is_not_there_is_no_trouble(tmp_path: Path, signals: list[int]) -> None:
    Failpoints(tmp_path / "nowhere").reach("a")
    assert signals == []


def test_a_transaction_comes_to_the_places_of_its_journal_lines(tmp_path: Path, signals: list[int]) -> None:
    (tmp_path / "switchover.order.done").write_text("stop")
    moved = Swap(Key(Kind.OPERATION), OPERATION, 3)
    Failpoints(tmp_path).committed([moved, line("order.done"), line("claim.intent")], OPERATION)
    assert signals == [signal.SIGSTOP]


def test_the_opening_is_named_by_what_it_opens(tmp_path: Path, signals: list[int]) -> None:
    (tmp_path / "switchover.opened").write_text("kill")
    head = Create(Key(Kind.JOURNAL, "op-1"), Step("op-1", 0, "opened", "opened", "c1", 7, ""))
    Failpoints(tmp_path).committed([Create(Key(Kind.OPERATION), OPERATION), head], None)
    assert signals == [signal.SIGKILL]


def test_the_last_line_is_named_by_what_it_closes(tmp_path: Path, signals: list[int]) -> None:
    (tmp_path / "switchover.settle.done").write_text("kill")
    Failpoints(tmp_path).committed([Erase(Key(Kind.OPERATION), 9), line("settle.done")], OPERATION)
    assert signals == [signal.SIGKILL]


def test_a_real_process_is_ended_where_it_says(tmp_path: Path) -> None:
    (tmp_path / "here").write_text("kill")
    program = (
        "from failover.runtime.failpoints import failpoints\n"
        "failpoints.reach('there'); print('there', flush=True); failpoints.reach('here'); print('past')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, ENVIRONMENT: str(tmp_path)}, capture_output=True, text=True,
        timeout=20, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "there\n")
