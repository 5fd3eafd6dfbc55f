"""What a guardian owes its member right now: one table, read from the top, the first row that holds is the duty.

Disabling rows come first (G1: disabling is easy, enabling is hard). Enabling rows ask for a lease that this guardian won
itself by compare-and-set under the grant; nothing here is ever enabled on a command's word. The lease itself is renewed
beside this table, by the keeper, whenever `wants_lease` says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from failover.core.lease import LeaseState, LeaseTimes
from failover.core.model import Grant, Mode, Operation, OperationKind, Policy, Position, RejoinWay, Role, Stored
from failover.core.rejoin import NOTHING_WRONG, RejoinFacts

GRANTED_BACK_AFTER_S = 3.0  # longer than any choice among live standbys takes


class Duty(str, Enum):
    """One word per thing to do; guardian/warden.py has one method for each."""

    WATCH = "watch"
    FENCE = "fence"
    HAND_OVER = "hand over"
    GIVE_BACK = "give back"
    SOFT_FENCE = "soft fence"
    START = "start as a standby"
    PROMOTE = "promote"
    SERVE = "serve"
    SEAL = "seal"
    FOLLOW = "follow"
    STAND_BY = "stand by"
    REWIND = "rewind"
    RESEED = "reseed"
    HOLD = "hold"
    WAIT = "wait"


@dataclass(frozen=True)
class LocalFacts:
    """What the guardian knows of its own host and of the records, at `now_s` (CLOCK_BOOTTIME).

    `running`: a main process of this data directory exists. `role` is what it answered lately. `upstream` is the member it is
    told to stream from. `grant_position` is the granted member's latest position or, before it wrote, the minimum it must hold.
    `handover_since_s`: when this guardian began to hand over for the present operation. `quiet`: W has passed since this
    member's last pledge (core/pledge.py); `sealed_quiet`: the report of `sealed_for` said so. `highest`: the
    greatest epoch that this host has ever seen, from its disk.
    """

    now_s: float
    me: str
    times: LeaseTimes
    switchover_deadline_s: float
    grant: Stored[Grant] | None
    operation: Stored[Operation] | None
    policy: Stored[Policy] | None
    running: bool
    role: Role
    upstream: str | None
    position: Position | None
    grant_position: Position | None
    lease: LeaseState
    closed: int
    receipted: int
    frozen: int
    followed: int
    wrote: int
    sealed_for: int
    served: int
    released: bool
    handover_since_s: float | None
    handover_operation: str | None
    quiet: bool = False
    sealed_quiet: bool = False
    highest: int = 0
    rejoin: RejoinFacts = NOTHING_WRONG
    diverged: bool = False

    @property
    def epoch(self) -> int:
        return self.grant.value.epoch if self.grant else 0

    @property
    def mine(self) -> bool:
        """The grant names me, under an epoch that I have not closed."""
        return self.grant is not None and self.grant.value.member == self.me and self.epoch > self.closed

    @property
    def went_back(self) -> bool:
        """ZooKeeper shows an older epoch than this host has seen: a restored copy, or a bug that lost what it had promised."""
        return self.grant is not None and self.epoch < self.highest

    @property
    def paused(self) -> bool:
        return self.policy is not None and self.policy.value.paused

    @property
    def proved(self) -> bool:
        """A lease I won under this very grant is running (without an end while the cluster is paused)."""
        return self.mine and self.lease.valid(self.epoch, self.now_s)

    @property
    def handing_over(self) -> bool:
        """The running operation orders me to stop writes."""
        running = self.operation.value if self.operation else None
        return (
            running is not None and running.kind is OperationKind.SWITCHOVER and running.phase == "stopping"
            and running.old == self.me and running.old_epoch == self.epoch and self.mine
        )  # fmt: skip

    @property
    def handover_late(self) -> bool:
        began = self.handover_since_s
        return began is not None and self.now_s - began >= self.switchover_deadline_s

    @property
    def in_good_standing(self) -> bool:
        """Never a primary here, or since then a follower whose log was part of the granted member's."""
        return self.followed >= max(self.closed, self.wrote)

    @property
    def may_testify(self) -> bool:
        """In good standing, its data was not replaced under it without having caught up since, and when it was last compared with
        a granted member it had no log of its own: with that it would stand above every other."""
        return self.in_good_standing and not self.rejoin.returning and not self.diverged

    @property
    def set_aside(self) -> bool:
        return self.policy is not None and self.policy.value.in_maintenance(self.me)

    @property
    def fenced_by_hand(self) -> bool:
        return self.policy is not None and self.me in self.policy.value.fenced

    @property
    def startable(self) -> bool:
        """Nothing runs, and the data directory is whole."""
        return not self.running and self.rejoin.startable


