"""What would happen if this member died now? The leader's own functions, asked about a world that is not there.

Nothing is re-told here: the guards come from `decide`, the ranking from `choose`, the steps from the phase table and the fate
of a silent host from that table's own rules. What the asker cannot know is said (`notes`), never assumed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from failover.core.candidate import MAY_HAVE_LOST, Choice, amount, choose, count_shortfall, late
from failover.core.confirm import confirm
from failover.core.decide import decide
from failover.core.machine import Go, Situation, Wait
from failover.core.model import (
    Claim,
    Grant,
    Operation,
    OperationKind,
    Policy,
    Position,
    Receipt,
    Replication,
    Seal,
    Stored,
)  # fmt: skip
from failover.core.observation import Observation
from failover.core.plan import Create, Verdict
from failover.core.problems import is_standby
from failover.core.replication import next_edit, wanted_names
from failover.core.rules import Rules
from failover.core.tables import TABLES

IDLE_S = 1e6  # a hypothetical phase that has lasted long: what will be said when nothing new is learned


@dataclass(frozen=True)
class Rank:
    """One member's chance. `lag` (in `lag_unit`s) is to the most advanced standby or the primary; `why` is empty if chosen."""

    member: str
    position: str | None
    lag: int | None
    chosen: bool
    why: str
    lag_unit: str = "bytes"


@dataclass(frozen=True)
class Hypothesis:
    """`says` is for people. `verdict`: failover, hold, blocked (the leader would not act), nothing (needed), writes-block."""

    member: str
    role: str
    verdict: str
    says: str
    candidate: str | None = None
    ranking: tuple[Rank, ...] = ()
    steps: tuple[tuple[str, str], ...] = ()
    blockers: tuple[str, ...] = ()
    at_risk: str = ""
    notes: tuple[str, ...] = ()


def if_dies(seen: Observation, rules: Rules, member: str, cooldown_left_s: float | None = None) -> Hypothesis:
    """The answer for `member`. `cooldown_left_s`: the asker's estimate, 0 if over, None if there is none to be known."""
    grant = seen.grant.value if seen.grant else None
    if rules.member(member) is None:
        return Hypothesis(member, "none", "blocked", f"{member} is no member; there are: {_names(rules)}")
    if grant is None:
        return Hypothesis(member, "not adopted", "blocked", "this cluster is not adopted: nothing would be done")
    if seen.operation is not None:
        doing = seen.operation.value
        says = f"{doing.kind.value} {doing.id} is under way (phase {doing.phase}); ask again when it has ended"
        return Hypothesis(member, "unknown", "blocked", says)
    if grant.member == member:
        return _primary_dies(seen, rules, grant, member, cooldown_left_s)
    return _standby_dies(seen, rules, grant, member)


# --- the primary ----------------------------------------------------------------------------------------------------------
def _primary_dies(seen: Observation, rules: Rules, grant: Grant, member: str, cooldown_left_s: float | None) -> Hypothesis:
    sealed = standing(seen, rules, member)
    policy = seen.policy.value if seen.policy else Policy()
    choice = choose(rules, grant, policy, sealed, member, None)
    blockers = _blockers(seen, rules, grant, member, cooldown_left_s)
    verdict, says = _verdict(rules, member, choice, blockers)
    return Hypothesis(
        member, "primary", verdict, says,
        candidate=choice.candidate,
        ranking=_ranking(seen, rules, member, sealed, choice),
        steps=tuple((row.step, row.says) for row in TABLES[OperationKind.FAILOVER]),
        blockers=blockers,
        at_risk=_at_risk(seen, rules, grant, member, sealed, choice),
        notes=_notes(seen, rules, grant, member, choice),
    )  # fmt: skip


def standing(seen: Observation, rules: Rules, dead: str) -> dict[str, Position]:
    """Where the living standbys stand now, as if sealed here."""
    found = {}
    for member in rules.others(dead):
        position = seen.position_of(member.name)
        status = seen.status(member.name, rules.gone_s)
        if member.guarded and position is not None and is_standby(status) and status is not None and status.testifies:
            found[member.name] = position
    return found


