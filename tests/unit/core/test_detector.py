"""Is the primary lost? A receipt says so at once; otherwise a majority of controllers, and no heartbeat at any standby."""

from __future__ import annotations

import pytest

from failover.core.detector import Finding, judge_primary
from failover.core.model import Role
from failover.core.plan import Guard, Verdict
from tests.support.builders import Cluster, a_cluster, some_rules


def facts(finding: Finding) -> dict[str, Guard]:
    return {guard.name: guard for guard in finding.guards}


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


# --- a voter judges its own network first -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("sees", "lost"), [((), False), (("ZooKeeper",), False), (("db2",), True), (("db3", "ZooKeeper"), True)]
)
def test_a_blind_controllers_vote_does_not_count(sees: tuple[str, ...], lost: bool) -> None:
    """On a host of its own it has two targets besides the suspect, and must see one of them."""
    finding = judge(a_cluster().lost_by("c1").vote("c2", "db1", sees=sees))
    assert finding.lost is lost
    if not lost:
        guard = facts(finding)["voters see their other targets"]
        assert guard.verdict is Verdict.UNKNOWN
        assert guard.facts == "c2 not counted: its own network is in doubt: sees 0 of db2, db3"


@pytest.mark.parametrize(("sees", "lost"), [(("db2", "ZooKeeper"), False), (("db3",), True)])
def test_the_member_on_the_voters_own_host_proves_no_network(sees: tuple[str, ...], lost: bool) -> None:
    assert judge(a_cluster().lost_by("c1").vote("c2", "db1", sees=sees).beside("c2", "db2")).lost is lost


def test_beside_the_suspect_either_of_the_others_is_a_witness() -> None:
    finding = judge(a_cluster().lost_by("c2").vote("c1", "db1", sees=("db3",)).beside("c1", "db1"))
    assert finding.lost


@pytest.mark.parametrize("down", ["reported", "silent"])
def test_a_member_that_is_down_by_its_guardians_word_is_no_witness_that_is_missed(down: str) -> None:
    """db3 is under repair when db1 freezes: db2 has only ZooKeeper left to see, and that must do."""
    cluster = a_cluster().lost_by("c1").vote("c2", "db1", sees=("ZooKeeper",)).beside("c2", "db2")
    cluster = cluster.silent("db3") if down == "silent" else cluster.status("db3", role=Role.DOWN)
    assert judge(cluster).lost


def test_with_nobody_else_to_see_zookeeper_must_have_been_there_all_along() -> None:
    cluster = a_cluster().silent("db3").lost_by("c1").vote("c2", "db1", sees=()).beside("c2", "db2")
    finding = judge(cluster)
    assert not finding.lost and "ZooKeeper was out of its reach" in facts(finding)["voters see their other targets"].facts


def test_a_blind_vote_more_does_not_hinder_a_majority_that_sees() -> None:
    finding = judge(a_cluster().lost_by("c1", "c2").vote("c3", "db1", sees=()))
    assert finding.lost and "c3 not counted" in facts(finding)["voters see their other targets"].facts
    assert "c3" not in finding.why


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


# --- what `explain` has to tell ---------------------------------------------------------------------------------------------
def test_while_all_is_well_the_guards_are_short_and_still_say_why_nothing_happens() -> None:
    guards = facts(judge(a_cluster().heartbeat("db2", 0.2)))
    assert {name: guard.verdict.value for name, guard in guards.items()} == {
        "quorum of controllers": "BLOCK",
        "voters see their other targets": "PASS",
        "no heartbeat at any standby": "BLOCK",
        "not merely starved": "PASS",
        "receipt": "UNKNOWN",
    }
    assert guards["quorum of controllers"].facts == "0 of 3 lost db1, 2 needed"
    assert guards["no heartbeat at any standby"].facts == "db2 received a heartbeat 0.2 s ago"


def test_what_each_controller_found_is_told_although_nobody_votes_lost() -> None:
    doubt = a_cluster().heartbeat("db2", 0.2)
    doubt.vote("c2", "db1", lost=False, fresh="dead", why="2 fresh probes in a row failed over 0.8 s: no answer in time")
    doubt.vote("c3", "db1", lost=False, fresh="unknown", why="probe broken: password authentication failed")
    doubt.tables["votes"].pop("c1")
    finding = judge(doubt)
    assert finding.why == "0 of 3 lost db1, 2 needed", "the log is not filled with every detail"
    assert facts(finding)["quorum of controllers"].facts == (
        "0 of 3 lost db1, 2 needed (c1: no vote: it does not run, or does not reach ZooKeeper;"
        " c2: 2 fresh probes in a row failed over 0.8 s: no answer in time; c3: probe broken: password authentication failed)"
    )


def test_the_log_names_those_who_say_lost_and_not_what_changes_every_second() -> None:
    assert judge(a_cluster().lost_by("c2")).why == "1 of 3 lost db1, 2 needed (c2)"
    assert judge(a_cluster().lost_by("c2").vote("c3", "db1", sees=())).why == "1 of 3 lost db1, 2 needed (c2, c3, not counted)"


def test_recovery_is_told_as_the_sign_of_life_that_it_is() -> None:
    recovering = a_cluster().vote("c2", "db1", lost=False, fresh="alive", role=Role.RECOVERING, why="recovering for 12 s")
    assert "c2: recovering for 12 s" in facts(judge(recovering))["quorum of controllers"].facts


def test_every_guard_of_a_loss_passes() -> None:
    """Or the leader, which adds guards of its own, would not act."""
    for lost in (a_cluster().lost_by("c1", "c2"), a_cluster().receipt("db1", 3)):
        assert {guard.verdict for guard in judge(lost).guards} == {Verdict.PASS}


# --- starved, not frozen ------------------------------------------------------------------------------------------------------
def starved(**status: object) -> Cluster:
    """Every controller finds silence, its own guardian cannot insert, no standby receives anything."""
    return a_cluster().lost_by("c1", "c2", "c3").status("db1", **{"heartbeat_fails": 5, "moving": True, **status})


def test_a_main_process_that_is_given_processor_time_is_starved_and_gets_a_while() -> None:
    finding = judge(starved())
    assert not finding.lost and "starved, not frozen (5 of 20 inserts failed)" in finding.why


@pytest.mark.parametrize(("ago_s", "lost"), [(0.1, False), (some_rules().silence_s - 0.1, False), (some_rules().silence_s, True)])
def test_an_insert_that_came_through_after_all_gets_the_time_to_reach_a_standby(ago_s: float, lost: bool) -> None:
    """Found on a slow machine: one insert succeeded, nothing spoke for the server any more, and no standby had it yet."""
    finding = judge(starved(heartbeat_fails=0).inserts_turned("db1", ago_s))
    assert finding.lost is lost and ("could insert again 0.1 s ago" in finding.why) is (ago_s == 0.1)


@pytest.mark.parametrize("fails", [0, 5])
def test_inserts_of_a_server_that_stands_still_speak_for_nobody(fails: int) -> None:
    """They begin to fail; or they are not counted any more, because it has ended: no row came through."""
    assert judge(starved(moving=False, heartbeat_fails=fails).inserts_turned("db1", 0.1)).lost


@pytest.mark.parametrize("status", [{"moving": False}, {"heartbeat_fails": 20}, {"heartbeat_fails": 0}])
def test_standing_still_or_for_too_long_or_well_by_itself_is_no_starvation(status: dict[str, object]) -> None:
    """Frozen; starved for 20 inserts; and a database that works and that nobody reaches, which is the network's story."""
    assert judge(starved(**status)).lost
