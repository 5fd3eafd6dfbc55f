"""fence, confirm-fenced, rejoin, cancel: what they ask, what they refuse, what they say at the end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from failover.cli import options, performing
from failover.core.model import (
    Claim,
    Operation,
    OperationKind,
    Rejoin,
    RejoinOrder,
    RejoinWay,
    Step,
)  # fmt: skip
from failover.core.plan import Create, Key, Kind
from tests.unit.cli.conftest import Decider, Loops, S, World

SWEAR = ("confirm-fenced", "db1", "--reason", "cable pulled")


def claimed(world: World) -> None:
    """A failover that waits for proof about db1, which is silent; nobody goes on with it."""
    world.adopt()
    grant = world.read(Kind.GRANT)
    world.put(Kind.GRANT, "", replace(grant, member=None, epoch=2, claim=Claim("db1", 1, 9, "op-1")))
    facts = (("old", "db1"), ("requester", "c1"), ("target", "any"))
    head = Step("op-1", 0, "opened", "opened", "c1", 1, "failover: lost", facts, "2026-01-01T00:00:00.000Z")
    world.ledger.commit([Create(Key(Kind.JOURNAL, "op-1"), head)], S)
    world.put(Kind.OPERATION, "", Operation("op-1", OperationKind.FAILOVER, "claimed", "db1", 1, "lost", "c1", held="no proof"))


@pytest.fixture
def waiting(world: World, loops: Loops) -> World:
    """c1 leads; db1 is dead and silent, the failover is claimed and held."""
    world.lead()
    world.dead.add("db1")
    world.deaf.update(("db2", "db3"))
    claimed(world)
    loops.every(0.05, world.beat)
    loops.every(0.03, Decider(world, ok=False).tick)
    return world


# --- fence and rejoin ---------------------------------------------------------------------------------------------------------
def test_a_fence_is_followed_to_its_proof_and_a_rejoin_until_it_streams(living: World) -> None:
    living.adopt()
    done = living.run("fence", "db2", "--yes", "--reason", "disk noise", "--timeout", "10s")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("fence op-1 done: db2 is down: ")
    assert done.stderr.endswith("next: `failoverctl rejoin db2` brings it back\n")
    assert living.read(Kind.POLICY).fenced == ("db2",) and living.read(Kind.OPERATION) is None
    code, answer = living.json("status")
    assert code == options.PROBLEMS and answer["fenced"] == ["db2"]
    assert [p["hint"] for p in answer["problems"] if p["code"] == "fenced"] == ["failoverctl rejoin db2"]

    back = living.run("rejoin", "db2", "--yes", "--timeout", "10s")
    assert (back.exit_code, back.stdout) == (0, "db2 streams from the primary again\n"), back.output
    assert living.read(Kind.POLICY).fenced == ()


def test_history_tells_a_fence_and_what_was_given_up(living: World) -> None:
    living.adopt()
    assert living.run("fence", "db3", "--yes").exit_code == 0
    _, answer = living.json("history")
    assert [(o["kind"], o["old"], o["new"], o["result"]) for o in answer["operations"]] == [("fence", "db3", None, "done")]


def test_the_primary_is_not_fenced(living: World) -> None:
    living.adopt()
    done = living.run("fence", "db1", "--yes")
    assert done.exit_code == options.REFUSED
    assert "refused: db1 is the primary: `failoverctl failover` fences it and promotes another" in done.stderr


def test_rehearsals_change_nothing(living: World) -> None:
    living.adopt()
    would = "would be done: fence: the database of db2 is stopped, and stays down until `failoverctl rejoin db2`\n"
    assert living.run("fence", "db2", "--dry-run").stdout == would
    assert living.run("rejoin", "db2", "--dry-run").exit_code == options.REFUSED
    assert living.run("cancel", "--dry-run").exit_code == options.REFUSED
    assert living.names(Kind.REQUEST) == () and living.read(Kind.OPERATION) is None


def test_who_is_well_is_refused_a_rejoin(living: World) -> None:
    living.adopt()
    done = living.run("rejoin", "db2", "--yes")
    assert done.exit_code == options.REFUSED and "db2 is in good standing: it streams from db1" in done.stderr


def test_a_rejoin_that_lasts_is_told_and_not_waited_for_for_ever(living: World) -> None:
    living.adopt()
    living.run("fence", "db2", "--yes", "--no-wait")
    living.dead.add("db2")
    living.put(Kind.MEMBER, "db2", replace(living.status("db2", living.read(Kind.GRANT)), rejoin="rewinding: 40 %"))
    living.erase(Kind.OPERATION) if living.read(Kind.OPERATION) else None
    done = living.run("rejoin", "db2", "--yes", "--timeout", "2s")
    assert done.exit_code == options.LATE, done.output
    assert "... db2: rewinding: 40 %" in done.stderr and done.stdout == "db2 does not stream yet: rewinding: 40 %\n"
    (order,) = living.read(Kind.POLICY).rejoin
    assert (order.member, order.way) == ("db2", RejoinWay.REWIND)


def test_a_new_copy_is_asked_about_with_what_is_given_up(living: World, monkeypatch: pytest.MonkeyPatch) -> None:
    living.adopt()
    living.run("fence", "db2", "--yes")
    lost = Rejoin("db2", 1, RejoinWay.REWIND, "failed", discarded_commits=12, says="the source went away")
    living.put(Kind.REJOIN, "db2", lost)
    monkeypatch.setattr(performing, "is_terminal", lambda: True)
    done = living.run("rejoin", "db2", "--reseed", input="n\n")
    assert done.exit_code == options.REFUSED
    assert "db2 gets a new copy of the primary; its old data is given up, 12 commits that only it has with it" in done.stderr
    assert living.read(Kind.POLICY).rejoin == ()
    assert living.run("rejoin", "db2", "--reseed", "--no-wait", input="y\n").exit_code == 0
    assert living.read(Kind.POLICY).rejoin[0].way is RejoinWay.RESEED


RECORD = Rejoin(
    "db1", 3, RejoinWay.REWIND, "done", "1@0/1000", "1@0/2000", 3, ("xid 741 at 0/10F0", "xid 742 at 0/1200"),
    (("public.orders", 7),), "/var/lib/failover/saved/db1-3", "rewound", "2026-01-01T00:00:00.000Z",
)  # fmt: skip


def test_how_rejoins_went_is_shown_with_what_was_discarded(living: World) -> None:
    living.adopt()
    assert "nothing was discarded" in living.run("rejoin").stdout
    living.put(Kind.REJOIN, "db1", RECORD)
    living.put(Kind.POLICY, "", replace(living.read(Kind.POLICY), rejoin=(RejoinOrder("db3", RejoinWay.RESEED, "ann", "r"),)))
    told = living.run("rejoin").stdout
    assert "db3 may reseed, ordered by ann" in told and "public.orders 7" in told and "741" not in told
    assert "saved on its host, in /var/lib/failover/saved/db1-3" in told
    more = living.run("rejoin", "-v").stdout
    assert "  xid 741 at 0/10F0\n" in more and "and 1 more" in more
    code, answer = living.json("rejoin")
    assert code == 0 and answer["rejoins"][0]["discarded_commits"] == 3
    assert answer["orders"] == [{"member": "db3", "way": "reseed", "by": "ann"}]


def test_status_tells_what_was_discarded(living: World) -> None:
    living.adopt()
    living.put(Kind.REJOIN, "db1", RECORD)
    told = "db1 rejoined by rewind: 3 commits discarded, saved in /var/lib/failover/saved/db1-3 on db1"
    assert told in living.run("status").stdout
    code, answer = living.json("status")
    assert code == 0 and answer["rejoins"][0]["member"] == "db1", "it is information, no problem"


# --- cancel -------------------------------------------------------------------------------------------------------------------
def test_a_switchover_is_given_up_before_the_claim(living: World) -> None:
    living.adopt()
    living.deaf.add("db1")
    assert living.run("switchover", "--yes", "--no-wait").exit_code == 0
    done = living.run("cancel", "--yes", "--reason", "not today")
    assert (done.exit_code, done.stdout) == (0, "cancel: op-1 is given up; db1 takes writes\n"), done.output
    _, answer = living.json("history")
    assert answer["operations"][0]["result"] == "undone" and living.read(Kind.OPERATION) is None
    assert "given up by" in living.run("timeline").stdout


def test_after_the_claim_it_only_rolls_forward(waiting: World) -> None:
    done = waiting.run("cancel", "--yes")
    assert done.exit_code == options.REFUSED
    assert "op-1 is in phase claimed: it only rolls forward now: `failoverctl timeline op-1`" in done.stderr


# --- ack ----------------------------------------------------------------------------------------------------------------------
def test_a_failover_is_acknowledged_once_and_by_its_name(living: World) -> None:
    living.adopt()
    living.put(Kind.POLICY, "", replace(living.read(Kind.POLICY), last_failover="op-4"))
    assert living.run("ack", "op-3", "--yes").exit_code == options.REFUSED
    told = "would be done: ack: the cool-down after op-4 ends; the leader may fail over by itself again\n"
    assert living.run("ack", "--dry-run").stdout == told and living.read(Kind.POLICY).last_failover == "op-4"
    done = living.run("ack", "op-4", "--yes")
    assert (done.exit_code, done.stdout) == (0, "ack: done, says c1\n"), done.output
    assert living.read(Kind.POLICY).last_failover is None
    again = living.run("ack", "--yes")
    assert again.exit_code == options.REFUSED and "no cool-down counts" in again.stderr


# --- confirm-fenced -----------------------------------------------------------------------------------------------------------
def test_the_sworn_fence_goes_on(waiting: World) -> None:
    waiting.deaf.clear()
    done = waiting.run(*SWEAR, "--typed", "db1", "--yes", "--timeout", "10s")
    assert done.exit_code == 0, done.output
    assert "confirm CONFIRMED BY HAND: db1 cannot write, swears" in done.stderr
    assert waiting.read(Kind.GRANT).member == "db2"


@pytest.mark.parametrize("words", [("--yes",), ("--typed", "db1"), ()])
def test_yes_alone_is_not_enough(waiting: World, words: tuple[str, ...]) -> None:
    done = waiting.run(*SWEAR, *words)
    assert done.exit_code == options.USAGE and "add --typed db1 --yes" in done.stderr
    assert waiting.names(Kind.REQUEST) == ()


def test_another_name_or_no_reason_confirms_nothing(waiting: World) -> None:
    assert waiting.run(*SWEAR, "--typed", "db2", "--yes").exit_code == options.REFUSED
    done = waiting.run("confirm-fenced", "db1", "--typed", "db1", "--yes")
    assert done.exit_code == options.USAGE and "--reason" in done.stderr
    assert waiting.names(Kind.REQUEST) == () and waiting.read(Kind.OPERATION).fenced_by is None


def test_a_person_types_the_name(waiting: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(performing, "is_terminal", lambda: True)
    done = waiting.run(*SWEAR, "--yes", input="yes\n")
    assert done.exit_code == options.REFUSED and "that is not db1" in done.stderr
    assert "I have made sure that db1 cannot write: it is powered off, or its network is unplugged." in done.stderr
    assert waiting.read(Kind.OPERATION).fenced_by is None
    done = waiting.run(*SWEAR, "--no-wait", input="db1\n")
    assert done.exit_code == 0, done.output
    held: Any = waiting.read(Kind.OPERATION)
    assert held.fenced_by.endswith(": cable pulled")


def test_nobody_swears_in_vain(living: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for it: the person is not even asked."""
    living.adopt()
    monkeypatch.setattr(performing, "is_terminal", lambda: True)
    done = living.run(*SWEAR, input="db1\n")
    assert done.exit_code == options.REFUSED and "you swear" not in done.stderr
    assert "would be refused: no operation is under way" in done.stderr


def test_evidence_of_a_fence_that_is_held_is_asked_for_on(world: World, loops: Loops) -> None:
    """A silent standby: no proof within the wait, a human is needed, and both ways on are told."""
    world.lead()
    world.adopt()
    world.dead.add("db2")
    loops.every(0.05, world.beat)
    loops.every(0.03, Decider(world, ok=False).tick)
    done = world.run("fence", "db2", "--yes", "--timeout", "4s")
    assert done.exit_code == options.HUMAN, done.output
    assert "fence op-1 is held: no proof that db2 is down" in done.stdout
    assert "`failoverctl explain`; `failoverctl cancel op-1` gives it up" in done.stderr
    assert world.run("cancel", "--yes").exit_code == 0
    assert world.read(Kind.POLICY).fenced == ()