def _blockers(seen: Observation, rules: Rules, grant: Grant, dead: str, cooldown_left_s: float | None) -> tuple[str, ...]:
    """Why the leader would not act by itself: its own guards, on an observation in which the gate is proved shut."""
    receipt = Stored(Receipt(dead, grant.epoch, "the process died"), 0, seen.now_s - IDLE_S)
    term = seen.term or Stored(0, 0, seen.now_s)
    since_s = seen.now_s - (rules.cooldown_s - cooldown_left_s) if cooldown_left_s is not None else None
    plan = decide(
        replace(
            seen, term=term, receipts={**seen.receipts, dead: receipt}, requests={}, answers={},
            last_failover_since_s=since_s, pause_since_s=seen.now_s, maintenance_since_s={},
        ), rules,
    )  # fmt: skip
    if any(isinstance(write, Create) and isinstance(write.value, Operation) for write in plan.writes):
        return ()
    blocked = tuple(guard.facts for guard in plan.guards if guard.verdict is not Verdict.PASS)
    return blocked or (plan.says or "the leader would not act",)


def _verdict(rules: Rules, member: str, choice: Choice, blockers: tuple[str, ...]) -> tuple[str, str]:
    if blockers:
        then = f"; by hand it would go to {choice.candidate}" if choice.candidate else f"; by hand it would hold: {choice.hold}"
        return "blocked", f"If {member} died now: NO FAILOVER, {'; '.join(blockers)}{then}"
    if choice.candidate is None:
        return "hold", f"If {member} died now: HELD, nobody is promoted: {choice.hold}"
    return "failover", f"If {member} died now: AUTOMATIC FAILOVER -> {choice.candidate}"


def _ranking(
    seen: Observation, rules: Rules, dead: str, sealed: dict[str, Position], choice: Choice
) -> tuple[Rank, ...]:  # fmt: skip
    why = dict(choice.rejected)
    ahead = [*sealed.values(), *([p] if (p := seen.position_of(dead)) else [])]
    ranks = []
    for member in rules.others(dead):
        position = sealed.get(member.name)
        lags = [lag for other in ahead if position and (lag := position.behind(other)) is not None]
        chosen = member.name == choice.candidate
        reason = "" if chosen else _why_absent(seen, rules, member.name) or why.get(member.name, "")
        at, unit = (position.text(), position.unit) if position else (None, "bytes")
        ranks.append(Rank(member.name, at, max(lags, default=None), chosen, reason, unit))
    return tuple(sorted(ranks, key=lambda r: (not r.chosen, r.position is None, r.lag or 0, r.member)))


def _why_absent(seen: Observation, rules: Rules, member: str) -> str | None:
    """Why a member could not be sealed at all, in the words of today."""
    status = seen.status(member, rules.gone_s)
    if status is None:
        return "its guardian says nothing"
    if status.rejoin:
        return status.rejoin
    if not is_standby(status):
        return f"is {status.role.value}, not a standby"
    return None if status.testifies else MAY_HAVE_LOST


def _at_risk(
    seen: Observation, rules: Rules, grant: Grant, dead: str, sealed: dict[str, Position], choice: Choice
) -> str:  # fmt: skip
    if choice.candidate is None:
        return "nothing is lost while it holds; writes wait"
    strictly = replace(rules, replication=Replication.STRICT)
    if any(pair.names for pair in grant.sync) and count_shortfall(strictly, grant, sealed) is None:
        return "nothing: every acknowledged write is on a member that would be sealed"
    chosen, position = sealed[choice.candidate], seen.position_of(dead)
    lag = chosen.behind(position) if position else None
    behind = f"{amount(lag, chosen.unit)} (as last reported)" if lag is not None else f"an unknown number of {chosen.unit}"
    promise = "nobody waits for a standby" if rules.replication is Replication.ASYNC else "no sync set is in force"
    return f"{behind} and what was written since: {promise}"


def _notes(seen: Observation, rules: Rules, grant: Grant, dead: str, choice: Choice) -> tuple[str, ...]:
    notes = []
    silent = confirm(_claimed(seen, rules, grant, dead))
    if isinstance(silent, Wait):
        notes.append(f"if its whole host goes silent: {silent.held or silent.why}")
    elif isinstance(silent, Go):
        notes.append(f"if its whole host goes silent: {silent.facts.get('evidence', 'confirmed')}")
    notes += [note for member in rules.others(dead) if (note := _replays_first(seen, rules, member.name))]
    if choice.candidate is None:
        notes.append(f"if {dead} comes back with its data as a standby, it is granted back")
    if seen.policy and seen.policy.value.last_failover and seen.last_failover_since_s is None:
        notes.append(f"the cool-down after {seen.policy.value.last_failover} is known to the leader only")
    return tuple(notes)


