"""The guardian's duties end to end on a host in memory: promote, serve, seal, follow, hand over, give back, fence."""

from __future__ import annotations

from dataclasses import replace

import pytest

from failover.coordination.memory import MemoryEnsemble
from failover.core.model import Claim, Grant, MemberStatus, Mode, Operation, OperationKind, Role, SyncSet
from failover.core.plan import Key, Kind
from failover.engines.lsn import Lsn
from failover.errors import Unknown
from tests.support.fake_host import Authority, Clock, FakeHost, refuses

SYNC = (SyncSet(1, ("db2", "db3"), "1"),)
CLAIM = Grant(None, 4, ("db2", "db3"), SYNC, claim=Claim("db1", 3, 5, "op-1"))
TO_DB2 = Grant("db2", 5, ("db1", "db3"), (*SYNC, SyncSet(1, ("db3",), "1")), minimum_position="1@0/500")
ORDER = Operation("op-1", OperationKind.SWITCHOVER, "stopping", "db1", 3, "a test", "ann", "db2")


def index(events: list[str], wanted: str) -> int:
    """Where `wanted` begins in the diary."""
    return next(number for number, event in enumerate(events) if event.startswith(wanted))


# --- seal ----------------------------------------------------------------------------------------------------------------
def test_a_seal_is_on_disk_then_in_the_kernel_and_only_then_reported(standby: FakeHost, leader: Authority) -> None:
    leader.grant(CLAIM)
    mark = len(standby.events)
    stop = standby.engine.stop_receiving
    reported: list[bool] = []

    def look(budget_s: float) -> None:
        reported.append(standby.seal() is not None)
        stop(budget_s)

    standby.engine.stop_receiving = look  # type: ignore[method-assign]  # SQL comes last and proves nothing
    standby.ward()
    diary = [e for e in standby.since(mark) if not e.endswith("frozen 0")]
    assert diary == ["disk: closed 0 frozen 4", "seal 10.0.0.1", "stop receiving"] and reported == [True]
    report = standby.seal()
    assert report is not None and (report.claim_epoch, report.position) == (4, "1@0/500")
    mark = len(standby.events)
    standby.ward()
    assert standby.since(mark) == [], "once for each claim"


def test_no_report_without_the_disk_or_the_kernel(standby: FakeHost, leader: Authority) -> None:
    leader.grant(CLAIM)
    standby.disk.broken = True
    standby.ward()
    assert standby.seal() is None and standby.sealer.sealed() is None
    standby.disk.broken = False

    def refuse(address: str, port: int) -> None:
        raise Unknown("nft hangs")

    standby.sealer.seal = refuse  # type: ignore[method-assign]  # the kernel does not answer
    standby.ward()
    assert standby.seal() is None
    del standby.sealer.seal
    standby.ward()
    assert standby.seal() is not None


def test_the_report_is_of_the_position_after_the_kernels_seal(standby: FakeHost, leader: Authority) -> None:
    """What was acknowledged until the very last moment belongs to the report."""
    leader.grant(CLAIM)
    seal = standby.sealer.seal

    def last_bytes(address: str, port: int) -> None:
        standby.database.at = Lsn(1, 0x580)
        seal(address, port)

    standby.sealer.seal = last_bytes  # type: ignore[method-assign]  # a burst in the last moment
    standby.ward()
    report = standby.seal()
    assert report is not None and report.position == "1@0/580"


def test_a_sealed_standby_thaws_only_for_a_grant_with_a_member_that_has_its_log(standby: FakeHost, leader: Authority) -> None:
    leader.grant(CLAIM)
    standby.turn(3)
    assert standby.sealer.sealed() == "10.0.0.1"
    leader.grant(Grant("db3", 5, ("db1", "db2"), minimum_position="1@0/480"))
    standby.turn(2)
    assert standby.sealer.sealed() == "10.0.0.1", "db3's minimum is behind ours"
    leader.status(MemberStatus("db3", Role.PRIMARY, position="2@0/600 1:0/500", writable=True, epoch=5), "db3")
    standby.turn(2)
    assert standby.sealer.sealed() is None and standby.database.upstream == "10.0.0.3" and standby.disk.kept.frozen == 0


