"""The guardian's duty table, row by row. Disabling comes before enabling, and nothing is enabled without a proof."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from failover.core.duty import GRANTED_BACK_AFTER_S, TABLE, Duty, LocalFacts, duty, wants_lease
from failover.core.lease import LeaseState
from failover.core.model import Grant, Maintenance, Mode, OperationKind, RejoinWay, Role, Stored
from failover.core.rejoin import Data, RejoinFacts, held_because
from tests.support.builders import (
    NOW_S,
    a_guardian,
    a_standby,
    claim_on,
    granted,
    handing_over,
    lsn,
    policy,
)

DISABLING = (Duty.FENCE, Duty.HAND_OVER, Duty.SOFT_FENCE)
ENABLING = (Duty.SERVE, Duty.PROMOTE)
NO_LEASE = LeaseState()


def said(facts: LocalFacts) -> Duty:
    return duty(facts).duty


# --- watching ----------------------------------------------------------------------------------------------------------
def test_released_by_hand_means_hands_off_even_from_a_claim() -> None:
    assert said(a_guardian(released=True, grant=claim_on("db1", 3))) is Duty.WATCH


def test_without_a_grant_or_in_observe_nothing_is_done() -> None:
    assert said(a_guardian(grant=None)) is Duty.WATCH
    assert said(a_guardian(policy=policy(mode=Mode.OBSERVE), grant=claim_on("db1", 3))) is Duty.WATCH
    assert said(a_guardian(policy=None)) is Duty.WATCH


# --- disabling ---------------------------------------------------------------------------------------------------------
def test_a_claim_on_me_is_a_fence_until_my_receipt_is_in_zookeeper() -> None:
    taken = a_guardian(grant=claim_on("db1", 3))
    assert said(taken) is Duty.FENCE
    dead = replace(taken, running=False, role=Role.DOWN, served=0, closed=3)
    assert said(dead) is Duty.FENCE, "closed here, but the mailbox does not say so yet"
    assert said(replace(dead, receipted=3)) is Duty.WAIT


def test_a_primary_beside_anothers_grant_is_fenced_whatever_was_receipted() -> None:
    assert said(a_guardian(grant=granted("db2", 5), receipted=4, closed=4)) is Duty.FENCE


def test_my_own_grant_closed_here_owes_its_receipt_first() -> None:
    died = a_guardian(running=False, role=Role.DOWN, served=0, closed=3, receipted=2)
    assert said(died) is Duty.FENCE
    assert said(replace(died, receipted=3)) is Duty.WAIT


def test_a_closed_epoch_is_never_started_again_even_when_all_else_is_well() -> None:
    died = a_guardian(running=False, role=Role.DOWN, served=0, closed=3, receipted=3)
    assert said(died) is Duty.WAIT and not wants_lease(died)
    assert said(replace(died, grant=granted("db1", 4))) is Duty.START, "a later epoch is a new word"


def test_the_death_of_a_served_epoch_never_restarts_in_place_under_the_same_epoch() -> None:
    """Even if nobody noticed the death (paused, or the pidfd was lost): an epoch that took writes is not started again."""
    assert said(a_guardian(running=False, role=Role.DOWN)) is Duty.WAIT
    assert said(a_guardian(running=False, role=Role.DOWN, served=2)) is Duty.START


@pytest.mark.parametrize("proof", [LeaseState(3, NOW_S + 2.5, 1), NO_LEASE])
def test_an_order_to_hand_over_beats_serving(proof: LeaseState) -> None:
    ordered = a_guardian(operation=handing_over(), lease=proof)
    assert said(ordered) is Duty.HAND_OVER and not wants_lease(ordered)


@pytest.mark.parametrize("elsewhere", [
    {"phase": "prepared"}, {"phase": "claimed"}, {"old": "db2"}, {"old_epoch": 2}, {"kind": OperationKind.FAILOVER},
])  # fmt: skip
def test_only_the_order_to_me_for_this_epoch_in_this_phase_stops_writes(elsewhere: dict[str, object]) -> None:
    assert said(a_guardian(operation=handing_over(**elsewhere))) is Duty.SERVE


def test_a_late_handover_is_given_back_and_only_then_asks_for_a_new_lease() -> None:
    early = a_guardian(operation=handing_over(), handover_since_s=NOW_S - 9.9, lease=NO_LEASE, served=0)
    assert said(early) is Duty.HAND_OVER and not wants_lease(early)
    late = replace(early, handover_since_s=NOW_S - 10.0)
    assert said(late) is Duty.GIVE_BACK and wants_lease(late)


def test_after_the_claim_nothing_is_given_back() -> None:
    late = a_guardian(operation=handing_over(), handover_since_s=NOW_S - 60, grant=claim_on("db1", 3), lease=NO_LEASE)
    assert said(late) is Duty.FENCE and not wants_lease(late)


def test_sessions_end_in_order_from_d_minus_f_on() -> None:
    assert said(a_guardian(lease=LeaseState(3, NOW_S + 0.51, 1))) is Duty.SERVE
    assert said(a_guardian(lease=LeaseState(3, NOW_S + 0.5, 1))) is Duty.SOFT_FENCE
    assert said(a_guardian(lease=NO_LEASE)) is Duty.SOFT_FENCE


def test_an_adopted_primary_that_never_served_waits_for_its_proof_instead_of_ending_sessions() -> None:
    assert said(a_guardian(lease=NO_LEASE, served=0)) is Duty.WAIT


def test_without_an_end_no_deadline_ends_sessions_neither_while_paused_nor_at_the_resume() -> None:
    """The kernel's ticket has no end. The pause may be over in the records before the keeper has timed it again."""
    untimed = LeaseState(3, NOW_S - 100, 1, untimed=True)
    assert said(a_guardian(policy=policy(paused_for_s=60.0), lease=untimed)) is Duty.SERVE
    assert said(a_guardian(lease=untimed)) is Duty.SERVE and wants_lease(a_guardian(lease=untimed))