def _replays_first(seen: Observation, rules: Rules, member: str) -> str | None:
    """A standby counts by what it has received; how long the rest takes is for the asker to know."""
    status = seen.status(member, rules.gone_s)
    reasons = late(status, rules) if status is not None and is_standby(status) else []
    if not reasons:
        return None
    return f"{member}: {'; '.join(reasons)}; chosen all the same, for it replays what it has received before it takes a write"


def _claimed(seen: Observation, rules: Rules, grant: Grant, dead: str) -> Situation:
    """The moment after CLAIM against a host that says nothing, a long time later: what can confirm that it is closed?"""
    assert seen.grant is not None
    operation = Operation("op-if", OperationKind.FAILOVER, "claimed", dead, grant.epoch, "hypothesis", "nobody")
    lease = seen.leases.get(dead)
    claim = Claim(dead, grant.epoch, lease.version if lease else 0, operation.id)
    claimed = replace(grant, member=None, epoch=grant.epoch + 1, claim=claim)
    then = replace(
        seen, grant=replace(seen.grant, value=claimed), operation=Stored(operation, 0, seen.now_s), outcomes=(),
        receipts={name: r for name, r in seen.receipts.items() if name != dead},
        leases={**seen.leases, dead: replace(lease, seen_at_s=seen.now_s - IDLE_S)} if lease else seen.leases,
        seals={
            name: Stored(Seal(name, claimed.epoch, position.text(), quiet=True), 0, seen.now_s)
            for name, position in standing(seen, rules, dead).items()
        },
        phase_since_s=seen.now_s - IDLE_S,
    )  # fmt: skip
    return Situation(then, rules, operation)


# --- a standby ------------------------------------------------------------------------------------------------------------
def _standby_dies(seen: Observation, rules: Rules, grant: Grant, member: str) -> Hypothesis:
    without = replace(
        seen,
        members={name: s for name, s in seen.members.items() if name != member},
        streaming_since_s={**seen.streaming_since_s, member: seen.now_s - IDLE_S},
    )
    primary = grant.member or ""
    concerned = any(member in pair.names for pair in grant.sync)
    left = wanted_names(without, rules, primary)
    verdict, commits = _commits(rules, concerned, left)
    says = f"If {member} died now: no failover, {primary or 'nobody'} stays primary; {commits}"
    notes = []
    edit = next_edit(without, rules, grant) if concerned else None
    if edit is not None:
        notes.append(f"after {rules.gone_s + rules.shrink_after_s:.0f} s the leader would edit the sync set: {edit[1]}")
    if primary:
        notes.append(_and_then(without, rules, grant, primary, "before anything else changed" if edit else "then"))
    if edit is not None and seen.grant is not None:
        settled = replace(edit[0], sync=edit[0].sync[-1:])
        later = replace(without, grant=replace(seen.grant, value=settled))
        notes.append(_and_then(later, rules, settled, primary, "once that is in force"))
    return Hypothesis(member, "standby", verdict, says, at_risk="nothing", notes=tuple(notes))


def _commits(rules: Rules, concerned: bool, left: tuple[str, ...]) -> tuple[str, str]:
    """What a commit would feel: the verdict, and the words."""
    if not concerned or rules.replication is Replication.ASYNC:
        return "nothing", "writes go on"
    if left:
        return "nothing", f"writes go on: {', '.join(left)} acknowledges"
    if rules.replication is Replication.STRICT:
        return "writes-block", "WRITES BLOCK until a standby streams again (replication: strict)"
    return (
        "nothing",
        f"writes stop for about {rules.gone_s + rules.shrink_after_s:.0f} s, then wait for nobody (replication: sync, degraded)",
    )


def _and_then(seen: Observation, rules: Rules, grant: Grant, primary: str, when: str) -> str:
    policy = seen.policy.value if seen.policy else Policy()
    choice = choose(rules, grant, policy, standing(seen, rules, primary), primary, None)
    fate = f"failover to {choice.candidate}" if choice.candidate else f"HELD: {choice.hold}"
    return f"if {primary} died too, {when}: {fate}"


def _names(rules: Rules) -> str:
    return ", ".join(member.name for member in rules.members)
