"""What proves that the old primary cannot write, and what does not. Each clause of the clock has the world that breaks it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from failover.core.confirm import confirm
from failover.core.machine import Go, Situation, Wait
from failover.core.model import Lease, Seal, Stored
from failover.core.plan import Fence, Guard, Stonith, Verdict
from tests.support.builders import MEMBERS, NOW_S, Cluster, a_cluster, some_rules

FENCE = Fence("db1", 3)
POWER = Stonith("db1", "op-1")
BARE = (replace(MEMBERS[0], guarded=False), *MEMBERS[1:])


def silent(since_s: float = 10.0, last_renewal_ago_s: float = 10.0, quiet: bool = True, **lease: Any) -> Cluster:
    """db1's host says nothing since it renewed for the last time; the claim checked that very version."""
    cluster = a_cluster().claimed("db1", closes=3).failover("claimed", since_s)
    cluster.silent("db1").sealed("db2", "1@0/500").sealed("db3", "1@0/500")
    for name, stored in cluster.tables["seals"].items():
        cluster.tables["seals"][name] = replace(stored, value=replace(stored.value, quiet=quiet))
    known = {"epoch": 3, "promotable": ("db2", "db3"), **lease}
    cluster.tables["leases"]["db1"] = Stored(Lease("db1", **known), 5, NOW_S - last_renewal_ago_s)
    return cluster


def ask(cluster: Cluster, **rules: Any) -> Go | Wait:
    seen = cluster.build()
    assert seen.operation is not None
    answer = confirm(Situation(seen, some_rules(**rules), seen.operation.value))
    assert isinstance(answer, (Go, Wait))
    return answer


def clock_of(answer: Go | Wait) -> Guard:
    assert isinstance(answer, Wait), answer
    return next(guard for guard in answer.guards if guard.name == "clock")


def proved_by(answer: Go | Wait) -> str:
    assert isinstance(answer, Go), answer
    return answer.facts["by"]


def test_w_after_the_last_renewal_in_sight_nobody_is_needed_to_testify() -> None:
    answer = ask(silent(last_renewal_ago_s=3.41))
    assert proved_by(answer) == "clock"
    assert isinstance(answer, Go) and answer.changes == {"evidence": answer.facts["evidence"]}


def test_a_moment_before_w_it_waits_and_is_not_held() -> None:
    answer = ask(silent(since_s=100.0, last_renewal_ago_s=3.39))
    assert clock_of(answer).verdict is Verdict.UNKNOWN and isinstance(answer, Wait) and answer.held is None
    assert FENCE in answer.actions, "every other channel is tried meanwhile"


def test_sight_of_another_version_is_worth_nothing() -> None:
    cluster = silent()
    stored = cluster.tables["leases"]["db1"]
    cluster.tables["leases"]["db1"] = replace(stored, version=4)
    assert clock_of(ask(cluster)).verdict is Verdict.BLOCK


@pytest.mark.parametrize(
    ("lease", "why"),
    [
        ({"untimed": True}, "without an end"),
        ({"epoch": 4}, "contradict each other"),
        ({"promotable": ()}, "nobody was promotable"),
        ({"promotable": ("db9",)}, "none of (db9) is sealed"),
    ],
)
def test_a_lease_that_no_clock_bounds(lease: dict[str, Any], why: str) -> None:
    guard = clock_of(ask(silent(**lease)))
    assert guard.verdict is Verdict.BLOCK and why in guard.facts


def test_a_member_that_is_sealed_and_not_quiet_may_have_just_pledged() -> None:
    guard = clock_of(ask(silent(quiet=False)))
    assert guard.verdict is Verdict.BLOCK and "quiet" in guard.facts


def test_a_seal_for_an_earlier_claim_does_not_count() -> None:
    cluster = silent()
    for name, stored in cluster.tables["seals"].items():
        seal = Seal(name, 2, stored.value.position, quiet=True)
        cluster.tables["seals"][name] = replace(stored, value=seal)
    assert clock_of(ask(cluster)).verdict is Verdict.BLOCK


def test_without_a_guardian_there_is_no_lease_and_no_gate() -> None:
    guard = clock_of(ask(silent(), members=BARE))
    assert guard.verdict is Verdict.BLOCK and "no guardian" in guard.facts


def test_a_gate_that_was_released_by_hand_is_bounded_by_nothing() -> None:
    cluster = silent().status("db1", ago_s=600.0, gate="released")
    assert "released by hand" in clock_of(ask(cluster)).facts


def test_granted_and_dead_before_it_proved_anything() -> None:
    """It was a guarded standby: it cannot open without a lease of this epoch, and the claim has ended that."""
    assert proved_by(ask(silent(epoch=1, promotable=()))) == "clock"


def test_adopted_and_never_armed_may_have_no_gate_at_all() -> None:
    cluster = a_cluster().claimed("db1", closes=1).failover("claimed", 10.0, old_epoch=1).silent("db1").sealed("db2", "1@0/500")
    cluster.tables["leases"]["db1"] = Stored(Lease("db1", 0), 5, 0.0)
    guard = clock_of(ask(cluster))
    assert guard.verdict is Verdict.BLOCK and "adopted" in guard.facts


# --- the other channels ---------------------------------------------------------------------------------------------------
def test_the_first_evidence_counts() -> None:
    assert proved_by(ask(silent(last_renewal_ago_s=0.1).receipt("db1", 3))) == "receipt"
    assert proved_by(ask(silent(last_renewal_ago_s=0.1).came_of(FENCE, True))) == "SSH read-back"
    assert proved_by(ask(silent(last_renewal_ago_s=0.1).came_of(POWER, True), has_stonith=True)) == "STONITH"
    by_hand = silent(last_renewal_ago_s=0.1)
    by_hand.fields["operation"] = replace(
        by_hand.fields["operation"], value=replace(by_hand.fields["operation"].value, fenced_by="ann: pulled the plug")
    )
    assert proved_by(ask(by_hand)) == "a person's word"


@pytest.mark.parametrize("ok", [None, False])
def test_a_failed_or_unknown_channel_is_no_evidence(ok: bool | None) -> None:
    cluster = silent(last_renewal_ago_s=0.1).came_of(FENCE, ok, "no answer").came_of(POWER, ok, "reads back on")
    assert isinstance(ask(cluster, has_stonith=True), Wait)


def test_power_is_the_last_word() -> None:
    early, late = ask(silent(0.5, 0.5), has_stonith=True), ask(silent(1.5, 0.5), has_stonith=True)
    assert isinstance(early, Wait) and POWER not in early.actions
    assert isinstance(late, Wait) and POWER in late.actions
    never = ask(silent(1.5, 0.5))
    assert isinstance(never, Wait) and POWER not in never.actions


def test_held_names_every_channel_and_what_it_said() -> None:
    answer = ask(silent().came_of(FENCE, None, "no route to host"), members=BARE)
    assert isinstance(answer, Wait) and answer.held
    for said in ("receipt", "no route to host", "no command is configured", "no guardian", "Nothing is promoted"):
        assert said in answer.held
