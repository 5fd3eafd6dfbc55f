"""Is the primary lost? A receipt says so at once; otherwise a majority of controllers, and no heartbeat at any standby."""

from __future__ import annotations

import pytest

from failover.core.detector import Finding, judge_primary
from tests.support.builders import Cluster, a_cluster, some_rules


def judge(cluster: Cluster) -> Finding:
    seen = cluster.build()
    assert seen.grant is not None
    return judge_primary(seen, some_rules(), seen.grant.value)


# --- receipts ---------------------------------------------------------------------------------------------------------
def test_a_receipt_needs_no_vote() -> None:
    finding = judge(a_cluster().receipt("db1", closes=3, method="the main process ended"))
    assert finding.lost and finding.why == "db1 closed epoch 3: the main process ended"


def test_a_receipt_of_an_earlier_epoch_says_nothing_of_this_one() -> None:
    assert not judge(a_cluster().receipt("db1", closes=2)).lost
    assert not judge(a_cluster().receipt("db2", closes=3)).lost


def test_a_clean_stop_that_nobody_asked_for_is_waited_out_and_then_counts() -> None:
    assert not judge(a_cluster().receipt("db1", 3, clean=True, ago_s=9.9)).lost
    assert judge(a_cluster().receipt("db1", 3, clean=True, ago_s=10.0)).lost
    assert "waiting 4.0 s" in judge(a_cluster().receipt("db1", 3, clean=True, ago_s=6.0)).why


def test_a_clean_stop_that_is_back_as_a_standby_waits_for_nothing() -> None:
    """Its epoch is closed for good: waiting on would only lengthen the outage."""
    assert judge(a_cluster().receipt("db1", 3, clean=True).standby("db1", streaming=False)).lost


# --- votes --------------------------------------------------------------------------------------------------------------
def test_a_majority_of_the_configured_controllers_is_needed() -> None:
    assert not judge(a_cluster().lost_by("c1")).lost
    assert judge(a_cluster().lost_by("c1", "c2")).lost


def test_controllers_that_are_gone_still_count_in_the_majority() -> None:
    alone = a_cluster().lost_by("c1")
    alone.tables["votes"] = {"c1": alone.tables["votes"]["c1"]}
    assert not judge(alone).lost


def test_strangers_votes_do_not_count() -> None:
    assert not judge(a_cluster().lost_by("c1", "c9")).lost


@pytest.mark.parametrize(("ago_s", "lost"), [(2.9, True), (3.1, False)])
def test_an_old_vote_is_no_vote(ago_s: float, lost: bool) -> None:
    assert judge(a_cluster().lost_by("c1").vote("c2", "db1", ago_s=ago_s)).lost is lost


@pytest.mark.parametrize(("sees", "lost"), [(0, False), (1, False), (2, True)])
def test_a_blind_controllers_vote_does_not_count(sees: int, lost: bool) -> None:
    assert judge(a_cluster().lost_by("c1").vote("c2", "db1", sees=sees, targets=3)).lost is lost


def test_a_vote_on_another_member_is_no_vote_on_the_primary() -> None:
    assert not judge(a_cluster().lost_by("c1", "c2", member="db2")).lost


# --- heartbeats -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("ago_s", "lost"), [(1.5, False), (1.6, True)])
def test_a_heartbeat_at_any_standby_vetoes_the_votes(ago_s: float, lost: bool) -> None:
    assert judge(a_cluster().lost_by("c1", "c2", "c3").heartbeat("db3", ago_s)).lost is lost


def test_what_the_primary_itself_says_it_wrote_vetoes_nothing() -> None:
    assert judge(a_cluster().lost_by("c1", "c2").heartbeat("db1", 0.1)).lost


def test_its_own_guardians_failing_inserts_cannot_be_vetoed_by_replication() -> None:
    """A half-hung server goes on replicating over its kept connections."""
    hung = a_cluster().lost_by("c1", "c2").heartbeat("db2", 0.1)
    assert not judge(hung).lost
    assert not judge(hung.status("db1", heartbeat_fails=2)).lost
    assert judge(hung.status("db1", heartbeat_fails=3)).lost


def test_failing_inserts_alone_are_no_majority() -> None:
    assert not judge(a_cluster().lost_by("c1").status("db1", heartbeat_fails=9)).lost
