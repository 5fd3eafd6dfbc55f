"""What a person asked for, judged once, in one place. Every refusal lists all of its reasons and changes nothing."""

from __future__ import annotations

from dataclasses import replace

from failover.core import interventions
from failover.core.candidate import MAY_HAVE_LOST, late, unfitness
from failover.core.interventions import Judgement
from failover.core.model import (
    Answer,
    Grant,
    Maintenance,
    MemberStatus,
    OperationKind,
    Policy,
    Position,
    Replication,
    Request,
    RequestKind,
    Role,
    Stored,
    SyncSet,
)  # fmt: skip
from failover.core.observation import Observation
from failover.core.opening import may_open, open_operation, opening_writes
from failover.core.plan import Check, Create, Key, Kind, Plan, Swap, Write
from failover.core.rules import Rules

HOUR_S = 3600.0


def judge(seen: Observation, rules: Rules, term: Stored[int], request: Request) -> Plan:
    """Answer one request: the writes that carry it out and the answer, in one transaction."""
    reasons = _common(seen, request)
    writes: tuple[Write, ...] = ()
    operation: str | None = None
    if not reasons:
        reasons, writes, operation = _JUDGES[request.kind](seen, rules, request)
    answer = Answer(request.id, not reasons, tuple(reasons), operation, seen.me)
    reply = Create(Key(Kind.ANSWER, request.id), answer)
    says = f"request {request.kind.value} by {request.by}: " + ("; ".join(reasons) if reasons else "accepted")
    still_there = Check(Key(Kind.REQUEST, request.id), 0)  # never edited; one that was withdrawn must not fire
    return Plan(writes=(Check(Key(Kind.TERM), term.version), still_there, *(() if reasons else writes), reply), says=says)


def _common(seen: Observation, request: Request) -> list[str]:
    reasons = []
    primary = seen.grant.value.member if seen.grant else None
    if request.expect_primary and request.expect_primary != primary:
        reasons.append(f"--expect-primary {request.expect_primary}: the primary is {primary or 'nobody'}")
    if seen.policy is None:
        reasons.append("the policy record was not read yet; ask again")
    if seen.grant is None and request.kind is not RequestKind.ADOPT:
        reasons.append("nothing is adopted yet: run `failoverctl adopt` first")
    return reasons


def _adopt(seen: Observation, rules: Rules, request: Request) -> Judgement:
    assert seen.policy is not None
    if seen.grant is not None:
        return [f"already adopted: epoch {seen.grant.value.epoch}, primary {seen.grant.value.member or 'nobody'}"], (), None
    reasons = []
    found: dict[str, MemberStatus] = {}
    for member in rules.members:
        status = seen.status(member.name, rules.gone_s)
        if status is None:
            reasons.append(f"{member.name}: no guardian reports from there")
        else:
            found[member.name] = status
    primaries = [name for name, status in found.items() if status.role is Role.PRIMARY]
    if len(primaries) != 1:
        reasons.append(f"exactly one primary is needed, found {', '.join(primaries) or 'none'}")
    identifiers = {status.system_identifier for status in found.values() if status.system_identifier}
    if len(identifiers) > 1:
        each = ", ".join(f"{name} has {status.system_identifier}" for name, status in sorted(found.items()))
        reasons.append(f"wrong system identifier: {each}")
    for name, status in found.items():
        if name not in primaries and not (status.role is Role.STANDBY and status.streaming):
            reasons.append(f"{name}: is {status.role.value} and does not stream from the primary")
        reasons += [f"{name}: {problem}" for problem in status.problems]
    if reasons:
        return reasons, (), None
    primary = primaries[0]
    known = rules.member(primary)
    if known and not known.guarded and rules.replication is not Replication.ASYNC:
        text = f"{primary} is primary and has no guardian: nobody there could prove sync names, and replication is"
        return [f"{text} {rules.replication.value}"], (), None
    position = seen.position_of(primary)
    before = _has_a_past(found[primary], position)
    if before and not request.confirm:
        reasons.append(
            f"{primary} {before}, and there is no record of it here: wrong ZooKeeper address? If this is a first adoption, ask "
            "again with --confirm"
        )
        return reasons, (), None
    sync = found[primary].applied_sync
    pairs = (SyncSet(sync.w, sync.names, position.history_id() if position else ""),) if sync and sync.names else ()
    grant = Grant(
        primary, 1, rules.promotable_beside(primary), () if rules.replication is Replication.ASYNC else pairs,
        system_identifier=identifiers.pop() if identifiers else "",
    )  # fmt: skip
    return [], (Create(Key(Kind.GRANT), grant),), None


def _has_a_past(primary: MemberStatus, position: Position | None) -> str | None:
    """The sign that this cluster was failed over, or was the product's, before; where positions have no history, our own rows."""
    history = position.history_id() if position else ""
    if history not in ("", "1"):
        return f"is on history {history}, so something has failed over before"
    if position is not None and not history and primary.heartbeat is not None:
        return f"has heartbeats of epoch {primary.heartbeat[0]}, so it was adopted before"
    return None


def _switchover(seen: Observation, rules: Rules, request: Request) -> Judgement:
    grant, policy = _needed(seen)
    reasons = may_open(seen, policy)
    old = grant.value.member
    status = seen.status(old or "", rules.gone_s)
    if old is None or status is None or not status.writable:
        reasons.append(
            f"{old or 'nobody'} does not take writes now: a switchover needs a healthy primary, see `failoverctl failover`"
        )
    known = rules.member(old or "")
    if known and not known.guarded:
        reasons.append(f"{old} has no guardian, so nobody there could hand over in order: use `failoverctl failover`")
    fit, unfit = _targets(seen, rules, policy.value, old, request.target)
    if request.target and old == request.target:
        reasons.append(f"{request.target} is the primary already")
    elif not fit:
        reasons += unfit or ["no standby can take over"]
    if reasons:
        return reasons, (), None
    return _open(seen, request, OperationKind.SWITCHOVER, old or "", grant, policy, fit[0])


