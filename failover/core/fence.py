"""Fencing a member that does not hold the grant, because a person wants it down: a table of one row.

Its guardian sees `policy.fenced`, written by the transaction that opens this, and keeps the database down until a person says
`failoverctl rejoin`. What ends the operation is evidence, as in a failover, and never the clock: a silent host proves nothing.
A failover is more urgent: this gives way to it, and the member stays fenced.
"""

from __future__ import annotations

from failover.core.confirm import by_agent, by_power, channels
from failover.core.detector import judge_primary
from failover.core.machine import DONE, Answer, Go, Row, Situation, Undo, Wait
from failover.core.model import Role
from failover.core.plan import Guard, Verdict


def fence(at: Situation) -> Answer:
    """FENCE on every channel; done by the first evidence that the database is down and its epochs are closed."""
    old = at.operation.old
    away = _gives_way(at)
    if away:
        return Undo(f"{away}; {old} stays fenced")
    guards = (by_receipt_and_down(at), by_agent(at), by_power(at))
    proved = next((guard for guard in guards if guard.verdict is Verdict.PASS), None)
    if proved is not None:
        return Go({"evidence": proved.facts, "by": proved.name}, changes={"evidence": proved.facts})
    tried = "; ".join(f"{guard.name}: {guard.facts}" for guard in guards)
    late = at.seen.phase_age_s() > at.rules.fence_hold_s
    held = f"no proof that {old} is down. {tried}. Fencing goes on; `failoverctl cancel {at.operation.id}` gives it up"
    return Wait(f"fencing {old}", channels(at), held if late else None, guards)


def by_receipt_and_down(at: Situation) -> Guard:
    """A receipt stays true for ever, so one of an earlier fence would do: it counts with its guardian's word of now."""
    old, epoch = at.operation.old, at.operation.old_epoch
    receipt, status = at.seen.receipts.get(old), at.seen.status(old, at.rules.gone_s)
    if receipt is None or receipt.value.closes < epoch:
        return Guard("receipt", Verdict.BLOCK, f"no receipt of {old} closes epoch {epoch}")
    if status is None or status.role is not Role.DOWN:
        doing = f"its database is {status.role.value}" if status else "it is silent now"
        return Guard("receipt", Verdict.BLOCK, f"receipt of {old} closes epoch {receipt.value.closes}, but {doing}")
    facts = f"its guardian says so, and its receipt closes epoch {receipt.value.closes}: {receipt.value.method}"
    return Guard("receipt", Verdict.PASS, facts)


def _gives_way(at: Situation) -> str | None:
    """There is one operation at a time, so a fence of a standby must never stand in the way of a dying primary."""
    grant = at.seen.grant.value if at.seen.grant else None
    if grant is None or grant.member is None:
        return "the grant names nobody"
    if grant.member == at.operation.old:
        return f"{grant.member} has the grant by now"
    finding = judge_primary(at.seen, at.rules, grant)
    return f"a failover is needed: {finding.why}" if finding.lost else None


TABLE: tuple[Row, ...] = (
    Row("opened", DONE, "fence", "the member is proved down; it stays down until it is told to rejoin", fence),
)
