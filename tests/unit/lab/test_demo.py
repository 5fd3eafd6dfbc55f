"""What the demo refuses, what it reads of the product, and how it ends."""

from __future__ import annotations

import io
import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

import failover
from failover.config_rules import clock
from failover.lab import demo, mysql
from failover.lab.acts import ACTS
from failover.lab.observed import parse
from failover.lab.screen import event_text, results, verdict_table
from failover.lab.verdict import Limits, Row
from failover.profiles import PROFILES

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


@pytest.mark.parametrize(
    "tables", [[{"table": "lab.writes", "rows": 7}], [["lab.writes", 7]], {"lab.writes": 7}], ids=["objects", "pairs", "object"]
)
def test_what_a_rejoin_gave_up_is_read(tables: object) -> None:
    record = {"member": "db1", "way": "rewind", "state": "done", "discarded_commits": 9, "tables": tables}
    rejoin = parse(status(rejoins=[record])).rejoins["db1"]
    assert (rejoin.way, rejoin.state, rejoin.discarded_commits, rejoin.tables) == ("rewind", "done", 9, {"lab.writes": 7})
    assert parse(status()).rejoins == {}


@pytest.mark.parametrize("said", ["", "[]", "{}", '{"primary": "db1"}'])
def test_an_answer_of_another_shape_is_refused(said: str) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        parse(said)


def test_an_engine_that_this_machine_does_not_have_is_refused_with_the_reason(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(mysql.MySql, "server", Path("/nowhere/mysqld"))
    assert demo.main(["--engine", "mysql", "--yes"]) == demo.REFUSED
    assert "no MySQL server: /nowhere/mysqld is not there" in capsys.readouterr().out


def test_an_engine_that_nobody_knows_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        demo.options_from(["--engine", "oracle"])
    assert stopped.value.code == 2 and "postgresql" in capsys.readouterr().err


def test_only_where_the_main_process_has_children_it_is_frozen_alone(capsys: pytest.CaptureFixture[str]) -> None:
    for engine in ("mariadb", "mysql"):
        every = demo.options_from(["--engine", engine]).acts
        assert set(demo.ORDER) - set(every) == {"frozen_postmaster"}
        with pytest.raises(SystemExit):
            demo.options_from(["--engine", engine, "--acts", "frozen_postmaster"])
        assert f"no act 'frozen_postmaster'; with {engine} there are: switchover" in capsys.readouterr().err


@pytest.mark.parametrize("profile", ["lan", "fast", "default"])
def test_a_clock_of_the_demo_is_one_that_the_product_accepts(profile: str) -> None:
    """The lab's file has pledges, so even a lease shorter than an election of ZooKeeper is none to refuse."""
    assert demo.options_from(["--profile", profile]).profile == profile
    assert list(clock(PROFILES[profile], pledged=True)) == []


def test_short_is_three_runs_and_repeat_overrides_it() -> None:
    assert demo.options_from(["--short"]).repeat == 3
    assert demo.options_from([]).repeat == 5
    assert demo.options_from(["--short", "--repeat", "1"]).repeat == 1
    with pytest.raises(SystemExit) as stopped:
        demo.options_from(["--repeat", "0"])
    assert stopped.value.code == 2


def test_every_act_is_played_unless_some_are_named_in_whatever_order(capsys: pytest.CaptureFixture[str]) -> None:
    every = ("switchover", "process_kill", "host_crash", "power_off", "host_cut", "frozen", "frozen_postmaster")
    assert demo.options_from([]).acts == every
    assert demo.options_from(["--acts", "frozen,switchover"]).acts == ("switchover", "frozen")
    with pytest.raises(SystemExit) as stopped:
        demo.options_from(["--acts", "frozen,melted"])
    assert stopped.value.code == 2 and "no act 'melted'; with postgresql there are: switchover" in capsys.readouterr().err


def test_the_primary_goes_beside_zookeepers_leader_only_if_asked() -> None:
    assert demo.options_from([]).zookeeper_leader == "any"
    assert demo.options_from(["--zookeeper-leader", "primary"]).zookeeper_leader == "primary"


def row(act: str, outage_ms: float, result: str = "ok", **changes: object) -> Row:
    good = Row(act, "postgresql", "strict", outage_ms, 10, 0, 0.0, "db2", True, True, True, result)
    return replace(good, **changes)  # type: ignore[arg-type]  # a test's shorthand


def test_the_exit_code_is_the_verdict_on_the_wanted_acts() -> None:
    console = Console(file=io.StringIO(), width=160)
    wanted = ("switchover", "process_kill")
    good = [row("switchover", 200.0), row("process_kill", 300.0)]
    assert demo.conclude(console, good, wanted) == 0
    wrong = row("switchover", 200.0, "the VIP is not on the new primary alone")
    assert demo.conclude(console, [*good, wrong], wanted) == 10
    assert demo.conclude(console, [row("switchover", 1200.0), good[1]], wanted) == 10
    assert demo.conclude(console, good[:1], wanted) == 10
    assert demo.conclude(console, good[:1], wanted[:1]) == 0
    assert demo.conclude(console, [], wanted) == 10


def test_a_loss_that_async_permits_and_that_was_reported_is_told_and_no_failure() -> None:
    console = Console(file=io.StringIO(), width=160)
    lossy = row("host_cut", 4000.0, replication="async", lost=7, reported=8)
    assert demo.conclude(console, [lossy], ["host_cut"]) == 0
    assert isinstance(console.file, io.StringIO)
    assert "7 acknowledged writes are lost, as async permits, and every one was reported" in console.file.getvalue()
    assert "7/8" in console.file.getvalue()


@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_tables_keep_one_line_for_each_act(width: int) -> None:
    rows = [row(act, 12345.6, acked=12345) for act in demo.ORDER]
    console = Console(file=io.StringIO(), width=width)
    console.print(verdict_table(rows, demo.ORDER, Limits()))
    console.print(results(rows))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    for act in ACTS.values():
        assert sum(act.title in line for line in lines) == 1
    assert all(len(line) <= width for line in lines)
    assert sum(line.startswith("│") for line in lines) == 2 * len(rows)  # heads begin with another stroke


def test_help_is_quick_and_says_every_option() -> None:
    done = subprocess.run([str(SCRIPT), "--help"], capture_output=True, text=True, timeout=2, check=True)
    for option in ("--engine", "--short", "--repeat", "--profile", "--replication", "--json", "--keep", "--yes", "--acts",
                   "--zookeeper-leader", *ACTS):  # fmt: skip
        assert option in done.stdout


def test_a_daemons_json_line_is_shown_for_people_and_anything_else_as_it_is() -> None:
    line = json.dumps({"ts": "2026-11-20T13:00:01.5Z", "area": "guardian", "event": "the lease was renewed"})
    assert event_text("db1", line) == "13:00:01 db1 guardian: the lease was renewed"
    assert event_text("db1", "Traceback") == "db1 Traceback"
