"""The leader's one entry: in which order it looks at things, what it may start by itself, and how it keeps a healthy cluster."""

from __future__ import annotations

from typing import Any

import pytest

from failover.core.decide import ANSWER_KEPT_S, decide
from failover.core.model import Grant, Mode, Operation, OperationKind, RequestKind, SyncSet, Willingness
from failover.core.plan import Check, Create, Erase, Guard, Key, Kind, MoveVip, Plan, Swap, SwitchDns, Verdict
from tests.support.builders import Cluster, a_cluster, some_rules, willing, written

TERM = Check(Key(Kind.TERM), 7)


def plan(cluster: Cluster, **rules: Any) -> Plan:
    return decide(cluster.build(), some_rules(**rules))


def opens(found: Plan) -> Operation | None:
    made = [w.value for w in written(found, Kind.OPERATION) if isinstance(w, Create)]
    assert all(isinstance(value, Operation) for value in made)
    return made[0] if made else None  # type: ignore[return-value]  # narrowed by the assertion above


def blocked(found: Plan) -> list[Guard]:
    return [guard for guard in found.guards if guard.verdict is not Verdict.PASS]


def dead() -> Cluster:
    return a_cluster().receipt("db1", closes=3)


# --- precedence --------------------------------------------------------------------------------------------------------
def test_before_the_records_are_read_nothing_is_decided() -> None:
    assert plan(dead().without("term")) == Plan(says="the records are not read yet")
    assert plan(dead().without("policy")) == Plan(says="the records are not read yet")


def test_a_person_is_answered_before_anything_else() -> None:
    assert written(plan(dead().failover("opened").asked(RequestKind.PAUSE)), Kind.ANSWER)


def test_a_running_operation_comes_before_housekeeping_and_opening_another() -> None:
    found = plan(dead().paused(1.0, since_s=0.0).failover("opened"))
    (operation,) = written(found, Kind.OPERATION)
    assert isinstance(operation, Swap) and written(found, Kind.GRANT)


def test_unadopted_and_claimed_without_an_operation_only_say_so() -> None:
    assert plan(a_cluster().without("grant")).says == "not adopted: `failoverctl adopt`"
    assert plan(a_cluster().claimed("db1", 3)).says == "the grant names nobody"


# --- opening -------------------------------------------------------------------------------------------------------------
def test_a_receipt_opens_a_failover_in_one_transaction() -> None:
    found = plan(dead())
    operation = opens(found)
    assert operation and (operation.id, operation.kind) == ("op-1", OperationKind.FAILOVER)
    assert (operation.old, operation.old_epoch) == ("db1", 3)
    assert found.writes[0] == TERM and not found.actions and not blocked(found)
    (policy,) = written(found, Kind.POLICY)
    assert isinstance(policy, Swap) and policy.version == 11 and getattr(policy.value, "operations", 0) == 1


def test_operations_are_numbered_by_the_policy_record() -> None:
    operation = opens(plan(dead().with_policy(operations=41)))
    assert operation and operation.id == "op-42"


def test_a_majority_of_votes_opens_it_too() -> None:
    assert opens(plan(a_cluster().lost_by("c1", "c2")))
    assert not opens(plan(a_cluster().lost_by("c1")))


@pytest.mark.parametrize(("name", "cluster"), [
    ("mode", dead().with_policy(mode=Mode.OBSERVE)),
    ("not paused", dead().paused(60.0, since_s=990.0)),
    ("not in maintenance", dead().maintenance("db1")),
    ("cool-down", dead().failed_over(ago_s=59.9)),
    ("somebody may take over", dead().maintenance("db2").maintenance("db3")),
])  # fmt: skip
def test_each_guard_alone_stops_an_automatic_failover_and_says_why(name: str, cluster: Cluster) -> None:
    found = plan(cluster)
    assert not found.writes and [guard.name for guard in blocked(found)] == [name]
    assert "not acting" in found.says


def test_the_cool_down_ends() -> None:
    assert opens(plan(dead().failed_over(ago_s=60.0)))


