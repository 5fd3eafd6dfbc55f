"""The nouns: what is written in ZooKeeper and what every decision speaks about.

One word per thing (docs/glossary.md). All values are frozen; a change is a new value. Times that decide something are
seconds on the reader's own CLOCK_BOOTTIME and are never stored here; `*_wall` fields exist for people to read and decide nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import ClassVar, Generic, Protocol, TypeVar

from failover.core.plan import Guard


class Replication(str, Enum):
    """What a commit waits for. `strict` blocks rather than lose; `sync` may degrade and says so; `async` never waits."""

    ASYNC = "async"
    SYNC = "sync"
    STRICT = "strict"


class Mode(str, Enum):
    """`observe` decides and logs but never acts and never makes a gate; `automatic` acts."""

    OBSERVE = "observe"
    AUTOMATIC = "automatic"


class Willingness(str, Enum):
    """May this member become primary: by itself, only when an operator names it, or never."""

    AUTOMATIC = "automatic"
    MANUAL = "manual"
    NEVER = "never"


class Role(str, Enum):
    """What the database itself says it is. `DOWN` needs proof (no process); silence is `UNKNOWN`."""

    PRIMARY = "primary"
    STANDBY = "standby"
    RECOVERING = "recovering"
    DOWN = "down"
    UNKNOWN = "unknown"


class Position(Protocol):
    """Where a member's log ends, with the history that led there. A partial order: two positions may be incomparable.

    `unit` is what `behind` counts: bytes of a log, or transactions of a set. `text()` is the stored form; each engine parses
    its own.
    """

    unit: ClassVar[str]

    def covers(self, other: "Position") -> bool:
        """True if everything at `other` is contained here, on one history."""
        ...

    def descends_from(self, history: str) -> bool:
        """True if this position's history passes through `history` (the `history_id()` of the past writer)."""
        ...

    def history_id(self) -> str:
        """Name of the history being written at this position: the timeline for PostgreSQL; "" where positions are sets, which
        carry their whole history in themselves."""
        ...

    def behind(self, other: "Position") -> int | None:
        """How many `unit`s `other` is ahead of this one (0 or more), or None when that cannot be said."""
        ...

    def diverged_from(self, primary: "Position") -> bool:
        """True if this has log that a primary which stood at `primary` cannot have, however far it has moved on since."""
        ...

    def text(self) -> str:
        """The stored form."""
        ...


@dataclass(frozen=True)
class SyncSet:
    """`w` members out of `names` must have a commit before it is acknowledged, on the history `history`."""

    w: int
    names: tuple[str, ...]
    history: str = ""

    def satisfied_by(self, sealed: frozenset[str]) -> bool:
        """True if every set that could have acknowledged a commit meets `sealed`: r + w > |S|."""
        return len(sealed & set(self.names)) + self.w > len(self.names)


@dataclass(frozen=True)
class Claim:
    """Why the grant names nobody: the old primary's word is being ended. `lease_version` is what W counts from."""

    old: str
    old_epoch: int
    lease_version: int
    operation: str


@dataclass(frozen=True)
class Grant:
    """Which member may be primary. `epoch` goes up when the member changes; other edits change only the znode version."""

    member: str | None
    epoch: int
    promotable: tuple[str, ...] = ()
    sync: tuple[SyncSet, ...] = ()
    minimum_position: str | None = None
    claim: Claim | None = None
    system_identifier: str = ""

    def is_for(self, member: str) -> bool:
        return self.member == member


@dataclass(frozen=True)
class Lease:
    """A guardian's last renewal. What matters is the znode version; the list is what the renewal was sent under.

    `untimed`: the cluster is paused and the kernel holds a ticket without an end, so no clock says anything about it.
    """

    member: str
    epoch: int
    promotable: tuple[str, ...] = ()
    untimed: bool = False


@dataclass(frozen=True)
class Receipt:
    """A guardian's promise that this member never opens again under an epoch <= `closes`. Method is the evidence."""

    member: str
    closes: int
    method: str
    clean: bool = False
    at_wall: str = ""


@dataclass(frozen=True)
class Seal:
    """A standby's report that it neither receives from nor acknowledges to the old primary, for one claim only.

    `quiet`: W has passed on its own clock since its last pledge, or since its guardian started (core/pledge.py).
    """

    member: str
    claim_epoch: int
    position: str
    quiet: bool = False


@dataclass(frozen=True)
class Handover:
    """The old primary's report in a switchover: writes stopped, shut down cleanly, its log ends at `position`."""

    member: str
    operation: str
    state: str
    position: str | None = None
    note: str = ""


