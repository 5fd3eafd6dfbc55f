"""What a decision is: writes to make in one transaction, effects to ask for, and the reasons.

A `Plan` is data. The runtime commits `writes` atomically first and, only if that is *known* to have succeeded, lets its
hands perform the `actions` of the phase now recorded. Applying an action twice equals applying it once.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Kind(str, Enum):
    """Every kind of record in ZooKeeper. `paths.py` maps a key to its znode; nothing else knows where things are."""

    TERM = "term"
    LEADER = "leader"
    GRANT = "grant"
    LEASE = "lease"
    RECEIPT = "receipt"
    SEAL = "seal"
    HANDOVER = "handover"
    MEMBER = "member"
    VOTES = "votes"
    OPERATION = "operation"
    POLICY = "policy"
    REQUEST = "requests"
    ANSWER = "answers"
    NOTICE = "outbox"
    CONTROLLER = "controllers"
    REJOIN = "rejoin"
    DECISION = "decision"
    JOURNAL = "journal"


@dataclass(frozen=True)
class Key:
    """Names one record: its kind and, where there are several, which one."""

    kind: Kind
    name: str = ""


@dataclass(frozen=True)
class Create:
    """Make the record; the transaction fails if it exists. `ephemeral`: gone with the writer's session."""

    key: Key
    value: object
    ephemeral: bool = False


@dataclass(frozen=True)
class Swap:
    """Replace the record, if it still has `version`. `version=None` replaces any version (a guardian's own lease only)."""

    key: Key
    value: object
    version: int | None


@dataclass(frozen=True)
class Erase:
    """Remove the record, if it still has `version`. Never used on term, grant, lease or receipt."""

    key: Key
    version: int


@dataclass(frozen=True)
class Check:
    """The transaction fails unless the record still has `version`."""

    key: Key
    version: int


Write = Create | Swap | Erase | Check


@dataclass(frozen=True)
class Fence:
    """Ask the host agent of `member` over SSH to close every epoch <= `closes` and to read the result back."""

    member: str
    closes: int


@dataclass(frozen=True)
class Stonith:
    """Have the operator's command switch `member` off, and read "off" back. What it merely says it did is nothing."""

    member: str
    operation: str


@dataclass(frozen=True)
class VerifyWritable:
    """Look, over a fresh connection, whether `member` takes writes under `epoch`."""

    member: str
    epoch: int


@dataclass(frozen=True)
class MoveVip:
    """The VIP off every member but `to` (read back), then `to`'s guardian is asked to take it under its own proof."""

    to: str
    epoch: int


@dataclass(frozen=True)
class SwitchDns:
    """The service name answers `address` at every authoritative server, unless a later epoch wrote first."""

    address: str
    epoch: int


@dataclass(frozen=True)
class Checkpoint:
    """Ask for a checkpoint on `member` so that a later shutdown or rewind is quick. Harmless to repeat."""

    member: str
    operation: str


Action = Fence | Stonith | VerifyWritable | MoveVip | SwitchDns | Checkpoint


@dataclass(frozen=True)
class Outcome:
    """What came of an action, as a fact for the next observation. `ok=None` means unknown: it may have happened."""

    action: Action
    ok: bool | None
    evidence: str
    at_s: float
    took_s: float


class Verdict(str, Enum):
    PASS = "PASS"
    BLOCK = "BLOCK"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True)
class Guard:
    """One condition of a decision, with what it saw. `explain` prints these."""

    name: str
    verdict: Verdict
    facts: str


@dataclass(frozen=True)
class Plan:
    """The answer of `decide`. Empty is a good answer: look again at the next tick."""

    writes: tuple[Write, ...] = ()
    actions: tuple[Action, ...] = ()
    says: str = ""
    guards: tuple[Guard, ...] = ()
