"""Which sync sets are safe, and the one next edit of the grant that leads to the wanted one.

A set is changed in four steps: (1) add the new pair to `grant.sync`; (2) the primary's guardian applies it and
proves that nothing uses the old one; (3) w' members of S' have the primary's position as of (2); (4) drop the old pairs.
One change is under way at a time, unless nobody of S' is there to end it (ADR 0020). The product keeps w = 1: the smallest
set that makes every commit safe.
"""

from __future__ import annotations

from dataclasses import replace

from failover.core.model import Degraded, Grant, MemberStatus, Policy, Replication, SyncSet, Willingness
from failover.core.observation import Observation
from failover.core.rules import Rules

DEGRADED_KEPT = 20


def wanted_names(seen: Observation, rules: Rules, primary: str, current: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The members that should acknowledge: those that stream from `primary`, or are only kept out by it, and could take over.

    One that stopped streaming stays for `rules.shrink_after_s`: with w = 1 it holds nothing up, and a primary that is dying
    loses its standbys first; an edit then would only be in the way of the failover.
    """
    names = []
    for member in rules.others(primary):
        status = seen.status(member.name, rules.gone_s)
        streams = status is not None and (status.streaming or status.kept_out)
        since_s = seen.streaming_since_s.get(member.name, seen.now_s)
        lately = member.name in current and seen.now_s - since_s < rules.shrink_after_s
        if member.failover is Willingness.NEVER or not member.guarded or not (streams or lately):
            continue
        if seen.policy and (seen.policy.value.in_maintenance(member.name) or member.name in seen.policy.value.fenced):
            continue
        names.append(member.name)
    return tuple(sorted(names))


def next_promotable(seen: Observation, rules: Rules, grant: Grant) -> tuple[Grant, str] | None:
    """The grant with the list of who may be chosen beside this primary, if it differs, with the sentence for the log; or None.

    Members in maintenance or fenced by hand are left out: the primary then needs no pledge of them. The lease record carries
    the new list from the next renewal on, and a claim counts only with the list of the record that it checks. Never while an
    operation runs: it decides on this very grant.
    """
    if grant.member is None or seen.operation is not None:
        return None
    policy = seen.policy.value if seen.policy else Policy()
    names = tuple(n for n in rules.promotable_beside(grant.member) if not policy.in_maintenance(n) and n not in policy.fenced)
    if names == grant.promotable:
        return None
    return replace(grant, promotable=names), f"promotable: {', '.join(names) or 'nobody'}"


def first_set(rules: Rules, followers: tuple[str, ...], candidate: str, history: str) -> SyncSet | None:
    """The set a new primary starts with: exactly the members that will follow it.

    With nobody to follow, `strict` waits for any other promotable member (it blocks rather than lose); `sync` waits for none.
    """
    if rules.replication is Replication.ASYNC:
        return None
    names = tuple(sorted(followers))
    if not names and rules.replication is Replication.STRICT:
        names = tuple(sorted(rules.promotable_beside(candidate)))
    return SyncSet(1, names, history) if names else None


def next_edit(seen: Observation, rules: Rules, grant: Grant) -> tuple[Grant, str] | None:
    """The next safe edit of `grant.sync`, with the sentence for the log, or None."""
    if grant.member is None:
        return None
    status = seen.status(grant.member, rules.gone_s)
    if status is None or not status.writable or status.epoch != grant.epoch:
        return None
    if len(grant.sync) > 1 or (grant.sync and rules.replication is Replication.ASYNC):
        return _drop_old(seen, grant, status, rules) or _supersede(seen, rules, grant)
    if rules.replication is Replication.ASYNC:
        return None
    return _add_new(seen, rules, grant)


def next_record(seen: Observation, rules: Rules, grant: Grant) -> Policy | None:
    """The policy with the record of degraded times brought up to date for `grant`, if it is not; or None.

    Written together with the edit that lets commits wait for nobody, so it begins before they do; closed only once a set is
    proved in force.
    """
    if rules.replication is not Replication.SYNC or seen.policy is None or grant.member is None:
        return None
    policy = seen.policy.value
    last = policy.degraded[-1] if policy.degraded else None
    lasts = last is not None and not last.ended_at_wall
    promised = bool(grant.sync) and all(pair.names for pair in grant.sync)
    if last is not None and lasts and promised and _in_force(seen, rules, grant):
        return replace(policy, degraded=(*policy.degraded[:-1], replace(last, ended_at_wall=seen.wall)))
    if not promised and not lasts:
        return replace(policy, degraded=(*policy.degraded, Degraded(grant.epoch, seen.wall))[-DEGRADED_KEPT:])
    return None


def _in_force(seen: Observation, rules: Rules, grant: Grant) -> bool:
    """The primary has proved the newest set."""
    status = seen.status(grant.member or "", rules.gone_s)
    applied = status.applied_sync if status is not None and status.epoch == grant.epoch else None
    return applied is not None and set(applied.names) == set(grant.sync[-1].names)


def _add_new(seen: Observation, rules: Rules, grant: Grant) -> tuple[Grant, str] | None:
    assert grant.member is not None
    current = grant.sync[-1].names if grant.sync else ()
    names = wanted_names(seen, rules, grant.member, current)
    if names == current or (not names and rules.replication is Replication.STRICT):
        return None
    if names and not set(names) & set(wanted_names(seen, rules, grant.member)):
        return None  # all that is left of the set has just stopped streaming too: the smaller set could not be proved
    return _recorded(seen, grant, names)


def _supersede(seen: Observation, rules: Rules, grant: Grant) -> tuple[Grant, str] | None:
    """The set that is being introduced has nobody left who streams, so it cannot be proved: another takes its place.

    Every older pair stays recorded, and no pair is recorded twice: what the primary has said of one in the past proves nothing of
    what it may have applied since.
    """
    assert grant.member is not None
    newest, recorded = grant.sync[-1].names, {frozenset(pair.names) for pair in grant.sync}
    names = wanted_names(seen, rules, grant.member, newest)
    if not newest or set(names) & set(newest) or frozenset(names) in recorded:
        return None
    if not names and rules.replication is Replication.STRICT:
        return None
    return _recorded(seen, grant, names)


def _recorded(seen: Observation, grant: Grant, names: tuple[str, ...]) -> tuple[Grant, str]:
    """Step (1)."""
    position = seen.position_of(grant.member or "")
    new = SyncSet(1, names, position.history_id() if position else "")
    current = grant.sync[-1].names if grant.sync else ()
    says = f"sync set {_text(current)} -> {_text(names)}: recorded, to be applied on {grant.member}"
    return replace(grant, sync=(*grant.sync, new)), says


def _drop_old(seen: Observation, grant: Grant, status: MemberStatus, rules: Rules) -> tuple[Grant, str] | None:
    new = grant.sync[-1]
    if rules.replication is Replication.ASYNC:
        return replace(grant, sync=()), "replication is async: no sync set is promised any more"
    barrier = seen.position(status.applied_at)
    if status.applied_sync is None or set(status.applied_sync.names) != set(new.names) or barrier is None:
        return None
    if not new.names:
        return replace(grant, sync=()), "sync set empty: commits wait for nobody (replication: sync, degraded)"
    holding = [name for name in new.names if (at := seen.position_of(name)) is not None and at.covers(barrier)]
    if len(holding) < new.w:
        return None
    kept = replace(new, history=barrier.history_id())
    return replace(grant, sync=(kept,)), f"sync set {_text(new.names)} is in force; {', '.join(holding)} has all before it"


def _text(names: tuple[str, ...]) -> str:
    return "(" + ", ".join(names) + ")"
