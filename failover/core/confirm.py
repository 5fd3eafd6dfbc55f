"""FENCE and CONFIRM: what proves that the old primary cannot write any more.

Every channel is tried at once; the first evidence counts, and only what is in `EVIDENCE` is evidence. A time-out is none, a
read-only server is none, and a command's "ok" is none. One line per kind, each with what it saw, for `explain`:

- a receipt of its guardian that closes the epoch, or the host agent's read-back over SSH in one session;
- power: the operator's command switched the host off, and reading back said so;
- the clock W (T1), for guarded members only: see `by_clock`;
- a person who typed the host's name (`failoverctl confirm-fenced`). It replaces CONFIRM only, never the count of seals.
"""

from __future__ import annotations

from collections.abc import Callable

from failover.core.machine import Answer, Go, Situation, Wait
from failover.core.model import Lease, Position, Stored
from failover.core.plan import Action, Fence, Guard, Stonith, Verdict

Evidence = Callable[[Situation], Guard]
FIRST_EPOCH = 1  # the one that `adopt` gives to a primary that runs already, perhaps without a gate


def confirm(at: Situation) -> Answer:
    """The first evidence that `old` is closed for its epoch, or who was asked and what they said."""
    guards = tuple(evidence(at) for evidence in EVIDENCE)
    proved = next((guard for guard in guards if guard.verdict is Verdict.PASS), None)
    if proved is not None:
        return Go({"evidence": proved.facts, "by": proved.name}, changes={"evidence": proved.facts})
    return Wait(f"fencing {at.operation.old}", channels(at), _held(at, guards), guards)


def channels(at: Situation) -> tuple[Action, ...]:
    """Who is asked to fence, besides the guardian, which reads the claim by itself. Power comes last: a host that still
    talks has sent a receipt long before."""
    operation, rules = at.operation, at.rules
    asked: list[Action] = [Fence(operation.old, operation.old_epoch)]
    if rules.has_stonith and at.seen.phase_age_s() >= rules.stonith_after_s:
        asked.append(Stonith(operation.old, operation.id))
    return tuple(asked)


def by_receipt(at: Situation) -> Guard:
    old, epoch = at.operation.old, at.operation.old_epoch
    receipt = at.seen.receipts.get(old)
    if receipt and receipt.value.closes >= epoch:
        return Guard("receipt", Verdict.PASS, f"receipt of {old} closes epoch {receipt.value.closes}: {receipt.value.method}")
    return Guard("receipt", Verdict.BLOCK, f"no receipt of {old} closes epoch {epoch}")


def by_agent(at: Situation) -> Guard:
    old = at.operation.old
    return _read_back(at, "SSH read-back", Fence(old, at.operation.old_epoch), f"host agent of {old} over SSH")


def by_power(at: Situation) -> Guard:
    if not at.rules.has_stonith:
        return Guard("STONITH", Verdict.BLOCK, "no command is configured")
    old = at.operation.old
    return _read_back(at, "STONITH", Stonith(old, at.operation.id), f"{old} reads back off")


def _read_back(at: Situation, name: str, asked: Action, proves: str) -> Guard:
    """What came of an action that reads back what it did: anything but a clear yes is UNKNOWN (R5)."""
    outcome = at.seen.outcome(asked)
    if outcome is None:
        return Guard(name, Verdict.UNKNOWN, "no answer yet")
    if outcome.ok:
        return Guard(name, Verdict.PASS, f"{proves}: {outcome.evidence}")
    return Guard(name, Verdict.UNKNOWN, outcome.evidence)


def by_hand(at: Situation) -> Guard:
    who = at.operation.fenced_by
    if who is None:
        return Guard("a person's word", Verdict.BLOCK, "nobody has confirmed it")
    return Guard("a person's word", Verdict.PASS, f"confirmed by hand that {at.operation.old} cannot write: {who}")


