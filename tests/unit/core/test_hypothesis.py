"""What would happen if: the leader's own judgement, asked about a death that has not happened."""

from __future__ import annotations

from dataclasses import replace

import pytest

from failover.core.hypothesis import if_dies
from failover.core.model import (
    Grant,
    Lease,
    Maintenance,
    Mode,
    Operation,
    OperationKind,
    Policy,
    Replication,
    Role,
    SyncSet,
    Willingness,
)  # fmt: skip
from failover.core.tables import TABLES
from tests.support.observations import RULES, healthy, primary, standby, stored

LEASES = {"db1": stored(Lease("db1", 4))}


# --- the primary --------------------------------------------------------------------------------------------------------
def test_a_healthy_cluster_fails_over_to_the_preferred_of_equals() -> None:
    found = if_dies(healthy(), RULES, "db1")
    assert (found.verdict, found.candidate, found.blockers) == ("failover", "db2", ())
    assert found.says == "If db1 died now: AUTOMATIC FAILOVER -> db2"
    assert [(r.member, r.chosen, r.why) for r in found.ranking] == [
        ("db2", True, ""), ("db3", False, "as advanced as db2, which is preferred"),
    ]  # fmt: skip
    assert found.at_risk.startswith("nothing: ")


def test_the_steps_are_those_of_the_phase_table() -> None:
    assert [step for step, _ in if_dies(healthy(), RULES, "db1").steps] == [r.step for r in TABLES[OperationKind.FAILOVER]]


def test_the_most_advanced_wins_and_the_other_says_by_how_much() -> None:
    found = if_dies(healthy(standby("db2", position="90")), RULES, "db1")
    assert found.candidate == "db3"
    assert found.ranking[1].why == "10 bytes behind db3" and found.ranking[1].lag == 10 and found.ranking[1].lag_unit == "bytes"


def test_a_standby_that_may_have_lost_what_it_acknowledged_is_no_witness() -> None:
    found = if_dies(healthy(standby("db2", testifies=False)), RULES, "db1")
    assert (found.verdict, found.candidate) == ("hold", None)
    assert "only db3 of them can testify" in found.says
    assert next(r for r in found.ranking if r.member == "db2").why.startswith("may have lost log that it acknowledged")


def test_a_standby_that_does_not_replay_may_be_chosen_and_the_note_says_what_it_does_first() -> None:
    late = standby("db3", replay_lag_bytes=RULES.lag_max_bytes + 1)
    found = if_dies(healthy(standby("db2", paused_replay=True), late), RULES, "db1")
    assert (found.verdict, found.candidate) == ("failover", "db2")
    assert [note.partition(";")[0] for note in found.notes if "replays what it has received" in note] == [
        "db2: its replay is paused",
        f"db3: {RULES.lag_max_bytes + 1} bytes behind, more than lag_max ({RULES.lag_max_bytes})",
    ]


def test_strict_holds_when_too_few_can_testify() -> None:
    seen = healthy(standby("db3", role=Role.DOWN, streaming=False))
    found = if_dies(seen, RULES, "db1")
    assert (found.verdict, found.candidate) == ("hold", None)
    assert "only db2 of them can testify" in found.says
    assert any("granted back" in note for note in found.notes)
    assert next(r for r in found.ranking if r.member == "db3").why == "is down, not a standby"


def test_a_silent_standby_is_no_witness() -> None:
    seen = healthy()
    found = if_dies(replace(seen, members={**seen.members, "db3": stored(standby("db3"), 60.0)}), RULES, "db1")
    assert found.verdict == "hold"
    assert next(r for r in found.ranking if r.member == "db3").why == "its guardian says nothing"


@pytest.mark.parametrize(
    ("policy", "blocker"),
    [
        (Policy(Mode.OBSERVE), "mode is observe"),
        (Policy(Mode.AUTOMATIC, 3600, "", "ada"), "paused by ada"),
        (Policy(Mode.AUTOMATIC, maintenance=(Maintenance("db1", 60, "", "ada"),)), "db1 is in maintenance"),
    ],
)
def test_what_blocks_the_leader_is_named_and_what_would_happen_by_hand(policy: Policy, blocker: str) -> None:
    found = if_dies(healthy(policy=policy), RULES, "db1")
    assert found.verdict == "blocked" and blocker in found.blockers
    assert "by hand it would go to db2" in found.says


