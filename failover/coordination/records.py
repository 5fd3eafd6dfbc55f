"""Records to bytes and back. What ZooKeeper holds is untrusted input: the wrong shape is `Corrupt`, never a guess.

Every record is JSON `{"format": 1, "<kind>": {...}}`, small enough to read with any ZooKeeper shell at 3 a.m.
"""

from __future__ import annotations

import json
from functools import cache

from pydantic import TypeAdapter, ValidationError

from failover.core.model import (
    Answer,
    ControllerStatus,
    Decision,
    Grant,
    Handover,
    Lease,
    MemberStatus,
    Notice,
    Operation,
    Policy,
    Receipt,
    Rejoin,
    Request,
    Seal,
    Step,
    Votes,
)  # fmt: skip
from failover.core.plan import Kind
from failover.errors import Corrupt

FORMAT = 1
SIZE_MAX_BYTES = 256 * 1024
SHAPES: dict[Kind, type] = {
    Kind.TERM: int, Kind.LEADER: str, Kind.GRANT: Grant, Kind.LEASE: Lease, Kind.RECEIPT: Receipt, Kind.SEAL: Seal,
    Kind.HANDOVER: Handover, Kind.MEMBER: MemberStatus, Kind.VOTES: Votes, Kind.OPERATION: Operation,
    Kind.POLICY: Policy, Kind.REQUEST: Request, Kind.ANSWER: Answer, Kind.NOTICE: Notice,
    Kind.CONTROLLER: ControllerStatus, Kind.JOURNAL: Step, Kind.REJOIN: Rejoin, Kind.DECISION: Decision,
}  # fmt: skip


@cache
def _adapter(kind: Kind) -> TypeAdapter[object]:
    return TypeAdapter(SHAPES[kind])


def encode(kind: Kind, value: object) -> bytes:
    """The stored form of one record. Raises Corrupt if `value` is not of the kind's type (our own bug, caught early)."""
    if not isinstance(value, SHAPES[kind]):
        raise Corrupt(f"{kind.value}: {type(value).__name__} is not a {SHAPES[kind].__name__}")
    body = _adapter(kind).dump_python(value, mode="json")
    return json.dumps({"format": FORMAT, kind.value: body}, separators=(",", ":"), sort_keys=True).encode()


def decode(kind: Kind, data: bytes) -> object:
    """The record held in `data`. Raises Corrupt with what is wrong; the text never repeats the content."""
    if len(data) > SIZE_MAX_BYTES:
        raise Corrupt(f"{kind.value}: {len(data)} bytes is too large")
    try:
        outer = json.loads(data)
        if not isinstance(outer, dict) or outer.get("format") != FORMAT:
            raise Corrupt(f"{kind.value}: not format {FORMAT}")
        return _adapter(kind).validate_python(outer[kind.value])
    except (ValueError, KeyError, RecursionError) as error:
        first = error.errors()[0]["msg"] if isinstance(error, ValidationError) else type(error).__name__
        raise Corrupt(f"{kind.value}: {first}") from None