@dataclass(frozen=True)
class Row:
    """`says` is what `status` and the log print while the duty holds."""

    duty: Duty
    holds: Callable[[LocalFacts], bool]
    says: str


def wants_lease(facts: LocalFacts) -> bool:
    """Should a renewal be sent now? Never while handing over, except the one that gives writes back after the deadline."""
    if facts.released or not facts.mine or not _armed(facts) or facts.went_back:
        return False
    if facts.paused and facts.lease.untimed:
        return False  # ZooKeeper knows that no clock bounds us
    return not facts.handing_over or facts.handover_late


def duty(facts: LocalFacts) -> Row:
    """The first row of the table that holds. The last one always does."""
    return next(row for row in TABLE if row.holds(facts))


def _armed(facts: LocalFacts) -> bool:
    return facts.policy is not None and facts.policy.value.mode is Mode.AUTOMATIC


def _handed_over(facts: LocalFacts) -> bool:
    """I shut down for the running operation, which has moved on: the grant will too, my picture of it is only behind."""
    running = facts.operation.value if facts.operation else None
    return running is not None and facts.handover_operation == running.id and not facts.handing_over


def _owes_a_fence(facts: LocalFacts) -> bool:
    """I may have written under an epoch that the grant no longer gives me, and my receipt for it is not in ZooKeeper yet."""
    assert facts.grant is not None
    grant = facts.grant.value
    if grant.member == facts.me:  # closed here (the process died), and the receipt is not in the mailbox yet
        return facts.receipted < facts.epoch <= facts.closed
    if grant.claim and grant.claim.old == facts.me and grant.claim.old_epoch > facts.receipted:
        return True
    return facts.running and facts.role is Role.PRIMARY


def _covered(facts: LocalFacts) -> bool:
    """Everything stored here is part of the granted member's history."""
    return facts.position is not None and facts.grant_position is not None and facts.grant_position.covers(facts.position)


def has_diverged(facts: LocalFacts) -> bool:
    """It has log that the granted member cannot have. A merely old picture of the primary is not that."""
    mine, theirs = facts.position, facts.grant_position
    return facts.role is Role.STANDBY and mine is not None and theirs is not None and mine.diverged_from(theirs)


def _told_to_follow_granted(facts: LocalFacts) -> bool:
    return facts.grant is not None and facts.upstream == facts.grant.value.member and facts.frozen < facts.epoch


def _other_is_granted(facts: LocalFacts) -> bool:
    return facts.grant is not None and facts.grant.value.member not in (None, facts.me)


def _must_seal(facts: LocalFacts) -> bool:
    """A standby in good standing must report. An ex-primary that has followed nobody since may have diverged: no say."""
    claim = facts.grant.value.claim if facts.grant else None
    return claim is not None and claim.old != facts.me and facts.role is Role.STANDBY and facts.may_testify


def _owes_a_report(facts: LocalFacts) -> bool:
    """Not told yet for this claim, or told before it was quiet: the clock is evidence only with a quiet member."""
    return facts.sealed_for < facts.epoch or (facts.quiet and not facts.sealed_quiet)


def free_to_rejoin(facts: LocalFacts) -> bool:
    """Another member has the grant, and neither people nor an operation are at work: this database may be stopped."""
    free = facts.operation is None and not (facts.paused or facts.set_aside or facts.fenced_by_hand)
    return free and _other_is_granted(facts) and facts.frozen < facts.epoch


def _must_rewind(facts: LocalFacts) -> bool:
    begun = facts.rejoin.unfinished is RejoinWay.REWIND
    return free_to_rejoin(facts) and facts.rejoin.may_rewind and (begun or has_diverged(facts))


def _must_stay_fenced(facts: LocalFacts) -> bool:
    """Whoever has the grant is ended by a claim first, which is an operation's business."""
    return facts.fenced_by_hand and (not facts.running or (not facts.mine and facts.role is Role.STANDBY))


