"""What a person may do when something is wrong: fence a member, swear that one is fenced, bring one back, give an operation up,
acknowledge a failover.

Judged like every request (requests.py): in one transaction with the answer, or refused with every reason and the next command.
"""

from __future__ import annotations

from dataclasses import replace

from failover.core.candidate import unfitness
from failover.core.machine import step_of
from failover.core.model import (
    Grant,
    Operation,
    OperationKind,
    Policy,
    RejoinOrder,
    RejoinWay,
    Replication,
    Request,
)  # fmt: skip
from failover.core.observation import Observation
from failover.core.opening import may_open, open_operation, opening_writes
from failover.core.plan import Create, Erase, Key, Kind, Swap, Write
from failover.core.rules import Rules
from failover.core.tables import TABLES

Judgement = tuple[list[str], tuple[Write, ...], str | None]
BEFORE_CLAIM = ("opened", "prepared", "stopping")
BY_HAND = "confirmed-by-hand"
CANCELLED = "cancelled"


# --- fence ------------------------------------------------------------------------------------------------------------------
def fence(seen: Observation, rules: Rules, request: Request) -> Judgement:
    """Open the operation that proves it down, and keep it down from now on."""
    assert seen.grant is not None and seen.policy is not None
    grant, policy, member = seen.grant.value, seen.policy, request.target or ""
    reasons = may_open(seen, policy)
    if rules.member(member) is None:
        reasons.append(_nobody(rules, request.target))
    elif grant.member == member:
        reasons.append(f"{member} is the primary: `failoverctl failover` fences it and promotes another")
    elif would_block(seen, rules, grant, policy.value, member):
        reasons.append(
            f"writes on {grant.member} would block: replication is strict, and no standby but {member} streams and may "
            "acknowledge them; bring another one back first (`failoverctl status`)"
        )
    if reasons:
        return reasons, (), None
    reason = request.reason or f"asked for by {request.by}"
    closes = max(grant.epoch - 1, 0)  # every epoch before the present grant's: it has none of its own to lose
    operation = open_operation(seen, OperationKind.FENCE, member, closes, reason, request.by, None, request.id)
    fenced = replace(
        policy.value, fenced=(*(m for m in policy.value.fenced if m != member), member),
        rejoin=tuple(order for order in policy.value.rejoin if order.member != member),
    )  # fmt: skip
    return [], opening_writes(seen, replace(policy, value=fenced), operation), operation.id


def would_block(seen: Observation, rules: Rules, grant: Grant, policy: Policy, member: str) -> bool:
    """Would commits wait for ever without `member`?"""
    if rules.replication is not Replication.STRICT or grant.member is None:
        return False
    streaming = {m.name for m in rules.others(grant.member) if (s := seen.status(m.name, rules.gone_s)) and s.streaming}
    if member not in streaming:
        return False  # it holds nothing up now, so taking it away does not either
    others = [m for m in rules.others(grant.member) if m.name in streaming and m.name != member]
    return not any(unfitness(m, policy, m.name) is None for m in others)


# --- confirm-fenced -----------------------------------------------------------------------------------------------------------
def confirm_fenced(seen: Observation, rules: Rules, request: Request) -> Judgement:
    """A person's word in place of evidence: it replaces CONFIRM, never the count of those who can testify."""
    member, running = request.target or "", seen.operation
    reasons = []
    if running is None:
        reasons.append("no operation is under way, so nothing waits for a confirmation: `failoverctl status`")
    elif running.value.phase != "claimed":
        doing = running.value
        reasons.append(
            f"{doing.kind.value} {doing.id} is in phase {doing.phase} and does not wait for a confirmation: "
            f"`failoverctl timeline {doing.id}`"
        )
    elif running.value.old != member:
        old = running.value.old
        reasons.append(f"{running.value.id} waits for proof about {old}, not {member}: `failoverctl confirm-fenced {old}`")
    elif running.value.fenced_by:
        reasons.append(f"confirmed already by {running.value.fenced_by}: `failoverctl timeline {running.value.id}`")
    if not request.reason:
        reasons.append('a reason is needed, it is kept in the journal: --reason "power cable pulled, seen by ..."')
    if not request.confirm:
        reasons.append(f"the host's name must be typed: `failoverctl confirm-fenced {member}` asks for it, or --typed {member}")
    if reasons or running is None:
        return reasons, (), None
    by = f"{request.by}: {request.reason}"
    writes = (
        Swap(Key(Kind.OPERATION), replace(running.value, fenced_by=by, held=None), running.version),
        _line(seen, running.value, BY_HAND, f"{member} cannot write, swears {by}", {"member": member, "by": request.by}),
    )
    return [], writes, running.value.id