# --- promote ------------------------------------------------------------------------------------------------------------
def chosen(standby: FakeHost, leader: Authority) -> FakeHost:
    leader.grant(CLAIM)
    standby.turn(2)
    leader.grant(TO_DB2)
    return standby


def test_promotion_follows_the_proof_and_the_port_opens_last(standby: FakeHost, leader: Authority) -> None:
    chosen(standby, leader)
    standby.ward()
    assert "promote" not in standby.events, "a grant alone is a word, not a proof"
    mark = len(standby.events)
    standby.turn()
    diary = standby.since(mark)
    order = ["gate: arm", "renewal sent", "end sessions", "promote", "gate: switch"]
    assert sorted(order, key=lambda event: index(diary, event)) == order
    assert standby.lease().epoch == 5 and standby.gate.open() and standby.board.own.served == 5
    assert standby.database.sync == SyncSet(1, ("db3",), "1"), "the newest pair is in force from the first commit on"
    status = standby.reporter.status()
    assert status.writable and status.epoch == 5 and status.position == "2@0/501 1:0/500"


def test_a_guardian_that_died_in_its_promotion_does_not_leave_the_primary_sealed(standby: FakeHost, leader: Authority) -> None:
    """The freeze leaves the disk last. Its successor seals again at start, and the old primary could never follow."""
    leader.grant(CLAIM)
    standby.turn()
    leader.grant(TO_DB2)
    standby.turn(2)
    assert standby.database.role is Role.PRIMARY and standby.sealer.sealed() is None
    standby.memory.change(frozen=4, frozen_against="10.0.0.1")  # as if it had died before its last word to the disk
    standby.sealer.seal("10.0.0.1", 5432)
    standby.turn()
    assert standby.sealer.sealed() is None and standby.memory.now.frozen == 0


def test_a_member_that_lost_what_it_reported_does_not_promote(standby: FakeHost, leader: Authority) -> None:
    chosen(standby, leader)
    standby.database.at = Lsn(1, 0x4FF)
    standby.turn(3)
    assert "promote" not in standby.events and not standby.gate.open()
    assert standby.board.own.rejoin == "granted, but this member no longer has what it reported"


def test_a_grant_that_moved_on_before_the_proof_promotes_nobody(standby: FakeHost, leader: Authority) -> None:
    chosen(standby, leader)
    standby.see()
    leader.grant(replace(TO_DB2, member=None, epoch=6, claim=Claim("db2", 5, 0, "op-2")))
    standby.keeper.step()  # on the old picture: the check of the grant's version loses
    standby.warden.step()
    standby.turn(2)
    assert "promote" not in standby.events and standby.lease().epoch == 0


def test_a_granted_member_that_is_down_starts_as_a_standby_and_is_promoted(standby: FakeHost, leader: Authority) -> None:
    chosen(standby, leader)
    standby.database.end()
    mark = len(standby.events)
    standby.turn(3)
    diary = standby.since(mark)
    assert index(diary, "isolate") < index(diary, "start") < index(diary, "promote") and standby.gate.open()


# --- serve ---------------------------------------------------------------------------------------------------------------
def test_the_recorded_sync_set_is_applied_and_the_barrier_published(host: FakeHost, leader: Authority) -> None:
    new = SyncSet(1, ("db2",), "1")
    leader.grant(Grant("db1", 3, ("db2", "db3"), (*SYNC, new)))
    host.database.at = Lsn(1, 0x700)
    host.turn()
    status = host.reporter.status()
    assert host.database.sync == new and status.applied_sync == new and status.applied_at == "1@0/700"


def test_a_set_that_somebody_changed_by_hand_is_put_back(host: FakeHost) -> None:
    host.database.sync = None
    host.turn(2)
    assert host.database.sync == SYNC[0]


