"""Every phase table by the kind of operation it drives. Printed into docs/architecture.md; walked by machine.py."""

from __future__ import annotations

from failover.core import failover, fence, switchover
from failover.core.machine import Tables, step_of
from failover.core.model import Operation, OperationKind, Step, Stored
from failover.core.observation import Observation
from failover.core.plan import Create, Key, Kind

TABLES: Tables = {
    OperationKind.FAILOVER: failover.TABLE, OperationKind.SWITCHOVER: switchover.TABLE, OperationKind.FENCE: fence.TABLE,
}  # fmt: skip


def opening_steps(operation: Operation, seen: Observation, term: Stored[int]) -> tuple[Create, Create]:
    """The journal's head (why and by whom) and its first intent, written by the transaction that opens the operation."""
    row = TABLES[operation.kind][0]
    head = Step(
        operation.id, 0, "opened", "opened", seen.me, term.value, f"{operation.kind.value}: {operation.reason}",
        (("old", operation.old), ("requester", operation.requester), ("target", operation.target or "any")), seen.wall,
    )  # fmt: skip
    first = step_of(operation, seen, term, 1, f"{row.step}.intent", row.says, {})
    return Create(Key(Kind.JOURNAL, operation.id), head), first
