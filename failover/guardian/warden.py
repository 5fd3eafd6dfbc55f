"""Does what the duty table says: one method for each duty, each idempotent, none of them deciding anything.

The loop is level-triggered: it looks, does at most one duty, and looks again. Renewing the lease and noticing a death are other
threads' work, so nothing here, however slow, holds up a fence.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from failover.clock import boottime_s
from failover.coordination.base import LostRace
from failover.coordination.ledger import Ledger
from failover.core.duty import Duty, LocalFacts, duty, free_to_rejoin, has_diverged
from failover.core.model import Grant, Handover, Position, Receipt, RejoinWay, Role, Seal, SyncSet
from failover.core.plan import Create, Key, Kind, Swap
from failover.core.rejoin import held_because
from failover.engines.base import LocalEngine, Upstream
from failover.errors import FailoverError, Refused, Unknown, Unreachable
from failover.guardian.base import Instance, Sealer, Vip
from failover.guardian.board import Board
from failover.guardian.checkpointer import Checkpointer
from failover.guardian.fencer import Fencer, Memory
from failover.guardian.keeper import LeaseKeeper
from failover.guardian.rejoin import Rejoining

log = logging.getLogger("failover.guardian.warden")
COMMIT_S = 1.0
SQL_S = 2.0
START_S = 60.0
PROMOTE_S = 30.0
CHECKPOINT_S = 15.0
STUCK_S = 2.0
HANGS_S = 1.0
IN_PLACE = "a standby from here on, without a restart"


@dataclass(frozen=True)
class Hands:
    """Everything on this host that the warden may use."""

    engine: LocalEngine
    instance: Instance
    sealer: Sealer
    vip: Vip | None
    fencer: Fencer
    keeper: LeaseKeeper
    memory: Memory
    port: int
    rejoin: Rejoining


class Warden:
    """One guardian's doer of duties. `step()` is called by one thread."""

    def __init__(
        self, board: Board, ledger: Ledger, hands: Hands, look: Callable[[], None], tell: Callable[[], None]
    ) -> None:
        """`look`: see the database anew now. `tell`: beat and publish now, others wait for it."""
        self._board, self._ledger, self._hands, self._look, self._tell = board, ledger, hands, look, tell
        self._me = board.identity.me
        self._said: str | None = None
        self._failed: str | None = None
        self._vip_due_s = 0.0
        self._vip_untimed = False
        self._pause = threading.Event()
        self._not_streaming_since_s: float | None = None
        self._checkpointer = Checkpointer(board, hands.engine)
        self._doers: dict[Duty, Callable[[LocalFacts], None]] = {
            Duty.FENCE: self._fence, Duty.HAND_OVER: self._hand_over, Duty.GIVE_BACK: self._give_back,
            Duty.SOFT_FENCE: self._soft_fence, Duty.START: self._start, Duty.PROMOTE: self._promote,
            Duty.SERVE: self._serve, Duty.SEAL: self._seal, Duty.FOLLOW: self._follow, Duty.STAND_BY: self._stand_by,
            Duty.REWIND: self._rewind, Duty.RESEED: self._reseed,
            Duty.HOLD: self._hold, Duty.WAIT: self._nothing, Duty.WATCH: self._nothing,
        }  # fmt: skip

    def step(self) -> bool:
        """Look once, do the one duty that holds. False if that failed: logged once, and looked at again at the next step."""
        self._hands.rejoin.look(self._board.running)
        facts = self._board.facts()
        row = duty(facts)
        if row.says != self._said:
            log.info("%s", row.says)
            self._said = row.says
            self._board.note(says=row.says)
        try:
            self._remember_epoch(facts)
            self._compare(facts)
            self._doers[row.duty](facts)
            self._forget_handover(facts)
            self._settle_receipt()
            self._settle_rejoin()
        except FailoverError as error:
            text = f"{row.duty.value}: {error}"
            if text != self._failed:
                log.warning("%s", text)
                self._failed = text
                self._board.note(failed=text)
            return False
        if self._failed is not None:
            self._failed = None
            self._board.note(failed=None)
        return True

    def _compare(self, facts: LocalFacts) -> None:
        """Remembered into the claim that takes the granted member away: a standby with log of its own has no say then."""
        if facts.position is not None and facts.grant_position is not None and facts.role is Role.STANDBY:
            self._board.note(diverged=has_diverged(facts))

    # --- disabling -----------------------------------------------------------------------------------------------
    def _fence(self, facts: LocalFacts) -> None:
        assert facts.grant is not None
        claim = facts.grant.value.claim
        if facts.grant.value.member == self._me:
            closes = facts.epoch
        elif claim and claim.old == self._me:
            closes = claim.old_epoch
        else:
            closes = max(facts.epoch - 1, facts.served, facts.closed)
        own = self._board.own
        handed_over = own.handover_operation is not None
        in_place = self._board.handed_over_in_place
        ended = "writes stopped in order" if in_place else "shut down in order"
        why = f"handed over, {ended}" if handed_over else "the grant was claimed"
        self._hands.fencer.fence(closes, why, handed_over, spare=in_place)
        self._board.note(served=0, vip_wanted=False)
        self._look()

    def _soft_fence(self, facts: LocalFacts) -> None:
        self._board.note(stopping=True, served=0, vip_wanted=False)
        try:
            self._hands.fencer.soft(facts.times.soft_fence_s)
        finally:
            self._board.note(stopping=False)
        self._look()

    def _hand_over(self, facts: LocalFacts) -> None:
        """Writes stop at once, the end of the log is reported. Done once per operation.

        An engine that can become a standby as it runs does so; another one shuts down in order.
        """
        assert facts.operation is not None
        operation = facts.operation.value.id
        own = self._board.own
        if own.handover_operation != operation:
            self._board.note(
                handover_operation=operation, handover_since_s=facts.now_s, stopping=True, served=0, vip_wanted=False
            )
        if facts.running:
            self._hands.keeper.suspend(None)
            self._hands.fencer.quiesce()
            began_s = self._board.own.handover_since_s or facts.now_s
            left_s = facts.switchover_deadline_s - (facts.now_s - began_s)
            budget_s = max(0.2, min(facts.switchover_deadline_s / 2, left_s))
            if facts.role is Role.STANDBY and own.handover_position is not None:
                self._report(Handover(self._me, operation, "stopped", own.handover_position, IN_PLACE))
                return
            end = self._hands.engine.stop_writes(budget_s)
            if end is not None:
                self._board.note(handover_position=end.text())
                self._look()
                self._report(Handover(self._me, operation, "stopped", end.text(), IN_PLACE))
                return
            stopped = self._hands.instance.stop("fast", budget_s)
            self._look()
            if not stopped:
                return  # still at it: the deadline row gives writes back
        control = self._hands.engine.control_state()
        if control.clean and control.position is not None:
            self._report(Handover(self._me, operation, "stopped", control.position.text(), control.detail))
        else:  # killed in the middle of it: the same operation goes on as a failover
            self._hands.fencer.fence(facts.epoch, f"it ended while shutting down ({control.detail})")

    def _give_back(self, facts: LocalFacts) -> None:
        """Too late, and nobody claimed: the keeper renews *after* the deadline, and only under that word writes come back."""
        assert facts.operation is not None
        if not facts.running:
            self._start(facts)
        elif self._board.own.stopping and facts.role not in (Role.PRIMARY, Role.STANDBY):
            self._end_what_hangs()
        elif facts.proved and facts.role is Role.STANDBY:
            self._promote(facts)
        elif facts.proved and facts.role is Role.PRIMARY:
            self._serve(facts)
            if self._board.own.served == facts.epoch:
                note = f"not through within {facts.switchover_deadline_s:.1f} s"
                self._report(Handover(self._me, facts.operation.value.id, "given back", None, note))

    def _end_what_hangs(self) -> None:
        """A shutdown that was begun cannot be taken back, and one client frozen in its login holds it up for a minute: end it
        now. The port is shut, and what was committed is in the log."""
        log.warning("the database hangs in its shutdown: ending it at once, to give writes back")
        if not self._hands.instance.stop("immediate", HANGS_S):
            self._hands.instance.kill_all(SQL_S)
        self._look()

    def _report(self, handover: Handover) -> None:
        stored = self._board.records.all(Kind.HANDOVER).get(self._me)
        if stored is None or stored.value != handover:
            self._put(Key(Kind.HANDOVER, self._me), handover)

    def _forget_handover(self, facts: LocalFacts) -> None:
        own = self._board.own
        running = facts.operation.value.id if facts.operation else None
        if own.handover_operation is not None and own.handover_operation != running:
            self._board.note(handover_operation=None, handover_since_s=None, handover_position=None, stopping=False)

    # --- enabling, under my own proof ------------------------------------------------------------------------------
    def _start(self, facts: LocalFacts) -> None:
        """Always as a standby that receives from nobody; what it may follow is judged when it runs and its log is known.

        Only after a rejoin it follows the granted member at once: its log is that one's by construction, and a rewound database
        is consistent only with log that is still to come.
        """
        with self._hands.rejoin.hands_off():
            self._start_whole(facts)

    def _start_whole(self, facts: LocalFacts) -> None:
        state = self._hands.rejoin.state
        if not state.startable:
            raise Unknown(f"the data directory is not whole{f' ({state.doubt})' if state.doubt else ''}")
        self._board.note(stopping=False, armed=False)
        if self._hands.instance.processes().all and not self._hands.instance.kill_all(SQL_S):
            return  # orphans of a dead main process are still there; look again
        if facts.grant is not None:
            self._hands.instance.system_identifier = facts.grant.value.system_identifier or None
        self._hands.engine.isolate()
        if state.ready and free_to_rejoin(facts):
            self._thaw()
            self._follow_from_the_start(facts)
        self._hands.instance.start_standby(START_S)
        self._look()

    def _follow_from_the_start(self, facts: LocalFacts) -> None:
        try:
            self._hands.engine.follow(self._upstream(facts), SQL_S)
        except Unreachable:  # an engine that can be told only as it runs makes whole copies, which need nothing to start
            log.debug("told whom to follow once it runs")

    def _promote(self, facts: LocalFacts) -> None:
        assert facts.grant is not None
        with self._hands.rejoin.hands_off():
            self._promote_under(facts.grant.value)

    def _promote_under(self, grant: Grant) -> None:
        self._hands.sealer.unseal()
        if grant.minimum_position and not self._holds_minimum(grant.minimum_position):
            self._board.note(rejoin="granted, but this member no longer has what it reported")
            return
        self._hands.memory.change(wrote=grant.epoch)
        self._hands.engine.end_sessions(SQL_S)
        sync = grant.sync[-1] if grant.sync else None
        followers = [m.name for m in self._board.identity.members if m.name != self._me]
        self._hands.engine.promote(sync if sync and sync.names else None, followers, PROMOTE_S)
        self._look()
        self._hands.keeper.open(grant.epoch)
        seen = self._board.local  # no row of ours ever came: beside the former primary was no guardian to make the table
        prepared = seen is not None and seen.heartbeat is not None
        self._board.note(served=grant.epoch, sealed_for=0, rejoin=None, applied_at=None, prepared=prepared)
        self._tell()
        self._hands.memory.change(frozen=0, frozen_against="")
        log.warning("promoted under epoch %d", grant.epoch)

    def _holds_minimum(self, text: str) -> bool:
        position = self._hands.engine.parse_position(text)
        return self._hands.engine.holds(position)

    def _serve(self, facts: LocalFacts) -> None:
        assert facts.grant is not None
        if self._hands.memory.now.wrote < facts.epoch:
            self._hands.memory.change(wrote=facts.epoch)
        if self._hands.memory.now.frozen:  # our predecessor died between its promotion and this: the seal came back with us
            self._thaw()
        if self._hands.keeper.open(facts.epoch) and facts.served != facts.epoch:
            self._board.note(served=facts.epoch, rejoin=None)
        self._keep_vip(facts)
        if not self._board.own.armed:  # any later start of this database, by whomever, is a standby's
            self._hands.engine.arm_standby()
            self._board.note(armed=True)
        if not self._board.own.prepared:
            self._hands.engine.prepare(SQL_S)
            self._hands.engine.ensure_slots([m.name for m in self._board.identity.members if m.name != self._me], SQL_S)
            self._board.note(prepared=True)
        self._keep_sync(facts.grant.value)
        self._checkpointer.keep(facts)
        self._hands.rejoin.remember_home()

    def _keep_sync(self, grant: Grant) -> None:
        """Step (2) of changing a sync set: apply the newest recorded pair, prove it, and say where the log stood then."""
        newest = grant.sync[-1] if grant.sync else None
        own, local = self._board.own, self._board.local
        if local is None or (own.applied_at is not None and own.applied_sync == newest and _same(local.sync, newest)):
            return
        wanted = newest if newest and newest.names else None
        position = self._hands.engine.apply_sync(wanted, SQL_S)
        self._board.note(applied_sync=newest, applied_at=position.text())
        log.info("sync set in force: %s", ", ".join(wanted.names) if wanted else "nobody")
        self._look()

    def _keep_vip(self, facts: LocalFacts) -> None:
        vip = self._hands.vip
        if vip is None or self._board.own.served != facts.epoch:
            return
        if facts.now_s < self._vip_due_s and facts.lease.untimed == self._vip_untimed:
            return
        self._vip_due_s, self._vip_untimed = facts.now_s + facts.times.renew_s, facts.lease.untimed
        if self._board.own.vip_wanted or vip.held():
            self._board.note(vip_wanted=True)
            vip.hold(self._vip_lifetime_s(facts), announce=False)

    def _vip_lifetime_s(self, facts: LocalFacts) -> float | None:
        """As long as the ticket: without an end while that has none."""
        return None if facts.lease.untimed else max(1.0, facts.lease.left_s(facts.now_s))

    def take_vip(self, epoch: int) -> str:
        """An order by the host agent, obeyed under our own proof only (G1). Raises Refused with the reason."""
        facts = self._board.facts()
        vip = self._hands.vip
        if vip is None:
            raise Refused("no VIP is configured")
        if facts.epoch != epoch or not facts.proved or self._board.own.served != epoch or facts.role is not Role.PRIMARY:
            raise Refused(f"not a proved primary under epoch {epoch} here (epoch {facts.epoch}, {facts.role.value})")
        vip.hold(self._vip_lifetime_s(facts), announce=True)
        self._board.note(vip_wanted=True)
        return f"VIP taken under epoch {epoch}"

    def checkpoint(self) -> None:
        """Asked for before a planned stop; harmless."""
        self._hands.engine.checkpoint(CHECKPOINT_S)

    # --- a standby's duties ------------------------------------------------------------------------------------------
    def _seal(self, facts: LocalFacts) -> None:
        """Persist, then the kernel, then wait for the receiver to end, and only then say where the log ends.

        From the kernel's word on no acknowledgement leaves. But a receiver still stores what its socket holds: a position
        told before it has ended would not be final, and a follower ahead of the chosen one could never follow it.

        Whether it is quiet is asked only after the disk has the freeze: a pledge given until then is in the book, and none is
        given later. SQL comes last. It proves nothing (a paused replay ignores it); it only spares the receiver a long silence.
        """
        assert facts.grant is not None and facts.grant.value.claim is not None
        claim = facts.grant.value.claim
        address = self._board.address_of(claim.old)
        self._hands.memory.change(
            frozen=facts.epoch, frozen_against=address, highest=max(self._hands.memory.now.highest, facts.epoch)
        )
        self._hands.sealer.seal(address, self._hands.port)
        position, quiet = self._end_of_received_log(), self._board.pledges.quiet()
        self._put(Key(Kind.SEAL, self._me), Seal(self._me, facts.epoch, position.text(), quiet))
        self._board.note(sealed_for=facts.epoch, sealed_quiet=quiet)
        says = "quiet" if quiet else "not quiet yet"
        log.info("sealed against %s for epoch %d at %s, %s", claim.old, facts.epoch, position.text(), says)
        self._hands.engine.stop_receiving(SQL_S)

    def _end_of_received_log(self) -> Position:
        """Where the log ends once nothing is being received any more. Raises Unknown if that does not come about."""
        end_s = boottime_s() + SQL_S
        while boottime_s() < end_s:
            state = self._hands.engine.state(SQL_S)
            if not state.streaming:
                return state.position
            self._pause.wait(0.002)
        raise Unknown("the receiver does not end although its connection was cut")

    def _follow(self, facts: LocalFacts) -> None:
        assert facts.grant is not None and facts.grant.value.member is not None
        self._thaw()
        primary = facts.grant.value.member
        self._hands.memory.change(followed=facts.epoch)  # its log was judged to be part of the granted member's
        self._hands.engine.follow(self._upstream(facts), SQL_S)
        self._hands.engine.ensure_slots((), SQL_S)  # a former primary's slots would hold log back here for ever
        self._board.note(rejoin=None, sealed_for=0)
        self._not_streaming_since_s = None
        log.info("following %s", primary)
        self._look()

    def _upstream(self, facts: LocalFacts) -> Upstream:
        assert facts.grant is not None and facts.grant.value.member is not None
        primary = facts.grant.value.member
        return Upstream(primary, self._board.address_of(primary), self._hands.port, self._board.is_guarded(primary))

    def _stand_by(self, facts: LocalFacts) -> None:
        self._thaw()
        if self._hands.memory.now.followed < facts.epoch:
            self._hands.memory.change(followed=facts.epoch)
        if self._board.own.rejoin is not None or self._board.own.served:
            self._board.note(rejoin=None, served=0)
        caught_up = self._caught_up(facts)
        if caught_up and self._board.life.unproven(self._hands.memory.now):
            self._hands.memory.change(proven_life=self._board.life.name)
        self._hands.rejoin.settled(facts, caught_up)
        self._free_a_stuck_replay(facts)

    def _caught_up(self, facts: LocalFacts) -> bool:
        """It streams, and has what the granted member had when it last said so."""
        local, mine, theirs = self._board.local, facts.position, facts.grant_position
        has_it = mine is not None and theirs is not None and mine.covers(theirs)
        return has_it and local is not None and local.streaming

    def _free_a_stuck_replay(self, facts: LocalFacts) -> None:
        """A standby follows another primary only when its replay moves; a pause or a reader's lock must not block commits.

        One that its primary keeps out is none of that: it blocks nobody, and who paused its replay may want it so.
        """
        local = self._board.local
        if local is None or local.streaming or local.kept_out:
            self._not_streaming_since_s = None
        elif self._not_streaming_since_s is None:
            self._not_streaming_since_s = facts.now_s
        elif facts.now_s - self._not_streaming_since_s > STUCK_S:
            self._not_streaming_since_s = facts.now_s
            log.warning("told to follow and not streaming for %.0f s: ending sessions, resuming replay", STUCK_S)
            self._hands.engine.free_replay(SQL_S)

    def _thaw(self) -> None:
        """Only a grant with a later epoch and a member un-freezes; the duty table has checked it."""
        if self._hands.sealer.sealed() is not None:
            self._hands.sealer.unseal()
        if self._hands.memory.now.frozen:
            self._hands.memory.change(frozen=0, frozen_against="")

    def _rewind(self, facts: LocalFacts) -> None:
        """The work has its own thread; what seals us against its source is in its way."""
        self._thaw()
        self._hands.rejoin.work(RejoinWay.REWIND)

    def _reseed(self, facts: LocalFacts) -> None:
        self._thaw()
        self._hands.rejoin.work(RejoinWay.RESEED)

    def _hold(self, facts: LocalFacts) -> None:
        """Say what the return of this member waits for. A standby that a person fenced is stopped."""
        if facts.went_back:
            seen = f"ZooKeeper shows epoch {facts.epoch}, this host has seen epoch {facts.highest}"
            self._board.note(rejoin=f"{seen}: playbooks/restore-zookeeper.md")
        elif facts.fenced_by_hand:
            self._board.note(rejoin=f"fenced by hand: `failoverctl rejoin {self._me}` brings it back")
            self._stay_fenced(facts)
        elif facts.rejoin.failed or not facts.rejoin.startable or facts.role is Role.STANDBY:
            primary = facts.grant.value.member if facts.grant else None
            free = free_to_rejoin(facts)
            self._board.note(rejoin=held_because(facts.rejoin, self._me, primary or "the primary", not free))

    def _stay_fenced(self, facts: LocalFacts) -> None:
        """Down, in order if it can be, with a receipt for every epoch that is over: the operator's fence waits for both."""
        if facts.running:
            self._board.note(stopping=True)
            self._hands.instance.stop("fast", CHECKPOINT_S)
        if facts.running or facts.receipted < facts.epoch - 1:
            self._hands.fencer.fence(facts.epoch - 1, "fenced by hand")
            self._look()

    def _nothing(self, facts: LocalFacts) -> None:
        """Waiting and watching need no hands."""

    # --- records --------------------------------------------------------------------------------------------------------
    def _remember_epoch(self, facts: LocalFacts) -> None:
        if facts.epoch > self._hands.memory.now.highest:
            self._hands.memory.change(highest=facts.epoch)

    def _settle_receipt(self) -> None:
        """The mailbox must hold what this host has proved; written until it is seen there."""
        self.post_receipt(self._hands.fencer.owed())

    def _settle_rejoin(self) -> None:
        """What became of the last rejoin; written until it is seen there."""
        owed, stored = self._hands.rejoin.owed(), self._board.records.all(Kind.REJOIN).get(self._me)
        if owed is not None and (stored is None or stored.value != owed):
            self._put(Key(Kind.REJOIN, self._me), owed)

    def stop(self) -> None:
        """End what runs beside the loop; the next guardian goes on with it."""
        self._hands.rejoin.stop()

    def wait(self, timeout_s: float) -> None:
        """Until a checkpoint that is being made is made."""
        self._checkpointer.wait(timeout_s)

    def post_receipt(self, owed: Receipt) -> None:
        stored = self._board.records.all(Kind.RECEIPT).get(self._me)
        if owed.closes and (stored is None or stored.value.closes < owed.closes):
            self._put(Key(Kind.RECEIPT, self._me), owed)

    def _put(self, key: Key, value: object) -> None:
        """Write a record of our own, whether it exists or not: our picture of that may be behind."""
        try:
            self._ledger.commit([Swap(key, value, None)], COMMIT_S)
        except LostRace as lost:
            if lost.why != "missing":
                raise
            self._ledger.commit([Create(key, value)], COMMIT_S)


def _same(applied: SyncSet | None, wanted: SyncSet | None) -> bool:
    mine = (applied.w, frozenset(applied.names)) if applied and applied.names else None
    theirs = (wanted.w, frozenset(wanted.names)) if wanted and wanted.names else None
    return mine == theirs
