"""What was done, as the journal tells it."""

from __future__ import annotations

from failover.cli import options
from failover.cli.journal import story
from failover.core.model import Step
from tests.unit.cli.conftest import World


def test_history_tells_who_why_and_how_it_ended(living: World) -> None:
    living.adopt()
    assert living.run("switchover", "--yes", "--reason", "kernel update", "--timeout", "10s").exit_code == 0
    page = living.run("history").stdout
    assert "op-1" in page and "db1 -> db2" in page and "done" in page and "kernel update" in page
    code, answer = living.json("history")
    (told,) = answer["operations"]
    assert code == 0 and told["result"] == "done" and told["took_s"] >= 0 and "@" in told["requester"]


def test_a_timeline_has_every_step_with_its_offset(living: World) -> None:
    living.adopt()
    assert living.run("switchover", "--yes", "--timeout", "10s").exit_code == 0
    code, answer = living.json("timeline", "op-1")
    steps = answer["steps"]
    assert code == 0 and steps[0]["name"] == "opened" and steps[0]["at_ms"] == 0 and steps[-1]["name"] == "settle.done"
    assert [s["at_ms"] for s in steps] == sorted(s["at_ms"] for s in steps)
    assert next(s for s in steps if s["name"] == "choose.done")["facts"]["candidate"] == "db2"
    assert "rejected db3: as advanced" in living.run("timeline").stdout


def test_without_any_operation_that_is_said(living: World) -> None:
    assert living.run("history").stdout == "no operation yet\n"
    assert living.run("timeline").exit_code == options.REFUSED


def test_an_unknown_operation_is_refused_with_the_names(living: World) -> None:
    living.adopt()
    assert living.run("switchover", "--yes", "--timeout", "10s").exit_code == 0
    done = living.run("timeline", "op-7")
    assert done.exit_code == options.REFUSED and "there are: op-1" in done.stderr


def line(number: int, name: str, second: int, **facts: str) -> Step:
    kind = name.rpartition(".")[2]
    return Step("op-3", number, name, kind, "c1", 4, f"says {name}", tuple(facts.items()), f"2026-01-01T00:00:{second:02d}.000Z")


def test_a_switchover_that_became_a_failover_says_so() -> None:
    told = story("op-3", (
        Step("op-3", 0, "opened", "opened", "c1", 4, "switchover: patches", (("old", "db1"),), "2026-01-01T00:00:00.000Z"),
        line(1, "prepare.done", 1, became="a failover: the process died"),
        line(4, "grant.done", 2, member="db2"),
        line(8, "settle.done", 3),
    ))  # fmt: skip
    assert (told.kind, told.old, told.new, told.result, told.took_s) == ("switchover, then failover", "db1", "db2", "done", 3.0)


def test_results_are_told_apart() -> None:
    head = line(0, "opened", 0)
    assert story("op-3", (head, line(2, "confirm.held", 1))).result == "held"
    assert story("op-3", (head, line(2, "confirm.undone", 1))).result == "undone"
    assert story("op-3", (head, line(2, "confirm.done", 1))).result == "running"
    assert story("op-3", ()).result == "running"