def test_a_pause_that_is_not_recorded_yet_keeps_the_clock_running() -> None:
    timed = a_guardian(policy=policy(paused_for_s=60.0), lease=LeaseState(3, NOW_S + 0.4, 1))
    assert said(timed) is Duty.SOFT_FENCE and wants_lease(timed)
    assert not wants_lease(replace(timed, lease=LeaseState(3, NOW_S + 0.4, 1, untimed=True)))


# --- enabling ------------------------------------------------------------------------------------------------------------
def test_promotion_needs_the_grant_and_a_lease_of_that_epoch() -> None:
    chosen = a_standby(grant=granted("db2", 5), lease=LeaseState(5, NOW_S + 2, 1))
    assert said(chosen) is Duty.PROMOTE
    assert said(replace(chosen, lease=NO_LEASE)) is Duty.WAIT
    assert said(replace(chosen, lease=LeaseState(4, NOW_S + 2, 1))) is Duty.WAIT, "a lease of another epoch proves nothing"
    assert said(replace(chosen, lease=LeaseState(5, NOW_S, 1))) is Duty.WAIT, "it ended this instant"


def test_paused_a_first_opening_still_needs_a_proof() -> None:
    chosen = a_standby(grant=granted("db2", 5), policy=policy(paused_for_s=60.0))
    assert said(chosen) is Duty.WAIT and wants_lease(chosen)


def test_a_granted_member_whose_database_is_down_is_started_as_a_standby() -> None:
    assert said(a_standby(grant=granted("db2", 5), running=False, role=Role.DOWN)) is Duty.START


def test_people_at_work_are_not_disturbed_by_a_start() -> None:
    down = a_standby(running=False, role=Role.DOWN)
    assert said(replace(down, policy=policy(maintenance=(Maintenance("db2", 60, "disk", "ann"),)))) is Duty.HOLD
    assert said(replace(down, policy=policy(paused_for_s=60.0))) is Duty.HOLD
    assert said(replace(down, policy=policy(maintenance=(Maintenance("db3", 60, "disk", "ann"),)))) is Duty.START


# --- a standby ---------------------------------------------------------------------------------------------------------
def test_a_standby_seals_once_for_each_claim() -> None:
    facts = a_standby(grant=claim_on("db1", 3))
    assert said(facts) is Duty.SEAL
    sealed = replace(facts, sealed_for=4, frozen=4, upstream=None)
    assert said(sealed) is Duty.WAIT
    assert said(replace(sealed, grant=claim_on("db3", 5))) is Duty.SEAL, "a later claim needs a report of its own"


def test_an_old_primary_that_only_just_started_has_no_say() -> None:
    assert said(a_standby("db1", grant=claim_on("db2", 5), upstream=None, receipted=4, closed=4)) is Duty.WAIT


