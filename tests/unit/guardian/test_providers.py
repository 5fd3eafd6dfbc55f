"""Who carries out a start. systemd is a script of that name here: real systemd cannot run in the lab.

The script keeps the promises the product relies on: `start --no-block` queues a job that asks the unit's condition
first, `stop` takes a queued start back, `show` prints properties. Flags and parsing are checked, systemd itself is not.
"""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from failover.clock import boottime_s
from failover.core.model import Role
from failover.engines.base import LocalEngine
from failover.errors import Refused, Unknown, Unreachable
from failover.guardian.instance import DatabaseInstance
from failover.guardian.providers import SystemdProvider, marker_path, may_start, without_secrets
from failover.settings import InstanceSettings

ROOT = Path(__file__).parents[3]

SYSTEMCTL = f"""#!{sys.executable}
import os, pathlib, subprocess, sys
sys.path.insert(0, {str(ROOT)!r})
from failover.guardian.providers import may_start
here = pathlib.Path(os.environ["FAKE_SYSTEMD"])
with (here / "calls").open("a") as calls:
    calls.write(" ".join(sys.argv[1:]) + "\\n")
if (here / "hang").exists():
    import signal
    signal.pause()
verb = sys.argv[1]
if verb == "start":
    if (here / "no-such-unit").exists():
        sys.exit("Failed to start: Unit not found.")
    if not may_start(here / "run", "orders"):
        (here / "result").write_text("exec-condition")
    elif not (here / "queued").exists():
        server = subprocess.Popen(["sleep", "300"], cwd=here / "data", start_new_session=True, stdin=subprocess.DEVNULL,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        (here / "pid").write_text(str(server.pid))
elif verb == "stop":
    (here / "queued").unlink(missing_ok=True)
    if (here / "pid").exists():
        try:
            os.kill(int((here / "pid").read_text()), 15)
        except ProcessLookupError:
            pass
elif verb == "show":
    result = (here / "result").read_text() if (here / "result").exists() else "success"
    job = "4711" if (here / "queued").exists() else ""
    state = "active" if (here / "pid").exists() else "inactive"
    print(f"MainPID=0\\nActiveState={{state}}\\nSubState=x\\nResult={{result}}\\nJob={{job}}")
"""


class Unit:
    """A host with the script in PATH, and an engine that believes a pid file, as engines do after their own checks."""

    def __init__(self, here: Path) -> None:
        self.here = here
        self.ready = True
        settings = InstanceSettings(
            port=5432,
            data_dir=here / "data",
            bin_dir=here,
            provider="systemd",
            unit="orders-db.service",
            socket_dir=here,
            os_user=pwd.getpwuid(os.geteuid()).pw_name,
            database="postgres",
        )
        engine = cast(LocalEngine, self)
        self.instance = DatabaseInstance(engine, settings, "1", here / "run", here / "log", cluster="orders")

    def main_pid(self) -> int | None:
        try:
            pid = int((self.here / "pid").read_text())
            return pid if os.path.samefile(f"/proc/{pid}/cwd", self.here / "data") else None
        except OSError:
            return None

    def state(self, budget_s: float) -> SimpleNamespace:
        if not self.ready:
            raise Unreachable("starting up")
        return SimpleNamespace(role=Role.STANDBY)

    def control_state(self) -> SimpleNamespace:
        return SimpleNamespace(system_identifier="1")

    def remove_stale_files(self) -> None:
        """There are none."""

    def arm_standby(self) -> None:
        assert not marker_path(self.here / "run", "orders").exists(), "no leave to start before it is armed"

    def start_command(self) -> tuple[str, ...]:
        return ("the unit's business",)

    def stop_signal(self, mode: str) -> int:
        return {"fast": signal.SIGTERM, "immediate": signal.SIGKILL}[mode]

    @property
    def calls(self) -> list[str]:
        return (self.here / "calls").read_text().splitlines() if (self.here / "calls").exists() else []


@pytest.fixture
def unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Unit]:
    for name in ("data", "run", "log", "bin"):
        (tmp_path / name).mkdir()
    script = tmp_path / "bin/systemctl"
    script.write_text(SYSTEMCTL)
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SYSTEMD", str(tmp_path))
    made = Unit(tmp_path)
    yield made
    (tmp_path / "hang").unlink(missing_ok=True)
    assert made.instance.kill_all(10)


def soon(condition: Callable[[], object]) -> None:
    end_s = boottime_s() + 10
    while not condition():
        assert boottime_s() < end_s, "the condition did not come true in time"
        threading.Event().wait(0.005)


def start_in_background(unit: Unit) -> tuple[threading.Thread, list[str]]:
    """A start that ends as unknown; what it said is in the list then."""
    said: list[str] = []

    def start() -> None:
        with pytest.raises(Unknown) as outcome:
            unit.instance.start_standby(10)
        said.append(str(outcome.value))

    thread = threading.Thread(target=start)
    thread.start()
    return thread, said


def test_the_unit_starts_under_our_leave_and_the_leave_ends_with_the_start(unit: Unit) -> None:
    main = unit.instance.start_standby(10)
    assert unit.calls[0] == "start --no-block orders-db.service"
    assert unit.instance.processes().main == main
    assert not may_start(unit.here / "run", "orders")
    assert list((unit.here / "run").iterdir()) == []


def test_a_start_by_anybody_else_is_refused_by_the_condition(unit: Unit) -> None:
    subprocess.run(["systemctl", "start", "orders-db.service"], check=True, timeout=10)
    assert unit.main_pid() is None and (unit.here / "result").read_text() == "exec-condition"


