"""Pledges at work in a guardian: the book and its lock, the keeper without ZooKeeper, and the seal that must not forget one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest

from failover.coordination.ledger import Records
from failover.coordination.memory import MemoryEnsemble
from failover.core.model import Claim, Grant, Mode, Role
from failover.core.pledge import PledgeAsk, PledgeWord
from failover.guardian.base import Durable
from failover.guardian.pledges import Asking
from tests.support.fake_host import Authority, Clock, FakeHost

WAIT_S = 3.5
ASK = PledgeAsk("main", "db1", 3, "p-1")
CLAIM = Grant(None, 4, ("db2", "db3"), claim=Claim("db1", 3, 5, "op-1"))


class Others:
    """The other members' guardians. `silent` and `refusing` name some; `meanwhile` runs while the round is under way."""

    def __init__(self, events: list[str]) -> None:
        self.events = events
        self.asked: list[tuple[PledgeAsk, tuple[str, ...]]] = []
        self.silent: set[str] = set()
        self.refusing: set[str] = set()
        self.earlier_round: set[str] = set()
        self.meanwhile: Callable[[], None] = lambda: None

    def ask(self, ask: PledgeAsk, members: Sequence[str], budget_s: float) -> tuple[PledgeWord, ...]:
        self.events.append("pledges asked")
        self.asked.append((ask, tuple(members)))
        self.meanwhile()
        return tuple(
            PledgeWord(name, ask.epoch, "older" if name in self.earlier_round else ask.round, name not in self.refusing)
            for name in members
            if name not in self.silent
        )


@pytest.fixture
def others() -> Others:
    return Others([])


@pytest.fixture
def primary(ensemble: MemoryEnsemble, leader: Authority, clock: Clock, others: Others) -> Iterator[FakeHost]:
    """db1, serving under epoch 3, whose ZooKeeper can be taken away."""
    leader.grant(Grant("db1", 3, ("db2", "db3")))
    one = FakeHost(ensemble, "db1", clock, pledgers=others)
    others.events = one.events
    one.database.run(11, Role.PRIMARY)
    yield one.turn(2)
    one.close()


@pytest.fixture
def member(ensemble: MemoryEnsemble, leader: Authority, clock: Clock) -> Iterator[FakeHost]:
    """db2, a standby of db1 that has been up for W."""
    leader.grant(Grant("db1", 3, ("db2", "db3")))
    one = FakeHost(ensemble, "db2", clock, wait_s=WAIT_S)
    one.database.run(21, Role.STANDBY)
    one.database.upstream = "10.0.0.1"
    clock.advance(WAIT_S)
    yield one.turn(2)
    one.close()


def kinds(events: list[str]) -> list[str]:
    return [event.rstrip("0123456789 ") for event in events]


def without_zookeeper(host: FakeHost) -> FakeHost:
    host.renewals.cut()
    host.client.cut()
    return host


# --- the primary ---------------------------------------------------------------------------------------------------------
def test_with_zookeeper_nobody_is_asked(primary: FakeHost, others: Others) -> None:
    primary.clock.advance(0.5)
    primary.renew()
    assert others.asked == []


def test_without_zookeeper_the_primary_lives_on_for_as_long_as_all_pledge(primary: FakeHost, clock: Clock) -> None:
    without_zookeeper(primary)
    for _ in range(40):
        clock.advance(0.5)
        primary.keeper.step()
        primary.warden.step()
        assert primary.gate.open() and not primary.keeper.late
    assert primary.database.role is Role.PRIMARY and "stop fast" not in primary.events


def test_the_round_s_own_ticket_is_armed_before_the_first_request_and_in_force_after_the_last_word(
    primary: FakeHost, others: Others, clock: Clock
) -> None:
    without_zookeeper(primary)
    in_flight: list[int] = []
    others.meanwhile = lambda: in_flight.append(primary.gate.current)
    mark, before = len(primary.events), primary.gate.current
    clock.advance(0.5)
    primary.keeper.step()
    assert kinds(primary.since(mark)) == ["gate: arm", "gate: arm", "pledges asked", "gate: switch"], "no link, no renewal sent"
    assert in_flight == [before] and primary.gate.current > before