def _failover(seen: Observation, rules: Rules, request: Request) -> Judgement:
    grant, policy = _needed(seen)
    reasons = may_open(seen, policy)
    old = grant.value.member
    if old is None:
        reasons.append("the grant names nobody: an operation must be under way")
    if request.target == old:
        reasons.append(f"{request.target} is the primary already")
    elif request.target and rules.member(request.target) is None:
        reasons.append(f"no member {request.target}; there are: {', '.join(m.name for m in rules.members)}")
    elif request.target:
        reasons += _absent(seen, rules, request.target)
    if reasons:
        return reasons, (), None
    return _open(seen, request, OperationKind.FAILOVER, old or "", grant, policy, request.target)


def _absent(seen: Observation, rules: Rules, target: str) -> list[str]:
    """Why `target` could not even report to be chosen: taking the primary down for it would be an outage for nothing."""
    status = seen.status(target, rules.gone_s)
    if status is None:
        return [f"{target}: its guardian says nothing"]
    if status.role is not Role.STANDBY:
        return [f"{target}: its database is {status.role.value}, not a standby"]
    return [f"{target}: {status.rejoin}"] if status.rejoin else []


def _pause(seen: Observation, rules: Rules, request: Request) -> Judgement:
    _, policy = _needed(seen)
    for_s = request.for_s if request.for_s is not None else HOUR_S
    paused = replace(
        policy.value, paused_for_s=for_s, paused_reason=request.reason, paused_by=request.by, paused_at_wall=seen.wall
    )
    return [], (Swap(Key(Kind.POLICY), paused, policy.version),), None


def _resume(seen: Observation, rules: Rules, request: Request) -> Judgement:
    _, policy = _needed(seen)
    return [], (Swap(Key(Kind.POLICY), unpaused(policy.value), policy.version),), None


def unpaused(policy: Policy) -> Policy:
    return replace(policy, paused_for_s=None, paused_reason="", paused_by="", paused_at_wall="")


def _maintenance_on(seen: Observation, rules: Rules, request: Request) -> Judgement:
    _, policy = _needed(seen)
    if rules.member(request.target or "") is None:
        return [f"no member {request.target}; there are: {', '.join(m.name for m in rules.members)}"], (), None
    entry = Maintenance(request.target or "", request.for_s or HOUR_S, request.reason, request.by)
    kept = tuple(m for m in policy.value.maintenance if m.member != entry.member)
    return [], (Swap(Key(Kind.POLICY), replace(policy.value, maintenance=(*kept, entry)), policy.version),), None


def _maintenance_off(seen: Observation, rules: Rules, request: Request) -> Judgement:
    _, policy = _needed(seen)
    kept = tuple(m for m in policy.value.maintenance if m.member != request.target)
    if len(kept) == len(policy.value.maintenance):
        return [f"{request.target} is not in maintenance"], (), None
    return [], (Swap(Key(Kind.POLICY), replace(policy.value, maintenance=kept), policy.version),), None


def _needed(seen: Observation) -> tuple[Stored[Grant], Stored[Policy]]:
    assert seen.grant is not None and seen.policy is not None  # _common has refused otherwise
    return seen.grant, seen.policy


def _targets(
    seen: Observation, rules: Rules, policy: Policy, old: str | None, target: str | None
) -> tuple[list[str], list[str]]:
    """Members fit for a loss-free move, best first, and a reason for each that is not."""
    if target and rules.member(target) is None:
        return [], [f"no member {target}; there are: {', '.join(m.name for m in rules.members)}"]
    fit, unfit = [], []
    for member in sorted(rules.others(old), key=lambda m: (-m.priority, m.name)):
        if target and member.name != target:
            continue
        trouble = [reason for reason in (unfitness(member, policy, target), *_unready(seen, rules, member.name)) if reason]
        unfit += [f"{member.name}: {reason}" for reason in trouble]
        if not trouble:
            fit.append(member.name)
    return fit, unfit


def _unready(seen: Observation, rules: Rules, member: str) -> list[str]:
    status = seen.status(member, rules.gone_s)
    if status is None:
        return ["its guardian says nothing"]
    reasons = [status.rejoin] if status.rejoin else []
    if not status.testifies and not status.rejoin:
        reasons.append(MAY_HAVE_LOST)
    if not status.streaming:
        reasons.append("does not stream from the primary")
    return [*reasons, *late(status, rules)]


def _open(
    seen: Observation, request: Request, kind: OperationKind, old: str, grant: Stored[Grant], policy: Stored[Policy],
    target: str | None,
) -> Judgement:  # fmt: skip
    reason = request.reason or f"asked for by {request.by}"
    operation = open_operation(seen, kind, old, grant.value.epoch, reason, request.by, target, request.id)
    return [], opening_writes(seen, policy, operation), operation.id


_JUDGES = {
    RequestKind.ADOPT: _adopt,
    RequestKind.SWITCHOVER: _switchover,
    RequestKind.FAILOVER: _failover,
    RequestKind.PAUSE: _pause,
    RequestKind.RESUME: _resume,
    RequestKind.MAINTENANCE_ON: _maintenance_on,
    RequestKind.MAINTENANCE_OFF: _maintenance_off,
    RequestKind.FENCE: interventions.fence,
    RequestKind.CONFIRM_FENCED: interventions.confirm_fenced,
    RequestKind.REJOIN: interventions.rejoin,
    RequestKind.CANCEL: interventions.cancel,
    RequestKind.ACK: interventions.ack,
}