def test_the_vip_is_taken_only_under_the_proof_and_renewed_while_serving(host: FakeHost, leader: Authority) -> None:
    assert "epoch 3, primary" in refuses(lambda: host.warden.take_vip(2)), "an order of an older epoch"
    host.warden.take_vip(3)
    mark = len(host.events)
    host.clock.advance(0.5)
    host.turn()
    assert host.vip.here and "vip held" in host.since(mark)
    leader.grant(CLAIM)
    host.see()
    refuses(lambda: host.warden.take_vip(4))


def test_a_standby_takes_no_vip_on_anybodys_word(standby: FakeHost) -> None:
    refuses(lambda: standby.warden.take_vip(3))
    assert not standby.vip.here


def test_when_the_lease_cannot_be_renewed_sessions_end_before_the_kernels_cut_and_the_member_comes_back(
    host: FakeHost, clock: Clock
) -> None:
    host.renewals.cut()
    clock.advance(2.4)
    host.turn()
    assert host.database.pid == 11
    clock.advance(0.1)
    host.turn()
    assert "stop fast" in host.events and host.database.pid == 0 and not host.gate.open() and host.receipt().closes == 0
    host.renewals.heal()
    host.turn(4)
    assert host.gate.open() and host.board.own.served == 3 and index(host.events, "start") < index(host.events, "promote")


# --- fence ---------------------------------------------------------------------------------------------------------------
def test_a_claim_is_a_fence_at_once_and_the_receipt_names_what_it_closes(host: FakeHost, leader: Authority) -> None:
    leader.grant(CLAIM)
    host.ward()
    assert host.database.pid == 0 and not host.gate.open() and host.receipt().closes == 3
    assert "the grant was claimed" in host.receipt().method
    host.turn(3)
    assert host.database.pid == 0 and "promote" not in host.events


def test_a_receipt_that_did_not_arrive_is_sent_until_it_is_there(host: FakeHost, leader: Authority) -> None:
    leader.grant(CLAIM)
    host.see()
    host.client.lose_reply(done=False, times=3)
    host.warden.step()
    assert host.receipt().closes == 0
    host.turn(2)
    assert host.receipt().closes == 3


def test_an_old_primary_that_slept_through_it_is_fenced_when_it_wakes(host: FakeHost, leader: Authority, clock: Clock) -> None:
    host.client.cut()
    host.renewals.cut()
    leader.grant(CLAIM)
    leader.grant(TO_DB2)
    clock.advance(3600.0)
    assert not host.gate.open()
    host.client.heal()
    host.renewals.heal()
    host.turn(2)
    assert host.receipt().closes >= 3 and host.lease().epoch == 3 and not host.gate.open()
    assert host.database.role is not Role.PRIMARY


def test_the_old_primary_comes_back_as_a_follower_if_its_log_is_covered_else_is_held(host: FakeHost, leader: Authority) -> None:
    leader.grant(CLAIM)
    host.turn(2)
    leader.grant(TO_DB2)
    leader.status(MemberStatus("db2", Role.PRIMARY, position="2@0/600 1:0/500", writable=True, epoch=5), "db2")
    host.database.at = Lsn(1, 0x510)
    host.turn(3)
    assert host.database.role is Role.STANDBY and host.database.upstream == "" and "diverged" in (host.board.own.rejoin or "")
    host.database.at = Lsn(1, 0x500)  # as a rewind would leave it
    host.turn(2)
    assert host.database.upstream == "10.0.0.2" and host.board.own.rejoin is None


# --- hand over and give back -----------------------------------------------------------------------------------------------
def test_a_handover_shuts_the_gate_first_stops_in_order_and_says_where_the_log_ends(host: FakeHost, leader: Authority) -> None:
    leader.operation(ORDER)
    mark = len(host.events)
    host.ward()
    assert host.since(mark) == ["gate: shut", "gate: cut", "vip dropped", "stop fast"]
    report = host.handover()
    assert report is not None and (report.operation, report.state, report.position) == ("op-1", "stopped", "1@0/510")
    assert host.memory.now.closed == 0 and host.receipt().closes == 0, "nothing is closed before the claim"