def test_a_lost_reply_is_followed_by_a_round_at_once(primary: FakeHost, clock: Clock) -> None:
    primary.renewals.lose_reply(done=True)
    mark = len(primary.events)
    clock.advance(0.5)
    primary.renew()
    diary = kinds(primary.since(mark))
    assert diary == ["gate: arm", "renewal sent", "gate: arm", "pledges asked", "gate: switch"] and not primary.keeper.late


def test_a_list_is_noted_before_the_renewal_leaves(primary: FakeHost, leader: Authority, clock: Clock) -> None:
    leader.grant(Grant("db1", 3, ("db3",)))
    primary.see()
    noted: list[tuple[str, ...]] = []
    commit = primary.telling.commit

    def look_first(ops: object, deadline_s: float) -> object:
        noted.append(primary.keeper._asking.owed())
        return commit(ops, deadline_s)  # type: ignore[arg-type]  # as it came

    primary.telling.commit = look_first  # type: ignore[assignment]  # looks before it sends
    clock.advance(0.5)
    primary.keeper.step()
    assert noted == [("db2", "db3")] and primary.keeper._asking.owed() == ("db3",)


def test_the_deadline_counts_from_before_the_first_request(primary: FakeHost, others: Others, clock: Clock) -> None:
    without_zookeeper(primary)
    clock.advance(0.5)
    asked_at_s = clock.now_s
    others.meanwhile = lambda: clock.advance(0.4)
    primary.keeper.step()
    assert primary.keeper.state.deadline_s == pytest.approx(asked_at_s + 3.0)


@pytest.mark.parametrize("fault", ["silent", "refusing", "earlier_round"])
def test_one_pledge_missing_and_the_deadline_stays(primary: FakeHost, others: Others, clock: Clock, fault: str) -> None:
    without_zookeeper(primary)
    getattr(others, fault).add("db3")
    before = primary.keeper.state
    clock.advance(0.5)
    primary.keeper.step()
    assert primary.keeper.state == before and primary.keeper.late
    says = primary.keeper.on_pledges
    assert says is not None and "want of pledges of db3" in says
    clock.advance(2.5)
    assert not primary.gate.open(), "D was left to pass"
    mark = len(primary.events)
    others.silent, others.refusing, others.earlier_round = set(), set(), set()
    primary.keeper.step()
    assert "pledges asked" not in primary.since(mark), "a lease that has ended is not extended"


def test_nobody_answers_and_the_deadline_stays(primary: FakeHost, others: Others, clock: Clock) -> None:
    without_zookeeper(primary)
    others.silent = {"db2", "db3"}
    before = primary.keeper.state
    clock.advance(0.5)
    primary.keeper.step()
    assert primary.keeper.state == before and "db2: no answer, db3: no answer" in (primary.keeper.on_pledges or "")


def test_every_round_has_an_id_of_its_own(primary: FakeHost, others: Others, clock: Clock) -> None:
    without_zookeeper(primary)
    for _ in range(3):
        clock.advance(0.5)
        primary.keeper.step()
    ids = [ask.round for ask, _ in others.asked]
    assert len(set(ids)) == 3 and {ask.epoch for ask, _ in others.asked} == {3}


def test_an_edit_whose_renewal_was_never_acknowledged_is_asked_about_as_well(
    primary: FakeHost, leader: Authority, others: Others, clock: Clock
) -> None:
    leader.grant(Grant("db1", 3, ("db3",)))
    primary.see()
    without_zookeeper(primary)
    clock.advance(0.5)
    primary.keeper.step()
    assert others.asked[-1][1] == ("db2", "db3"), "the last acknowledged list, and the one just sent under"