def test_a_unit_that_ended_is_reported_with_what_systemd_says(unit: Unit) -> None:
    (unit.here / "queued").touch()
    (unit.here / "result").write_text("exit-code")
    thread, said = start_in_background(unit)
    soon(lambda: any(call.startswith("show") for call in unit.calls))
    assert thread.is_alive(), "a queued job may still succeed"
    (unit.here / "queued").unlink()
    thread.join(5)
    assert "Result=exit-code" in said[0] and "journalctl -u orders-db.service" in said[0]


def test_an_unknown_unit_is_refused_and_leaves_no_leave_to_start(unit: Unit) -> None:
    (unit.here / "no-such-unit").touch()
    with pytest.raises(Refused, match="Unit not found"):
        unit.instance.start_standby(10)
    assert list((unit.here / "run").iterdir()) == []


def test_a_start_that_systemctl_never_answered_is_unknown_and_cannot_come_up_later(unit: Unit) -> None:
    (unit.here / "hang").touch()
    provider = SystemdProvider("orders-db.service", unit.here / "run", "orders")
    with pytest.raises(Unknown, match="did not answer"):
        provider.begin((), 0.3, 60)
    assert not may_start(unit.here / "run", "orders")


def test_a_stop_in_order_is_systemds_and_an_immediate_one_is_ours(unit: Unit) -> None:
    unit.instance.start_standby(10)
    assert unit.instance.stop("fast", 10) is True
    assert unit.calls[-1] == "stop --no-block orders-db.service"
    (unit.here / "pid").unlink()
    unit.instance.start_standby(10)
    before = len(unit.calls)
    assert unit.instance.stop("immediate", 10) is True
    assert unit.calls[before:] == []


def test_a_hanging_systemctl_holds_up_neither_a_stop_nor_a_kill(unit: Unit) -> None:
    unit.instance.start_standby(10)
    main = unit.main_pid()
    (unit.here / "hang").touch()
    began_s = boottime_s()
    assert unit.instance.stop("fast", 10) is True  # by signal, once systemctl has used up its time
    assert boottime_s() - began_s < 5
    (unit.here / "hang").unlink()
    (unit.here / "pid").unlink()
    again = unit.instance.start_standby(10)
    assert again != main
    (unit.here / "hang").touch()
    died: list[float] = []
    watch = unit.instance.watch()
    assert watch is not None
    thread = threading.Thread(target=lambda: died.append(boottime_s() if watch.wait(5) else -1))
    thread.start()
    began_s = boottime_s()
    assert unit.instance.kill_all(10) is True
    thread.join()
    watch.close()
    assert 0 < died[0] - began_s < 1, "the kill comes first, systemctl afterwards"


def test_a_kill_strikes_also_while_a_start_is_stuck_half_way_and_then_does_not_say_it_is_done(unit: Unit) -> None:
    unit.instance.start_standby(10)
    watch = unit.instance.watch()
    assert watch is not None
    with unit.instance._spawning:  # a start between "nothing runs" and "it runs", held up by a disk for example
        assert unit.instance.kill_all(0.3) is False
    assert watch.wait(0) is True
    watch.close()


def test_a_kill_takes_back_a_queued_start(unit: Unit) -> None:
    (unit.here / "queued").touch()
    thread, said = start_in_background(unit)
    soon(lambda: any(call.startswith("show") for call in unit.calls))
    assert may_start(unit.here / "run", "orders")
    assert unit.instance.kill_all(10) is True
    assert not may_start(unit.here / "run", "orders") and "stop --no-block orders-db.service" in unit.calls
    thread.join(10)
    assert not thread.is_alive() and "ended while it was starting" in said[0]


def test_leave_to_start_left_by_a_crashed_guardian_is_leave_for_nobody(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib; from failover.guardian.providers import _write_marker, may_start\n"
        "run = pathlib.Path(sys.argv[1]); _write_marker(run, 'orders', 60); print(may_start(run, 'orders'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, capture_output=True, timeout=20, check=True
    )
    assert done.stdout == b"True\n" and marker_path(tmp_path, "orders").exists()
    assert may_start(tmp_path, "orders") is False


@pytest.mark.parametrize("change", [{"until_s": 0.0}, {"boot": "another"}, {"started": 1}, {"pid": "me"}])
def test_leave_to_start_ends_with_its_time_its_boot_and_its_guardian(unit: Unit, change: dict[str, object]) -> None:
    run_dir = unit.here / "run"
    (unit.here / "queued").touch()
    provider = SystemdProvider("orders-db.service", run_dir, "orders")
    provider.begin((), 5, 60)
    assert may_start(run_dir, "orders") is True
    assert may_start(run_dir, "invoices") is False
    path = marker_path(run_dir, "orders")
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert may_start(run_dir, "orders") is False
    path.write_text("{")
    assert may_start(run_dir, "orders") is False


def test_the_drop_in_asks_our_condition_and_never_restarts() -> None:
    text = (ROOT / "failover/guardian/systemd-dropin.conf").read_text()
    settings = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert settings == ["[Service]", "ExecCondition=+/usr/bin/failover-hostagent may-start --cluster CLUSTER", "Restart=no"]


def test_log_excerpts_hold_no_secret_and_fit_on_one_line() -> None:
    text = without_secrets(
        "LOG:  starting\nFATAL:  could not connect: host=db1 user=r password=hunter2 dbname=x\n"
        "STATEMENT:  ALTER ROLE a PASSWORD 'hunter2'\nHINT:  postgresql://r:hunter2@db1/x PASSWORD 'hunter2'\n"
    )
    assert "hunter2" not in text and "\n" not in text and "could not connect" in text and "user=r" in text
