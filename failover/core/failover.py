"""The unplanned takeover, as a table.

The promise it keeps: fence -> confirm -> promote -> route, in this order, without exception and without a "best effort"
switch. No confirmation: nothing is promoted, the operation says *held* and why, and fencing goes on. The rows from
`claimed` on also finish a switchover (switchover.py): the same machine, with friendlier steps before them.

What may confirm is in confirm.py. A new primary that is lost before the operation has ended ends it as failed: the next
failover begins at once, nobody waits for a cool-down.
"""

from __future__ import annotations

from dataclasses import replace

from failover.core.candidate import choose, count_shortfall
from failover.core.confirm import confirm, sealed_positions
from failover.core.detector import judge_primary
from failover.core.machine import DONE, Answer, GiveUp, Go, Row, Situation, Undo, Wait
from failover.core.model import Claim, Grant, Notice, OperationKind, Policy, Stored
from failover.core.plan import Check, Create, Guard, Key, Kind, MoveVip, Swap, SwitchDns, Verdict, VerifyWritable, Write
from failover.core.replication import first_set


def claim(at: Situation) -> Answer:
    """CLAIM: end the old primary's word by compare-and-set. From its commit on no renewal under the old epoch can succeed."""
    seen, operation = at.seen, at.operation
    grant = _grant(at)
    if grant.value.member != operation.old or grant.value.epoch != operation.old_epoch:
        return Undo(f"the grant is no longer {operation.old}'s under epoch {operation.old_epoch}")
    lease = seen.leases.get(operation.old)
    if lease is None:
        return Wait(f"the lease record of {operation.old} was not read yet")
    claimed = replace(
        grant.value, member=None, epoch=grant.value.epoch + 1, minimum_position=None,
        claim=Claim(operation.old, operation.old_epoch, lease.version, operation.id),
    )  # fmt: skip
    writes = (
        Check(Key(Kind.LEASE, operation.old), lease.version),
        Swap(Key(Kind.GRANT), claimed, grant.version),
    )
    return Go({"epoch": str(claimed.epoch), "lease_version": str(lease.version)}, writes)


def select(at: Situation) -> Answer:
    """CHOOSE among the sealed. Waits for standbys that are alive and have not reported yet, but not for ever."""
    seen, operation, rules = at.seen, at.operation, at.rules
    grant, policy = _grant(at).value, seen.policy
    sealed = sealed_positions(at)
    missing = [
        m.name for m in rules.others(operation.old) if m.name not in sealed and _could_report(at, m.name)
    ]  # fmt: skip
    if missing and seen.phase_age_s() < rules.seal_grace_s:
        return Wait(f"sealing: waiting for the report of {', '.join(missing)}")
    returned = seen.position_of(operation.old) if _could_report(at, operation.old) else None
    choice = choose(
        rules, grant, policy.value if policy else Policy(), sealed, operation.old, operation.target, returned
    )
    if choice.candidate is None:
        blocked = Guard("candidate", Verdict.BLOCK, choice.hold or "")
        held = choice.hold if seen.phase_age_s() > rules.seal_grace_s else None
        return Wait(choice.hold or "no candidate", held=held, guards=(blocked,))
    stands_at = returned if choice.candidate == operation.old and returned else sealed[choice.candidate]
    facts = {"candidate": choice.candidate, "position": stands_at.text()}
    facts |= {f"rejected {name}": why for name, why in choice.rejected}
    return Go(facts, changes={"candidate": choice.candidate, "rejected": choice.rejected})


def grant_it(at: Situation) -> Answer:
    """GRANT. The old pairs stay: until the new set is proved in force a commit may rest on them alone."""
    operation, rules, candidate = at.operation, at.rules, at.operation.candidate
    assert candidate is not None
    grant, sealed = _grant(at), sealed_positions(at)
    if candidate == operation.old:  # granted back: it has everything it acknowledged
        stands_at = at.seen.position_of(candidate)
    else:
        stands_at = sealed.get(candidate)
        short = count_shortfall(rules, grant.value, sealed)
        if short:
            return Wait(short, held=short)
    if stands_at is None:
        return Wait(f"the position of {candidate} is not in view")
    followers = tuple(name for name in sealed if name != candidate and name in rules.promotable_beside(candidate))
    new = first_set(rules, followers, candidate, stands_at.history_id())
    granted = replace(
        grant.value, member=candidate, epoch=grant.value.epoch + 1, claim=None,
        promotable=rules.promotable_beside(candidate), minimum_position=stands_at.text(),
        sync=(*grant.value.sync, new) if new else grant.value.sync,
    )  # fmt: skip
    facts = {"member": candidate, "epoch": str(granted.epoch), "minimum_position": granted.minimum_position or ""}
    return Go(facts, (Swap(Key(Kind.GRANT), granted, grant.version),))


def verify(at: Situation) -> Answer:
    """VERIFY over a fresh connection that the new primary takes writes under its epoch. Waiting for a standby is no failure."""
    grant, candidate = _grant(at).value, at.operation.candidate
    assert candidate is not None
    look = VerifyWritable(candidate, grant.epoch)
    outcome = at.seen.outcome(look)
    if outcome and outcome.ok:
        return Go({"evidence": outcome.evidence})
    said = outcome.evidence if outcome else "not asked yet"
    lost = lost_again(at)
    if lost:
        return lost
    late = at.seen.phase_age_s() > 2 * at.rules.lease_s + at.rules.settle_s
    held = f"{candidate} has the grant (epoch {grant.epoch}) and does not take writes: {said}" if late else None
    status = at.seen.status(candidate, at.rules.gone_s)
    if not (status and status.writable and status.epoch == grant.epoch):
        return Wait(f"{candidate} is being promoted under its own proof", held=held)
    return Wait(f"looking whether {candidate} takes writes: {said}", (look,), held)


