"""Mistakes at the gate: who opens it, when, and what shuts it."""

from __future__ import annotations

import logging

from failover.clock import boottime_s
from failover.coordination.base import LostRace
from failover.core.duty import LocalFacts
from failover.core.model import Grant, Handover, Receipt, Role, Stored
from failover.errors import FailoverError, Unknown, Unreachable, WrongCredentials
from failover.guardian.deaths import Deaths, _epoch_to_close
from failover.guardian.keeper import LeaseKeeper
from failover.guardian.warden import Warden
from failover.sim.kernel import Kernel
from failover.sim.mutants.base import Patch

log = logging.getLogger("failover.mutants")


def on_a_commands_word() -> tuple[Patch, ...]:
    """The grant in view names me: that is taken as permission, without a lease won under it."""
    return ((LocalFacts, "proved", property(lambda self: self.mine)), (LeaseKeeper, "open", _open_without_a_lease))


def _open_without_a_lease(self: LeaseKeeper, epoch: int) -> bool:
    with self._lock:
        held = self._state
        ticket = held.ticket if held.valid(epoch, boottime_s()) else None
        if ticket is None:
            ticket = self._tickets.next()
            if not self._gate.arm(ticket, self._settings.times.lease_s, epoch):
                return False
            self._gate.switch(ticket)
        elif self._serving != epoch:
            self._gate.switch(ticket)
        self._serving = epoch
        return True


def dead_process_without_the_gate() -> tuple[Patch, ...]:
    """Its death is taken as proof: the receipt goes out, the gate and its tickets are left alone."""

    def _ended(self: Deaths, pid: int) -> None:
        facts, own = self._board.facts(), self._board.own
        self._board.found(None, running=False)
        closes = _epoch_to_close(facts)
        if own.stopping or closes is None or facts.paused or facts.set_aside:
            return
        self._board.note(vip_wanted=False, heartbeat_fails=0)
        self._fencer._receipt = Receipt(facts.me, closes, f"the main process (pid {pid}) ended")
        try:
            self._post()
        except FailoverError as error:
            log.error("%s", error)
        self._look()
        self._board.wake.set()

    return ((Deaths, "_ended", _ended),)


def elements_not_flushed() -> tuple[Patch, ...]:
    """A fence deletes the map entry only; the renewal whose acknowledgement comes a moment later switches it back."""

    def shut(self: Kernel) -> None:
        self.table, self.current = True, 0

    def suspend(self: LeaseKeeper, closes: int | None) -> None:
        with self._lock:
            self._state = self._state.dropped()
            self._gate.shut(closes)

    return ((Kernel, "shut", shut), (LeaseKeeper, "suspend", suspend))


def armed_after_the_acknowledgement() -> tuple[Patch, ...]:
    """The ticket is added when the word has come, for a whole lease from then."""

    def _renew(self: LeaseKeeper, facts: LocalFacts, grant: Stored[Grant]) -> None:
        ticket = self._tickets.next()
        with self._lock:
            generation = self._generation
            kernel = self._in_kernel()
            if not kernel.table and facts.role is Role.PRIMARY and facts.mine and self._state.epoch != facts.epoch:
                self._gate.install_open(self._tickets.next(), self._settings.times.lease_s)
            elif not kernel.table:
                self._gate.install_shut()
        try:
            committed = self._write_lease(grant, untimed=False)
        except LostRace as lost:
            self._look_again(lost)
            return
        except (Unknown, Unreachable, WrongCredentials):
            self._late = not self._live_on_pledges(facts.epoch)
            return
        self._late = False
        self._back_from_pledges()
        with self._lock:
            if generation != self._generation or not self._gate.arm(ticket, self._settings.times.lease_s, facts.epoch):
                return
            self._state = self._state.acknowledged(grant.value.epoch, committed.sent_at_s, ticket, self._settings.times)
            if self._serving == grant.value.epoch:
                self._gate.switch(ticket)

    return ((LeaseKeeper, "_renew", _renew),)


def give_back_on_a_timer() -> tuple[Patch, ...]:
    """The handover took too long: writes come back because the time is over, without a renewal sent after it."""

    def _give_back(self: Warden, facts: LocalFacts) -> None:
        assert facts.operation is not None and facts.grant is not None
        if not facts.running:
            self._start(facts)
        elif self._board.own.stopping and facts.role not in (Role.PRIMARY, Role.STANDBY):
            self._end_what_hangs()
        elif facts.role is Role.STANDBY:
            with self._hands.rejoin.hands_off():
                self._promote_under(facts.grant.value)
            _open_without_a_lease(self._hands.keeper, facts.epoch)
        elif facts.role is Role.PRIMARY:
            _open_without_a_lease(self._hands.keeper, facts.epoch)
            self._board.note(served=facts.epoch)
            self._report(Handover(self._me, facts.operation.value.id, "given back", None, "the time is over"))

    return ((Warden, "_give_back", _give_back),)
