"""Keeps the lease: renews it under the grant, and has the kernel hold it as a ticket.

Order, always (G3): the inert ticket is added *before* the first message of a renewal leaves; only an acknowledgement switches
it into force. A lost reply changes nothing, the deadline stays where it was (G2). Where ZooKeeper does not acknowledge, the
members that may be chosen are asked for pledges, in a round with a ticket of its own (core/pledge.py).

A standby that clients may read from is let through by tickets of the same kind, so a guardian that stops answers for nobody
after L.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from failover.clock import boottime_s
from failover.coordination.base import Committed, LostRace
from failover.coordination.ledger import Ledger
from failover.coordination.pinned import PinnedCoordinator
from failover.core.duty import LocalFacts, wants_lease
from failover.core.lease import LeaseState, LeaseTimes
from failover.core.model import Grant, Lease, Role, Stored
from failover.core.plan import Check, Key, Kind, Swap
from failover.errors import FailoverError, Unknown, Unreachable, WrongCredentials
from failover.guardian.base import Gate, GateState, Pledgers
from failover.guardian.pledges import Asking

log = logging.getLogger("failover.guardian.keeper")
READERS = 2**31 - 1  # readers' tickets belong to no epoch; closing an epoch does not concern them
TICKETS_PER_S = 64
ALARM_KEPT_S = 600.0


class Tickets:
    """Numbers that are never used twice while an element of that number may exist: they follow CLOCK_BOOTTIME, so a
    restarted guardian goes on above its predecessor, and the kernel's tables do not outlive a boot."""

    def __init__(self) -> None:
        self._last = 0

    def next(self) -> int:
        self._last = max(self._last + 1, int(boottime_s() * TICKETS_PER_S))
        return self._last & 0x7FFFFFFF or 1


@dataclass(frozen=True)
class KeeperSettings:
    me: str
    times: LeaseTimes
    standby_reads: bool
    cluster: str = ""