class OperationKind(str, Enum):
    FAILOVER = "failover"
    SWITCHOVER = "switchover"
    FENCE = "fence"


@dataclass(frozen=True)
class Operation:
    """The one thing in progress. `phase` is the last one *reached*; the tables in failover.py and switchover.py move it.

    `fenced_by`: who swore, by typing the host's name, that `old` cannot write (`confirm-fenced`). It replaces CONFIRM only.
    """

    id: str
    kind: OperationKind
    phase: str
    old: str
    old_epoch: int
    reason: str
    requester: str
    target: str | None = None
    candidate: str | None = None
    evidence: str | None = None
    rejected: tuple[tuple[str, str], ...] = ()
    held: str | None = None
    request: str | None = None
    opened_at_wall: str = ""
    fenced_by: str | None = None

    def at(self, phase: str, **changes: object) -> "Operation":
        """The same operation, one phase further."""
        return replace(self, phase=phase, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Maintenance:
    """A member set aside by a person: neither candidate nor trigger. Ends `for_s` after the leader first saw it."""

    member: str
    for_s: float
    reason: str
    by: str


class RejoinWay(str, Enum):
    """How a member that cannot simply follow comes back: its own data rewound, or a new copy beside it."""

    REWIND = "rewind"
    RESEED = "reseed"


@dataclass(frozen=True)
class RejoinOrder:
    """A person's consent that `member` may be brought back in this way, whatever of its own log is given up (and saved)."""

    member: str
    way: RejoinWay
    by: str
    request: str


@dataclass(frozen=True)
class Degraded:
    """A time in which `replication: sync` waited for nobody: from before the primary was told so (under `epoch`) until a sync
    set was proved in force again (`ended_at_wall`, "" while it lasts)."""

    epoch: int
    began_at_wall: str
    ended_at_wall: str = ""


@dataclass(frozen=True)
class Policy:
    """The run-time switches. Its version is checked in the transaction that opens an operation.

    `fenced`: members that a person fenced; their guardians keep the database down until `failoverctl rejoin`. `degraded`: the
    latest times in which `replication: sync` waited for nobody, oldest first. `last_failover`: the operation whose cool-down
    counts, None once a person has acknowledged it.
    """

    mode: Mode = Mode.OBSERVE
    paused_for_s: float | None = None
    paused_reason: str = ""
    paused_by: str = ""
    paused_at_wall: str = ""
    maintenance: tuple[Maintenance, ...] = ()
    last_failover: str | None = None
    operations: int = 0
    fenced: tuple[str, ...] = ()
    rejoin: tuple[RejoinOrder, ...] = ()
    degraded: tuple[Degraded, ...] = ()

    @property
    def paused(self) -> bool:
        return self.paused_for_s is not None

    def in_maintenance(self, member: str) -> bool:
        return any(m.member == member for m in self.maintenance)


@dataclass(frozen=True)
class MemberStatus:
    """What a guardian last said of its own member: facts for choosing and for people, never a permission.

    `position` is what is safely stored here (received, not only replayed); `follows` is the address the receiver is
    connected to; `heartbeat` is the newest (epoch, sequence) seen in the heartbeat table; `applied_sync` and
    `applied_at` say which sync set the running primary has proved to be in force and where its log stood then.
    `rewind_ready`: this primary has made a checkpoint on its present history, so others may be rewound against it. `moving`: the
    database's main process ran just now, or waits for its turn on a processor; a frozen one does neither. `kept_out`: the primary
    does not let it stream while it is in no sync set (semi-synchronous replication has no names: who may acknowledge is decided
    at the door). `testifies`: what it acknowledged is in what it has, so that it may be sealed and chosen.
    """

    member: str
    role: Role = Role.UNKNOWN
    system_identifier: str = ""
    position: str | None = None
    replay_lag_bytes: int | None = None
    follows: str | None = None
    streaming: bool = False
    gate: str = "none"
    epoch: int = 0
    vip: bool = False
    writable: bool = False
    heartbeat: tuple[int, int] | None = None
    heartbeat_fails: int = 0
    applied_sync: SyncSet | None = None
    applied_at: str | None = None
    paused_replay: bool = False
    rejoin: str | None = None
    problems: tuple[str, ...] = ()
    guardian: str = ""
    rewind_ready: bool = False
    moving: bool = False
    kept_out: bool = False
    testifies: bool = True


@dataclass(frozen=True)
class Rejoin:
    """What became of a member that could not simply follow, and what was discarded for it. One record per member, kept.

    `discarded` lists the commits given up, oldest first (at most a hundred, `discarded_commits` counts them all); `tables`
    says how many rows of each table they had written. `saved` is the folder on that host where the log was put first.
    """

    member: str
    epoch: int
    way: RejoinWay
    state: str  # "running" | "done" | "failed"
    diverged_at: str | None = None
    end: str | None = None
    discarded_commits: int = 0
    discarded: tuple[str, ...] = ()
    tables: tuple[tuple[str, int], ...] = ()
    saved: str | None = None
    says: str = ""
    at_wall: str = ""


@dataclass(frozen=True)
class Decision:
    """The leader's latest judgement, for `explain`: the sentence, and every guard with the facts it saw.

    `doubt` is the latest one that was not plain sailing (a vote said lost, a guard blocked), kept when all is well again.
    """

    controller: str
    term: int
    says: str
    guards: tuple[Guard, ...] = ()
    at_wall: str = ""
    doubt: "Decision | None" = None


ZOOKEEPER = "ZooKeeper"  # the witness among `MemberVote.sees` that is no member


@dataclass(frozen=True)
class MemberVote:
    """One controller's finding about one member. `lost` is its opinion; the rest are the facts behind it.

    `sees`: who answered this controller since before its latest failed probe of this member, and still does: other
    members by name, and ZOOKEEPER. Whether that is enough to believe its network is for the detector to say.
    """

    lost: bool
    fresh: str = "unknown"
    kept: str = "unknown"
    role: Role = Role.UNKNOWN
    why: str = ""
    sees: tuple[str, ...] = ()


@dataclass(frozen=True)
class Votes:
    """All findings of one controller. `beside`: the member on its own host, whose answers prove no network."""

    controller: str
    members: tuple[tuple[str, MemberVote], ...] = ()
    beside: str | None = None

    def of(self, member: str) -> MemberVote | None:
        return dict(self.members).get(member)


class RequestKind(str, Enum):
    ADOPT = "adopt"
    SWITCHOVER = "switchover"
    FAILOVER = "failover"
    PAUSE = "pause"
    RESUME = "resume"
    MAINTENANCE_ON = "maintenance-on"
    MAINTENANCE_OFF = "maintenance-off"
    FENCE = "fence"
    CONFIRM_FENCED = "confirm-fenced"
    REJOIN = "rejoin"
    CANCEL = "cancel"
    ACK = "ack"


@dataclass(frozen=True)
class Request:
    """What a person asked for. Filed by the command, judged by the leader, answered once."""

    id: str
    kind: RequestKind
    by: str
    reason: str = ""
    target: str | None = None
    for_s: float | None = None
    expect_primary: str | None = None
    confirm: bool = False
    way: RejoinWay | None = None
    filed_at_wall: str = ""


@dataclass(frozen=True)
class Answer:
    """The leader's verdict on a request: accepted (and which operation carries it out), or refused with every reason."""

    request: str
    accepted: bool
    reasons: tuple[str, ...] = ()
    operation: str | None = None
    by: str = ""


@dataclass(frozen=True)
class Step:
    """One line of the journal: an intent or a completion, with what was known at that moment."""

    operation: str
    number: int
    name: str
    kind: str
    controller: str
    term: int
    says: str
    facts: tuple[tuple[str, str], ...] = ()
    at_wall: str = ""


@dataclass(frozen=True)
class Notice:
    """One message owed to one application, kept until it is acknowledged. `key` is the idempotency key."""

    key: str
    url: str
    event: str
    cluster: str
    epoch: int
    operation: str
    old: str
    new: str
    address: str
    at_wall: str = ""


@dataclass(frozen=True)
class Problem:
    """Something a person should know, with the next thing to do."""

    code: str
    text: str
    hint: str = ""


@dataclass(frozen=True)
class ControllerStatus:
    """What one controller says of itself; `digest` is of its configuration file, so that a difference shows."""

    name: str
    digest: str
    version: str
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class Member:
    """A configured database instance. Higher `priority` is preferred among equals.

    `guarded`: a guardian runs beside it. Without one there is no lease and no gate, so no clock is ever evidence about it,
    and it can neither seal nor prove a grant.
    """

    name: str
    address: str
    priority: int = 0
    failover: Willingness = Willingness.AUTOMATIC
    guarded: bool = True


T = TypeVar("T")


@dataclass(frozen=True)
class Stored(Generic[T]):
    """A record as read: its value, the znode version a write must check, and when *this* process first saw that version.

    `seen_at_s` is CLOCK_BOOTTIME taken after the reply arrived (T1: never the time of asking).
    """

    value: T
    version: int
    seen_at_s: float
    owner_session: int = 0
