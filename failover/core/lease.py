"""The guardian's clock: until when may this member write?

Pure arithmetic on CLOCK_BOOTTIME seconds. A renewal extends the deadline to *send time* + L, and only if it was
acknowledged (G2); a lost reply changes nothing. Where ZooKeeper is away, the pledges of all that may be chosen take the place of
the acknowledgement (core/pledge.py). The kernel holds the same end as a ticket, so this module being late or
stopped never lets a write through: it only decides when to ask again and when to end sessions in good order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class LeaseTimes:
    """L, R, Q and F in seconds (docs/guarantees.md, "The clock")."""

    lease_s: float
    renew_s: float
    attempt_s: float
    soft_fence_s: float


@dataclass(frozen=True)
class LeaseState:
    """`deadline_s` is D for `epoch`, or None: nothing is held. `ticket` is the one armed for the newest acknowledgement.

    `untimed`: the cluster is paused, ZooKeeper knows it, and the kernel's ticket has no end; then no deadline counts.
    """

    epoch: int = 0
    deadline_s: float | None = None
    ticket: int | None = None
    untimed: bool = False

    def acknowledged(self, epoch: int, sent_at_s: float, ticket: int, times: LeaseTimes) -> "LeaseState":
        """A renewal was confirmed. A late confirmation of an earlier attempt never shortens what is held."""
        deadline_s = sent_at_s + times.lease_s
        if self.untimed:
            return self
        if self.epoch == epoch and self.deadline_s is not None and self.deadline_s >= deadline_s:
            return self
        return LeaseState(epoch, deadline_s, ticket)

    def may_be_pledged(self, epoch: int, now_s: float) -> bool:
        """Pledges only extend: a lease that was acknowledged under this very epoch, still runs, and has an end."""
        return not self.untimed and self.valid(epoch, now_s)

    def pledged(self, epoch: int, asked_at_s: float, ticket: int, times: LeaseTimes, now_s: float) -> "LeaseState":
        """All pledges of a round came; `asked_at_s` is the moment before its first request. What has ended stays ended."""
        return self.acknowledged(epoch, asked_at_s, ticket, times) if self.may_be_pledged(epoch, now_s) else self

    def dropped(self) -> "LeaseState":
        """Given up: closed, fenced or handed over. The next opening needs a new acknowledgement."""
        return replace(self, deadline_s=None, ticket=None, untimed=False)

    def without_end(self, ticket: int) -> "LeaseState":
        """Paused: the kernel now lets clients through until it is told otherwise."""
        return replace(self, ticket=ticket, untimed=True)

    def timed_again(self, armed_at_s: float, ticket: int | None, times: LeaseTimes) -> "LeaseState":
        """The pause is over: the kernel counts again since `armed_at_s`, and only a renewal will extend that."""
        return replace(self, deadline_s=armed_at_s + times.lease_s, ticket=ticket, untimed=False)

    def valid(self, epoch: int, now_s: float) -> bool:
        return self.epoch == epoch and (self.untimed or (self.deadline_s is not None and now_s < self.deadline_s))

    def soft_fence_due(self, now_s: float, times: LeaseTimes) -> bool:
        """True from D - F on, or with nothing held: sessions should end in good order before the kernel cuts them (G4)."""
        return not self.untimed and (self.deadline_s is None or now_s >= self.deadline_s - times.soft_fence_s)

    def left_s(self, now_s: float) -> float:
        return max(0.0, (self.deadline_s or now_s) - now_s)