def test_manual_and_never_are_nobody_who_takes_over_by_itself() -> None:
    assert not opens(plan(dead(), members=willing(db2=Willingness.MANUAL, db3=Willingness.NEVER)))
    assert opens(plan(dead(), members=willing(db2=Willingness.MANUAL)))


def test_a_dead_standby_opens_nothing() -> None:
    assert not opens(plan(a_cluster().receipt("db2", 3).lost_by("c1", "c2", "c3", member="db2").silent("db2")))


# --- upkeep -----------------------------------------------------------------------------------------------------------
def test_a_healthy_cluster_is_left_alone_but_for_the_name() -> None:
    assert plan(a_cluster()).writes == () and plan(a_cluster()).actions == (SwitchDns("10.0.0.100", 3),)
    assert plan(a_cluster(), has_dns=False).actions == ()


def test_a_vip_that_drifted_is_asked_back_under_the_present_epoch() -> None:
    assert plan(a_cluster().status("db1", vip=False), has_dns=False).actions == (MoveVip("db1", 3),)


@pytest.mark.parametrize("cluster", [
    a_cluster().status("db1", vip=False, writable=False), a_cluster().status("db1", vip=False, epoch=2),
    a_cluster().status("db1", vip=False).with_policy(mode=Mode.OBSERVE), a_cluster().status("db1", vip=False).paused(60.0, 990.0),
    a_cluster().silent("db1"),
])  # fmt: skip
def test_nothing_is_routed_to_a_primary_that_does_not_say_it_serves_or_while_hands_are_off(cluster: Cluster) -> None:
    assert plan(cluster).actions == ()


def test_promotable_follows_the_configuration_by_an_edit_that_keeps_member_and_epoch() -> None:
    found = plan(a_cluster(), members=willing(db3=Willingness.NEVER), has_dns=False)
    assert found.writes[0] == TERM
    (swap,) = written(found, Kind.GRANT)
    assert isinstance(swap, Swap) and isinstance(swap.value, Grant) and swap.version == 20
    # the sync set is edited first, promotable at the next look: one edit for each transaction
    assert (swap.value.member, swap.value.epoch) == ("db1", 3)
    alone = plan(a_cluster().with_grant("db1", 3, promotable=("db2",)), has_dns=False)
    (swap,) = written(alone, Kind.GRANT)
    assert isinstance(swap, Swap) and isinstance(swap.value, Grant)
    assert swap.value.promotable == ("db2", "db3") and (swap.value.member, swap.value.epoch) == ("db1", 3)
    assert swap.value.sync == (SyncSet(1, ("db2", "db3"), "1"),)


# --- housekeeping --------------------------------------------------------------------------------------------------------
def test_a_pause_ends_by_itself() -> None:
    assert not plan(a_cluster().paused(60.0, since_s=940.1)).writes
    found = plan(a_cluster().paused(60.0, since_s=940.0))
    (swap,) = written(found, Kind.POLICY)
    assert found.says == "the pause has ended" and isinstance(swap, Swap) and swap.version == 11
    assert getattr(swap.value, "paused_for_s", 0) is None


def test_maintenance_ends_by_itself_and_only_what_is_over() -> None:
    cluster = a_cluster().maintenance("db2", for_s=60.0, began_ago_s=60.0).maintenance("db3", for_s=60.0, began_ago_s=59.0)
    found = plan(cluster)
    (swap,) = written(found, Kind.POLICY)
    assert isinstance(swap, Swap) and [m.member for m in swap.value.maintenance] == ["db3"]  # type: ignore[attr-defined]  # a Policy
    assert found.says == "maintenance of db2 has ended"


def test_answers_are_kept_for_a_while_and_go_with_their_request() -> None:
    asked = a_cluster().asked(RequestKind.PAUSE)
    assert not plan(asked.answered("r1", ago_s=ANSWER_KEPT_S)).writes
    assert plan(asked.answered("r1", ago_s=ANSWER_KEPT_S + 1)).writes == (
        TERM, Erase(Key(Kind.REQUEST, "r1"), 1), Erase(Key(Kind.ANSWER, "r1"), 4),
    )  # fmt: skip
