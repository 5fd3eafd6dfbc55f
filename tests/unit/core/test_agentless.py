"""A member without a guardian, through all decisions: no clock is evidence about it, it never leads by choice, nobody waits for
its testimony, and what it may be asked for is only what needs no guardian."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from failover.core import model
from failover.core.candidate import choose
from failover.core.decide import decide
from failover.core.failover import TABLE
from failover.core.machine import Answer, Go, Situation, Wait
from failover.core.model import Grant, Policy, Replication, RequestKind, Role, SyncSet
from failover.core.plan import Create, Fence, Kind, Plan, Stonith, Swap
from failover.core.replication import wanted_names
from failover.core.rules import Rules
from tests.support.builders import MEMBERS, Cluster, a_cluster, lsn, some_rules, written


def without_guardian(*names: str, **changes: Any) -> Rules:
    members = tuple(replace(m, guarded=m.name not in names) for m in MEMBERS)
    return some_rules(**{"members": members, "replication": Replication.ASYNC, **changes})


def step(cluster: Cluster, rules: Rules) -> Answer:
    """What the table's row of the operation's phase answers."""
    seen = cluster.build()
    assert seen.operation is not None
    row = next(row for row in TABLE if row.phase == seen.operation.value.phase)
    return row.rule(Situation(seen, rules, seen.operation.value))


def claimed(since_s: float) -> Cluster:
    cluster = a_cluster().claimed("db1", closes=3).failover("claimed", since_s)
    for name in ("db2", "db3"):
        cluster.sealed(name, at="1@0/500")
    return cluster


def reasons(plan: Plan) -> str:
    (create,) = written(plan, Kind.ANSWER)
    assert isinstance(create, Create) and isinstance(create.value, model.Answer)
    return "; ".join(create.value.reasons)


# --- confirming ---------------------------------------------------------------------------------------------------------
def test_no_clock_is_evidence_however_long_and_held_says_why() -> None:
    answer = step(claimed(since_s=1e9), without_guardian("db1"))
    assert isinstance(answer, Wait) and answer.held is not None
    assert "db1 has no guardian: no lease, no gate" in answer.held and "Nothing is promoted" in answer.held
    assert answer.actions == (Fence("db1", 3),)


@pytest.mark.parametrize(("ok", "counts"), [(True, True), (None, False), (False, False)])
def test_power_counts_only_when_it_was_read_back(ok: bool | None, counts: bool) -> None:
    cluster = claimed(since_s=60.0).came_of(Stonith("db1", "op-1"), ok, "the command says off, but db1 answers: port 22")
    answer = step(cluster, without_guardian("db1", has_stonith=True))
    assert isinstance(answer, Go) is counts
    if isinstance(answer, Wait):
        assert answer.held is not None and "but db1 answers" in answer.held and Stonith("db1", "op-1") in answer.actions


def test_the_host_agents_read_back_is_evidence_as_for_everybody() -> None:
    assert isinstance(step(claimed(since_s=1.0).came_of(Fence("db1", 3), True), without_guardian("db1")), Go)


# --- choosing -----------------------------------------------------------------------------------------------------------
def test_it_is_never_chosen_and_keeps_its_reason() -> None:
    sealed = {"db2": lsn("1@0/400"), "db3": lsn("1@0/400")}
    choice = choose(without_guardian("db2"), Grant(None, 4), Policy(), sealed, "db1", "db2")
    assert choice.candidate == "db3" and dict(choice.rejected)["db2"] == "has no guardian: cannot prove a grant"


def test_nobody_waits_for_the_seal_of_one_that_cannot_seal() -> None:
    cluster = a_cluster().claimed("db1", closes=3).failover("confirmed", 0.0).sealed("db2", at="1@0/500")
    answer = step(cluster, without_guardian("db3"))
    assert isinstance(answer, Go) and answer.changes["candidate"] == "db2"


def test_it_is_not_granted_back_when_it_returns_as_a_standby() -> None:
    """A guarded old primary would be: its guardian proves the grant. Here nobody could."""
    cluster = a_cluster().claimed("db1", closes=3).failover("confirmed", 60.0).standby("db1", at="1@0/700")
    for name in ("db2", "db3"):
        cluster.silent(name)
    assert isinstance(step(cluster, without_guardian("db1")), Wait)
    assert isinstance(step(cluster, without_guardian()), Go), "with a guardian it is"


def test_no_commit_waits_for_one_that_cannot_testify() -> None:
    assert wanted_names(a_cluster().build(), without_guardian("db3", replication=Replication.STRICT), "db1") == ("db2",)


# --- what may be asked for --------------------------------------------------------------------------------------------
def test_a_switchover_away_from_it_is_refused_with_the_way_that_works() -> None:
    cluster = a_cluster().synced_by()
    told = reasons(decide(cluster.asked(RequestKind.SWITCHOVER, target="db2").build(), without_guardian("db1")))
    assert told == "db1 has no guardian, so nobody there could hand over in order: use `failoverctl failover`"
    plan = decide(a_cluster().synced_by().asked(RequestKind.FAILOVER, target="db2").build(), without_guardian("db1"))
    assert written(plan, Kind.OPERATION), "claim and fence over SSH need nobody's help"


@pytest.mark.parametrize("replication", list(Replication))
def test_as_a_primary_it_is_adopted_only_where_nothing_rests_on_sync_names(replication: Replication) -> None:
    cluster = a_cluster().without("grant").asked(RequestKind.ADOPT)
    plan = decide(cluster.build(), without_guardian("db1", replication=replication))
    assert bool(written(plan, Kind.GRANT)) is (replication is Replication.ASYNC)
    if replication is not Replication.ASYNC:
        assert "db1 is primary and has no guardian: nobody there could prove sync names" in reasons(plan)


# --- watching ---------------------------------------------------------------------------------------------------------
def test_votes_alone_open_a_failover_because_no_heartbeat_was_ever_written() -> None:
    cluster = a_cluster().synced_by().lost_by("c1", "c2", "c3")
    assert written(decide(cluster.build(), without_guardian("db1")), Kind.OPERATION)


def stray(cluster: Cluster, rules: Rules) -> list[Fence]:
    return [action for action in decide(cluster.build(), rules).actions if isinstance(action, Fence)]


def back_as_primary() -> Cluster:
    """db2 has the grant under epoch 5, and db1 is back, a primary as it was before its host went off."""
    granted = a_cluster().with_grant("db2", epoch=5, sync=(), promotable=("db3",)).primary("db2", 5)
    return granted.status("db1", role=Role.PRIMARY, writable=False, epoch=0, streaming=False, vip=False)


def test_a_former_primary_that_comes_back_as_one_is_fenced() -> None:
    assert stray(back_as_primary(), without_guardian("db1")) == [Fence("db1", 4)]
    assert stray(back_as_primary(), without_guardian()) == [], "a guardian does that by itself"


@pytest.mark.parametrize("left_alone", ["standby", "silent for a while", "in maintenance", "paused"])
def test_whoever_is_no_such_stray_is_left_alone(left_alone: str) -> None:
    cluster = back_as_primary()
    {
        "standby": lambda: cluster.standby("db1", streaming=False),
        "silent for a while": lambda: cluster.status("db1", ago_s=10.0),
        "in maintenance": lambda: cluster.maintenance("db1"),
        "paused": lambda: cluster.paused(600.0, cluster.now_s),
    }[left_alone]()
    assert stray(cluster, without_guardian("db1")) == []


def test_a_standby_without_a_guardian_may_be_beside_strict_ones() -> None:
    """It streams, it is shown, and no pair of sync names has it."""
    rules = without_guardian("db3", replication=Replication.STRICT)
    plan = decide(a_cluster().synced_by(SyncSet(1, ("db2",), "1")).build(), rules)
    (swap,) = written(plan, Kind.GRANT)
    assert isinstance(swap, Swap) and isinstance(swap.value, Grant)
    assert swap.value.promotable == ("db2",) and swap.value.sync == (SyncSet(1, ("db2",), "1"),)
