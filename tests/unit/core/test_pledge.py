"""The rules of a pledge: who is asked, whose word counts, who says no, and when a member is quiet."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from failover.core.lease import LeaseState
from failover.core.model import Claim, Grant
from failover.core.pledge import PledgeAsk, PledgeWord, SentUnder, complete, given_by, highest_known, judge, missing, quiet
from tests.support.builders import TIMES

ASK = PledgeAsk("main", "db1", 3, "p-7")
MEMBERS = ("db1", "db2", "db3")
BOTH = ("db2", "db3")


def yes(member: str, **changes: object) -> PledgeWord:
    return replace(PledgeWord(member, 3, "p-7", True), **changes)  # type: ignore[arg-type]  # replace checks the names


# --- who is asked -----------------------------------------------------------------------------------------------------
def test_everybody_on_the_list_of_the_last_acknowledged_renewal_is_asked() -> None:
    sent = SentUnder().sent(1, BOTH).acknowledged(1)
    assert sent.owed() == BOTH


def test_every_list_since_then_counts_as_well_because_a_claim_may_check_any_of_them() -> None:
    sent = SentUnder().sent(1, ("db2",)).acknowledged(1).sent(2, ("db3",))
    assert sent.owed() == BOTH, "the newest alone would forget db2, the acknowledged alone db3"


def test_an_acknowledgement_ends_what_was_sent_before_it() -> None:
    sent = SentUnder().sent(1, ("db2",)).sent(2, ("db3",)).acknowledged(2)
    assert sent.owed() == ("db3",)


def test_a_list_that_was_sent_again_is_not_forgotten_with_its_first_sending() -> None:
    sent = SentUnder().sent(1, ("db2",)).sent(2, ("db3",)).sent(3, ("db2",)).acknowledged(2)
    assert sent.owed() == BOTH


def test_a_late_acknowledgement_of_an_older_renewal_forgets_nothing() -> None:
    sent = SentUnder().sent(1, ("db2",)).sent(2, ("db3",)).acknowledged(1)
    assert sent.owed() == BOTH


def test_renewing_for_hours_without_an_answer_keeps_one_entry_for_each_list() -> None:
    sent = SentUnder()
    for order in range(1000):
        sent = sent.sent(order, BOTH if order % 2 else ("db2",))
    assert len(sent.lists) == 2


@dataclass
class Records:
    """Grant and lease in a ZooKeeper that carries renewals out late, or never, and that nobody has told."""

    version: int = 1
    lists: dict[int, tuple[str, ...]] = field(default_factory=lambda: {1: BOTH})
    lease: tuple[str, ...] = ()

    def edit(self, promotable: tuple[str, ...]) -> None:
        self.version += 1
        self.lists[self.version] = promotable

    def renew(self, version: int) -> bool:
        if version != self.version:
            return False
        self.lease = self.lists[version]
        return True


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32))
def test_whatever_lease_a_claim_checks_everybody_on_it_was_asked(seed: int) -> None:
    """Renewals arrive late, twice or never; the picture of the grant is old at times; answers are lost."""
    chance, records, sent, flying = random.Random(seed), Records(), SentUnder(), list[tuple[int, int]]()
    order, seen, proved = 0, 1, False
    for _ in range(40):
        match chance.randrange(4):
            case 0:
                records.edit(chance.choice([BOTH, ("db2",), ("db3",), ()]))
            case 1:
                seen = chance.randint(seen, records.version)
                order += 1
                sent = sent.sent(order, records.lists[seen])
                flying += [(order, seen)] * chance.randint(1, 2)
            case 2 if flying:
                number, version = flying.pop(chance.randrange(len(flying)))
                if records.renew(version) and chance.random() < 0.5:
                    sent, proved = sent.acknowledged(number), True
            case _:
                pass
        if proved:  # only a lease that was acknowledged is ever extended
            assert set(records.lease) <= set(sent.owed())


# --- whose word counts --------------------------------------------------------------------------------------------------
def test_all_must_have_given_not_most() -> None:
    assert complete(ASK, [yes("db2"), yes("db3")], BOTH)
    assert not complete(ASK, [yes("db2")], BOTH)
    assert not complete(ASK, [yes("db2"), yes("db3", given=False)], BOTH)
    assert given_by(ASK, [yes("db3"), yes("db2", given=False)], BOTH) == ("db3",)


@pytest.mark.parametrize("stale", [{"round": "p-6"}, {"epoch": 2}])
def test_a_word_of_another_round_or_epoch_is_no_word(stale: dict[str, object]) -> None:
    assert not complete(ASK, [yes("db2"), yes("db3", **stale)], BOTH)


def test_a_stranger_s_word_does_not_make_up_for_a_missing_one() -> None:
    assert not complete(ASK, [yes("db2"), yes("db4"), yes("db2")], BOTH)


def test_nobody_to_ask_is_nothing_missing() -> None:
    assert complete(ASK, [], ())


def test_who_is_missing_is_told_with_the_reason() -> None:
    words = [yes("db2", given=False, why="epoch 3 is over")]
    assert missing(ASK, words, BOTH) == (("db2", "epoch 3 is over"), ("db3", "no answer"))


# --- who says no --------------------------------------------------------------------------------------------------------
HERE = Grant("db1", 3, BOTH)


def answer(
    ask: PledgeAsk = ASK, me: str = "db2", highest: int = 3, frozen: int = 0, granted: Grant | None = HERE,
    released: bool = False, holding: bool = False,
) -> PledgeWord:  # fmt: skip
    return judge(ask, me, MEMBERS, highest, frozen, granted, released, holding)


def test_a_standby_in_a_healthy_cluster_gives_its_word_for_that_round() -> None:
    assert answer() == PledgeWord("db2", 3, "p-7", True)
    assert answer(highest=2, granted=Grant("db3", 2)).given, "an old picture is no reason"
    assert answer(granted=None).given


@pytest.mark.parametrize(
    "known", [{"highest": 4}, {"frozen": 4}, {"granted": Grant(None, 4, BOTH, claim=Claim("db1", 3, 5, "op-1"))}]
)
def test_an_epoch_that_is_being_ended_gets_no_pledge_whatever_says_so(known: dict[str, object]) -> None:
    word = answer(**known)  # type: ignore[arg-type]  # the names are answer's
    assert not word.given and word.why == "epoch 3 is over: 4 is known here"


def test_the_highest_epoch_is_that_of_disk_freeze_and_view() -> None:
    assert [highest_known(*known, granted=None) for known in ((5, 0), (0, 6), (0, 0))] == [5, 6, 0]  # type: ignore[arg-type]
    assert highest_known(5, 6, Grant("db2", 7)) == 7


def test_the_same_epoch_for_two_members_pledges_to_neither() -> None:
    assert not answer(granted=Grant("db3", 3)).given
    assert not answer(granted=Grant(None, 3, claim=Claim("db2", 2, 5, "op-1"))).given


@pytest.mark.parametrize(
    "fault", [{"released": True}, {"holding": True}, {"ask": replace(ASK, asker="db2")}, {"ask": replace(ASK, asker="db9")}]
)
def test_a_word_that_could_not_be_kept_is_not_given(fault: dict[str, object]) -> None:
    word = answer(**fault)  # type: ignore[arg-type]  # the names are answer's
    assert not word.given and word.why


# --- quiet --------------------------------------------------------------------------------------------------------------
def test_quiet_counts_from_the_last_pledge_or_the_start_whichever_is_later() -> None:
    assert quiet(103.4, began_s=100.0, last_pledge_s=None, wait_s=3.4)
    assert not quiet(103.3, began_s=100.0, last_pledge_s=None, wait_s=3.4)
    assert not quiet(105.0, began_s=100.0, last_pledge_s=102.0, wait_s=3.4)
    assert quiet(105.5, began_s=100.0, last_pledge_s=102.0, wait_s=3.4)
    assert not quiet(105.5, began_s=104.0, last_pledge_s=102.0, wait_s=3.4)


# --- the lease ----------------------------------------------------------------------------------------------------------
def test_pledges_extend_from_before_the_first_request() -> None:
    held = LeaseState(3, 102.0, 7)
    assert held.pledged(3, 100.5, 8, TIMES, 101.0) == LeaseState(3, 103.5, 8)


@pytest.mark.parametrize(
    ("held", "epoch"),
    [
        (LeaseState(3, 100.9, 7), 3),
        (LeaseState(3, None, None), 3),
        (LeaseState(2, 102.0, 7), 3),
        (LeaseState(3, 102.0, 7, untimed=True), 3),
    ],
)
def test_they_extend_nothing_that_has_ended_was_never_acknowledged_or_has_no_end(held: LeaseState, epoch: int) -> None:
    assert held.pledged(epoch, 100.5, 8, TIMES, 101.0) is held
