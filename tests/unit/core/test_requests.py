"""What a person may ask for. A refusal lists all of its reasons and changes nothing; an acceptance is one transaction."""

from __future__ import annotations

from typing import Any

import pytest

from failover.core.decide import decide
from failover.core.model import Answer, Grant, Mode, Operation, Policy, Replication, RequestKind, Role, SyncSet, Willingness
from failover.core.plan import Check, Create, Key, Kind, Plan, Swap
from tests.support.builders import Cluster, a_cluster, some_rules, willing, written


def judge(cluster: Cluster, kind: RequestKind, rules: dict[str, Any] | None = None, **fields: Any) -> Plan:
    return decide(cluster.asked(kind, **fields).build(), some_rules(**(rules or {})))


def answer_of(plan: Plan) -> Answer:
    (create,) = written(plan, Kind.ANSWER)
    assert isinstance(create, Create) and isinstance(create.value, Answer) and create.key.name == "r1"
    return create.value


def refusal(plan: Plan) -> tuple[str, ...]:
    """The reasons, after making sure that nothing but the answer is written."""
    assert [type(w) for w in plan.writes] == [Check, Check, Create] and plan.writes[0] == Check(Key(Kind.TERM), 7)
    assert plan.writes[1] == Check(Key(Kind.REQUEST, "r1"), 0), "one that was withdrawn meanwhile does not fire"
    answer = answer_of(plan)
    assert not answer.accepted and answer.reasons and answer.operation is None
    return answer.reasons


def opened(plan: Plan) -> Operation:
    (create,) = written(plan, Kind.OPERATION)
    assert isinstance(create, Create) and isinstance(create.value, Operation)
    answer = answer_of(plan)
    assert answer.accepted and answer.operation == create.value.id and create.value.request == "r1"
    return create.value


def policy_of(plan: Plan) -> Policy:
    (swap,) = written(plan, Kind.POLICY)
    assert isinstance(swap, Swap) and swap.version == 11 and isinstance(swap.value, Policy) and answer_of(plan).accepted
    return swap.value


def test_a_request_that_was_answered_is_not_judged_again() -> None:
    assert not decide(a_cluster().asked(RequestKind.PAUSE).answered("r1", 1.0).build(), some_rules()).writes


@pytest.mark.parametrize("kind", [k for k in RequestKind if k is not RequestKind.ADOPT])
def test_nothing_but_adoption_makes_sense_before_adoption(kind: RequestKind) -> None:
    reasons = refusal(judge(a_cluster().without("grant"), kind, target="db2"))
    assert reasons == ("nothing is adopted yet: run `failoverctl adopt` first",)


@pytest.mark.parametrize("kind", list(RequestKind))
def test_an_operator_who_is_wrong_about_the_primary_changes_nothing(kind: RequestKind) -> None:
    (reason, *_) = refusal(judge(a_cluster(), kind, target="db2", expect_primary="db3"))
    assert reason == "--expect-primary db3: the primary is db1"


# --- adopt ----------------------------------------------------------------------------------------------------------------
def unadopted() -> Cluster:
    cluster = a_cluster().without("grant")
    for name in ("db1", "db2", "db3"):
        cluster.status(name, system_identifier="7001")
    return cluster


def test_adoption_takes_the_topology_as_found() -> None:
    plan = judge(unadopted(), RequestKind.ADOPT)
    (create,) = written(plan, Kind.GRANT)
    assert isinstance(create, Create) and answer_of(plan).accepted
    assert create.value == Grant("db1", 1, ("db2", "db3"), (SyncSet(1, ("db2", "db3"), "1"),), system_identifier="7001")


def test_adoption_of_an_async_cluster_promises_no_sync_set() -> None:
    (create,) = written(judge(unadopted(), RequestKind.ADOPT, {"replication": Replication.ASYNC}), Kind.GRANT)
    assert isinstance(create, Create) and isinstance(create.value, Grant) and create.value.sync == ()


def test_what_was_adopted_is_not_adopted_again() -> None:
    assert refusal(judge(a_cluster(), RequestKind.ADOPT)) == ("already adopted: epoch 3, primary db1",)


def test_adoption_is_refused_with_everything_that_is_wrong_at_once() -> None:
    wrong = unadopted().silent("db1").standby("db2", streaming=False, system_identifier="7002", problems=("pg_hba",))
    reasons = refusal(judge(wrong, RequestKind.ADOPT))
    assert reasons == (
        "db1: no guardian reports from there",
        "exactly one primary is needed, found none",
        "wrong system identifier: db2 has 7002, db3 has 7001",
        "db2: is standby and does not stream from the primary",
        "db2: pg_hba",
    )


def test_two_primaries_are_never_adopted() -> None:
    both = unadopted().status("db2", role=Role.PRIMARY)
    assert "exactly one primary is needed, found db1, db2" in refusal(judge(both, RequestKind.ADOPT))


def test_a_history_with_no_record_of_it_asks_for_a_second_word() -> None:
    moved = unadopted().status("db1", position="2@0/500 1:0/400")
    assert "wrong ZooKeeper address?" in refusal(judge(moved, RequestKind.ADOPT))[0]
    assert answer_of(judge(moved, RequestKind.ADOPT, confirm=True)).accepted


# --- switchover -----------------------------------------------------------------------------------------------------------
def test_a_switchover_goes_where_it_was_asked_to_or_to_the_best() -> None:
    assert opened(judge(a_cluster(), RequestKind.SWITCHOVER, target="db3")).target == "db3"
    assert opened(judge(a_cluster(), RequestKind.SWITCHOVER)).target == "db2"
    assert opened(judge(a_cluster().standby("db2", streaming=False), RequestKind.SWITCHOVER)).target == "db3"


