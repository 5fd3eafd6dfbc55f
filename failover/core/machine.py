"""How a phase table is walked: one row, one rule, at most one transaction per look.

A rule answers with `Go` (the next phase is reached by this transaction), `Wait` (perform these effects, look again), `Undo`
(give up safely) or `GiveUp` (what was built is lost again). The walker adds what every step owes: the term is still ours, the
operation is still the one that was read, the journal has DONE for this step and INTENT for the next. Progress is only ever in
the record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from failover.core.model import Operation, OperationKind, Policy, Step, Stored
from failover.core.observation import Observation
from failover.core.plan import Action, Check, Create, Erase, Guard, Key, Kind, Plan, Swap, Write
from failover.core.rules import Rules

DONE = "done"


@dataclass(frozen=True)
class Situation:
    """What a rule may look at."""

    seen: Observation
    rules: Rules
    operation: Operation


@dataclass(frozen=True)
class Go:
    """The condition holds: these writes belong to the step, these fields of the operation change, these are the facts."""

    facts: Mapping[str, str] = field(default_factory=dict)
    writes: tuple[Write, ...] = ()
    changes: Mapping[str, object] = field(default_factory=dict)
    phase: str | None = None  # another phase than the row's target (a switchover that became a failover)


@dataclass(frozen=True)
class Wait:
    """Not yet. `actions` are wanted meanwhile. `held` is for a person: nothing will happen without a new fact."""

    why: str
    actions: tuple[Action, ...] = ()
    held: str | None = None
    guards: tuple[Guard, ...] = ()


@dataclass(frozen=True)
class Undo:
    """Nothing irrevocable was done: close the operation and leave the world as it is."""

    why: str


@dataclass(frozen=True)
class GiveUp:
    """What this operation built is lost again: close it, as failed and without a cool-down, so that the next may begin."""

    why: str


Answer = Go | Wait | Undo | GiveUp


@dataclass(frozen=True)
class Row:
    """From `phase`, `step` leads to `target`; `says` is the sentence for the log and the journal."""

    phase: str
    target: str
    step: str
    says: str
    rule: Callable[[Situation], Answer]


Tables = Mapping[OperationKind, tuple[Row, ...]]


def walk(tables: Tables, at: Situation, term: Stored[int], stored: Stored[Operation]) -> Plan:
    """One look at the running operation."""
    table = tables[at.operation.kind]
    numbers = {row.phase: number for number, row in enumerate(table, start=1)}
    row = next((r for r in table if r.phase == at.operation.phase), None)
    if row is None:
        text = f"phase {at.operation.phase!r} is not of this version's table; upgrade or finish it with the version that wrote it"
        return Plan(says=text)
    answer = row.rule(at)
    if isinstance(answer, Wait):
        return _wait(answer, row, numbers, at, term, stored)
    if isinstance(answer, Undo):
        return _close(at, term, stored, numbers[row.phase], f"{row.step}.undone", f"undone: {answer.why}")
    if isinstance(answer, GiveUp):
        return _close(at, term, stored, numbers[row.phase], f"{row.step}.failed", f"failed: {answer.why}", cools=False)
    target = answer.phase or row.target
    moved = at.operation.at(target, held=None, **dict(answer.changes))
    done = step_of(at.operation, at.seen, term, numbers[row.phase], f"{row.step}.done", row.says, answer.facts)
    if target == DONE:
        plan = _close(at, term, stored, numbers[row.phase], f"{row.step}.done", row.says, answer.facts)
        return replace(plan, writes=(*answer.writes, *plan.writes))
    onward = tables[moved.kind]  # a switchover whose primary died goes on in the failover's table
    number, following = next((n, r) for n, r in enumerate(onward, start=1) if r.phase == target)
    writes: list[Write] = [
        Check(Key(Kind.TERM), term.version),
        Swap(Key(Kind.OPERATION), moved, stored.version),
        *answer.writes,
        done,
        step_of(at.operation, at.seen, term, number, f"{following.step}.intent", following.says, {}),
    ]
    return Plan(writes=tuple(writes), says=row.says)


def step_of(
    operation: Operation, seen: Observation, term: Stored[int], number: int, name: str, says: str, facts: Mapping[str, str]
) -> Create:
    """One journal line of this operation."""
    kind = name.rsplit(".", 1)[-1]
    step = Step(operation.id, number, name, kind, seen.me, term.value, says, tuple(sorted(facts.items())), seen.wall)
    return Create(Key(Kind.JOURNAL, f"{operation.id}/{number:02d}-{name}"), step)


def _wait(
    answer: Wait, row: Row, numbers: Mapping[str, int], at: Situation, term: Stored[int], stored: Stored[Operation]
) -> Plan:
    if answer.held and answer.held != at.operation.held:
        held = replace(at.operation, held=answer.held)
        writes: list[Write] = [Check(Key(Kind.TERM), term.version), Swap(Key(Kind.OPERATION), held, stored.version)]
        if not at.operation.held:  # told once in the journal; the reason is kept up to date in the operation
            writes.append(step_of(at.operation, at.seen, term, numbers[row.phase], f"{row.step}.held", answer.held, {}))
        return Plan(writes=tuple(writes), says=f"held: {answer.held}", guards=answer.guards)
    return Plan(actions=answer.actions, says=answer.why, guards=answer.guards)


def _close(
    at: Situation, term: Stored[int], stored: Stored[Operation], number: int, name: str, says: str,
    facts: Mapping[str, str] | None = None, cools: bool = True,
) -> Plan:  # fmt: skip
    policy = at.seen.policy
    writes: list[Write] = [
        Check(Key(Kind.TERM), term.version),
        Erase(Key(Kind.OPERATION), stored.version),
        step_of(at.operation, at.seen, term, number, name, says, facts or {}),
    ]
    if cools and policy is not None and at.operation.kind is OperationKind.FAILOVER:  # the cool-down counts from here
        closed: Policy = replace(policy.value, last_failover=at.operation.id)
        writes.append(Swap(Key(Kind.POLICY), closed, policy.version))
    return Plan(writes=tuple(writes), says=says)
