"""The planned move, as a table: the candidate drains first, writes stop, receipt is proved, and only then CLAIM and seal.

Until CLAIM nothing is lost by giving up: the old primary's guardian gives writes back by itself at its deadline, and only by
a renewal sent after it (R4). CLAIM checks the version of that guardian's lease, so the two cannot both win. After CLAIM the
rows of failover.py finish the work, and it only rolls forward.
"""

from __future__ import annotations

from failover.core.failover import FROM_CLAIMED, claim
from failover.core.machine import Answer, Go, Row, Situation, Undo, Wait
from failover.core.model import OperationKind
from failover.core.plan import Checkpoint

TROUBLE_S = 2.0


def prepare(at: Situation) -> Answer:
    """Checkpoints on both sides make the shutdown short. A failed one only costs time."""
    operation = at.operation
    died = _died(at)
    if died:
        return died
    trouble = target_trouble(at)
    if trouble:
        return _undo_or_wait(at, trouble)
    wanted = tuple(Checkpoint(name, operation.id) for name in (operation.old, operation.target) if name)
    outstanding = tuple(action for action in wanted if at.seen.outcome(action) is None)
    if outstanding and at.seen.phase_age_s() < at.rules.step_s:
        return Wait("checkpoints on both sides", outstanding)
    return Go()


def stop_writes(at: Situation) -> Answer:
    """The old guardian has shut the gate and stops the database in order; wait for proof that the target has everything.

    The proof is not a sleep: the end of the shutdown checkpoint, read from the old primary's control file, is covered by
    what the target safely stores. Then CLAIM, in the same transaction that leaves this phase.
    """
    operation, seen = at.operation, at.seen
    handover = seen.handovers.get(operation.old)
    mine = handover.value if handover and handover.value.operation == operation.id else None
    if mine and mine.state == "given back":
        return Undo(f"writes were given back to {operation.old}: {mine.note}")
    if mine and mine.state == "stopped":
        end, target = seen.position(mine.position), operation.target or ""
        has = seen.position_of(target)
        if end is not None and has is not None and has.covers(end):
            return _claimed(at, {"end of log": end.text(), target: has.text()})
        return Wait(f"{target} is receiving the end of {operation.old}'s log")
    died = _died(at)
    if died:
        return died
    return Wait(f"{operation.old} stops writes and shuts down in order: {mine.state if mine else 'asked'}")


def _claimed(at: Situation, facts: dict[str, str]) -> Answer:
    answer = claim(at)
    return Go({**answer.facts, **facts}, answer.writes) if isinstance(answer, Go) else answer


def _died(at: Situation) -> Go | None:
    """The primary died in the middle of it: the same operation goes on as a failover; no second one is opened."""
    receipt = at.seen.receipts.get(at.operation.old)
    if receipt and receipt.value.closes >= at.operation.old_epoch:
        facts = {"became": f"a failover: {receipt.value.method}"}
        return Go(facts, changes={"kind": OperationKind.FAILOVER}, phase="opened")
    return None


def _undo_or_wait(at: Situation, trouble: str) -> Answer:
    """A primary that dies loses its standbys a moment before its receipt arrives: wait that moment, writes still go on."""
    return Undo(trouble) if at.seen.phase_age_s() > TROUBLE_S else Wait(trouble)


def target_trouble(at: Situation) -> str | None:
    """Why the target cannot take over without loss now, or None. Asked at filing and again before writes stop."""
    status = at.seen.status(at.operation.target or "", at.rules.gone_s)
    if status is None:
        return f"{at.operation.target}: its guardian says nothing"
    if not status.streaming:
        return f"{at.operation.target} does not stream from the primary"
    return None


def order(at: Situation) -> Answer:
    died = _died(at)
    if died:
        return died
    trouble = target_trouble(at)
    return _undo_or_wait(at, trouble) if trouble else Go()


TABLE: tuple[Row, ...] = (
    Row("opened", "prepared", "prepare", "checkpoints on both sides", prepare),
    Row("prepared", "stopping", "order", "the old primary's guardian is told to hand over", order),
    Row("stopping", "claimed", "claim", "writes stopped, the target has the whole log, the old word is ended", stop_writes),
    *FROM_CLAIMED,
)
