"""Who takes over, and why not the others. S2 is decided here, so every refusal has its own story."""

from __future__ import annotations

import pytest

from failover.core.candidate import Choice, choose, count_shortfall
from failover.core.model import Grant, Maintenance, Member, Mode, Policy, Replication, SyncSet, Willingness
from failover.core.rules import Rules
from tests.support.builders import lsn, some_rules, willing

BOTH = SyncSet(1, ("db2", "db3"), "1")
POLICY = Policy(mode=Mode.AUTOMATIC)


def pick(
    sealed: dict[str, str], *pairs: SyncSet, rules: Rules | None = None, policy: Policy = POLICY, target: str | None = None,
    returned: str | None = None,
) -> Choice:  # fmt: skip
    grant = Grant(None, 4, sync=pairs or (BOTH,))
    positions = {name: lsn(at) for name, at in sealed.items()}
    return choose(rules or some_rules(), grant, policy, positions, "db1", target, lsn(returned) if returned else None)


def test_the_most_advanced_wins_and_every_other_one_keeps_its_reason() -> None:
    choice = pick({"db2": "1@0/500", "db3": "1@0/600"})
    assert choice.candidate == "db3" and choice.hold is None
    assert dict(choice.rejected) == {"db1": "the old primary of this operation", "db2": "256 bytes behind db3"}


def test_priority_and_then_the_name_choose_among_equals_and_the_operators_word_before_both() -> None:
    same = {"db2": "1@0/500", "db3": "1@0/500"}
    assert pick(same).candidate == "db2"
    preferred = some_rules(members=(Member("db1", "a"), Member("db2", "b"), Member("db3", "c", priority=10)))
    assert pick(same, rules=preferred).candidate == "db3"
    assert pick(same, rules=preferred, target="db2").candidate == "db2"
    assert dict(pick(same).rejected)["db3"] == "as advanced as db2, which is preferred"


def test_the_operators_word_does_not_lose_data() -> None:
    """A target that is behind is not chosen: another one has what was acknowledged."""
    assert pick({"db2": "1@0/500", "db3": "1@0/600"}, target="db2").candidate == "db3"


# --- counting ---------------------------------------------------------------------------------------------------------
def test_one_of_two_may_have_acknowledged_alone_so_one_report_is_a_hold() -> None:
    choice = pick({"db2": "1@0/500"})
    assert choice.candidate is None
    assert choice.hold and "1 of (db2, db3)" in choice.hold and "2 needed" in choice.hold


def test_every_pair_counts_not_only_the_newest() -> None:
    """X died right after its grant: the newest pair is met by db3, the older one, which may hold commits, is not."""
    assert pick({"db3": "1@0/500"}, SyncSet(1, ("db3",), "1")).candidate == "db3"
    assert pick({"db3": "1@0/500"}, SyncSet(1, ("db2",), "1"), SyncSet(1, ("db3",), "1")).candidate is None
    assert pick({"db3": "1@0/500"}, SyncSet(1, ("db3",), "1"), SyncSet(1, ("db2",), "1")).candidate is None


def test_sealed_members_outside_the_set_do_not_count() -> None:
    assert pick({"db3": "1@0/900"}, SyncSet(1, ("db2",), "1")).candidate is None


def test_a_member_of_another_history_does_not_count() -> None:
    """It is named in the pair, but what it holds does not descend from what the pair's primary wrote."""
    pair = SyncSet(1, ("db2",), "2")
    assert pick({"db2": "1@0/900"}, pair).candidate is None
    assert pick({"db2": "2@0/900 1:0/500"}, pair).candidate == "db2"
    assert pick({"db2": "3@0/990 1:0/500 2:0/900"}, pair).candidate == "db2"


@pytest.mark.parametrize("mode", [Replication.SYNC, Replication.ASYNC])
def test_only_strict_counts(mode: Replication) -> None:
    assert pick({"db2": "1@0/500"}, rules=some_rules(replication=mode)).candidate == "db2"


def test_two_of_three_with_w_two_need_two_reports() -> None:
    pair = SyncSet(2, ("db2", "db3", "db4"))
    grant = Grant(None, 4, sync=(pair,))
    assert count_shortfall(some_rules(), grant, {"db2": lsn("1@0/1")}) is not None
    assert count_shortfall(some_rules(), grant, {"db2": lsn("1@0/1"), "db4": lsn("1@0/1")}) is None


# --- most advanced, or hold -------------------------------------------------------------------------------------------
def test_if_policy_excludes_the_most_advanced_the_answer_is_hold() -> None:
    ahead = {"db2": "1@0/500", "db3": "1@0/600"}
    never = pick(ahead, rules=some_rules(members=willing(db3=Willingness.NEVER)))
    assert never.candidate is None and never.hold and "db3: failover: never" in never.hold and "256 bytes behind" in never.hold
    aside = Policy(mode=Mode.AUTOMATIC, maintenance=(Maintenance("db3", 60, "disk", "ann"),))
    assert pick(ahead, policy=aside).candidate is None


def test_manual_leads_only_when_named() -> None:
    rules = some_rules(members=willing(db3=Willingness.MANUAL))
    ahead = {"db2": "1@0/500", "db3": "1@0/600"}
    assert pick(ahead, rules=rules).candidate is None
    assert pick(ahead, rules=rules, target="db3").candidate == "db3"


def test_forked_histories_that_contain_each_other_neither_way_are_a_hold() -> None:
    choice = pick({"db2": "2@0/600 1:0/500", "db3": "1@0/550"}, BOTH)
    assert choice.candidate is None
    assert dict(choice.rejected)["db2"] == "its history does not contain that of db3"


def test_nobody_sealed_is_nobody_chosen() -> None:
    choice = pick({}, rules=some_rules(replication=Replication.ASYNC))
    assert choice.candidate is None and dict(choice.rejected)["db2"] == "no sealed report for this claim"


# --- granted back -------------------------------------------------------------------------------------------------------
def test_the_fenced_old_primary_is_granted_back_when_nobody_else_may() -> None:
    choice = pick({"db2": "1@0/500"}, returned="1@0/700")
    assert choice.candidate == "db1" and "db1" not in dict(choice.rejected)


def test_it_is_not_granted_back_while_another_may_lead_or_has_more() -> None:
    assert pick({"db2": "1@0/500", "db3": "1@0/500"}, returned="1@0/700").candidate == "db2"
    assert pick({"db2": "1@0/800"}, returned="1@0/700").candidate is None, "it lost its disk and came back with less"
