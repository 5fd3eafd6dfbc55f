"""Every row of the failover's table: what lets it advance, what it waits for, when it says *held*, when it is undone."""

from __future__ import annotations

from typing import Any

import pytest

from failover.core import failover
from failover.core.machine import Answer, GiveUp, Go, Situation, Undo, Wait
from failover.core.model import Claim, Grant, Notice, Replication, SyncSet
from failover.core.plan import Check, Create, Fence, Kind, MoveVip, Swap, SwitchDns, VerifyWritable
from tests.support.builders import Cluster, a_cluster, some_rules

RULES = {row.phase: row.rule for row in failover.TABLE}
FENCE = Fence("db1", 3)
LOOK = VerifyWritable("db2", 5)


def at(cluster: Cluster, **rules: Any) -> Situation:
    seen = cluster.build()
    assert seen.operation is not None
    return Situation(seen, some_rules(**rules), seen.operation.value)


def ask(cluster: Cluster, **rules: Any) -> Answer:
    situation = at(cluster, **rules)
    return RULES[situation.operation.phase](situation)


def grant_of(answer: Answer) -> Grant:
    assert isinstance(answer, Go), answer
    (swap,) = [w for w in answer.writes if isinstance(w, Swap) and w.key.kind is Kind.GRANT]
    assert isinstance(swap.value, Grant)
    return swap.value


def claimed(phase: str, since_s: float = 0.0, **fields: Any) -> Cluster:
    """db1's word is ended; db2 and db3 have reported at the same place."""
    cluster = a_cluster().claimed("db1", closes=3).failover(phase, since_s, **fields)
    return cluster.silent("db1").sealed("db2", at="1@0/500").sealed("db3", at="1@0/500")


def promoted(phase: str, since_s: float = 0.0) -> Cluster:
    """db2 has the grant under epoch 5 and takes writes."""
    cluster = a_cluster().with_grant("db2", 5).failover(phase, since_s, candidate="db2").silent("db1")
    return cluster.primary("db2", 5, at="2@0/600 1:0/500").standby("db3")


def test_the_order_is_fence_confirm_promote_route() -> None:
    steps = [row.step for row in failover.TABLE]
    assert steps == ["claim", "confirm", "choose", "grant", "verify", "vip", "dns", "settle"]
    for row, following in zip(failover.TABLE, failover.TABLE[1:], strict=False):
        assert row.target == following.phase
    assert failover.TABLE[-1].target == "done"


# --- claim -------------------------------------------------------------------------------------------------------------
def test_claim_ends_the_old_word_under_the_versions_it_was_decided_on() -> None:
    answer = ask(a_cluster().failover("opened"))
    grant = grant_of(answer)
    assert grant.member is None and grant.epoch == 4 and grant.claim == Claim("db1", 3, lease_version=5, operation="op-1")
    assert grant.sync == (SyncSet(1, ("db2", "db3"), "1"),), "the pairs stay: they say who must be counted"
    assert isinstance(answer, Go)
    check, swap = answer.writes
    assert isinstance(check, Check) and check.key.kind is Kind.LEASE and check.key.name == "db1" and check.version == 5
    assert isinstance(swap, Swap) and swap.version == 20


@pytest.mark.parametrize(("member", "epoch"), [("db2", 3), ("db1", 4)])
def test_claim_of_a_word_that_is_gone_is_undone(member: str, epoch: int) -> None:
    assert isinstance(ask(a_cluster().with_grant(member, epoch).failover("opened")), Undo)


def test_claim_waits_for_the_lease_record() -> None:
    cluster = a_cluster().failover("opened")
    cluster.tables["leases"].clear()
    assert isinstance(ask(cluster), Wait)


# --- confirm -------------------------------------------------------------------------------------------------------------
def test_a_receipt_for_this_epoch_confirms() -> None:
    answer = ask(claimed("claimed").receipt("db1", closes=3))
    assert isinstance(answer, Go) and "receipt of db1 closes epoch 3" in str(answer.changes["evidence"])


def test_an_older_receipt_confirms_nothing_and_fencing_is_asked_for() -> None:
    answer = ask(claimed("claimed").receipt("db1", closes=2))
    assert isinstance(answer, Wait) and answer.actions == (FENCE,) and answer.held is None


def test_somebody_elses_receipt_confirms_nothing() -> None:
    assert isinstance(ask(claimed("claimed").receipt("db2", closes=9)), Wait)


