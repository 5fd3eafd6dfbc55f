"""`explain`: the leader's own words, guard by guard; what it doubted last; and what one would judge when nobody leads."""

from __future__ import annotations

import pytest

from failover.cli import options
from failover.core.model import Decision, Operation, OperationKind
from failover.core.plan import Guard, Kind, Verdict
from tests.unit.cli.conftest import World

CALM = (
    Guard("quorum of controllers", Verdict.BLOCK, "0 of 3 lost db1, 2 needed"),
    Guard("no heartbeat at any standby", Verdict.BLOCK, "db2 received a heartbeat 0.1 s ago"),
)
TROUBLE = (
    Guard("quorum of controllers", Verdict.BLOCK, "1 of 3 lost db1, 2 needed (c1: 3 fresh probes in a row failed: timeout)"),
    Guard("no heartbeat at any standby", Verdict.BLOCK, "db2 received a heartbeat 0.1 s ago"),
)
THEN = "2026-01-01T00:00:00.000Z"
DOUBT = Decision("c1", 1, "1 of 3 lost db1, 2 needed", TROUBLE, THEN)


@pytest.fixture
def led(world: World) -> World:
    """Adopted, c1 leads and judges nothing by itself."""
    world.adopt()
    world.lead()
    return world


def says(world: World, text: str, guards: tuple[Guard, ...], doubt: Decision | None = None) -> None:
    from failover.clock import wall_text

    world.put(Kind.DECISION, "", Decision("c1", 1, text, guards, wall_text(), doubt))


def test_a_healthy_cluster_is_explained_with_code_0(led: World) -> None:
    says(led, "", CALM)
    done = led.run("explain")
    assert done.exit_code == 0, done.output
    first, second, *rest = done.stdout.splitlines()
    assert first.startswith("c1 leads (term 1) and said this 0.") and second == "all is well: nothing to do"
    assert "BLOCK    quorum of controllers        0 of 3 lost db1, 2 needed" in rest
    assert "\x1b" not in done.stdout, "no colour where nobody looks"


def test_the_latest_doubt_is_told_below_with_what_was_seen_and_why_nothing_was_done(led: World) -> None:
    says(led, "", CALM, DOUBT)
    done = led.run("explain")
    assert done.exit_code == 0
    _, doubt = done.stdout.split("\nlatest doubt, ")
    assert doubt.startswith(("2026-01-01", "2025-12-31"))
    doubt = " ".join(doubt.split())
    assert "(c1): 1 of 3 lost db1, 2 needed" in doubt and "3 fresh probes in a row failed: timeout" in doubt
    code, answer = led.json("explain")
    assert code == 0 and answer["doubt"]["at"] == THEN and len(answer["doubt"]["guards"]) == 2 and not answer["blocked"]


def test_a_doubt_of_this_moment_is_not_told_twice(led: World) -> None:
    led.put(Kind.DECISION, "", Decision("c1", 1, DOUBT.says, TROUBLE, THEN, DOUBT))
    assert "latest doubt" not in led.run("explain").stdout


def test_a_loss_on_which_nobody_acts_is_code_10(led: World) -> None:
    lost = (Guard("quorum of controllers", Verdict.PASS, "2 of 3 lost db1"), Guard("not paused", Verdict.BLOCK, "paused by ann"))
    says(led, "db1 lost by c1, c2; not acting: paused by ann", lost)
    done = led.run("explain")
    assert done.exit_code == options.PROBLEMS and "PASS     quorum" in done.stdout and "next: `failoverctl status`" in done.stdout


def test_a_held_operation_shows_what_was_asked_of_whom_and_the_next_commands(led: World) -> None:
    doing = Operation("op-4", OperationKind.FAILOVER, "claimed", "db1", 1, "lost", "c1", held="no proof that db1 cannot write")
    led.put(Kind.OPERATION, "", doing)
    guards = (
        Guard("receipt", Verdict.BLOCK, "no receipt of db1 closes epoch 1"),
        Guard("SSH read-back", Verdict.UNKNOWN, "no answer within 3.0 s"),
        Guard("clock", Verdict.BLOCK, "db1 has no guardian: " + "no lease, no gate, so no clock says anything about it; " * 3),
    )
    says(led, "fencing db1", guards)
    done = led.run("explain")
    assert done.exit_code == options.PROBLEMS
    assert "failover op-4 of db1, phase claimed: fencing db1" in done.stdout
    assert "HELD: no proof that db1 cannot write" in done.stdout
    assert "UNKNOWN  SSH read-back  no answer within 3.0 s" in done.stdout
    assert "next: failoverctl confirm-fenced db1\n" in done.stdout
    assert all(len(line) <= 100 for line in done.stdout.splitlines()), done.stdout


def test_without_a_leader_it_is_judged_here_and_said_so(world: World) -> None:
    world.adopt()
    done = world.run("explain")
    assert "no controller leads, so nobody acts" in done.stdout
    assert "quorum of controllers" in done.stdout and "next: systemctl status failoverd" in done.stdout


def test_the_word_of_a_former_leader_is_not_told_as_the_present_ones(led: World) -> None:
    led.put(Kind.DECISION, "", Decision("c2", 1, "all is fine", CALM, THEN, DOUBT))
    done = led.run("explain")
    assert "c1 leads and has not said anything yet" in done.stdout and "all is fine" not in done.stdout
    assert "latest doubt" in done.stdout, "a doubt outlives its leader"


def test_where_no_controller_has_ever_run_nobody_has_judged(world: World) -> None:
    world.erase(Kind.TERM)
    assert world.run("explain").exit_code == options.NOBODY