def _claim_on_another(facts: LocalFacts) -> bool:
    claim = facts.grant.value.claim if facts.grant else None
    return claim is not None and claim.old != facts.me and facts.may_testify


def _nobody_took_over(facts: LocalFacts) -> bool:
    """I am the fenced old primary and the claim has been open for a while: be there, as a standby, to be granted back."""
    if facts.grant is None or facts.grant.value.claim is None or facts.grant.value.claim.old != facts.me:
        return False
    return facts.now_s - facts.grant.seen_at_s > GRANTED_BACK_AFTER_S


TABLE: tuple[Row, ...] = (
    Row(Duty.WATCH, lambda f: f.released, "released by hand: the port is open and nobody guards it"),
    Row(Duty.WATCH, lambda f: f.grant is None, "not adopted: watching only"),
    Row(Duty.WATCH, lambda f: not _armed(f), "mode observe: watching only"),
    Row(
        Duty.HOLD, lambda f: f.went_back,
        "ZooKeeper has gone back to an older epoch than this host has seen: nothing is opened, started or followed",
    ),
    Row(Duty.FENCE, _owes_a_fence, "my epoch is over: fencing and writing the receipt"),
    Row(Duty.GIVE_BACK, lambda f: f.handing_over and f.handover_late, "the handover took too long: giving writes back"),
    Row(Duty.HAND_OVER, lambda f: f.handing_over, "switchover: writes stop, then its log is handed over"),
    Row(
        Duty.SOFT_FENCE,
        lambda f: f.mine and f.role is Role.PRIMARY and f.served == f.epoch and f.lease.soft_fence_due(f.now_s, f.times),
        "the lease cannot be renewed: ending sessions before the kernel cuts them",
    ),
    Row(Duty.HOLD, lambda f: f.set_aside and not f.running, "in maintenance: not started by me"),
    Row(Duty.HOLD, lambda f: f.paused and not f.running, "paused: not started by me"),
    Row(Duty.HOLD, _must_stay_fenced, "fenced by hand: kept down until `failoverctl rejoin`"),
    Row(Duty.SERVE, lambda f: f.proved and f.role is Role.PRIMARY, "primary under my own proof"),
    Row(Duty.WAIT, lambda f: f.mine and not f.running and _handed_over(f), "handed over: waiting for what comes of it"),
    Row(Duty.START, lambda f: f.mine and f.startable and f.served != f.epoch, "granted: starting, as a standby first"),
    Row(Duty.PROMOTE, lambda f: f.proved and f.role is Role.STANDBY, "granted and proved: promoting"),
    Row(Duty.WAIT, lambda f: f.mine, "granted: waiting for the proof or the database"),
    Row(Duty.SEAL, lambda f: _must_seal(f) and _owes_a_report(f), "a claim is running: sealing against the old primary"),
    Row(Duty.START, lambda f: _nobody_took_over(f) and f.startable, "nobody took over yet: starting as a standby"),
    Row(Duty.START, lambda f: f.startable and _claim_on_another(f), "a claim is running: starting, to testify"),
    Row(Duty.WAIT, lambda f: not _other_is_granted(f), "sealed, fenced, or my epoch is closed: waiting for a grant"),
    Row(Duty.RESEED, lambda f: free_to_rejoin(f) and f.rejoin.may_reseed, "making a new copy of the database beside its place"),
    Row(Duty.REWIND, _must_rewind, "diverged: saving the log that only this member has, then rewinding"),
    Row(Duty.HOLD, lambda f: not (f.running or f.startable), "the data directory is lost or not whole: not started"),
    Row(
        Duty.WAIT, lambda f: not f.running and f.operation is not None and f.operation.value.old == f.me,
        "fenced: starting only when the operation is over, so as not to take time from it",
    ),
    Row(Duty.START, lambda f: not f.running, "starting as a standby, receiving from nobody yet"),
    Row(Duty.HOLD, has_diverged, "diverged: this member has log that the granted one does not have"),
    Row(Duty.STAND_BY, lambda f: f.role is Role.STANDBY and _told_to_follow_granted(f), "standby of the granted member"),
    Row(Duty.FOLLOW, lambda f: f.role is Role.STANDBY and f.frozen < f.epoch and _covered(f), "pointing at the granted member"),
    Row(Duty.WAIT, lambda f: True, "waiting for the database or for the granted member's position"),
)  # fmt: skip
