"""The lease and its ticket: armed before the sending, in force only after the answer, and a lost answer changes nothing."""

from __future__ import annotations

import pytest

from failover.coordination.memory import MemoryEnsemble
from failover.core.model import Claim, Grant, Role
from failover.errors import Unknown
from tests.support.fake_host import Authority, Clock, FakeHost


def kinds(events: list[str]) -> list[str]:
    """The diary without ticket numbers."""
    return [event.rstrip("0123456789 ") for event in events]


def test_adoption_installs_the_gate_open_so_that_no_client_notices(host: FakeHost) -> None:
    diary = kinds(host.events)
    assert diary[0] == "gate: install open" and "renewal sent" in diary
    assert "gate: install shut" not in host.events and not any(e.startswith("gate: shut") for e in host.events)
    assert host.gate.open() and host.board.own.served == 3 and host.lease().epoch == 3


def test_the_ticket_is_armed_before_the_sending_and_in_force_only_after_the_answer(host: FakeHost) -> None:
    mark, before = len(host.events), host.gate.current
    in_flight: list[int] = []
    host.telling.between = lambda: in_flight.append(host.gate.current)
    host.clock.advance(0.5)
    host.renew()
    assert kinds(host.since(mark)) == ["gate: arm", "renewal sent", "gate: switch"]
    assert in_flight == [before], "while the answer was on its way the old ticket was in force"
    assert host.gate.current > before


def test_a_renewal_carries_the_promotable_list_it_was_sent_under(host: FakeHost, leader: Authority) -> None:
    leader.grant(Grant("db1", 3, ("db3",)))
    host.renew()
    assert host.lease().promotable == ("db3",) and not host.lease().untimed


def test_the_deadline_counts_from_the_sending(host: FakeHost, clock: Clock) -> None:
    clock.advance(0.5)
    sent_at_s = clock.now_s
    host.telling.between = lambda: clock.advance(0.4)
    host.renew()
    assert host.keeper.state.deadline_s == pytest.approx(sent_at_s + 3.0)


@pytest.mark.parametrize("done", [True, False])
def test_a_lost_answer_changes_nothing_whether_it_was_carried_out_or_not(host: FakeHost, done: bool) -> None:
    before, ticket = host.keeper.state, host.gate.current
    host.clock.advance(0.5)
    host.renewals.lose_reply(done)
    host.renew()
    assert host.keeper.state == before and host.gate.current == ticket and host.gate.open()


def test_without_answers_the_kernel_shuts_at_the_old_deadline_by_itself(host: FakeHost, clock: Clock) -> None:
    host.renewals.cut()
    for _ in range(5):
        clock.advance(0.5)
        host.renew()
    assert host.gate.open(), "2.5 s: still within L"
    clock.advance(0.5)
    assert not host.gate.open(), "nobody had to act: the ticket ended at D"


def test_an_overdue_renewal_is_hurried_while_the_lease_still_runs(host: FakeHost, clock: Clock) -> None:
    """After a blip the link may be back at any moment, and a whole period more would cost the lease."""
    assert not host.keeper.late
    clock.advance(0.5)
    host.renewals.lose_reply(True)
    host.renew()
    assert host.keeper.late
    host.renew()
    assert not host.keeper.late, "acknowledged"
    host.renewals.cut()
    host.renew()
    clock.advance(3.1)
    assert not host.keeper.late, "the lease is over: no reason to hurry"


def test_an_answer_of_before_a_suspension_is_no_word_of_now(host: FakeHost) -> None:
    host.clock.advance(0.5)
    host.telling.between = lambda: host.keeper.suspend(None)
    host.renew()
    assert host.keeper.state.deadline_s is None and not host.gate.open()
    assert not host.keeper.open(3) and not host.gate.open()
    host.telling.between = lambda: None
    host.renew()
    assert host.keeper.open(3) and host.gate.open(), "a renewal sent after it is"


def test_a_closed_epoch_arms_nothing_and_sends_nothing(host: FakeHost) -> None:
    host.keeper.suspend(3)
    mark = len(host.events)
    host.renew()
    assert host.since(mark) == [] and host.keeper.state.deadline_s is None


def test_a_claim_on_the_grant_loses_the_renewal_and_the_new_grant_is_read_at_once(host: FakeHost, leader: Authority) -> None:
    before = host.keeper.state
    seen: list[Grant | None] = []
    host.see()
    leader.grant(Grant(None, 4, claim=Claim("db1", 3, 5, "op-1")))
    host.clock.advance(0.5)
    host.keeper.wake.clear()
    host.keeper.step()  # on the picture of before the claim
    stored = host.board.grant()
    seen.append(stored.value if stored else None)
    assert host.keeper.state == before, "D stays"
    assert seen[0] is not None and seen[0].member is None and host.keeper.wake.is_set()
    assert host.lease().epoch == 3
    mark = len(host.events)
    host.keeper.step()
    assert "renewal sent" not in host.since(mark)