def test_an_engine_that_can_becomes_a_standby_in_place_and_is_not_killed_by_its_own_fence(
    host: FakeHost, leader: Authority
) -> None:
    host.engine.in_place = True
    leader.operation(ORDER)
    mark = len(host.events)
    host.ward()
    assert host.since(mark) == ["gate: shut", "gate: cut", "vip dropped", "stop writes"]
    report = host.handover()
    assert report is not None and (report.state, report.position) == ("stopped", host.database.at.text())
    host.turn()
    assert host.events.count("stop writes") == 1, "done once for each operation"
    leader.grant(CLAIM)
    host.turn(2)
    receipt = host.receipt()
    assert receipt.closes == 3 and "takes no writes" in receipt.method and not receipt.clean
    assert host.database.pid == 11 and not host.gate.open() and "kill" not in host.since(mark)
    leader.grant(TO_DB2)
    leader.status(MemberStatus("db2", Role.PRIMARY, position="2@0/600 1:0/500", writable=True, epoch=5), "db2")
    host.database.at = Lsn(1, 0x500)
    host.turn(3)
    assert host.database.pid == 11 and host.database.upstream == "10.0.0.2"


def test_writes_that_do_not_stop_in_place_are_given_back_at_the_deadline(
    host: FakeHost, leader: Authority, clock: Clock
) -> None:
    host.engine.in_place, host.database.hangs = True, True
    leader.operation(ORDER)
    host.turn()
    assert host.handover() is None and not host.gate.open()
    clock.advance(10.0)
    host.turn(3)
    report = host.handover()
    assert report is not None and report.state == "given back" and host.gate.open() and host.database.pid == 11


def test_its_own_stop_is_no_death(host: FakeHost, leader: Authority) -> None:
    leader.operation(ORDER)
    watch = host.instance.watch()
    host.instance.watch = lambda: watch  # type: ignore[method-assign]  # the handle that was taken before the stop
    host.ward()
    assert host.deaths.step(0.0) and host.receipt().closes == 0


def test_no_renewal_is_sent_while_handing_over_until_the_deadline(host: FakeHost, leader: Authority, clock: Clock) -> None:
    leader.operation(ORDER)
    host.turn()
    version = _lease_version(leader)
    for _ in range(19):
        clock.advance(0.5)
        host.turn()
    assert _lease_version(leader) == version and host.database.pid == 0 and not host.gate.open()


def test_writes_come_back_only_by_a_renewal_sent_after_the_deadline(host: FakeHost, leader: Authority, clock: Clock) -> None:
    leader.operation(ORDER)
    host.turn()
    clock.advance(10.0)
    host.renewals.lose_reply(done=True)
    host.turn(3)
    sent = host.events.count("renewal sent")
    host.turn(3)
    report = host.handover()
    assert report is not None and report.state == "given back" and sent
    assert host.gate.open() and host.database.role is Role.PRIMARY and host.board.own.served == 3
    tail = host.events[index(host.events, "stop fast") :]
    assert index(tail, "renewal sent") < index(tail, "promote") < index(tail, "gate: switch")


def test_a_shutdown_that_hangs_is_ended_at_the_deadline_so_that_writes_come_back(
    host: FakeHost, leader: Authority, clock: Clock
) -> None:
    """Seen in the lab: a controller frozen in the middle of a login held up PostgreSQL's fast shutdown for 15 s."""
    host.database.hangs = True
    leader.operation(ORDER)
    host.turn()
    assert host.database.pid and not host.gate.open() and "stop immediate" not in host.events
    clock.advance(10.0)
    host.turn(4)
    report = host.handover()
    assert report is not None and report.state == "given back" and host.gate.open()
    assert index(host.events, "stop fast") < index(host.events, "stop immediate") < index(host.events, "promote")


def test_a_lost_answer_gives_nothing_back(host: FakeHost, leader: Authority, clock: Clock) -> None:
    leader.operation(ORDER)
    host.turn()
    clock.advance(10.0)
    host.renewals.lose_reply(done=True, times=99)
    host.turn(5)
    assert not host.gate.open() and "promote" not in host.events


