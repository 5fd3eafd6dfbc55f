"""The planned move: friendly steps first, nothing lost by giving up before CLAIM, and a failover if the primary dies in it."""

from __future__ import annotations

from typing import Any

import pytest

from failover.core import failover, switchover
from failover.core.machine import Answer, Go, Situation, Undo, Wait
from failover.core.model import OperationKind
from failover.core.plan import Check, Checkpoint, Kind, Swap
from tests.support.builders import Cluster, a_cluster, some_rules

RULES = {row.phase: row.rule for row in switchover.TABLE}
BEFORE_CLAIM = ("opened", "prepared", "stopping")


def ask(cluster: Cluster, **rules: Any) -> Answer:
    seen = cluster.build()
    assert seen.operation is not None
    return RULES[seen.operation.value.phase](Situation(seen, some_rules(**rules), seen.operation.value))


def test_from_the_claim_on_it_is_the_failovers_own_table() -> None:
    assert switchover.TABLE[3:] == failover.TABLE[1:]
    assert [row.phase for row in switchover.TABLE[:4]] == [*BEFORE_CLAIM, "claimed"]


# --- prepare and order --------------------------------------------------------------------------------------------------
def test_checkpoints_are_asked_for_on_both_sides_and_cost_no_more_than_a_while() -> None:
    both = (Checkpoint("db1", "op-1"), Checkpoint("db2", "op-1"))
    assert ask(a_cluster().switchover("opened")) == Wait("checkpoints on both sides", both)
    half = a_cluster().switchover("opened").came_of(both[0], True)
    assert ask(half) == Wait("checkpoints on both sides", both[1:])
    assert isinstance(ask(half.came_of(both[1], False)), Go), "a failed checkpoint only costs time"
    assert isinstance(ask(a_cluster().switchover("opened", since_s=5.0)), Go)


@pytest.mark.parametrize("phase", ["opened", "prepared"])
def test_a_target_that_cannot_take_over_any_more_undoes_it(phase: str) -> None:
    """Not at once: a primary that dies loses its standbys a moment before its receipt arrives."""
    assert isinstance(ask(a_cluster().silent("db2").switchover(phase)), Wait)
    gone = ask(a_cluster().silent("db2").switchover(phase, since_s=2.1))
    assert isinstance(gone, Undo) and "its guardian says nothing" in gone.why
    assert isinstance(ask(a_cluster().standby("db2", streaming=False).switchover(phase, since_s=2.1)), Undo)
    assert isinstance(ask(a_cluster().switchover("prepared")), Go)


# --- stop writes ----------------------------------------------------------------------------------------------------------
def test_it_waits_until_the_old_primary_says_that_it_stopped() -> None:
    assert isinstance(ask(a_cluster().switchover("stopping", since_s=100.0)), Wait), "no clock moves it on"


def test_claim_needs_the_whole_log_at_the_target() -> None:
    stopped = a_cluster().switchover("stopping").handover("db1", "stopped", at="1@0/600")
    assert ask(stopped) == Wait("db2 is receiving the end of db1's log")
    answer = ask(stopped.standby("db2", at="1@0/600"))
    assert isinstance(answer, Go)
    check, swap = answer.writes
    assert check == Check(check.key, 5) and check.key.kind is Kind.LEASE, "so that giving back and claiming exclude each other"
    assert isinstance(swap, Swap) and swap.key.kind is Kind.GRANT and swap.version == 20
    assert answer.facts["end of log"] == "1@0/600"


def test_a_target_on_another_history_does_not_have_the_log() -> None:
    stopped = a_cluster().switchover("stopping").handover("db1", "stopped", at="1@0/600")
    assert isinstance(ask(stopped.standby("db2", at="2@0/900 1:0/500")), Wait)


def test_a_report_of_an_earlier_switchover_says_nothing() -> None:
    old = a_cluster().switchover("stopping").handover("db1", "stopped", at="1@0/400", operation="op-0")
    assert isinstance(ask(old), Wait)
    assert isinstance(ask(a_cluster().switchover("stopping").handover("db1", "given back", operation="op-0")), Wait)


def test_writes_given_back_undo_it() -> None:
    answer = ask(a_cluster().switchover("stopping").handover("db1", "given back"))
    assert isinstance(answer, Undo) and "given back to db1" in answer.why


def test_a_claim_that_lost_the_grant_is_undone() -> None:
    moved = a_cluster().switchover("stopping").handover("db1", "stopped", at="1@0/500").with_grant("db3", 9)
    assert isinstance(ask(moved), Undo)


# --- the primary dies in it ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("phase", BEFORE_CLAIM)
def test_a_primary_that_dies_makes_it_a_failover_and_no_second_operation(phase: str) -> None:
    answer = ask(a_cluster().switchover(phase).receipt("db1", closes=3).silent("db1"))
    assert isinstance(answer, Go) and not answer.writes
    assert answer.phase == "opened" and answer.changes == {"kind": OperationKind.FAILOVER}


@pytest.mark.parametrize("phase", BEFORE_CLAIM)
def test_an_old_receipt_is_no_death(phase: str) -> None:
    answer = ask(a_cluster().switchover(phase).receipt("db1", closes=2))
    assert not (isinstance(answer, Go) and answer.changes)


def test_a_stop_in_order_is_claimed_even_if_the_receipt_is_there_already() -> None:
    done = a_cluster().switchover("stopping").handover("db1", "stopped", at="1@0/500").receipt("db1", closes=3)
    answer = ask(done)
    assert isinstance(answer, Go) and answer.phase is None and answer.writes