def test_a_switchover_is_refused_with_every_reason() -> None:
    cluster = a_cluster().failover("claimed").status("db1", writable=False).maintenance("db2")
    cluster.standby("db2", streaming=False, paused_replay=True, replay_lag_bytes=2_000_000)
    assert refusal(judge(cluster, RequestKind.SWITCHOVER, target="db2")) == (
        "failover op-1 is under way (asked for by ann, phase claimed)",
        "db1 does not take writes now: a switchover needs a healthy primary, see `failoverctl failover`",
        "db2: in maintenance",
        "db2: does not stream from the primary",
        "db2: its replay is paused",
        "db2: 2000000 bytes behind, more than lag_max (1000000)",
    )


def test_a_standby_with_log_of_its_own_or_that_may_have_lost_some_is_no_target() -> None:
    """It streams and has everything, so nothing else would speak against it."""
    cluster = a_cluster().standby("db2", rejoin="diverged: it has log that the primary does not have")
    cluster.standby("db3", testifies=False)
    reasons = refusal(judge(cluster, RequestKind.SWITCHOVER))
    assert reasons[0] == "db2: diverged: it has log that the primary does not have"
    assert reasons[1].startswith("db3: may have lost log that it acknowledged")


def test_a_switchover_to_nobody_says_why_for_each() -> None:
    cluster = a_cluster().silent("db3")
    reasons = refusal(judge(cluster, RequestKind.SWITCHOVER, {"members": willing(db2=Willingness.NEVER)}))
    assert reasons == ("db2: failover: never", "db3: its guardian says nothing")


@pytest.mark.parametrize("kind", [RequestKind.SWITCHOVER, RequestKind.FAILOVER])
def test_impossible_targets(kind: RequestKind) -> None:
    assert refusal(judge(a_cluster(), kind, target="db1")) == ("db1 is the primary already",)
    assert refusal(judge(a_cluster(), kind, target="db9")) == ("no member db9; there are: db1, db2, db3",)


@pytest.mark.parametrize("kind", [RequestKind.SWITCHOVER, RequestKind.FAILOVER])
def test_observe_does_nothing_for_anybody(kind: RequestKind) -> None:
    assert "mode is observe" in refusal(judge(a_cluster().with_policy(mode=Mode.OBSERVE), kind))[0]


@pytest.mark.parametrize("kind", [RequestKind.SWITCHOVER, RequestKind.FAILOVER])
def test_one_operation_at_a_time(kind: RequestKind) -> None:
    assert "failover op-1 is under way" in refusal(judge(a_cluster().failover("claimed"), kind))[0]


def test_manual_members_are_fit_when_named() -> None:
    rules = {"members": willing(db2=Willingness.MANUAL, db3=Willingness.MANUAL)}
    assert opened(judge(a_cluster(), RequestKind.SWITCHOVER, rules, target="db2")).target == "db2"
    assert len(refusal(judge(a_cluster(), RequestKind.SWITCHOVER, rules))) == 2


# --- failover by hand -----------------------------------------------------------------------------------------------------
def test_a_failover_by_hand_needs_no_vote_and_says_who_asked() -> None:
    operation = opened(judge(a_cluster(), RequestKind.FAILOVER, target="db3", reason="disk noise"))
    assert (operation.old, operation.old_epoch, operation.target) == ("db1", 3, "db3")
    assert (operation.requester, operation.reason) == ("ann", "disk noise")


def test_a_failover_by_hand_works_while_paused_and_within_the_cool_down() -> None:
    assert opened(judge(a_cluster().paused(60.0, 0.0).failed_over(1.0), RequestKind.FAILOVER)).kind.value == "failover"


# --- pause and maintenance ----------------------------------------------------------------------------------------------
def test_a_pause_always_has_an_end_and_a_name() -> None:
    paused = policy_of(judge(a_cluster(), RequestKind.PAUSE, for_s=60.0, reason="upgrade"))
    assert (paused.paused_for_s, paused.paused_by, paused.paused_reason) == (60.0, "ann", "upgrade")
    assert policy_of(judge(a_cluster(), RequestKind.PAUSE)).paused_for_s == 3600.0


def test_resume_forgets_the_whole_pause() -> None:
    assert policy_of(judge(a_cluster().paused(60.0, 990.0), RequestKind.RESUME)) == Policy(mode=Mode.AUTOMATIC)


def test_maintenance_replaces_an_earlier_one_of_the_member_and_ends_when_told() -> None:
    cluster = a_cluster().maintenance("db2").maintenance("db3")
    again = policy_of(judge(cluster, RequestKind.MAINTENANCE_ON, target="db2", for_s=5.0))
    assert [(m.member, m.for_s) for m in again.maintenance] == [("db3", 3600.0), ("db2", 5.0)]
    off = policy_of(judge(a_cluster().maintenance("db2").maintenance("db3"), RequestKind.MAINTENANCE_OFF, target="db2"))
    assert [m.member for m in off.maintenance] == ["db3"]


def test_maintenance_of_what_is_not_there() -> None:
    assert refusal(judge(a_cluster(), RequestKind.MAINTENANCE_ON, target="db9")) == ("no member db9; there are: db1, db2, db3",)
    assert refusal(judge(a_cluster(), RequestKind.MAINTENANCE_OFF, target="db2")) == ("db2 is not in maintenance",)