def test_an_edit_of_the_grant_keeps_us_and_is_renewed_under_its_new_version(host: FakeHost, leader: Authority) -> None:
    host.see()
    leader.grant(Grant("db1", 3, ("db2",)))
    host.clock.advance(0.5)
    host.keeper.step()
    assert host.lease().promotable == ("db2", "db3") and host.gate.open(), "this renewal was lost, nothing else happened"
    host.keeper.step()
    assert host.lease().promotable == ("db2",) and host.keeper.state.deadline_s == pytest.approx(host.clock.now_s + 3.0)


def test_a_flushed_table_comes_back_shut_and_the_next_renewal_opens_it(host: FakeHost) -> None:
    host.gate.flush_by_stranger()
    assert host.gate.open(), "a missing table is an open port"
    host.keeper.check_gate()
    assert host.gate.table and not host.gate.open() and host.keeper.wake.is_set()
    assert host.keeper.alarm and "flushed by somebody" in host.keeper.alarm
    host.clock.advance(0.1)
    host.turn()
    assert host.gate.open()


def test_a_gate_that_does_not_obey_is_an_alarm_and_no_renewal(host: FakeHost) -> None:
    host.gate.errors.append(Unknown("nft hangs"))
    mark = len(host.events)
    host.clock.advance(0.5)
    host.renew()
    assert "renewal sent" not in host.since(mark), "no ticket, no message"
    assert host.keeper.alarm == "the gate does not obey: nft hangs"


def test_no_deadline_moves_without_an_answer_even_if_the_table_is_gone_before_the_port_was_opened(
    ensemble: MemoryEnsemble, leader: Authority, clock: Clock
) -> None:
    leader.grant(Grant("db1", 3, ("db2", "db3")))
    host = FakeHost(ensemble, "db1", clock)
    try:
        host.database.run(11, Role.PRIMARY)
        host.renew()  # proved, and the warden has not opened the port yet
        before = host.keeper.state
        host.gate.flush_by_stranger()
        clock.advance(1.0)
        host.renewals.lose_reply(done=False)
        host.renew()
        assert host.keeper.state.deadline_s == before.deadline_s
    finally:
        host.close()


# --- pause ---------------------------------------------------------------------------------------------------------------
def test_paused_the_kernel_stops_counting_only_after_zookeeper_knows(host: FakeHost, leader: Authority, clock: Clock) -> None:
    leader.policy(paused_for_s=60.0)
    host.renewals.lose_reply(done=False)
    host.renew()
    assert not host.lease().untimed and None not in host.gate.elements.values(), "not recorded: still timed"
    mark = len(host.events)
    host.renew()
    assert kinds(host.since(mark)) == ["renewal sent", "gate: arm", "gate: switch"]
    assert host.lease().untimed and host.gate.elements[host.gate.current] is None
    clock.advance(1000.0)
    host.turn(2)
    assert host.gate.open() and host.database.role.value == "primary"


def test_resume_times_the_kernel_before_zookeeper_is_told(host: FakeHost, leader: Authority) -> None:
    leader.policy(paused_for_s=60.0)
    host.renew()
    leader.policy()
    in_flight: list[bool] = []
    host.telling.between = lambda: in_flight.append(host.gate.elements[host.gate.current] is not None)
    mark = len(host.events)
    host.renew()
    assert kinds(host.since(mark))[:3] == ["gate: arm", "gate: switch", "renewal sent"]
    assert in_flight == [True] and not host.lease().untimed and host.gate.open()


def test_resume_after_a_long_pause_does_not_end_the_sessions_of_a_healthy_primary(
    host: FakeHost, leader: Authority, clock: Clock
) -> None:
    """The warden wakes at the policy's change, before the keeper's next renewal: both orders must be harmless."""
    leader.policy(paused_for_s=60.0)
    host.turn(2)
    clock.advance(30.0)
    host.turn()
    leader.policy()
    mark = len(host.events)
    host.ward()
    assert "stop fast" not in host.since(mark) and host.database.pid == 11 and host.gate.open()


def test_a_table_flushed_while_paused_opens_again(host: FakeHost, leader: Authority) -> None:
    leader.policy(paused_for_s=60.0)
    host.turn(2)
    host.gate.flush_by_stranger()
    host.keeper.check_gate()
    host.turn(2)
    assert host.gate.open()


# --- standbys ------------------------------------------------------------------------------------------------------------
def test_a_standbys_port_stays_shut_where_readers_are_not_asked_for(standby: FakeHost) -> None:
    assert standby.gate.table and not standby.gate.open() and "renewal sent" not in standby.events


def test_readers_get_tickets_that_end(ensemble: MemoryEnsemble, leader: Authority, clock: Clock) -> None:
    leader.grant(Grant("db1", 3, ("db2", "db3")))
    host = FakeHost(ensemble, "db2", clock, standby_reads=True)
    try:
        host.database.run(21, Role.STANDBY)
        host.database.upstream = "10.0.0.1"
        host.turn(2)
        assert host.gate.open() and host.lease().epoch == 0, "no lease is won for readers"
        clock.advance(3.0)
        assert not host.gate.open()
        host.turn()
        assert host.gate.open()
        host.memory.change(closed=4)  # it was a primary since it last followed anybody
        clock.advance(3.0)
        host.renew()
        assert not host.gate.open(), "a former primary that has followed nobody since may have diverged"
    finally:
        host.close()