def test_all_blockers_are_told_not_only_the_first() -> None:
    policy = Policy(Mode.OBSERVE, 3600, "", "ada", last_failover="op-1")
    assert len(if_dies(healthy(policy=policy), RULES, "db1", cooldown_left_s=5.0).blockers) == 3


def test_a_running_cool_down_blocks_and_an_unknown_one_is_said() -> None:
    seen = healthy(policy=Policy(Mode.AUTOMATIC, last_failover="op-1"))
    cooling = if_dies(seen, RULES, "db1", cooldown_left_s=5.0)
    assert cooling.blockers == ("cool-down after op-1: 5.0 s left, `failoverctl ack` ends it",)
    assert if_dies(seen, RULES, "db1", cooldown_left_s=0.0).verdict == "failover"
    unknown = if_dies(replace(seen, last_failover_since_s=None), RULES, "db1")
    assert any("known to the leader only" in note for note in unknown.notes)


def test_nobody_willing_blocks() -> None:
    members = (RULES.members[0], *(replace(m, failover=Willingness.MANUAL) for m in RULES.members[1:]))
    found = if_dies(healthy(), replace(RULES, members=members), "db1")
    assert found.verdict == "blocked" and "automatic candidates: none" in found.blockers


def test_async_tells_what_is_at_risk() -> None:
    seen = healthy(primary(position="110"), grant=Grant("db1", 4))
    found = if_dies(seen, replace(RULES, replication=Replication.ASYNC), "db1")
    assert found.verdict == "failover" and found.at_risk.startswith("10 bytes (as last reported)")


def test_a_silent_host_is_a_story_of_its_own() -> None:
    """Told by the phase table's own rule: without a receipt something else must confirm, or nothing does."""
    found = if_dies(healthy(leases=LEASES), RULES, "db1")
    assert any(note.startswith("if its whole host goes silent: ") for note in found.notes)


# --- a standby ----------------------------------------------------------------------------------------------------------
def test_one_of_two_standbys_may_die_and_the_edit_is_told() -> None:
    found = if_dies(healthy(), RULES, "db3")
    assert found.verdict == "nothing" and "writes go on: db2 acknowledges" in found.says
    assert any("(db2, db3) -> (db2)" in note for note in found.notes)
    before, after = found.notes[-2:]
    assert "HELD" in before and after == "if db1 died too, once that is in force: failover to db2"


def test_the_last_standby_of_strict_blocks_writes() -> None:
    one_left = Grant("db1", 4, ("db2", "db3"), (SyncSet(1, ("db2",), "1"),), system_identifier="7")
    seen = healthy(standby("db3", streaming=False), grant=one_left)
    found = if_dies(seen, RULES, "db2")
    assert found.verdict == "writes-block" and "WRITES BLOCK" in found.says


def test_the_last_standby_of_sync_degrades() -> None:
    one_left = Grant("db1", 4, ("db2", "db3"), (SyncSet(1, ("db2",), "1"),), system_identifier="7")
    seen = healthy(standby("db3", streaming=False), grant=one_left)
    found = if_dies(seen, replace(RULES, replication=Replication.SYNC), "db2")
    assert found.verdict == "nothing" and "then wait for nobody" in found.says


def test_a_standby_outside_the_set_is_not_missed() -> None:
    one = Grant("db1", 4, ("db2", "db3"), (SyncSet(1, ("db2",), "1"),), system_identifier="7")
    assert if_dies(healthy(grant=one), RULES, "db3").says.endswith("db1 stays primary; writes go on")


# --- no answer ----------------------------------------------------------------------------------------------------------
def test_nothing_can_be_said_before_adoption_during_an_operation_or_of_a_stranger() -> None:
    assert "not adopted" in if_dies(replace(healthy(), grant=None), RULES, "db1").says
    doing = Operation("op-2", OperationKind.SWITCHOVER, "stopping", "db1", 4, "asked", "ada")
    assert "op-2 is under way" in if_dies(healthy(operation=stored(doing)), RULES, "db1").says
    assert "no member" in if_dies(healthy(), RULES, "db8").says


def test_a_pending_request_does_not_hide_the_answer() -> None:
    from failover.core.model import Request, RequestKind

    waiting = {"r1": stored(Request("r1", RequestKind.PAUSE, "ada"))}
    assert if_dies(healthy(requests=waiting), RULES, "db1").verdict == "failover"