def test_an_old_primary_that_missed_its_claim_because_its_host_was_down_has_no_say_either() -> None:
    """Its host lost power under epoch 3, db2 was granted 5 meanwhile, and dies before db1 has followed it."""
    back = a_standby("db1", wrote=3, upstream=None, grant=granted("db2", 5), grant_position=lsn("2@0/600 1:0/400"))
    assert said(back) is Duty.HOLD, "diverged"
    assert said(replace(back, grant=claim_on("db2", 5), grant_position=None)) is Duty.WAIT


def test_the_fenced_old_primary_comes_back_as_a_standby_when_nobody_took_over() -> None:
    alone = a_standby("db1", running=False, role=Role.DOWN, receipted=3, closed=3, upstream=None)
    just = replace(alone, grant=claim_on("db1", 3, seen_at_s=NOW_S - GRANTED_BACK_AFTER_S))
    assert said(just) is Duty.WAIT
    assert said(replace(just, now_s=NOW_S + 0.1)) is Duty.START


def test_a_standby_follows_only_a_primary_that_has_everything_it_has() -> None:
    moved = a_standby(grant=granted("db3", 5), grant_position=lsn("2@0/600 1:0/500"))
    assert said(moved) is Duty.FOLLOW
    assert said(replace(moved, upstream="db3")) is Duty.STAND_BY
    assert said(replace(moved, position=lsn("1@0/501"))) is Duty.HOLD, "diverged"
    assert said(replace(moved, grant_position=None)) is Duty.WAIT, "not known yet is not diverged"
    assert said(replace(moved, grant_position=lsn("1@0/400"))) is Duty.WAIT, "behind on one history: it will catch up"


def test_a_frozen_standby_receives_again_only_under_a_later_grant() -> None:
    """The claim it froze for (epoch 6) is later than the grant in view (5): a stale picture thaws nothing."""
    frozen = a_standby(grant=granted("db1", 5), frozen=6)
    assert said(frozen) is not Duty.STAND_BY
    assert said(replace(frozen, grant=granted("db1", 7))) is Duty.STAND_BY


def test_a_frozen_standby_does_not_follow_under_an_earlier_grant_either() -> None:
    frozen = a_standby(grant=granted("db1", 5), frozen=6, upstream=None)
    assert said(frozen) is Duty.WAIT


def test_the_fenced_old_primary_takes_no_time_from_the_running_operation() -> None:
    moved = a_standby("db1", running=False, role=Role.DOWN, upstream=None, grant=granted("db2", 5), receipted=3, closed=3)
    running = handing_over(phase="granted", kind=OperationKind.FAILOVER)
    assert said(replace(moved, operation=running)) is Duty.WAIT
    assert said(moved) is Duty.START
    assert said(replace(moved, me="db3", operation=running)) is Duty.START, "another one that is down is not the old primary"


def test_a_standby_that_is_down_is_started_for_anothers_grant() -> None:
    assert said(a_standby(running=False, role=Role.DOWN, upstream=None)) is Duty.START


def test_a_standby_that_is_down_when_the_claim_comes_is_started_so_that_it_can_testify() -> None:
    assert said(a_standby(running=False, role=Role.DOWN, upstream=None, grant=claim_on("db1", 3), frozen=4)) is Duty.START


# --- coming back ---------------------------------------------------------------------------------------------------------
READY = RejoinFacts(automatic=True, rewind_ready=True, writable=True)
DIVERGED = a_standby(
    "db1", upstream=None, grant=granted("db2", 5), grant_position=lsn("2@0/600 1:0/400"), wrote=3, receipted=3, rejoin=READY
)


def test_a_diverged_member_is_rewound_once_the_primary_is_ready_and_consent_is_there() -> None:
    assert said(DIVERGED) is Duty.REWIND
    lacks = {"automatic": False, "rewind_ready": False, "writable": False, "obstacle": "no account", "failed": "no WAL"}
    for name, missing in lacks.items():
        assert said(replace(DIVERGED, rejoin=replace(READY, **{name: missing}))) is Duty.HOLD, name
    asked = replace(READY, automatic=False, failed="x", order=RejoinWay.REWIND)
    assert said(replace(DIVERGED, rejoin=asked)) is Duty.REWIND, "a person's word comes after what failed"


