"""Is the primary lost?

Votes may be wrong without harm: they only start the protocol, and nothing here is trusted by it (docs/guarantees.md).
A receipt needs no vote: the guardian beside the database has shut the gate and will not open under that epoch again.
Otherwise the primary counts as lost when a majority of the *configured* controllers says so and sees most of its other
targets, and no standby has received a heartbeat row lately. The primary's own guardian failing to insert one for n
intervals is a vote that no replication progress can veto: the kept connections of a half-hung server go on replicating.
"""

from __future__ import annotations

from dataclasses import dataclass

from failover.core.model import Grant, Receipt
from failover.core.observation import Observation
from failover.core.plan import Guard, Verdict
from failover.core.rules import Rules


@dataclass(frozen=True)
class Finding:
    """`lost` with the one-sentence reason, and every guard with what it saw."""

    lost: bool
    why: str
    guards: tuple[Guard, ...]


def judge_primary(seen: Observation, rules: Rules, grant: Grant) -> Finding:
    """The verdict on the member that has the grant."""
    primary = grant.member
    assert primary is not None
    receipt = seen.receipts.get(primary)
    if receipt and receipt.value.closes >= grant.epoch:
        return _by_receipt(seen, rules, receipt.value, seen.now_s - receipt.seen_at_s)
    return _by_votes(seen, rules, primary)


def _by_receipt(seen: Observation, rules: Rules, receipt: Receipt, age_s: float) -> Finding:
    facts = f"{receipt.member} closed epoch {receipt.closes}: {receipt.method}"
    status = seen.status(receipt.member, rules.gone_s)
    back = status is not None and status.streaming is False and status.role.value == "standby"
    wait_s = rules.on_clean_stop_wait_s if receipt.clean and not back else 0.0
    if age_s < wait_s:
        text = f"{facts}; a clean stop that nobody asked for, waiting {wait_s - age_s:.1f} s (on_clean_stop)"
        return Finding(False, text, (Guard("receipt", Verdict.BLOCK, text),))
    return Finding(True, facts, (Guard("receipt", Verdict.PASS, facts),))


def _by_votes(seen: Observation, rules: Rules, primary: str) -> Finding:
    lost, against = [], []
    for name in rules.controllers:
        stored = seen.votes.get(name)
        if stored is None or seen.now_s - stored.seen_at_s > rules.gone_s:
            against.append(f"{name}: no fresh vote")
            continue
        vote = stored.value.of(primary)
        if vote is None or not vote.lost:
            against.append(f"{name}: {vote.why if vote else 'no finding'}")
        elif stored.value.sees * 2 < stored.value.targets:
            against.append(f"{name}: sees only {stored.value.sees} of {stored.value.targets} other targets")
        else:
            lost.append(f"{name}: {vote.why}")
    quorum = Guard(
        "quorum of controllers",
        Verdict.PASS if len(lost) >= rules.votes_needed else Verdict.BLOCK,
        f"{len(lost)} of {len(rules.controllers)} lost {primary}, {rules.votes_needed} needed"
        + (f" ({'; '.join(lost + against)})" if lost else ""),
    )
    heartbeat = _heartbeat_guard(seen, rules, primary)
    passed = all(guard.verdict is Verdict.PASS for guard in (quorum, heartbeat))
    why = f"{primary} lost by {', '.join(lost)}" if passed else next(
        g.facts for g in (quorum, heartbeat) if g.verdict is not Verdict.PASS
    )  # fmt: skip
    return Finding(passed, why, (quorum, heartbeat))


def _heartbeat_guard(seen: Observation, rules: Rules, primary: str) -> Guard:
    own = seen.status(primary, rules.gone_s)
    if own and own.heartbeat_fails >= rules.probes_lost:
        text = f"{primary}'s own guardian could not insert for {own.heartbeat_fails} intervals"
        return Guard("no heartbeat at any standby", Verdict.PASS, text)
    for member in rules.others(primary):
        moved = seen.heartbeat_moved_s.get(member.name)
        if moved is not None and seen.now_s - moved <= rules.silence_s:
            text = f"{member.name} received a heartbeat {seen.now_s - moved:.1f} s ago"
            return Guard("no heartbeat at any standby", Verdict.BLOCK, text)
    return Guard("no heartbeat at any standby", Verdict.PASS, f"none within {rules.silence_s:.1f} s")