def by_clock(at: Situation) -> Guard:
    """W has passed since this controller first saw the version of the lease that CLAIM checked (T1), and a member of the list
    that this lease was sent under is frozen for this very claim and quiet: without its pledge the old primary cannot have
    gone on. UNKNOWN while it is only a question of time; BLOCK when waiting longer is of no use."""
    old, seen, rules = at.operation.old, at.seen, at.rules
    lease = seen.leases.get(old)
    useless = _clock_is_useless(at, lease)
    if useless or lease is None:
        return Guard("clock", Verdict.BLOCK, useless or f"the lease record of {old} was not read yet")
    if lease.value.epoch != at.operation.old_epoch:  # granted as a guarded standby, and it died before it proved anything
        facts = f"{old} never won a lease under epoch {at.operation.old_epoch}, and the claim has ended that for good"
        return Guard("clock", Verdict.PASS, facts)
    left_s = rules.wait_s - (seen.now_s - lease.seen_at_s)
    if left_s > 0:
        return Guard("clock", Verdict.UNKNOWN, f"W = {rules.wait_s:.2f} s after the last renewal in sight: {left_s:.1f} s left")
    sealed = sealed_positions(at)
    quiet = [name for name in lease.value.promotable if name in sealed and seen.seals[name].value.quiet]
    if not quiet:
        listed = ", ".join(lease.value.promotable)
        return Guard("clock", Verdict.BLOCK, f"W has passed, but none of ({listed}) is sealed for this claim and quiet")
    passed_s = seen.now_s - lease.seen_at_s
    facts = f"no renewal of {old} for {passed_s:.2f} s (W = {rules.wait_s:.2f} s); sealed and quiet: {', '.join(quiet)}"
    return Guard("clock", Verdict.PASS, facts)


def _clock_is_useless(at: Situation, lease: Stored[Lease] | None) -> str | None:
    """Why no waiting makes the clock evidence about this member."""
    old, grant = at.operation.old, at.seen.grant
    member, claim = at.rules.member(old), grant.value.claim if grant else None
    status = at.seen.members.get(old)
    if member is not None and not member.guarded:
        return f"{old} has no guardian: no lease, no gate, so no clock says anything about it"
    if claim is None or claim.old != old or lease is None:
        return f"the claim on {old} and its lease record are not in view"
    if lease.version != claim.lease_version:
        return f"the claim checked version {claim.lease_version} of {old}'s lease and version {lease.version} is in view"
    if lease.value.untimed:
        return f"{old} held a ticket without an end (paused or released by hand): only a positive confirmation counts"
    if status is not None and status.value.gate == "released":
        return f"the gate of {old} was released by hand: no lease bounds it"
    if lease.value.epoch > at.operation.old_epoch:
        return f"{old} renewed under epoch {lease.value.epoch}, after {at.operation.old_epoch}: records contradict each other"
    if lease.value.epoch != at.operation.old_epoch:
        adopted = at.operation.old_epoch <= FIRST_EPOCH
        return f"{old} was adopted and has not won a lease yet: nobody knows that a gate is there" if adopted else None
    if not lease.value.promotable:
        return f"nobody was promotable beside {old}: it needed no pledge"
    return None


EVIDENCE: tuple[Evidence, ...] = (by_receipt, by_agent, by_power, by_clock, by_hand)


def _held(at: Situation, guards: tuple[Guard, ...]) -> str | None:
    """For a person: said when a while has passed and no clock is running out by itself."""
    clock = next(guard for guard in guards if guard.name == "clock")
    if at.seen.phase_age_s() <= at.rules.fence_hold_s or clock.verdict is Verdict.UNKNOWN:
        return None
    tried = "; ".join(f"{guard.name}: {guard.facts}" for guard in guards if guard.name != "a person's word")
    return f"no proof that {at.operation.old} cannot write. {tried}. Nothing is promoted; fencing goes on"


def sealed_positions(at: Situation) -> dict[str, Position]:
    """Positions reported for *this* claim. A report for an earlier claim is worth nothing."""
    assert at.seen.grant is not None
    grant = at.seen.grant.value
    found: dict[str, Position] = {}
    for name, stored in at.seen.seals.items():
        position = at.seen.position(stored.value.position)
        if stored.value.claim_epoch == grant.epoch and position is not None and at.rules.member(name):
            found[name] = position
    return found