def test_the_host_agents_read_back_confirms() -> None:
    assert isinstance(ask(claimed("claimed").came_of(FENCE, True)), Go)


@pytest.mark.parametrize("ok", [None, False])
def test_a_time_out_and_a_refusal_are_no_evidence(ok: bool | None) -> None:
    answer = ask(claimed("claimed", since_s=60.0).came_of(FENCE, ok, "no answer within 3 s"))
    assert isinstance(answer, Wait) and answer.held and "no answer within 3 s" in answer.held
    assert "Nothing is promoted" in answer.held and answer.actions == (FENCE,), "held, and fencing goes on"


def test_a_fence_of_another_epoch_is_no_evidence_for_this_one() -> None:
    assert isinstance(ask(claimed("claimed").came_of(Fence("db1", 2), True)), Wait)


def test_silence_alone_never_confirms_however_long() -> None:
    assert isinstance(ask(claimed("claimed", since_s=1e9)), Wait)


# --- choose -----------------------------------------------------------------------------------------------------------
def test_the_choice_is_written_down_with_the_reasons_of_the_rejected() -> None:
    answer = ask(claimed("confirmed").sealed("db3", at="1@0/400"))
    assert isinstance(answer, Go) and answer.changes["candidate"] == "db2" and not answer.writes
    assert answer.facts["rejected db3"] == "256 bytes behind db2"


def test_living_standbys_are_waited_for_but_not_for_ever() -> None:
    late = claimed("confirmed", since_s=1.9)
    late.tables["seals"].pop("db3")
    waiting = ask(late, replication=Replication.ASYNC)
    assert isinstance(waiting, Wait) and "db3" in waiting.why
    late.fields["phase_since_s"] -= 0.2
    assert isinstance(ask(late, replication=Replication.ASYNC), Go)


def test_a_silent_standby_is_not_waited_for() -> None:
    cluster = claimed("confirmed").silent("db3")
    cluster.tables["seals"].pop("db3")
    assert isinstance(ask(cluster, replication=Replication.ASYNC), Go)


def test_reports_for_an_earlier_claim_are_worth_nothing() -> None:
    stale = claimed("confirmed", since_s=5.0).sealed("db3", "1@0/500", claim_epoch=2)
    answer = ask(stale)
    assert isinstance(answer, Wait) and answer.held and "2 needed" in answer.held


def test_without_a_candidate_it_is_held_with_the_reason_and_stays_open() -> None:
    cluster = claimed("confirmed", since_s=5.0)
    cluster.tables["seals"].clear()
    answer = ask(cluster)
    assert isinstance(answer, Wait) and answer.held and "strict" in answer.held


def test_the_old_primary_that_is_back_as_a_standby_is_granted_back() -> None:
    cluster = claimed("confirmed", since_s=5.0).standby("db1", at="1@0/700", streaming=False)
    cluster.tables["seals"].pop("db3")
    answer = ask(cluster)
    assert isinstance(answer, Go) and answer.changes["candidate"] == "db1" and answer.facts["position"] == "1@0/700"


# --- grant -------------------------------------------------------------------------------------------------------------
def test_the_grant_keeps_the_old_pairs_and_adds_the_new_primarys() -> None:
    answer = ask(claimed("chosen", candidate="db2"))
    grant = grant_of(answer)
    assert grant.member == "db2" and grant.epoch == 5 and grant.claim is None
    assert grant.sync == (SyncSet(1, ("db2", "db3"), "1"), SyncSet(1, ("db3",), "1"))
    assert grant.minimum_position == "1@0/500" and grant.promotable == ("db1", "db3")
    assert isinstance(answer, Go) and answer.writes[0] == Swap(answer.writes[0].key, grant, 21), "the grant's own version"


def test_a_count_that_no_longer_holds_stops_the_grant() -> None:
    cluster = claimed("chosen", candidate="db2")
    cluster.tables["seals"].pop("db3")
    answer = ask(cluster)
    assert isinstance(answer, Wait) and answer.held


def test_a_candidate_whose_report_is_gone_is_not_granted() -> None:
    cluster = claimed("chosen", candidate="db2")
    cluster.tables["seals"].pop("db2")
    assert isinstance(ask(cluster, replication=Replication.ASYNC), Wait)