def test_after_an_acknowledgement_the_older_list_is_forgotten(
    primary: FakeHost, leader: Authority, others: Others, clock: Clock
) -> None:
    leader.grant(Grant("db1", 3, ("db3",)))
    clock.advance(0.5)
    primary.renew()
    without_zookeeper(primary)
    clock.advance(0.5)
    primary.keeper.step()
    assert others.asked[-1][1] == ("db3",)


def test_with_nobody_promotable_no_pledge_is_needed(primary: FakeHost, leader: Authority, others: Others, clock: Clock) -> None:
    leader.grant(Grant("db1", 3, ()))
    clock.advance(0.5)
    primary.renew()
    without_zookeeper(primary)
    for _ in range(10):
        clock.advance(0.5)
        primary.keeper.step()
    assert others.asked == [] and primary.gate.open()


def test_without_pledges_in_the_configuration_even_nobody_promotable_does_not_help(
    ensemble: MemoryEnsemble, leader: Authority, clock: Clock
) -> None:
    leader.grant(Grant("db1", 3, ()))
    host = FakeHost(ensemble, "db1", clock)
    try:
        host.database.run(11, Role.PRIMARY)
        without_zookeeper(host.turn(2))
        for _ in range(6):
            clock.advance(0.5)
            host.keeper.step()
        assert not host.gate.open()
    finally:
        host.close()


def test_a_shut_gate_stays_shut_when_pledges_come_too_late(primary: FakeHost, others: Others, clock: Clock) -> None:
    without_zookeeper(primary)
    others.meanwhile = lambda: primary.keeper.suspend(None)
    clock.advance(0.5)
    primary.keeper.step()
    assert primary.keeper.state.deadline_s is None and not primary.gate.open() and not primary.keeper.open(3)


def test_pledges_of_before_a_suspension_say_nothing_about_a_lease_won_after_it(
    primary: FakeHost, others: Others, clock: Clock
) -> None:
    """The round's ticket was flushed with the suspension: in force it would shut the port."""
    primary.renewals.cut()

    def shut_and_win_again() -> None:
        others.meanwhile = lambda: None
        primary.keeper.suspend(None)
        primary.renewals.heal()
        clock.advance(0.1)
        primary.renew()
        assert primary.keeper.open(3)

    others.meanwhile = shut_and_win_again
    clock.advance(0.5)
    primary.keeper.step()
    assert primary.gate.open() and primary.keeper.state.deadline_s == pytest.approx(clock.now_s + 3.0)


def test_a_claim_that_comes_into_view_while_a_renewal_is_under_way_asks_nobody(
    primary: FakeHost, leader: Authority, others: Others, clock: Clock
) -> None:
    def claimed() -> None:
        leader.grant(CLAIM)
        primary.see()

    primary.see()
    primary.telling.between = claimed
    primary.renewals.lose_reply(done=True)
    clock.advance(0.5)
    primary._let_lanes_end()
    primary.keeper.step()
    assert others.asked == []


def test_an_edit_of_the_grant_is_renewed_under_not_asked_about(
    primary: FakeHost, leader: Authority, others: Others, clock: Clock
) -> None:
    primary.see()
    leader.grant(Grant("db1", 3, ("db2",)))
    clock.advance(0.5)
    primary.keeper.step()
    assert others.asked == [] and primary.keeper.wake.is_set()


def test_a_round_that_outlasts_the_lease_extends_nothing(primary: FakeHost, others: Others, clock: Clock) -> None:
    without_zookeeper(primary)
    before = primary.keeper.state
    others.meanwhile = lambda: clock.advance(2.6)
    clock.advance(0.5)
    primary.keeper.step()
    assert primary.keeper.state == before and not primary.gate.open()


def test_a_closed_epoch_asks_nobody(primary: FakeHost, others: Others, clock: Clock) -> None:
    without_zookeeper(primary)
    primary.keeper.suspend(3)
    primary.keeper.step()
    assert others.asked == []


