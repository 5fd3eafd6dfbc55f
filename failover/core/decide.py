"""The leader's one entry: an observation in, a plan out. Short branches in order of precedence; each hands over to one file.

Safety does not rest on this being right: every write checks versions, and nothing enabling happens without a guardian's
own proof. What rests on it is that the right thing happens soon.
"""

from __future__ import annotations

from dataclasses import replace

from failover.core.candidate import unfitness
from failover.core.detector import judge_primary
from failover.core.interventions import rejoined
from failover.core.invariants import check_observation
from failover.core.machine import Situation, walk
from failover.core.model import Grant, Mode, OperationKind, Policy, Role, Stored
from failover.core.observation import Observation
from failover.core.opening import open_operation, opening_writes
from failover.core.plan import Action, Check, Erase, Fence, Guard, Key, Kind, MoveVip, Plan, Swap, SwitchDns, Verdict, Write
from failover.core.replication import next_edit, next_promotable, next_record
from failover.core.requests import judge, unpaused
from failover.core.rules import Rules
from failover.core.tables import TABLES

ANSWER_KEPT_S = 600.0


def decide(seen: Observation, rules: Rules) -> Plan:
    """What the leader should do now. Pure; the same observation always gives the same plan."""
    if seen.term is None or seen.policy is None:
        return Plan(says="the records are not read yet")
    check_observation(seen)
    pending = next((s.value for i, s in sorted(seen.requests.items()) if i not in seen.answers), None)
    if pending is not None:
        return judge(seen, rules, seen.term, pending)
    if seen.operation is not None:
        plan = walk(TABLES, Situation(seen, rules, seen.operation.value), seen.term, seen.operation)
        return plan if seen.operation.value.kind is not OperationKind.FENCE else _beside(plan, seen, rules, seen.term)
    tidy = _housekeeping(seen, rules, seen.term, seen.policy)
    if tidy is not None:
        return tidy
    if seen.grant is None or seen.grant.value.member is None:
        return Plan(says="not adopted: `failoverctl adopt`" if seen.grant is None else "the grant names nobody")
    return _watch(seen, rules, seen.term, seen.grant, seen.policy)


def _watch(seen: Observation, rules: Rules, term: Stored[int], grant: Stored[Grant], policy: Stored[Policy]) -> Plan:
    finding = judge_primary(seen, rules, grant.value)
    if not finding.lost:
        upkeep = _upkeep(seen, rules, term, grant)
        return replace(upkeep, says=upkeep.says or finding.why, guards=finding.guards)
    primary = grant.value.member
    assert primary is not None
    guards = (*finding.guards, *_may_act(seen, rules, policy.value, primary))
    blocked = [guard for guard in guards if guard.verdict is not Verdict.PASS]
    if blocked:
        return Plan(says=f"{finding.why}; not acting: {blocked[0].facts}", guards=guards)
    operation = open_operation(seen, OperationKind.FAILOVER, primary, grant.value.epoch, finding.why, f"automatic ({seen.me})")
    writes = (Check(Key(Kind.TERM), term.version), *opening_writes(seen, policy, operation))
    return Plan(writes=writes, says=f"failover {operation.id}: {finding.why}", guards=guards)


def _beside(fencing: Plan, seen: Observation, rules: Rules, term: Stored[int]) -> Plan:
    """The fence of a standby may take long: the primary's care goes on meanwhile, a failover must find the sync set right."""
    assert seen.operation is not None and seen.policy is not None
    if fencing.writes or seen.grant is None or seen.grant.value.member is None:
        return fencing
    care = _housekeeping(seen, rules, term, seen.policy) or _upkeep(seen, rules, term, seen.grant)
    if care.writes:
        return replace(care, writes=(*care.writes, Check(Key(Kind.OPERATION), seen.operation.version)))
    return replace(fencing, actions=(*fencing.actions, *care.actions))


def _may_act(seen: Observation, rules: Rules, policy: Policy, primary: str) -> tuple[Guard, ...]:
    since = seen.last_failover_since_s
    left_s = rules.cooldown_s - (seen.now_s - since) if since is not None and policy.last_failover else 0.0
    willing = [
        m.name for m in rules.others(primary) if m.failover.value == "automatic" and unfitness(m, policy, None) is None
    ]  # fmt: skip
    cooling = f"cool-down after {policy.last_failover}: {left_s:.1f} s left, `failoverctl ack` ends it" if left_s > 0 else "over"
    return (
        _guard("mode", policy.mode is Mode.AUTOMATIC, f"mode is {policy.mode.value}"),
        _guard("not paused", not policy.paused, f"paused by {policy.paused_by}" if policy.paused else "not paused"),
        _guard(
            "not in maintenance", not policy.in_maintenance(primary),
            f"{primary} is {'' if policy.in_maintenance(primary) else 'not '}in maintenance",
        ),
        _guard("cool-down", left_s <= 0, cooling),
        _guard("somebody may take over", bool(willing), f"automatic candidates: {', '.join(willing) or 'none'}"),
    )