# --- cancel -------------------------------------------------------------------------------------------------------------------
def cancel(seen: Observation, rules: Rules, request: Request) -> Judgement:
    """Give an operation up while nothing irrevocable was done. Against CLAIM the operation's version decides who was first."""
    assert seen.policy is not None
    running = seen.operation
    if running is None:
        return ["no operation is under way: `failoverctl history` tells how the last one ended"], (), None
    doing = running.value
    if request.target and request.target != doing.id:
        return [f"{request.target} is not under way; {doing.kind.value} {doing.id} is: `failoverctl cancel {doing.id}`"], (), None
    if doing.phase not in BEFORE_CLAIM:
        return [f"{doing.id} is in phase {doing.phase}: it only rolls forward now: `failoverctl timeline {doing.id}`"], (), None
    why = f"given up by {request.by}" + (f": {request.reason}" if request.reason else "")
    policy = _policy_after(seen.policy.value, doing)
    writes: list[Write] = [Erase(Key(Kind.OPERATION), running.version), _line(seen, doing, CANCELLED, why, {"by": request.by})]
    if policy != seen.policy.value:
        writes.append(Swap(Key(Kind.POLICY), policy, seen.policy.version))
    return [], tuple(writes), doing.id


def _policy_after(policy: Policy, given_up: Operation) -> Policy:
    """A fence that was given up no longer keeps its member down; a failover starts the cool-down, or it would be back at once."""
    if given_up.kind is OperationKind.FENCE:
        return replace(policy, fenced=tuple(m for m in policy.fenced if m != given_up.old))
    return replace(policy, last_failover=given_up.id) if given_up.kind is OperationKind.FAILOVER else policy


# --- ack ----------------------------------------------------------------------------------------------------------------------
def ack(seen: Observation, rules: Rules, request: Request) -> Judgement:
    """A person has looked at the last failover: its cool-down is over, the leader may fail over by itself again."""
    assert seen.policy is not None
    last = seen.policy.value.last_failover
    if last is None:
        return ["no cool-down counts: nothing was failed over since the last acknowledgement"], (), None
    if request.target and request.target != last:
        return [f"the cool-down is {last}'s, not {request.target}'s: `failoverctl timeline {last}`, then `ack {last}`"], (), None
    return [], (Swap(Key(Kind.POLICY), replace(seen.policy.value, last_failover=None), seen.policy.version),), None


# --- rejoin -------------------------------------------------------------------------------------------------------------------
def rejoin(seen: Observation, rules: Rules, request: Request) -> Judgement:
    """Take it out of `fenced`, and consent to what its guardian needs to bring it back: a rewind, or a new copy."""
    assert seen.grant is not None and seen.policy is not None
    policy, member = seen.policy, request.target or ""
    way = request.way or RejoinWay.REWIND
    known = rules.member(member)
    if known is None:
        return [_nobody(rules, request.target)], (), None
    reasons = []
    doing = seen.operation.value if seen.operation else None
    status = seen.status(member, rules.gone_s)
    if seen.grant.value.member == member:
        reasons.append(f"{member} is the primary: there is nothing for it to rejoin; `failoverctl status`")
    elif doing and doing.old == member:
        then = f"`failoverctl cancel {doing.id}`" if doing.kind is OperationKind.FENCE else f"`failoverctl timeline {doing.id}`"
        reasons.append(f"{doing.kind.value} {doing.id} of {member} is under way: {then}")
    elif not known.guarded and member not in policy.value.fenced:
        reasons.append(f"{member} has no guardian that could bring it back: copy it anew, then `failover-guardian release` there")
    elif status is not None and status.streaming and status.rejoin is None and member not in policy.value.fenced:
        then = f"; for a new copy fence it first: `failoverctl fence {member}`" if way is RejoinWay.RESEED else ""
        reasons.append(f"{member} is in good standing: it streams from {seen.grant.value.member or 'the primary'}{then}")
    if reasons:
        return reasons, (), None
    order = RejoinOrder(member, way, request.by, request.id)
    changed = replace(
        policy.value, fenced=tuple(m for m in policy.value.fenced if m != member),
        rejoin=(*(o for o in policy.value.rejoin if o.member != member), order),
    )  # fmt: skip
    return [], (Swap(Key(Kind.POLICY), changed, policy.version),), None


def rejoined(seen: Observation, rules: Rules, policy: Policy) -> Policy | None:
    """The policy without the orders that are carried out: their members have streamed from the primary for a while. Or None."""
    left = tuple(order for order in policy.rejoin if not _follows(seen, rules, order.member))
    return replace(policy, rejoin=left) if left != policy.rejoin else None


def _follows(seen: Observation, rules: Rules, member: str) -> bool:
    status = seen.status(member, rules.gone_s)
    since_s = seen.streaming_since_s.get(member, seen.now_s)
    well = status is not None and status.streaming and status.rejoin is None and seen.now_s - since_s > rules.gone_s
    return well or (seen.grant is not None and seen.grant.value.member == member)


def _line(seen: Observation, operation: Operation, kind: str, says: str, facts: dict[str, str]) -> Create:
    """A journal line of the step that the operation is in."""
    assert seen.term is not None
    number, step = next(
        ((n, row.step) for n, row in enumerate(TABLES[operation.kind], start=1) if row.phase == operation.phase), (0, "operation")
    )
    return step_of(operation, seen, seen.term, number, f"{step}.{kind}", says, facts)


def _nobody(rules: Rules, member: str | None) -> str:
    return f"no member {member}; there are: {', '.join(m.name for m in rules.members)}"
