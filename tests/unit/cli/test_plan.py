"""`plan --if-dies`: printed for people, complete for programs."""

from __future__ import annotations

from failover.cli import options
from failover.core.model import Policy
from failover.core.plan import Kind
from tests.unit.cli.conftest import World


def test_the_primary_is_asked_about_by_default(living: World) -> None:
    living.adopt()
    done = living.run("plan")
    assert done.exit_code == 0
    assert done.stdout.startswith("If db1 died now: AUTOMATIC FAILOVER -> db2")
    assert "as advanced as db2, which is preferred" in done.stdout


def test_the_document_has_the_same_facts(living: World) -> None:
    living.adopt()
    code, answer = living.json("plan", "--if-dies", "db1")
    assert code == 0
    assert (answer["verdict"], answer["candidate"], answer["blockers"]) == ("failover", "db2", [])
    assert [step["step"] for step in answer["steps"]][:3] == ["claim", "confirm", "choose"]
    assert [rank["member"] for rank in answer["ranking"]] == ["db2", "db3"]


def test_what_would_not_be_done_is_code_10(living: World) -> None:
    living.adopt()
    assert living.run("pause", "--yes").exit_code == 0
    done = living.run("plan")
    assert done.exit_code == options.PROBLEMS
    assert "NO FAILOVER" in done.stdout and "BLOCK  paused by" in done.stdout


def test_an_unknown_member_is_refused_with_the_names(living: World) -> None:
    living.adopt()
    done = living.run("plan", "--if-dies", "db7")
    assert done.exit_code == options.REFUSED and "db1, db2, db3" in done.stderr


def test_the_cool_down_is_estimated_from_the_journal(living: World) -> None:
    living.adopt()
    assert living.run("failover", "--yes", "--timeout", "10s").exit_code == 0
    assert isinstance(living.read(Kind.POLICY), Policy)
    done = living.run("plan")
    assert done.exit_code == options.PROBLEMS
    assert "cool-down after op-1" in done.stdout