class LeaseKeeper:
    """One thread of its own runs `step()`; `open`, `suspend` and `state` may be called from any thread."""

    def __init__(
        self, settings: KeeperSettings, gate: Gate, ledger: Ledger, pinned: PinnedCoordinator,
        facts: Callable[[], LocalFacts], refresh: Callable[[Stored[Grant]], None], pledgers: Pledgers | None = None,
    ) -> None:  # fmt: skip
        """`pledgers`: who is asked when ZooKeeper does not acknowledge; None: nobody, and the lease then ends."""
        self._settings, self._gate, self._ledger, self._pinned = settings, gate, ledger, pinned
        self._facts, self._refresh = facts, refresh
        self._asking = Asking(settings.cluster, settings.me, pledgers)
        self._tickets = Tickets()
        self._lock = threading.Lock()
        self._state = LeaseState()
        self._serving = 0
        self._told_released: int | None = None
        self._generation = 0
        self._late = False
        self._pledged: str | None = None
        self._alarm: str | None = None
        self._alarm_at_s = 0.0
        self.wake = threading.Event()

    @property
    def state(self) -> LeaseState:
        with self._lock:
            return self._state

    @property
    def alarm(self) -> str | None:
        """Something a person should see about the gate, or None. It stays in view for a while after it was mended."""
        return self._alarm if boottime_s() - self._alarm_at_s < ALARM_KEPT_S else None

    @property
    def on_pledges(self) -> str | None:
        """What a person should know while ZooKeeper does not acknowledge: who keeps us open, or who does not. Or None."""
        return self._pledged

    @property
    def late(self) -> bool:
        """Neither ZooKeeper nor the others' pledges answered the last time, and the lease still runs: the next renewal should
        not wait for a whole period."""
        with self._lock:
            deadline_s = self._state.deadline_s
            return self._late and deadline_s is not None and boottime_s() < deadline_s

    def open(self, epoch: int) -> bool:
        """The database takes writes under `epoch`: let clients through, now and at every further acknowledgement."""
        with self._lock:
            held = self._state
            if not held.valid(epoch, boottime_s()) or held.ticket is None:
                return False
            if self._serving != epoch:
                self._gate.switch(held.ticket)
                self._serving = epoch
                log.info("port open to writers under epoch %d", epoch)
            return True

    def let_go(self) -> None:
        """Released by hand: nothing is held any more; coming back begins with a new renewal."""
        with self._lock:
            self._generation += 1
            self._state = LeaseState()
            self._serving = 0
            self._told_released = None
        self.wake.set()

    def suspend(self, closes: int | None) -> None:
        """Shut the gate now. `closes` ends epochs for good; None leaves them provable again by a *new* renewal (G4, R4)."""
        with self._lock:
            self._generation += 1
            self._state = self._state.dropped()
            self._serving = 0
            self._gate.shut(closes)

    def step(self) -> None:
        """One look: whatever ticket is due now."""
        facts = self._facts()
        try:
            if facts.policy is None or facts.grant is None or facts.policy.value.mode.value == "observe":
                return
            if facts.released:
                self._tell_released(facts, facts.grant)
                return
            may_hold = facts.paused and facts.mine and facts.served == facts.epoch and not facts.handing_over
            if may_hold and self._hold_untimed(facts, facts.grant):
                return
            if wants_lease(facts):  # also while the pause is not recorded yet: until then the clock runs
                self._renew(facts, facts.grant)
            elif facts.mine:
                return
            elif self._readable(facts):
                self._let_readers_in()
            else:
                self._gate.install_shut()
        except FailoverError as error:
            self._raise_alarm(f"the gate does not obey: {error}")

    def check_gate(self) -> None:
        """Some table was removed from the kernel: if it was ours, put it back, shut, and renew at once."""
        with self._lock:
            if self._gate.read_back().repaired:
                self._flushed()
                self.wake.set()

    def _flushed(self) -> None:
        self._raise_alarm("the gate's table was flushed by somebody and put back")
        self._serving = 0
        if self._state.untimed:  # that ticket is gone: count again until it is replaced
            self._state = self._state.timed_again(boottime_s(), None, self._settings.times)

    def _raise_alarm(self, text: str) -> None:
        self._alarm, self._alarm_at_s = text, boottime_s()
        log.error("%s", text)

    def _readable(self, facts: LocalFacts) -> bool:
        """A standby in good standing: it follows somebody, or is sealed and waits. Never one whose log may have diverged."""
        return self._settings.standby_reads and facts.role is Role.STANDBY and facts.in_good_standing and not facts.mine

    def _renew(self, facts: LocalFacts, grant: Stored[Grant]) -> None:
        ticket = self._tickets.next()
        with self._lock:
            generation, armed_at_s = self._generation, boottime_s()
            kernel = self._in_kernel()
            never_proved = self._state.epoch != facts.epoch
            if not kernel.table and facts.role is Role.PRIMARY and facts.mine and never_proved:
                self._gate.install_open(ticket, self._settings.times.lease_s)
                log.info("gate installed open: no client notices")
            else:
                if not kernel.table:
                    self._gate.install_shut()
                if not self._gate.arm(ticket, self._settings.times.lease_s, facts.epoch):
                    return
            if self._state.untimed or (kernel.table and kernel.current is not None and kernel.expires_in_s is None):
                self._gate.switch(ticket)  # the kernel must count again before ZooKeeper is told that it does
                self._state = self._state.timed_again(armed_at_s, ticket, self._settings.times)
        try:
            committed = self._write_lease(grant, untimed=False)
        except LostRace as lost:
            self._look_again(lost)
            return
        except (Unknown, Unreachable, WrongCredentials) as error:  # whatever failed, it was no claim
            log.log(logging.DEBUG if self._late or self._pledged else logging.WARNING, "renewal not acknowledged: %s", error)
            self._late = not self._live_on_pledges(facts.epoch)
            return
        self._late = False
        self._back_from_pledges()
        with self._lock:
            if generation != self._generation:
                return  # shut in the meantime: an acknowledgement of before is not a word of now
            before = self._state
            self._state = before.acknowledged(grant.value.epoch, committed.sent_at_s, ticket, self._settings.times)
            if self._state is not before and self._serving == grant.value.epoch:
                self._gate.switch(ticket)

    def _live_on_pledges(self, epoch: int) -> bool:
        """ZooKeeper does not acknowledge: ask everybody who may be chosen. True if the lease goes on for that.

        The same order as for a renewal: the inert ticket, then the first request, and only when the last pledge has come the
        switch, unless the gate was shut in the meantime.
        """
        now = self._facts()
        if not self._asking.possible or now.epoch != epoch or not wants_lease(now):
            return False
        ticket, times = self._tickets.next(), self._settings.times
        with self._lock:
            generation = self._generation
            if not self._state.may_be_pledged(epoch, boottime_s()) or not self._gate.arm(ticket, times.lease_s, epoch):
                return False
        found = self._asking.ask(epoch, times.attempt_s)
        if not found.complete:
            self._tell_pledged(f"the lease runs out, for want of pledges of {found.says()}")
            return False
        with self._lock:
            if generation != self._generation:
                return False
            before = self._state
            self._state = before.pledged(epoch, found.asked_at_s, ticket, times, boottime_s())
            if self._state is before:
                return False
            if self._serving == epoch:
                self._gate.switch(ticket)
        givers = ", ".join(found.given_by)
        self._tell_pledged(f"living on pledges of {givers}" if givers else "nobody else may be chosen, so it takes no pledge")
        return True

    def _tell_pledged(self, how: str) -> None:
        """Once for each thing to say, not for each round."""
        says = f"ZooKeeper does not acknowledge: {how}"
        if says != self._pledged:
            log.warning("%s", says)
            self._pledged = says

    def _back_from_pledges(self) -> None:
        if self._pledged is not None:
            log.warning("ZooKeeper acknowledges again: no pledges are needed")
            self._pledged = None

    def _in_kernel(self) -> GateState:
        """What the kernel holds, read back while we serve: a flushed table is an open port."""
        seen = self._gate.adopt() if not self._serving else self._gate.read_back()
        if seen.repaired:
            self._flushed()
        return seen

    def _hold_untimed(self, facts: LocalFacts, grant: Stored[Grant]) -> bool:
        """Paused: first ZooKeeper is told that no clock bounds us, then the kernel stops counting. True once that is so."""
        generation = self._generation
        try:
            self._write_lease(grant, untimed=True)
        except (LostRace, Unknown, Unreachable) as error:
            log.warning("pause not recorded: %s", error)
            return facts.lease.untimed
        if facts.lease.untimed:  # said again each time: a late copy of an earlier renewal may have overwritten it
            return True
        ticket = self._tickets.next()
        with self._lock:
            if generation != self._generation or not self._gate.arm(ticket, None, facts.epoch):
                return False
            self._gate.switch(ticket)
            self._state = self._state.without_end(ticket)
            return True

    def _tell_released(self, facts: LocalFacts, grant: Stored[Grant]) -> None:
        """Opened by hand: say so where the clock is read, or W would be taken for evidence against an open port."""
        if not facts.mine or self._told_released == grant.version:
            return
        try:
            self._write_lease(grant, untimed=True)
            self._told_released = grant.version
        except (LostRace, Unknown, Unreachable) as error:
            log.warning("the release is not recorded: %s", error)

    def _let_readers_in(self) -> None:
        ticket, lifetime_s = self._tickets.next(), self._settings.times.lease_s
        with self._lock:
            if not self._gate.adopt().table:
                self._gate.install_open(ticket, lifetime_s)
                return
            self._gate.read_back()  # sweeps tickets that have ended, and sees a flushed table
            if self._gate.arm(ticket, lifetime_s, READERS):
                self._gate.switch(ticket)

    def _write_lease(self, grant: Stored[Grant], untimed: bool) -> Committed:
        """Under this version of the grant. Its list is noted before it leaves: a claim may check one we never heard of."""
        lease = Lease(self._settings.me, grant.value.epoch, grant.value.promotable, untimed)
        writes = (Check(Key(Kind.GRANT), grant.version), Swap(Key(Kind.LEASE, self._settings.me), lease, None))
        order = self._asking.sending(grant.value.promotable)
        committed = self._pinned.commit_any(self._ledger.ops(writes), self._settings.times.attempt_s)
        self._asking.acknowledged(order)
        return committed

    def _look_again(self, lost: LostRace) -> None:
        """G6: the grant changed. An edit keeps us; anything else is a claim, and the warden fences at once."""
        if not lost.path.endswith("/grant"):
            log.warning("renewal lost on %s: %s", lost.path, lost.why)
            return
        try:
            grant = self._ledger.read(Key(Kind.GRANT), self._settings.times.attempt_s)
        except FailoverError as error:
            log.warning("the grant changed and could not be read: %s", error)
            return
        if grant is not None:
            self._refresh(grant)
            self.wake.set()