def route_vip(at: Situation) -> Answer:
    """ROUTE, first half: the address."""
    candidate, grant = at.operation.candidate, _grant(at).value
    assert candidate is not None
    if not at.rules.has_vip:
        return Go({"vip": "none configured"})
    move = MoveVip(candidate, grant.epoch)
    outcome = at.seen.outcome(move)
    if outcome and outcome.ok:
        return Go({"evidence": outcome.evidence})
    lost = lost_again(at)
    if lost:
        return lost
    said = outcome.evidence if outcome else "asked"
    late = at.seen.phase_age_s() > at.rules.step_s
    held = f"the VIP is not on {candidate}: {said}; retrying" if late else None
    return Wait(f"moving the VIP to {candidate}: {said}", (move,), held)


def route_dns(at: Situation) -> Answer:
    """ROUTE, second half: the name. A DNS server that is down never blocks what follows; the drift repair tries on."""
    if not at.rules.has_dns:
        facts = {"dns": "none configured"}
    else:
        switch = SwitchDns(service_address(at), _grant(at).value.epoch)
        outcome = at.seen.outcome(switch)
        if not (outcome and outcome.ok) and at.seen.phase_age_s() < at.rules.step_s:
            return Wait(f"switching DNS: {outcome.evidence if outcome else 'asked'}", (switch,))
        facts = {"evidence" if outcome and outcome.ok else "degraded": outcome.evidence if outcome else "no answer"}
    return Go(facts, notices(at))


def settle(at: Situation) -> Answer:
    """SETTLE: followers re-point by themselves when they see the grant; the old primary's return is a story of its own."""
    candidate, rules, seen = at.operation.candidate, at.rules, at.seen
    waiting = []
    for member in rules.others(candidate):
        status = seen.status(member.name, rules.gone_s)
        if member.name != at.operation.old and status and status.role.value == "standby" and not status.streaming:
            waiting.append(member.name)
    if waiting and seen.phase_age_s() < rules.settle_s:
        return Wait(f"waiting for {', '.join(waiting)} to follow {candidate}")
    return Go({"not following yet": ", ".join(waiting) or "nobody"})


def lost_again(at: Situation) -> GiveUp | None:
    """The member that was just granted is lost in its turn: the way on is a failover of *it*, with its own CLAIM (R1).

    Votes of before it was promoted may still be in view, so they count only when they outlast a lease; a receipt at once.
    """
    grant = _grant(at).value
    if grant.member is None:
        return None
    finding = judge_primary(at.seen, at.rules, grant)
    receipt = at.seen.receipts.get(grant.member)
    proved = receipt is not None and receipt.value.closes >= grant.epoch
    if finding.lost and (proved or at.seen.phase_age_s() > at.rules.lease_s):
        return GiveUp(f"{grant.member} is lost in its turn: {finding.why}")
    return None


def service_address(at: Situation) -> str:
    """What the service name must answer: the VIP, or without one the new primary's own address."""
    member = at.rules.member(at.operation.candidate or "")
    return at.rules.service_address or (member.address if member else "")


def notices(at: Situation) -> tuple[Write, ...]:
    """One owed message per application, in the same transaction: a dead leader cannot forget them."""
    operation, epoch = at.operation, _grant(at).value.epoch
    made = []
    for number, url in enumerate(at.rules.webhooks):
        key = f"{operation.id}-{number}"
        notice = Notice(
            key, url, operation.kind.value, at.rules.cluster, epoch, operation.id, operation.old,
            operation.candidate or "", service_address(at), at.seen.wall,
        )  # fmt: skip
        made.append(Create(Key(Kind.NOTICE, key), notice))
    return tuple(made)


def _could_report(at: Situation, member: str) -> bool:
    """A standby whose guardian could seal. Without a guardian nobody seals, and nobody could be granted back."""
    known, status = at.rules.member(member), at.seen.status(member, at.rules.gone_s)
    return bool(known and known.guarded and status and status.role.value == "standby" and status.rejoin is None)


def _grant(at: Situation) -> Stored[Grant]:
    assert at.seen.grant is not None  # made at adoption and never deleted
    return at.seen.grant


FROM_CLAIMED: tuple[Row, ...] = (
    Row("claimed", "confirmed", "confirm", "the old primary is proved unable to write", confirm),
    Row("confirmed", "chosen", "choose", "the candidate is written down before anything is done to it", select),
    Row("chosen", "granted", "grant", "the grant moves to the candidate; its guardian proves it and promotes", grant_it),
    Row("granted", "verified", "verify", "the new primary takes writes under its epoch", verify),
    Row("verified", "routed", "vip", "the VIP is on the new primary and nowhere else", route_vip),
    Row("routed", "announced", "dns", "the service name is switched; applications are owed a notice", route_dns),
    Row("announced", DONE, "settle", "the standbys follow the new primary", settle),
)

TABLE: tuple[Row, ...] = (
    Row("opened", "claimed", "claim", "the old primary's word is ended by compare-and-set", claim),
    *FROM_CLAIMED,
)

KIND = OperationKind.FAILOVER
