"""Opening an operation: its record, and the one transaction in which a second opener, machine or human, loses."""

from __future__ import annotations

from dataclasses import replace

from failover.core.model import Operation, OperationKind, Policy, Stored
from failover.core.observation import Observation
from failover.core.plan import Create, Key, Kind, Swap, Write
from failover.core.tables import opening_steps


def open_operation(
    seen: Observation, kind: OperationKind, old: str, old_epoch: int, reason: str, requester: str,
    target: str | None = None, request: str | None = None,
) -> Operation:  # fmt: skip
    """The record of a new operation, numbered by the policy record so that no two ever share a name."""
    assert seen.policy is not None
    name = f"op-{seen.policy.value.operations + 1}"
    return Operation(name, kind, "opened", old, old_epoch, reason, requester, target, request=request, opened_at_wall=seen.wall)


def opening_writes(seen: Observation, policy: Stored[Policy], operation: Operation) -> tuple[Write, ...]:
    """OPEN: the policy is the one that was judged, a second opener, machine or human, loses at the create, the journal starts."""
    assert seen.term is not None
    counted = replace(policy.value, operations=policy.value.operations + 1)
    return (
        Swap(Key(Kind.POLICY), counted, policy.version),
        Create(Key(Kind.OPERATION), operation),
        *opening_steps(operation, seen, seen.term),
    )


def may_open(seen: Observation, policy: Stored[Policy]) -> list[str]:
    """Why nothing may be opened now."""
    if seen.operation:
        running = seen.operation.value
        text = f"{running.kind.value} {running.id} is under way (asked for by {running.requester}, phase {running.phase})"
        return [f"{text}; `failoverctl cancel {running.id}` gives it up" if running.kind is OperationKind.FENCE else text]
    if policy.value.mode.value == "observe":
        return ["mode is observe: nothing is ever done; set `mode: automatic` in the configuration"]
    return []