def _guard(name: str, passed: bool, facts: str) -> Guard:
    return Guard(name, Verdict.PASS if passed else Verdict.BLOCK, facts)


def _upkeep(seen: Observation, rules: Rules, term: Stored[int], grant: Stored[Grant]) -> Plan:
    """A healthy cluster's care: the sync set follows the standbys, the promotable list what people set aside; VIP and DNS are
    where they should be."""
    edit = next_edit(seen, rules, grant.value) or next_promotable(seen, rules, grant.value)
    changed, says = edit or (grant.value, "")
    record = next_record(seen, rules, changed)
    writes: list[Write] = [Swap(Key(Kind.GRANT), changed, grant.version)] if edit else []
    if record is not None and seen.policy is not None:
        writes.append(Swap(Key(Kind.POLICY), record, seen.policy.version))
        waits = "waits for a standby again" if record.degraded[-1].ended_at_wall else "waits for nobody from here on"
        says = "; ".join(text for text in (says, f"replication: sync {waits}") if text)
    if writes:
        return Plan((Check(Key(Kind.TERM), term.version), *writes), says=says)
    return Plan(actions=_drift(seen, rules, grant.value))


def _drift(seen: Observation, rules: Rules, grant: Grant) -> tuple[Action, ...]:
    status = seen.status(grant.member or "", rules.gone_s)
    if grant.member is None or status is None or not status.writable or status.epoch != grant.epoch:
        return ()
    if seen.policy and (seen.policy.value.mode is Mode.OBSERVE or seen.policy.value.paused):
        return ()
    actions: list[Action] = []
    if rules.has_vip and not status.vip:
        actions.append(MoveVip(grant.member, grant.epoch))
    if rules.has_dns:
        member = rules.member(grant.member)
        actions.append(SwitchDns(rules.service_address or (member.address if member else ""), grant.epoch))
    return (*actions, *_strays(seen, rules, grant))


def _strays(seen: Observation, rules: Rules, grant: Grant) -> tuple[Action, ...]:
    """A former primary that comes back as one, with no guardian beside it to know better (its host was switched off, or cut)."""
    policy = seen.policy.value if seen.policy else Policy()
    return tuple(
        Fence(m.name, grant.epoch - 1)
        for m in rules.others(grant.member)
        if not m.guarded and (s := seen.status(m.name, rules.gone_s)) is not None and s.role is Role.PRIMARY
        and not policy.in_maintenance(m.name)
    )  # fmt: skip


def _housekeeping(seen: Observation, rules: Rules, term: Stored[int], policy: Stored[Policy]) -> Plan | None:
    """Pauses, maintenance and consents to a rejoin end by themselves; answered requests do not pile up."""
    value = policy.value
    check = Check(Key(Kind.TERM), term.version)
    paused_s = seen.now_s - seen.pause_since_s if seen.pause_since_s is not None else 0.0
    if value.paused_for_s is not None and paused_s >= value.paused_for_s:
        return Plan((check, Swap(Key(Kind.POLICY), unpaused(value), policy.version)), says="the pause has ended")
    over = [m for m in value.maintenance if seen.now_s - seen.maintenance_since_s.get(m.member, seen.now_s) >= m.for_s]
    if over:
        kept = replace(value, maintenance=tuple(m for m in value.maintenance if m not in over))
        names = ", ".join(m.member for m in over)
        return Plan((check, Swap(Key(Kind.POLICY), kept, policy.version)), says=f"maintenance of {names} has ended")
    followed = rejoined(seen, rules, value)
    if followed is not None:
        return Plan((check, Swap(Key(Kind.POLICY), followed, policy.version)), says="a member has rejoined")
    for name, answer in seen.answers.items():
        request = seen.requests.get(name)
        if seen.now_s - answer.seen_at_s > ANSWER_KEPT_S:
            writes = [Erase(Key(Kind.ANSWER, name), answer.version)]
            if request is not None:
                writes.insert(0, Erase(Key(Kind.REQUEST, name), request.version))
            return Plan((check, *writes))
    return None