def test_nothing_is_rewound_under_an_operation_a_pause_maintenance_or_a_claim() -> None:
    assert said(replace(DIVERGED, operation=handing_over(phase="granted", old="db3"))) is Duty.HOLD
    assert said(replace(DIVERGED, policy=policy(paused_for_s=60.0))) is Duty.HOLD
    assert said(replace(DIVERGED, policy=policy(maintenance=(Maintenance("db1", 60, "disk", "ann"),)))) is Duty.HOLD
    assert said(replace(DIVERGED, grant=claim_on("db2", 5))) is Duty.WAIT
    assert said(replace(DIVERGED, frozen=6)) is Duty.HOLD, "frozen for a claim that this picture does not show yet"


def test_whoever_has_the_grant_or_is_covered_by_it_is_never_rewound() -> None:
    assert said(replace(DIVERGED, grant=granted("db1", 5), lease=LeaseState(5, NOW_S + 2, 1))) is Duty.PROMOTE
    assert said(replace(DIVERGED, grant_position=lsn("2@0/600 1:0/500"))) is Duty.FOLLOW


@pytest.mark.parametrize("grant", [granted("db2", 5), granted("db1", 5), claim_on("db3", 5), claim_on("db1", 4, 0.0)])
def test_a_directory_that_is_not_whole_is_never_started(grant: Stored[Grant]) -> None:
    broken = RejoinFacts(automatic=True, unfinished=RejoinWay.REWIND, startable=False)
    down = a_standby("db1", running=False, role=Role.DOWN, upstream=None, grant=grant, rejoin=broken, receipted=4)
    assert said(down) not in (Duty.START, Duty.PROMOTE)
    assert said(replace(down, rejoin=replace(broken, startable=True, unfinished=None))) is Duty.START


def test_a_half_rewound_directory_is_rewound_again_without_knowing_its_position() -> None:
    half = replace(READY, unfinished=RejoinWay.REWIND, startable=False)
    assert said(replace(DIVERGED, running=False, role=Role.DOWN, position=None, rejoin=half)) is Duty.REWIND


def test_lost_data_is_copied_anew_and_doubtful_data_on_a_persons_word_only() -> None:
    lost = replace(READY, data=Data.LOST, startable=False)
    gone = a_standby(running=False, role=Role.DOWN, position=None, upstream=None, rejoin=lost)
    assert said(gone) is Duty.RESEED
    assert said(replace(gone, rejoin=replace(lost, automatic=False))) is Duty.HOLD
    assert said(replace(gone, rejoin=replace(lost, automatic=False, order=RejoinWay.REWIND))) is Duty.RESEED
    doubtful = replace(lost, data=Data.DOUBTFUL)
    assert said(replace(gone, rejoin=doubtful)) is Duty.HOLD
    assert said(replace(gone, rejoin=replace(doubtful, order=RejoinWay.RESEED))) is Duty.RESEED
    assert said(replace(gone, rejoin=replace(lost, writable=False))) is Duty.HOLD, "from whom?"


def test_data_that_is_there_is_replaced_on_a_persons_word_only() -> None:
    ordered = replace(READY, order=RejoinWay.RESEED)
    assert said(replace(DIVERGED, rejoin=ordered)) is Duty.RESEED
    assert said(a_standby(rejoin=ordered)) is Duty.RESEED and said(a_standby(rejoin=READY)) is Duty.STAND_BY
    assert said(a_guardian(rejoin=ordered)) is Duty.SERVE, "never the primary's own"


def test_whom_a_person_fenced_stays_down_until_the_word() -> None:
    by_hand = policy(fenced=("db2",))
    assert said(a_standby(policy=by_hand)) is Duty.HOLD
    assert said(a_standby(policy=by_hand, running=False, role=Role.DOWN)) is Duty.HOLD
    assert said(a_standby(policy=by_hand, grant=granted("db2", 5), lease=LeaseState(5, NOW_S + 2, 1))) is Duty.PROMOTE
    assert said(a_guardian(policy=policy(fenced=("db1",)))) is Duty.SERVE, "a primary is ended by a claim"