def test_a_claim_and_a_give_back_exclude_each_other(host: FakeHost, leader: Authority, clock: Clock) -> None:
    """The claim checks the lease's version; if it came first, the late renewal loses on the grant."""
    leader.operation(ORDER)
    host.turn()
    clock.advance(10.0)
    host.see()
    leader.grant(CLAIM)
    leader.operation(replace(ORDER, phase="claimed"))
    host.keeper.step()
    host.warden.step()
    host.turn(3)
    assert not host.gate.open() and "promote" not in host.events and host.receipt().closes == 3
    assert "handed over, shut down in order" in host.receipt().method and not host.receipt().clean


def test_the_next_handover_starts_its_own_clock(host: FakeHost, leader: Authority, clock: Clock) -> None:
    leader.operation(ORDER)
    host.turn()
    clock.advance(10.0)
    host.turn(4)
    assert host.gate.open()
    leader.operation(replace(ORDER, id="op-2"))
    host.turn(2)
    report = host.handover()
    assert report is not None and (report.operation, report.state) == ("op-2", "stopped") and not host.gate.open()


def _lease_version(leader: Authority) -> int:
    stored = leader.ledger.read(Key(Kind.LEASE, "db1"), 1.0)
    assert stored is not None
    return stored.version


def test_observe_makes_no_gate_and_touches_nothing(ensemble: MemoryEnsemble, leader: Authority, clock: Clock) -> None:
    leader.policy(mode=Mode.OBSERVE)
    leader.grant(CLAIM)
    host = FakeHost(ensemble, "db1", clock)
    try:
        host.database.run(11, Role.PRIMARY)
        host.turn(3)
        assert not host.gate.table and host.database.pid == 11
        assert not any(event.startswith(("gate", "kill", "stop", "renewal", "vip")) for event in host.events)
    finally:
        host.close()


# --- what a restart may have lost ---------------------------------------------------------------------------------------
def test_a_member_whose_restart_may_lose_received_log_testifies_only_after_it_has_caught_up(
    host: FakeHost, leader: Authority
) -> None:
    host.engine.keeps = False
    leader.grant(CLAIM)
    leader.grant(TO_DB2)
    leader.status(MemberStatus("db2", Role.PRIMARY, position="1@0/700", writable=True, epoch=5), "db2")
    host.database.at = Lsn(1, 0x500)
    host.turn(4)
    assert host.database.upstream == "10.0.0.2" and not host.board.facts().may_testify, "it streams, and is still behind"
    host.database.at = Lsn(1, 0x700)
    host.turn(2)
    assert host.board.facts().may_testify
    host.database.run(12, Role.STANDBY)
    host.database.at = Lsn(1, 0x500)
    host.turn(2)
    assert not host.board.facts().may_testify, "another run of the database, with less than it had"


@pytest.mark.parametrize("kept_out", [False, True], ids=["stuck", "kept out by its primary"])
def test_a_standby_that_does_not_stream_gets_its_replay_freed_unless_it_is_kept_out(
    standby: FakeHost, clock: Clock, kept_out: bool
) -> None:
    """The lab found it: a member in maintenance was kept out, and the replay that its operator had paused went on."""
    standby.ward()
    standby.database.streaming, standby.database.kept_out = False, kept_out
    mark = len(standby.events)
    for _ in range(4):
        clock.advance(1.0)
        standby.ward()
    assert ("free replay" in standby.since(mark)) is not kept_out


def test_a_standby_with_log_of_its_own_has_no_say_in_a_claim(standby: FakeHost, leader: Authority) -> None:
    """The lab found it: with an errant transaction it stands above every other, so it would have been chosen."""
    standby.ward()
    assert standby.board.facts().may_testify
    standby.database.at = Lsn(2, 0x700)  # another history than the granted member's
    leader.status(MemberStatus("db1", Role.PRIMARY, position="1@0/600", writable=True, epoch=3), "db1")
    standby.ward()
    assert standby.board.own.diverged and not standby.board.facts().may_testify
    leader.grant(CLAIM)
    standby.ward()
    assert standby.seal() is None
