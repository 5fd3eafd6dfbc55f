"""`status`: what is seen, of whom, how old it is; and what a script may rely on."""

from __future__ import annotations

import json

from failover.cli import options
from failover.core.model import ControllerStatus, Maintenance, Mode, Operation, OperationKind, Policy, Problem
from failover.core.plan import Kind
from tests.unit.cli.conftest import World

KEYS = {
    "cluster", "engine", "replication", "mode", "epoch", "primary", "operation", "paused", "cooldown_left_s", "members",
    "controllers", "fenced", "rejoins", "sync", "degraded", "problems",
}  # fmt: skip
MEMBER_KEYS = {
    "name", "role", "gate", "vip", "writable", "streaming", "lag_bytes", "lag_transactions", "position", "epoch", "problems",
    "rejoin", "says",
    "age_s",
}  # fmt: skip


def test_a_healthy_cluster_is_code_0(living: World) -> None:
    living.adopt()
    done = living.run("status")
    assert done.exit_code == 0, done.output
    assert "healthy" in done.stdout and "primary db1" in done.stdout and "c1 (leader)" in done.stdout
    assert done.stderr == ""


def test_the_document_keeps_its_promise(living: World) -> None:
    living.adopt()
    code, answer = living.json("status")
    assert code == 0 and set(answer) == KEYS
    assert {m["name"] for m in answer["members"]} == {"db1", "db2", "db3"}
    assert all(set(m) == MEMBER_KEYS for m in answer["members"])
    assert answer["primary"] == "db1" and answer["epoch"] == 1 and answer["sync"] == [{"w": 1, "names": ["db2", "db3"]}]
    assert [c["leader"] for c in answer["controllers"]] == [True, False, False]
    standby = answer["members"][1]
    assert standby["streaming"] and standby["lag_bytes"] == 0 and standby["age_s"] < 1.0


def test_a_silent_member_is_not_shown_as_it_was(living: World) -> None:
    """Its last record says "streaming"; a stale row must not be trusted."""
    living.adopt()
    living.dead.add("db3")
    code, answer = living.json("status")
    silent = answer["members"][2]
    assert code == options.PROBLEMS
    assert (silent["role"], silent["streaming"], silent["age_s"]) == ("unknown", False, None)
    assert silent["says"].startswith("silent") and silent["position"] == "1@0/2000"
    assert [p["code"] for p in answer["problems"]] == ["member-silent"]


def test_a_quick_look_takes_no_second_one(living: World) -> None:
    living.adopt()
    living.dead.add("db3")
    done = living.run("status", "--quick", "-o", "json")
    assert all(m["age_s"] is None for m in json.loads(done.stdout)["members"])
    assert done.exit_code == 0


def test_before_adoption_the_next_command_is_named(living: World) -> None:
    done = living.run("status")
    assert done.exit_code == options.PROBLEMS
    assert "1. this cluster is not adopted" in done.stdout and "next: failoverctl adopt" in done.stdout


def test_where_no_controller_ever_ran_nobody_is_there(world: World) -> None:
    world.file.write_text(world.file.read_text().replace("  orders:", "  billing:"))
    done = world.run("status")
    assert done.exit_code == options.NOBODY
    assert "no controller has ever run for billing" in done.stdout


def test_an_operation_and_why_it_is_held_are_shown(world: World) -> None:
    world.adopt()
    doing = Operation("op-4", OperationKind.FAILOVER, "claimed", "db1", 1, "lost", "c1", target="db2", held="no proof")
    world.put(Kind.OPERATION, "", doing)
    world.beat()
    page = world.run("status", "--quick").stdout
    assert "failover op-4: db1 -> db2, phase claimed" in page and "HELD: no proof" in page
    _, answer = world.json("status", "--quick")
    assert answer["operation"] == {
        "id": "op-4", "kind": "failover", "phase": "claimed", "held": "no proof", "old": "db1",
        "candidate": None, "target": "db2",
    }  # fmt: skip


def test_a_pause_shows_what_is_left_of_it(living: World) -> None:
    living.adopt()
    assert living.run("pause", "--for", "2h", "--yes", "--reason", "disks").exit_code == 0
    page = living.run("status").stdout
    assert "PAUSED for 120 min" in page or "PAUSED for 2 h" in page
    assert "left: disks" in page


def test_controllers_own_problems_are_told_with_their_hint(living: World) -> None:
    living.adopt()
    told = (Problem("tsig", "the DNS server refuses our key", "compare dns.tsig_key_file"),)
    living.put(Kind.CONTROLLER, "c2", ControllerStatus("c2", living.digest, "1", told))
    page = living.run("status").stdout
    assert "1. c2: the DNS server refuses our key" in page and "next: compare dns.tsig_key_file" in page


def test_maintenance_and_another_file_are_problems(living: World) -> None:
    living.adopt()
    living.put(Kind.POLICY, "", Policy(Mode.AUTOMATIC, maintenance=(Maintenance("db3", 60, "disk", "ada"),)))
    living.put(Kind.CONTROLLER, "c3", ControllerStatus("c3", "0" * 64, "1"))
    _, answer = living.json("status")
    assert {p["code"] for p in answer["problems"]} >= {"maintenance", "configuration-differs"}


def test_colour_is_only_where_it_is_wanted(living: World) -> None:
    assert "\x1b[" not in living.run("status").stdout
    assert "\x1b[31m" in living.run("status", "--color", "always").stdout
