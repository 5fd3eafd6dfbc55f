"""The frozen input of every decision of the leader: the records as last seen, what probes found, and `now`.

Records may be old: whatever is decided from them is a proposal that only a transaction with the right versions makes true.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from failover.core.model import (
    Answer,
    ControllerStatus,
    Grant,
    Handover,
    Lease,
    MemberStatus,
    Notice,
    Operation,
    Policy,
    Position,
    Receipt,
    Rejoin,
    Request,
    Seal,
    Stored,
    Votes,
)  # fmt: skip
from failover.core.plan import Action, Outcome


@dataclass(frozen=True)
class Observation:
    """`now_s` and every `seen_at_s` are CLOCK_BOOTTIME of the observing controller. `positions` maps stored text to values;
    `streaming_since_s` says since when a member has been streaming, or has not been; `heartbeat_moved_s` when its newest row
    changed, and `inserts_turned_s` when its guardian's inserts began to fail or to succeed again, in this controller's sight;
    `highest_epoch` is the greatest that it has ever seen."""

    now_s: float
    me: str
    term: Stored[int] | None
    grant: Stored[Grant] | None = None
    operation: Stored[Operation] | None = None
    policy: Stored[Policy] | None = None
    leases: Mapping[str, Stored[Lease]] = field(default_factory=dict)
    receipts: Mapping[str, Stored[Receipt]] = field(default_factory=dict)
    seals: Mapping[str, Stored[Seal]] = field(default_factory=dict)
    handovers: Mapping[str, Stored[Handover]] = field(default_factory=dict)
    members: Mapping[str, Stored[MemberStatus]] = field(default_factory=dict)
    votes: Mapping[str, Stored[Votes]] = field(default_factory=dict)
    requests: Mapping[str, Stored[Request]] = field(default_factory=dict)
    answers: Mapping[str, Stored[Answer]] = field(default_factory=dict)
    notices: Mapping[str, Stored[Notice]] = field(default_factory=dict)
    controllers: Mapping[str, Stored[ControllerStatus]] = field(default_factory=dict)
    rejoins: Mapping[str, Stored[Rejoin]] = field(default_factory=dict)
    highest_epoch: int = 0
    positions: Mapping[str, Position] = field(default_factory=dict)
    heartbeat_moved_s: Mapping[str, float] = field(default_factory=dict)
    inserts_turned_s: Mapping[str, float] = field(default_factory=dict)
    streaming_since_s: Mapping[str, float] = field(default_factory=dict)
    outcomes: tuple[Outcome, ...] = ()
    phase_since_s: float = 0.0
    last_failover_since_s: float | None = None
    pause_since_s: float | None = None
    maintenance_since_s: Mapping[str, float] = field(default_factory=dict)
    wall: str = ""
    actor: str = ""

    def outcome(self, action: Action) -> Outcome | None:
        """The latest thing that came of exactly this action in this phase, if anything did."""
        return next((o for o in reversed(self.outcomes) if o.action == action), None)

    def phase_age_s(self) -> float:
        """How long *this* leader has seen the present phase. Clocks are never compared across hosts."""
        return self.now_s - self.phase_since_s

    def status(self, member: str, within_s: float) -> MemberStatus | None:
        """What the member's guardian said, if it said so within `within_s`."""
        stored = self.members.get(member)
        return stored.value if stored and self.now_s - stored.seen_at_s <= within_s else None

    def position(self, text: str | None) -> Position | None:
        return self.positions.get(text) if text else None

    def position_of(self, member: str) -> Position | None:
        stored = self.members.get(member)
        return self.position(stored.value.position) if stored else None
