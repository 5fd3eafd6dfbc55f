"""Who takes over, and why not the others.

S2 is decided here: under `strict` every sync set that could have acknowledged a commit must meet the sealed members
(r + w > |S| for *every* recorded pair, histories compared), and the chosen one stands at or above every sealed report.
If policy excludes the most advanced member the answer is *hold*: choosing a lesser one would lose what was acknowledged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from failover.core.model import Grant, Member, MemberStatus, Policy, Position, Replication, Willingness
from failover.core.rules import Rules

MAY_HAVE_LOST = "may have lost log that it acknowledged when it was restarted or copied; it counts again once it has caught up"


@dataclass(frozen=True)
class Choice:
    """Either a `candidate`, or `hold` with the reason. `rejected` has one (member, reason) for every other member."""

    candidate: str | None
    hold: str | None
    rejected: tuple[tuple[str, str], ...]


def choose(
    rules: Rules, grant: Grant, policy: Policy, sealed: Mapping[str, Position], old: str, target: str | None,
    returned: Position | None = None,
) -> Choice:  # fmt: skip
    """Pick among the members that are `sealed` for this claim, at these positions.

    `returned`: the fenced old primary is back as a standby, with its data, here. It has everything it ever acknowledged,
    so when nobody else may be chosen it is granted back instead of holding for ever.
    """
    choice = _among_others(rules, grant, policy, sealed, old, target)
    if choice.candidate is None and returned is not None and all(returned.covers(p) for p in sealed.values()):
        others = tuple((name, why) for name, why in choice.rejected if name != old)
        return Choice(old, None, others)
    return choice


def _among_others(
    rules: Rules, grant: Grant, policy: Policy, sealed: Mapping[str, Position], old: str, target: str | None
) -> Choice:
    rejected = {m.name: "no sealed report for this claim" for m in rules.others(old) if m.name not in sealed}
    rejected[old] = "the old primary of this operation"
    uncounted = count_shortfall(rules, grant, sealed)
    if uncounted:
        return Choice(None, uncounted, tuple(sorted(rejected.items())))
    eligible: list[Member] = []
    for member in rules.others(old):
        if member.name in sealed:
            unfit = unfitness(member, policy, target)
            if unfit:
                rejected[member.name] = unfit
            else:
                eligible.append(member)
    ahead = _not_behind_any(eligible, sealed, rejected)
    if not ahead:
        reason = "no eligible member stands at or above every sealed report" if eligible else "no eligible member"
        detail = "; ".join(f"{name}: {why}" for name, why in sorted(rejected.items()) if name != old)
        return Choice(None, f"{reason} ({detail})", tuple(sorted(rejected.items())))
    best = sorted(ahead, key=lambda m: (m.name != target, -m.priority, m.name))[0]
    for other in ahead:
        if other is not best:
            rejected[other.name] = f"as advanced as {best.name}, which is preferred"
    return Choice(best.name, None, tuple(sorted(rejected.items())))


def unfitness(member: Member, policy: Policy, target: str | None) -> str | None:
    """Why policy does not let this member lead now, or None."""
    if policy.in_maintenance(member.name):
        return "in maintenance"
    if member.name in policy.fenced:
        return "fenced by hand"
    if not member.guarded:
        return "has no guardian: cannot prove a grant"
    if member.failover is Willingness.NEVER:
        return "failover: never"
    if member.failover is Willingness.MANUAL and member.name != target:
        return "failover: manual, and nobody named it"
    return None


def late(status: MemberStatus, rules: Rules) -> list[str]:
    """Why this standby would have to replay for longer than a switchover should take."""
    reasons = ["its replay is paused"] if status.paused_replay else []
    if status.replay_lag_bytes is not None and status.replay_lag_bytes > rules.lag_max_bytes:
        reasons.append(f"{status.replay_lag_bytes} bytes behind, more than lag_max ({rules.lag_max_bytes})")
    return reasons


def count_shortfall(rules: Rules, grant: Grant, sealed: Mapping[str, Position]) -> str | None:
    """Why the sealed members do not prove that nothing acknowledged is missing, or None if they do (or none was promised)."""
    if rules.replication is not Replication.STRICT:
        return None
    for pair in grant.sync:
        counted = frozenset(
            name for name in pair.names if name in sealed and (not pair.history or sealed[name].descends_from(pair.history))
        )
        if not pair.satisfied_by(counted):
            have = ", ".join(sorted(counted)) or "none"
            return (
                f"strict: a commit may have been acknowledged by {pair.w} of ({', '.join(pair.names)}) and only "
                f"{have} of them can testify; {len(pair.names) - pair.w + 1} needed"
            )
    return None


def _not_behind_any(eligible: list[Member], sealed: Mapping[str, Position], rejected: dict[str, str]) -> list[Member]:
    ahead = []
    for member in eligible:
        mine = sealed[member.name]
        missing = [name for name, position in sealed.items() if not mine.covers(position)]
        if missing:
            rejected[member.name] = _shortfall(mine, sealed[missing[0]], missing[0])
        else:
            ahead.append(member)
    return ahead


def _shortfall(mine: Position, ahead: Position, name: str) -> str:
    behind = mine.behind(ahead)
    if not behind:
        return f"its history does not contain that of {name}"
    return f"{amount(behind, mine.unit)} behind {name}"


def amount(count: int, unit: str) -> str:
    """So many `unit`s (their plural) in words."""
    return f"{count} {unit.removesuffix('s') if count == 1 else unit}"