@pytest.mark.parametrize(("facts", "busy", "words"), [
    (RejoinFacts(), False, "`failoverctl rejoin db1` saves and lists that log, then rewinds"),
    (RejoinFacts(automatic=True, writable=True), False, "waiting for db2 to finish its first checkpoint"),
    (RejoinFacts(automatic=True), False, "waiting for db2 to take writes"),
    (READY, True, "waiting for the operation, the pause or the maintenance to end"),
    (RejoinFacts(failed="no WAL"), False, "the rewind was given up: no WAL; `failoverctl rejoin db1 --reseed`"),
    (RejoinFacts(automatic=True, obstacle="users.rewind is not configured"), False, "`failoverctl rejoin db1 --reseed` makes"),
    (RejoinFacts(data=Data.LOST), False, "the data directory is lost: `failoverctl rejoin db1` lets a new copy be made"),
    (RejoinFacts(automatic=True, data=Data.LOST), False, "the data directory is lost: waiting for db2 to take writes"),
    (RejoinFacts(data=Data.DOUBTFUL, doubt="/d is empty"), False, "/d is empty; if the data is really lost, `failoverctl"),
])  # fmt: skip
def test_a_held_member_says_what_it_waits_for_or_which_command_lets_it_go_on(facts: RejoinFacts, busy: bool, words: str) -> None:
    assert words in held_because(facts, "db1", "db2", busy)


# --- over everything -----------------------------------------------------------------------------------------------------
GRANTS = st.sampled_from([
    None, granted("db1", 3), granted("db1", 4), granted("db2", 3), granted("db2", 4), claim_on("db1", 3), claim_on("db2", 3),
])  # fmt: skip
LEASES = st.builds(
    LeaseState, st.integers(2, 4), st.sampled_from([None, NOW_S - 1, NOW_S + 0.2, NOW_S + 2]), st.just(1), st.booleans()
)  # fmt: skip
FACTS = st.builds(
    lambda **fields: a_guardian("db1", **fields),
    grant=GRANTS, lease=LEASES, running=st.booleans(), role=st.sampled_from(Role), closed=st.integers(0, 4),
    receipted=st.integers(0, 4), served=st.sampled_from([0, 3, 4]), frozen=st.sampled_from([0, 4, 5]), released=st.booleans(),
    operation=st.sampled_from([None, handing_over()]), handover_since_s=st.sampled_from([None, NOW_S - 1, NOW_S - 20]),
    policy=st.sampled_from([None, policy(), policy(mode=Mode.OBSERVE), policy(paused_for_s=9.0)]),
)  # fmt: skip


def test_every_disabling_row_stands_above_every_enabling_one() -> None:
    order = [row.duty for row in TABLE]
    assert max(order.index(d) for d in DISABLING) < min(order.index(d) for d in ENABLING)


@given(FACTS)
def test_nothing_is_enabled_without_the_grant_for_me_an_open_epoch_and_a_proof(facts: LocalFacts) -> None:
    if said(facts) in ENABLING:
        assert facts.grant is not None and facts.grant.value.member == "db1" and facts.epoch > facts.closed
        assert facts.lease.epoch == facts.epoch and (facts.lease.untimed or (facts.lease.deadline_s or 0) > facts.now_s)
        assert not facts.handing_over


@given(FACTS)
def test_a_lease_is_asked_for_only_under_my_own_open_grant(facts: LocalFacts) -> None:
    if wants_lease(facts):
        assert facts.grant is not None and facts.grant.value.member == "db1" and facts.epoch > facts.closed
        assert not facts.released and facts.policy is not None and facts.policy.value.mode is Mode.AUTOMATIC


# --- a ZooKeeper that forgot -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("facts", [a_guardian(highest=5), a_standby(highest=5), a_guardian(highest=5, running=False)])
def test_an_epoch_older_than_this_host_has_seen_enables_nothing(facts: LocalFacts) -> None:
    """Seen on a real ensemble: three servers restarted at once under load came back without their last transactions."""
    assert duty(facts).duty is Duty.HOLD and "gone back" in duty(facts).says
    assert not wants_lease(facts)
    assert duty(replace(facts, highest=3)).duty is not Duty.HOLD


def test_a_member_whose_data_was_replaced_does_not_testify_until_it_has_caught_up() -> None:
    """It may have acknowledged what the copy does not have: counted, it would prove that nothing is missing."""
    sealing = a_standby(grant=claim_on("db1", 3), followed=3)
    assert duty(sealing).duty is Duty.SEAL
    back = replace(sealing, rejoin=RejoinFacts(returning=True))
    assert duty(back).duty is Duty.WAIT
    assert duty(replace(back, running=False)).duty is Duty.WAIT, "nor is it started to testify"
