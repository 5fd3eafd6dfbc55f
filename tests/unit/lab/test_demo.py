"""What the demo refuses, what it reads of the product, and how it ends."""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path

import pytest
from rich.console import Console

import failover
from failover.lab import demo
from failover.lab.observed import parse
from failover.lab.screen import event_text
from failover.lab.verdict import Row

SCRIPT = Path(failover.__file__).resolve().parent.parent / "demo"


def status(**changes: object) -> str:
    """What `failoverctl status -o json` says of a healthy cluster."""
    members = [
        {"name": "db1", "role": "primary", "gate": "open", "vip": True, "streaming": False, "lag_bytes": None,
         "position": "1/0/5", "problems": [], "rejoin": None},
        {"name": "db2", "role": "standby", "gate": "shut", "vip": False, "streaming": True, "lag_bytes": 0,
         "position": "1/0/5", "problems": [], "rejoin": None},
    ]  # fmt: skip
    said = {"cluster": "orders", "epoch": 4, "primary": "db1", "operation": None, "paused": None, "members": members,
            "controllers": [{"name": "db3", "leader": True}], "problems": []}  # fmt: skip
    return json.dumps(said | changes)


def operation(phase: str, held: str | None) -> dict[str, object]:
    return {"id": "7", "kind": "failover", "phase": phase, "held": held}


def test_a_healthy_cluster_is_settled() -> None:
    seen = parse(status())
    assert seen.settled and seen.leader == "db3" and seen.epoch == 4


@pytest.mark.parametrize(
    ("changes", "because"),
    [
        ({"primary": None}, "there is no primary"),
        ({"operation": operation("granted", None)}, "failover granted is under way"),
        ({"operation": operation("claimed", "no seal")}, "held: no seal"),
    ],
)
def test_an_unsettled_cluster_says_why(changes: dict[str, object], because: str) -> None:
    seen = parse(status(**changes))
    assert not seen.settled and because in seen.unsettled_because


def test_a_member_that_does_not_stream_or_waits_for_a_reseed_is_named() -> None:
    said = json.loads(status())
    said["members"][1] |= {"streaming": False}
    assert parse(json.dumps(said)).unsettled_because == "db2 does not stream"
    said["members"][1] |= {"rejoin": "needs a reseed: diverged"}
    seen = parse(json.dumps(said))
    assert seen.members[1].needs_reseed and "needs a reseed" in seen.unsettled_because


@pytest.mark.parametrize("said", ["", "[]", "{}", '{"primary": "db1"}'])
def test_an_answer_of_another_shape_is_refused(said: str) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        parse(said)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--engine", "mariadb"], "--engine mariadb: not built yet"),
        (["--profile", "fast"], "--profile fast: refused, its lease"),
    ],
)
def test_what_is_not_built_is_refused_with_the_reason_and_nothing_starts(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo.main([*arguments, "--yes"]) == demo.REFUSED
    assert says in capsys.readouterr().out


def test_short_is_three_runs_and_repeat_overrides_it() -> None:
    assert demo.options_from(["--short"]).repeat == 3
    assert demo.options_from([]).repeat == 5
    assert demo.options_from(["--short", "--repeat", "1"]).repeat == 1
    with pytest.raises(SystemExit) as stopped:
        demo.options_from(["--repeat", "0"])
    assert stopped.value.code == 2


def row(act: str, outage_ms: float, result: str = "ok") -> Row:
    return Row(act, "postgresql", "strict", outage_ms, 10, 0, 0.0, "db2", True, True, True, result)


def test_the_exit_code_is_the_verdict() -> None:
    console = Console(file=io.StringIO(), width=160)
    good = [row("switchover", 200.0), row("process_kill", 300.0)]
    assert demo.conclude(console, good) == 0
    assert demo.conclude(console, [*good, row("switchover", 200.0, "the VIP is not on the new primary alone")]) == 10
    assert demo.conclude(console, [row("switchover", 1200.0), good[1]]) == 10
    assert demo.conclude(console, good[:1]) == 10
    assert demo.conclude(console, []) == 10


def test_help_is_quick_and_says_every_option() -> None:
    done = subprocess.run([str(SCRIPT), "--help"], capture_output=True, text=True, timeout=2, check=True)
    for option in ("--engine", "--short", "--repeat", "--profile", "--replication", "--json", "--keep", "--yes"):
        assert option in done.stdout


def test_a_daemons_json_line_is_shown_for_people_and_anything_else_as_it_is() -> None:
    line = json.dumps({"ts": "2026-11-20T13:00:01.5Z", "area": "guardian", "event": "the lease was renewed"})
    assert event_text("db1", line) == "13:00:01 db1 guardian: the lease was renewed"
    assert event_text("db1", "Traceback") == "db1 Traceback"
