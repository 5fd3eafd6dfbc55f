"""What a person may do when something is wrong. Each is one transaction; a refusal says why and what to type instead."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from failover.core.decide import decide
from failover.core.model import (
    Operation,
    OperationKind,
    Policy,
    RejoinOrder,
    RejoinWay,
    Replication,
    RequestKind,
    Role,
    Step,
    SyncSet,
)  # fmt: skip
from failover.core.plan import Check, Create, Erase, Fence, Key, Kind, Plan, Swap
from tests.support.builders import Cluster, a_cluster, journaled, some_rules, written
from tests.unit.core.test_requests import answer_of, judge, opened, policy_of, refusal

FENCE, CONFIRM, REJOIN, CANCEL = RequestKind.FENCE, RequestKind.CONFIRM_FENCED, RequestKind.REJOIN, RequestKind.CANCEL
ACK = RequestKind.ACK
SWORN: dict[str, Any] = {"reason": "cable pulled", "confirm": True}


def claimed(**fields: Any) -> Cluster:
    return a_cluster().silent("db1").claimed("db1", 3).failover("claimed", 10.0, **fields)


def line(plan: Plan) -> Step:
    (create,) = written(plan, Kind.JOURNAL)
    assert isinstance(create, Create) and isinstance(create.value, Step)
    return create.value


# --- fence ------------------------------------------------------------------------------------------------------------------
def test_a_standby_is_fenced_for_every_epoch_before_the_present_grants() -> None:
    plan = judge(a_cluster(), FENCE, target="db2", reason="disk noise")
    operation = opened(plan)
    assert (operation.kind, operation.old, operation.old_epoch) == (OperationKind.FENCE, "db2", 2)
    assert policy_of(plan) == Policy(mode=policy_of(plan).mode, operations=1, fenced=("db2",))
    assert journaled([plan]) == ["op-1", "op-1/01-fence.intent"]


def test_under_the_first_grant_there_is_no_epoch_to_close() -> None:
    assert opened(judge(a_cluster().with_grant("db1", 1), FENCE, target="db2")).old_epoch == 0


def test_fencing_takes_an_older_consent_to_rejoin_back() -> None:
    order = RejoinOrder("db2", RejoinWay.REWIND, "bob", "r0")
    other = RejoinOrder("db3", RejoinWay.REWIND, "bob", "r0")
    assert policy_of(judge(a_cluster().with_policy(rejoin=(order, other)), FENCE, target="db2")).rejoin == (other,)


def test_the_primary_is_not_fenced_but_failed_over() -> None:
    assert refusal(judge(a_cluster(), FENCE, target="db1")) == (
        "db1 is the primary: `failoverctl failover` fences it and promotes another",
    )


def test_a_stranger_is_not_fenced() -> None:
    assert refusal(judge(a_cluster(), FENCE, target="db9")) == ("no member db9; there are: db1, db2, db3",)


def test_strict_keeps_the_last_one_that_acknowledges() -> None:
    lonely = a_cluster().standby("db3", streaming=False)
    (reason,) = refusal(judge(lonely, FENCE, target="db2"))
    assert reason.startswith("writes on db1 would block: replication is strict, and no standby but db2 streams")
    assert opened(judge(lonely, FENCE, {"replication": Replication.SYNC}, target="db2"))
    assert opened(judge(lonely, FENCE, target="db3")), "it acknowledges nothing now, so nothing is taken away"
    assert refusal(judge(a_cluster().maintenance("db3"), FENCE, target="db2")), "one that is set aside acknowledges nothing"


def test_one_operation_at_a_time_also_for_a_fence_and_how_to_end_a_running_one() -> None:
    running = a_cluster().operation(OperationKind.FENCE, "opened", old="db3", old_epoch=2)
    (reason,) = refusal(judge(running, FENCE, target="db2"))
    assert "fence op-1 is under way" in reason and "`failoverctl cancel op-1` gives it up" in reason


def test_a_fenced_member_is_no_candidate_and_leaves_the_sync_set_at_once() -> None:
    fenced = a_cluster().with_policy(fenced=("db2",))
    assert "db2: fenced by hand" in refusal(judge(fenced, RequestKind.SWITCHOVER, target="db2"))
    (swap,) = written(decide(a_cluster().with_policy(fenced=("db2",)).build(), some_rules()), Kind.GRANT)
    assert isinstance(swap, Swap) and getattr(swap.value, "sync", ())[-1] == SyncSet(1, ("db3",), "1")


# --- confirm-fenced -----------------------------------------------------------------------------------------------------------
def test_a_sworn_fence_is_written_into_the_operation_and_the_journal() -> None:
    plan = judge(claimed(held="no proof"), CONFIRM, target="db1", **SWORN)
    (swap,) = written(plan, Kind.OPERATION)
    assert isinstance(swap, Swap) and isinstance(swap.value, Operation) and swap.version == 30
    assert (swap.value.fenced_by, swap.value.held, swap.value.phase) == ("ann: cable pulled", None, "claimed")
    assert answer_of(plan).operation == "op-1"
    assert journaled([plan]) == ["op-1/02-confirm.confirmed-by-hand"]
    assert line(plan).kind == "confirmed-by-hand" and "db1 cannot write, swears ann: cable pulled" in line(plan).says


def test_the_sworn_fence_replaces_the_confirmation_and_nothing_else() -> None:
    """The next step is the choice among the sealed: with nobody sealed it waits."""
    confirmed = decide(claimed(fenced_by="ann: cable pulled").build(), some_rules())
    (swap,) = written(confirmed, Kind.OPERATION)
    assert isinstance(swap, Swap) and isinstance(swap.value, Operation)
    assert swap.value.phase == "confirmed" and "ann: cable pulled" in (swap.value.evidence or "")
    waits = a_cluster().silent("db1").claimed("db1", 3).failover("confirmed", 100.0, fenced_by="ann: cable pulled")
    plan = decide(waits.build(), some_rules())
    assert plan.says.startswith("held: strict: a commit may have been acknowledged") and not written(plan, Kind.GRANT)


def test_nothing_but_a_claim_about_this_very_member_is_confirmed_by_hand() -> None:
    def no(cluster: Cluster, member: str = "db1") -> str:
        (reason,) = refusal(judge(cluster, CONFIRM, target=member, **SWORN))
        return reason

    assert "no operation is under way" in no(a_cluster())
    assert "in phase stopping and does not wait for a confirmation" in no(a_cluster().switchover("stopping"))
    assert no(claimed(), "db2") == "op-1 waits for proof about db1, not db2: `failoverctl confirm-fenced db1`"
    assert "confirmed already by bob: saw it" in no(claimed(fenced_by="bob: saw it"))


def test_a_word_without_the_typed_name_or_without_a_reason_is_none() -> None:
    reasons = refusal(judge(claimed(), CONFIRM, target="db1"))
    assert len(reasons) == 2 and "a reason is needed" in reasons[0] and "name must be typed" in reasons[1]


# --- cancel -------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("phase", "journal"), [
    ("opened", "op-1/01-prepare.cancelled"), ("prepared", "op-1/02-order.cancelled"), ("stopping", "op-1/03-claim.cancelled"),
])  # fmt: skip
def test_before_the_claim_a_switchover_is_given_up(phase: str, journal: str) -> None:
    plan = judge(a_cluster().switchover(phase), CANCEL, reason="not today")
    assert Erase(Key(Kind.OPERATION), 30) in plan.writes and not written(plan, Kind.POLICY)
    assert journaled([plan]) == [journal] and line(plan).says == "given up by ann: not today"
    assert answer_of(plan).operation == "op-1"


@pytest.mark.parametrize("phase", ["claimed", "confirmed", "chosen", "granted", "verified", "routed", "announced"])
def test_after_the_claim_it_only_rolls_forward(phase: str) -> None:
    (reason,) = refusal(judge(a_cluster().failover(phase), CANCEL))
    assert reason == f"op-1 is in phase {phase}: it only rolls forward now: `failoverctl timeline op-1`"


def test_a_failover_that_was_given_up_is_not_back_at_once() -> None:
    assert policy_of(judge(a_cluster().failover("opened"), CANCEL)).last_failover == "op-1"


def test_a_fence_that_was_given_up_keeps_nobody_down() -> None:
    fencing = a_cluster().with_policy(fenced=("db2", "db3")).operation(OperationKind.FENCE, "opened", old="db2", old_epoch=2)
    assert policy_of(judge(fencing, CANCEL)).fenced == ("db3",)


def test_only_what_is_under_way_is_given_up() -> None:
    assert "no operation is under way" in refusal(judge(a_cluster(), CANCEL))[0]
    (reason,) = refusal(judge(a_cluster().switchover("opened"), CANCEL, target="op-7"))
    assert reason == "op-7 is not under way; switchover op-1 is: `failoverctl cancel op-1`"


# --- ack ----------------------------------------------------------------------------------------------------------------------
def dead_again() -> Cluster:
    """db1 was promoted a second ago, and its process has ended."""
    return a_cluster().receipt("db1", closes=3).failed_over(ago_s=1.0)


@pytest.mark.parametrize("named", [None, "op-0"])
def test_an_acknowledged_failover_holds_the_next_one_back_no_longer(named: str | None) -> None:
    held = decide(dead_again().build(), some_rules())
    assert not held.writes and any("59.0 s left, `failoverctl ack` ends it" in guard.facts for guard in held.guards)
    policy = policy_of(judge(dead_again(), ACK, target=named))
    assert written(decide(dead_again().with_policy(**vars(policy)).build(), some_rules()), Kind.OPERATION)


def test_only_the_failover_that_was_looked_at_is_acknowledged() -> None:
    (reason,) = refusal(judge(a_cluster().failed_over(ago_s=1.0), ACK, target="op-7"))
    assert reason == "the cool-down is op-0's, not op-7's: `failoverctl timeline op-0`, then `ack op-0`"
    (reason,) = refusal(judge(a_cluster(), ACK))
    assert reason.startswith("no cool-down counts")


# --- rejoin -------------------------------------------------------------------------------------------------------------------
def down(cluster: Cluster) -> Cluster:
    return cluster.status("db2", role=Role.DOWN, streaming=False)


def test_a_fenced_member_may_come_back_with_the_consent_that_a_rewind_needs() -> None:
    policy = policy_of(judge(down(a_cluster().with_policy(fenced=("db2", "db3"))), REJOIN, target="db2"))
    assert policy.fenced == ("db3",) and policy.rejoin == (RejoinOrder("db2", RejoinWay.REWIND, "ann", "r1"),)


def test_a_second_word_replaces_the_first() -> None:
    order = RejoinOrder("db2", RejoinWay.REWIND, "bob", "r0")
    again = policy_of(judge(down(a_cluster().with_policy(rejoin=(order,))), REJOIN, target="db2", way=RejoinWay.RESEED))
    assert again.rejoin == (RejoinOrder("db2", RejoinWay.RESEED, "ann", "r1"),)


def test_who_is_well_needs_no_rejoin() -> None:
    assert refusal(judge(a_cluster(), REJOIN, target="db2")) == ("db2 is in good standing: it streams from db1",)
    (reason,) = refusal(judge(a_cluster(), REJOIN, target="db2", way=RejoinWay.RESEED))
    assert reason.endswith("for a new copy fence it first: `failoverctl fence db2`")
    assert "db1 is the primary" in refusal(judge(a_cluster(), REJOIN, target="db1"))[0]
    assert "no member db9" in refusal(judge(a_cluster(), REJOIN, target="db9"))[0]


def test_who_is_being_fenced_is_not_brought_back_meanwhile() -> None:
    fencing = down(a_cluster()).operation(OperationKind.FENCE, "opened", old="db2", old_epoch=2)
    assert refusal(judge(fencing, REJOIN, target="db2")) == ("fence op-1 of db2 is under way: `failoverctl cancel op-1`",)


def test_a_consent_ends_when_its_member_has_streamed_for_a_while() -> None:
    order = RejoinOrder("db2", RejoinWay.REWIND, "ann", "r0")
    cluster = a_cluster().with_policy(rejoin=(order,))
    (swap,) = written(decide(cluster.build(), some_rules()), Kind.POLICY)
    assert isinstance(swap, Swap) and isinstance(swap.value, Policy) and swap.value.rejoin == () and swap.version == 11
    assert not written(decide(cluster.streaming_since("db2", 1.0).build(), some_rules()), Kind.POLICY)
    assert not written(decide(down(cluster).build(), some_rules()), Kind.POLICY)


# --- the fence goes on, and never in the way of a failover --------------------------------------------------------------------
def fencing(**fields: Any) -> Cluster:
    return a_cluster().with_policy(fenced=("db2",)).operation(OperationKind.FENCE, "opened", old="db2", old_epoch=2, **fields)


def done(plan: Plan) -> bool:
    return Erase(Key(Kind.OPERATION), 30) in plan.writes and journaled([plan]) == ["op-1/01-fence.done"]


def test_a_receipt_counts_with_its_guardians_word_that_the_database_is_down() -> None:
    receipt = fencing().receipt("db2", 2)
    assert not done(decide(receipt.build(), some_rules())), "one of an earlier fence would do otherwise"
    assert done(decide(down(receipt).build(), some_rules()))
    assert not done(decide(down(fencing().receipt("db2", 1)).build(), some_rules()))


def test_the_read_back_over_ssh_counts() -> None:
    plan = decide(fencing().came_of(Fence("db2", 2), True, "epoch 2 closed").build(), some_rules())
    assert done(plan) and dict(line(plan).facts)["evidence"].endswith("epoch 2 closed")


def test_no_clock_fences_anybody() -> None:
    quiet = fencing().silent("db2")
    plan = decide(replace(quiet.build(), now_s=quiet.now_s + 1e6, phase_since_s=0.0), some_rules())
    assert not done(plan) and plan.says.startswith("held: no proof that db2 is down")


def test_a_dying_primary_is_more_urgent_than_a_fence() -> None:
    plan = decide(fencing().receipt("db1", 3).build(), some_rules())
    assert journaled([plan]) == ["op-1/01-fence.undone"] and "a failover is needed" in plan.says
    assert not written(plan, Kind.POLICY), "the member stays fenced: it is no candidate"


def test_the_primarys_care_goes_on_beside_a_fence_that_is_held() -> None:
    """Otherwise a failover would find a sync set that waits for the fenced member."""
    plan = decide(fencing(held="x").build(), some_rules())
    (swap,) = written(plan, Kind.GRANT)
    assert isinstance(swap, Swap) and getattr(swap.value, "sync", ())[-1].names == ("db3",)
    assert Check(Key(Kind.OPERATION), 30) in plan.writes, "the fence must not have moved meanwhile"