def test_a_claim_in_view_asks_nobody(primary: FakeHost, leader: Authority, others: Others, clock: Clock) -> None:
    leader.grant(CLAIM)
    clock.advance(0.5)
    primary.keeper.step()  # on the picture of before: it loses the race, which is a claim, never a reason to ask
    assert others.asked == []
    primary.renewals.cut()
    primary.keeper.step()
    assert others.asked == []


def test_a_restarted_guardian_has_no_lease_to_extend(
    primary: FakeHost, ensemble: MemoryEnsemble, clock: Clock, others: Others
) -> None:
    again = FakeHost(ensemble, "db1", clock, pledgers=others)
    try:
        again.database.run(11, Role.PRIMARY)
        again.see()
        again.renewals.cut()
        again.keeper.step()
        assert others.asked == [] and again.keeper.state.deadline_s is None
    finally:
        again.close()


def test_a_paused_primary_asks_nobody(primary: FakeHost, leader: Authority, others: Others, clock: Clock) -> None:
    leader.policy(paused_for_s=600.0)
    primary.turn(2)
    without_zookeeper(primary)
    clock.advance(60.0)
    primary.keeper.step()
    assert others.asked == [] and primary.gate.open(), "its ticket has no end"


def test_it_is_said_once_and_once_when_it_is_over(
    primary: FakeHost, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")
    primary.renewals.cut()
    for _ in range(4):
        clock.advance(0.5)
        primary.keeper.step()
    assert primary.keeper.on_pledges == "ZooKeeper does not acknowledge: living on pledges of db2, db3"
    assert primary.keeper.on_pledges in primary.reporter.status().problems
    primary.renewals.heal()
    primary.renew()
    assert primary.keeper.on_pledges is None and not primary.reporter.status().problems
    said = [record.message for record in caplog.records if record.name == "failover.guardian.keeper"]
    assert [text for text in said if "pledges" in text] == [
        "ZooKeeper does not acknowledge: living on pledges of db2, db3", "ZooKeeper acknowledges again: no pledges are needed",
    ]  # fmt: skip
    assert sum("renewal not acknowledged" in text for text in said) == 1


def test_without_anybody_to_ask_no_round_is_ever_complete() -> None:
    asking = Asking("main", "db1", None)
    asking.acknowledged(asking.sending(()))
    assert not asking.possible and not asking.ask(3, 0.1).complete


# --- the member that is asked --------------------------------------------------------------------------------------------
def test_a_pledge_ends_the_quiet_for_w(member: FakeHost, clock: Clock) -> None:
    assert member.board.facts().quiet
    assert member.board.pledges.give(ASK).given
    assert not member.board.facts().quiet
    clock.advance(WAIT_S - 0.01)
    assert not member.board.facts().quiet
    clock.advance(0.01)
    assert member.board.facts().quiet


def test_a_refusal_costs_no_quiet(member: FakeHost) -> None:
    member.memory.change(frozen=4, highest=4)
    assert not member.board.pledges.give(ASK).given
    assert member.board.facts().quiet


def test_a_restart_counts_as_a_pledge(member: FakeHost, ensemble: MemoryEnsemble, clock: Clock) -> None:
    again = FakeHost(ensemble, "db2", clock, wait_s=WAIT_S)
    try:
        assert not again.board.pledges.quiet()
        clock.advance(WAIT_S)
        assert again.board.pledges.quiet()
    finally:
        again.close()


def test_the_frozen_epoch_is_obeyed_after_a_restart(member: FakeHost, ensemble: MemoryEnsemble, clock: Clock) -> None:
    again = FakeHost(ensemble, "db2", clock, wait_s=WAIT_S)
    try:
        again.memory.change(frozen=4)
        assert not again.board.pledges.give(ASK).given
    finally:
        again.close()


def test_a_claim_in_view_is_enough_to_refuse(member: FakeHost, leader: Authority) -> None:
    leader.grant(CLAIM)
    member.see()
    assert member.disk.kept.highest == 3 and not member.board.pledges.give(ASK).given


def test_who_holds_a_lease_of_its_own_promises_nothing(primary: FakeHost) -> None:
    """Two writers of which one came from a ZooKeeper that went back: neither keeps the other alive."""
    word = primary.board.pledges.give(PledgeAsk("main", "db3", 9, "q-1"))
    assert not word.given and "lease of its own" in word.why


# --- the seal and the pledge -----------------------------------------------------------------------------------------------
def test_a_pledge_given_between_the_look_and_the_freeze_is_not_forgotten(member: FakeHost, leader: Authority) -> None:
    """The facts of the duty were quiet; a pledge slips in before the freeze is on the disk. The report must not say quiet."""
    leader.grant(CLAIM)
    change, given = member.memory.change, list[PledgeWord]()

    def late_ask(**fields: object) -> Durable:
        if "frozen" in fields:  # the old primary asks while the claim is not in view at the port of the pledges
            records = member.board.records
            member.board.read(Records())
            given.append(member.board.pledges.give(ASK))
            member.board.read(records)
        return change(**fields)

    member.see()
    facts = replace(member.board.facts(), highest=4)
    assert facts.quiet
    member.memory.change = late_ask  # type: ignore[method-assign]  # the moment before the freeze is on the disk
    member.warden._seal(facts)
    report = member.seal()
    assert given and given[0].given and report is not None
    assert not report.quiet, "the old primary lives on that pledge"


def test_no_pledge_is_given_once_the_freeze_is_on_the_disk(member: FakeHost, leader: Authority) -> None:
    leader.grant(CLAIM)
    seal, given = member.sealer.seal, list[PledgeWord]()

    def ask_now(address: str, port: int) -> None:
        given.append(member.board.pledges.give(ASK))
        seal(address, port)

    member.sealer.seal = ask_now  # type: ignore[method-assign]  # after the freeze, before the report
    member.ward()
    report = member.seal()
    assert report is not None and report.quiet and not given[0].given


def test_a_member_that_pledged_reports_again_when_it_is_quiet(member: FakeHost, leader: Authority, clock: Clock) -> None:
    assert member.board.pledges.give(ASK).given
    leader.grant(CLAIM)
    member.ward()
    first = member.seal()
    assert first is not None and not first.quiet
    clock.advance(WAIT_S)
    member.ward()
    second = member.seal()
    assert second is not None and second.quiet


def test_quiet_waits_for_a_pledge_that_is_being_given(member: FakeHost) -> None:
    """Whoever asks for quiet while a pledge is under way sees it: one lock for both."""
    inside, go_on = threading.Event(), threading.Event()
    granted = member.board.pledges._granted

    def slowly() -> object:
        inside.set()
        assert go_on.wait(5.0)
        return granted()

    member.board.pledges._granted = slowly  # type: ignore[assignment]  # a thread that loses its processor here
    giving = threading.Thread(target=lambda: member.board.pledges.give(ASK))
    giving.start()
    assert inside.wait(5.0)
    found: list[bool] = []
    asking = threading.Thread(target=lambda: found.append(member.board.pledges.quiet()))
    asking.start()
    asking.join(0.05)
    assert not found, "it waits"
    go_on.set()
    giving.join(5.0)
    asking.join(5.0)
    assert found == [False]


def test_observe_asks_nobody(ensemble: MemoryEnsemble, leader: Authority, clock: Clock, others: Others) -> None:
    leader.policy(mode=Mode.OBSERVE)
    leader.grant(Grant("db1", 3, ("db2", "db3")))
    host = FakeHost(ensemble, "db1", clock, pledgers=others)
    try:
        host.database.run(11, Role.PRIMARY)
        host.turn(2)
        host.renewals.cut()
        host.keeper.step()
        assert others.asked == []
    finally:
        host.close()