def test_the_minimum_of_a_grant_back_is_where_the_old_primary_stands() -> None:
    cluster = claimed("chosen", candidate="db1").standby("db1", at="1@0/700", streaming=False)
    grant = grant_of(ask(cluster))
    assert grant.member == "db1" and grant.epoch == 5 and grant.minimum_position == "1@0/700"


# --- verify, route ------------------------------------------------------------------------------------------------------
def test_it_is_verified_by_looking_only_once_the_guardian_says_it_serves() -> None:
    assert ask(promoted("granted").standby("db2")) == Wait("db2 is being promoted under its own proof")
    answer = ask(promoted("granted"))
    assert isinstance(answer, Wait) and answer.actions == (LOOK,)
    assert isinstance(ask(promoted("granted").came_of(LOOK, True)), Go)


def test_what_was_seen_under_another_epoch_verifies_nothing() -> None:
    assert isinstance(ask(promoted("granted").came_of(VerifyWritable("db2", 4), True)), Wait)


def test_a_promotion_that_does_not_come_is_held_and_never_taken_elsewhere() -> None:
    answer = ask(promoted("granted", since_s=17.0).standby("db2"))
    assert isinstance(answer, Wait) and answer.held and "does not take writes" in answer.held


def test_the_vip_goes_to_the_candidate_under_its_epoch_and_blocks_until_it_is_there() -> None:
    move = MoveVip("db2", 5)
    assert ask(promoted("verified")) == Wait("moving the VIP to db2: asked", (move,))
    late = ask(promoted("verified", since_s=6.0).came_of(move, False, "refused"))
    assert isinstance(late, Wait) and late.held and late.actions == (move,)
    assert isinstance(ask(promoted("verified").came_of(move, True)), Go)
    assert isinstance(ask(promoted("verified"), has_vip=False), Go)


def test_dns_is_switched_after_the_vip_but_never_blocks_for_long() -> None:
    switch = SwitchDns("10.0.0.100", 5)
    assert ask(promoted("routed")) == Wait("switching DNS: asked", (switch,))
    degraded = ask(promoted("routed", since_s=5.0).came_of(switch, False, "server down"))
    assert isinstance(degraded, Go) and degraded.facts == {"degraded": "server down"}
    done = ask(promoted("routed").came_of(switch, True, "SOA read back"))
    assert isinstance(done, Go) and done.facts == {"evidence": "SOA read back"}


def test_the_name_answers_the_new_primarys_own_address_where_there_is_no_vip() -> None:
    answer = ask(promoted("routed"), service_address="", has_vip=False)
    assert isinstance(answer, Wait) and answer.actions == (SwitchDns("10.0.0.2", 5),)


def test_every_application_is_owed_one_notice_in_the_same_transaction() -> None:
    answer = ask(promoted("routed"), has_dns=False, webhooks=("http://a", "http://b"))
    assert isinstance(answer, Go)
    notices = [w.value for w in answer.writes if isinstance(w, Create) and isinstance(w.value, Notice)]
    assert [(n.key, n.url, n.old, n.new, n.epoch) for n in notices] == [
        ("op-1-0", "http://a", "db1", "db2", 5), ("op-1-1", "http://b", "db1", "db2", 5),
    ]  # fmt: skip


def test_it_settles_when_the_living_standbys_follow_or_after_a_while() -> None:
    waiting = promoted("announced").standby("db3", streaming=False)
    assert ask(waiting) == Wait("waiting for db3 to follow db2")
    assert isinstance(ask(promoted("announced", since_s=10.0).standby("db3", streaming=False)), Go)
    assert isinstance(ask(promoted("announced")), Go)
    assert isinstance(ask(promoted("announced").standby("db1", streaming=False)), Go), "the old one's return is its own story"


# --- lost again ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("phase", ["granted", "verified"])
def test_a_new_primary_that_dies_in_its_turn_ends_the_operation_as_failed(phase: str) -> None:
    answer = ask(promoted(phase).receipt("db2", 5))
    assert isinstance(answer, GiveUp) and "db2 is lost in its turn" in answer.why


@pytest.mark.parametrize("phase", ["granted", "verified"])
def test_votes_against_it_count_only_when_they_outlast_a_lease(phase: str) -> None:
    """At first they may be of before it was promoted."""

    def voted(since_s: float) -> Cluster:
        return promoted(phase, since_s).lost_by("c1", "c2", member="db2").status("db2", ago_s=60.0)

    assert not isinstance(ask(voted(2.0)), GiveUp)
    assert isinstance(ask(voted(4.0)), GiveUp)
