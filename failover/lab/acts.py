"""An act, from a settled cluster to a settled cluster: done, watched from outside, undone, judged.

An act begins when the cluster is settled and ends when it is settled again, so that the windows of two acts never
share a change of primary. While writes are interrupted nothing is asked of the cluster: on two cores the question
would be part of the answer.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from failover.clock import boottime_s
from failover.lab import verdict
from failover.lab.commands import LabError
from failover.lab.control import control_run
from failover.lab.faults import ACTS, Act, acts_of
from failover.lab.host import Host
from failover.lab.observed import RejoinSeen, status
from failover.lab.stage import (
    NAME,
    Stage,
    adopt,
    happens,
    join_zookeepers_leader,
    resolved,
    settle,
    use_lab_resolver,
    wait_until_free,
)
from failover.lab.traffic import DATABASE
from failover.lab.verdict import Row, Window

__all__ = ["ACTS", "Act", "Stage", "acts_of", "adopt", "control_run", "ids_on", "resolved", "run", "settle", "use_lab_resolver"]

RESUME_S = 30.0  # writes are back within this, or the act has failed
FLOW_S = 1.0  # the new primary takes writes for so long before the old one is given back
ROUTE_S = 10.0  # VIP, DNS and notice follow the writes within this
CATCH_UP_S = 10.0  # a standby has replayed what the primary holds
ANSWER_S = 30.0  # the product answers what it is asked
TABLE = "lab.writes"


def run(stage: Stage, act: Act) -> Row:
    """Perform one act on a settled cluster and judge it. Raises LabError only if the cluster cannot be asked or made
    whole.
    """
    if stage.beside_zookeeper:
        join_zookeepers_leader(stage)
    if act.automatic:
        wait_until_free(stage)
    primary = stage.lab.primary()
    if primary is None:
        raise LabError("an act needs one primary to begin with")
    rejoins = _rejoins(stage)
    stage.lab.wait(stage.traffic.flowing, RESUME_S, "writes through the VIP before the act")
    start = boottime_s()
    with stage.quiet():
        done = act.perform(stage, primary)
        reasons = [done.why_not] if done.why_not else []
        if not happens(lambda: _taken_over(stage, primary, done.fault), RESUME_S):
            reasons.append(f"no other member took the application's writes within {RESUME_S:g} s")
        elif act.mend:
            threading.Event().wait(FLOW_S)  # not a pause for luck: what is watched is how the old primary behaves now
    routed = _routed(stage, primary, done.fault)
    if act.mend:
        act.mend(stage, primary)
    stage.says(f"{routed.promoted or 'nobody new'} takes writes; waiting until every member replicates again")
    unsettled = settle(stage, routed.promoted)
    stage.whole = not any("not whole" in reason for reason in unsettled)
    reported = _reported(stage, primary, rejoins)
    return _judged(stage, act, Window(start, done.fault, boottime_s()), routed, reasons + unsettled, reported)


def _taken_over(stage: Stage, old: str, fault: float) -> bool:
    """True once another member accepts writes and the application's writes arrive. The old primary's own answers prove
    nothing: sessions of a frozen main process, or of a host that is cut off, work on for a while.
    """
    for probe in reversed(stage.traffic.probes()):
        if probe.done < fault:
            return False
        if probe.outcome == "ok" and probe.host != old and probe.invoke > fault:
            return stage.traffic.flowing(fault) and not stage.traffic.takers() & {old}
    return False


@dataclass(frozen=True)
class Routed:
    """Where clients are sent after the act."""

    promoted: str | None
    vip_ok: bool
    dns_ok: bool
    notified: bool


def _routed(stage: Stage, old: str, fault: float) -> Routed:
    """The old primary is not asked who it thinks it is: it may be frozen, or shut behind its gate and not know better."""
    found: list[str] = []

    def one_other() -> bool:
        found[:] = stage.lab.databases.primaries(but=old)
        return len(found) == 1

    if not happens(one_other, ROUTE_S):
        return Routed(None, False, False, False)
    promoted = found[0]
    addresses = stage.lab.host(promoted).addresses
    return Routed(
        promoted,
        vip_ok=happens(lambda: [h.name for h in stage.members if h.has_vip()] == [promoted], ROUTE_S),
        dns_ok=happens(lambda: resolved(stage.lab) in addresses(), ROUTE_S),
        notified=happens(lambda: _notified(stage, promoted, fault), ROUTE_S),
    )


def _notified(stage: Stage, promoted: str, since: float) -> bool:
    """True if a genuine notice that names the new primary was accepted."""
    return any(
        d.at > since and d.status == 200 and d.body is not None and d.body.get("new_primary") == promoted
        for d in stage.traffic.deliveries()
    )


def _rejoins(stage: Stage) -> Mapping[str, RejoinSeen]:
    """The product's records of who was brought back how. Asked again on an error: a controller may be changing its leader."""
    answers: list[Mapping[str, RejoinSeen]] = []

    def answered() -> bool:
        try:
            answers.append(status(stage.lab).rejoins)
        except LabError:
            return False
        return True

    return answers[0] if happens(answered, ANSWER_S) else {}


def _reported(stage: Stage, old: str, before: Mapping[str, RejoinSeen]) -> int | None:
    """Rows of the writer's table that the product says were discarded as the old primary came back; None if none came
    back that way in this act.
    """
    now, earlier = _rejoins(stage).get(old), before.get(old)
    if now is None or (earlier is not None and earlier.record == now.record):
        return None
    return now.tables.get(TABLE, 0)


def _judged(
    stage: Stage, act: Act, window: Window, routed: Routed, reasons: list[str], reported: int | None
) -> Row:
    found = _missing(stage)
    lost = found.lost - stage.lost
    stage.lost |= lost
    writes, probes = stage.traffic.writes(), stage.traffic.probes()
    conflicts = verdict.vip_conflicts(stage.traffic.vip_samples(), window)
    dual = verdict.dual_writer_ms(probes, window)
    may_lose = stage.lab.options.replication == "async"
    misreported = verdict.misreported(len(lost), reported, len(verdict.unknown(writes, window)))
    told = {
        "no other member was promoted": routed.promoted is None,
        "the VIP is not on the new primary alone": not routed.vip_ok,
        f"{NAME} does not lead to the new primary": not routed.dns_ok,
        "no genuine notice reached the application": not routed.notified,
        f"{len(lost)} acknowledged writes lost": bool(lost) and not may_lose,
        misreported or "": misreported is not None and (may_lose or reported is not None),
        f"two writers for {dual:.0f} ms": dual > 0,
        f"{len(found.odd)} rows that nobody can have written": bool(found.odd),
        f"{', '.join(found.silent)} did not say what it holds": bool(found.silent),
        "; ".join(conflicts): bool(conflicts),
    }
    reasons = reasons + [reason for reason, holds in told.items() if holds]
    return Row(
        act=act.name,
        engine=stage.lab.options.engine,
        replication=stage.lab.options.replication,
        outage_ms=round(verdict.outage_ms(writes, window), 1),
        acked=len(verdict.acknowledged(writes, window)),
        lost=len(lost),
        dual_writer_ms=round(dual, 1),
        promoted=routed.promoted,
        vip_ok=routed.vip_ok and not conflicts,
        dns_ok=routed.dns_ok,
        notified=routed.notified,
        result="; ".join(reasons) or "ok",
        reported=reported,
    )


@dataclass(frozen=True)
class Missing:
    """Over all members: acknowledged ids that one lacks, ids that cannot be, and members that could not be asked."""

    lost: set[int]
    odd: set[int]
    silent: list[str]


def _missing(stage: Stage) -> Missing:
    """What each member holds once it has replayed what the primary holds."""
    acknowledged = list(stage.traffic.writes())
    primary = stage.lab.primary()
    found = Missing(set(), set(), [])
    try:
        held = set(ids_on(stage.lab.host(primary))) if primary else set()
    except LabError:
        held = set()
    for host in stage.members:
        try:
            happens(partial(_has_all, host, held), CATCH_UP_S)
            present = ids_on(host)
        except LabError:
            found.silent.append(host.name)
            continue
        found.lost.update(verdict.lost_ids(acknowledged, present))
        found.odd.update(verdict.impossible_ids(stage.traffic.writes(), present))
    return found


def _has_all(host: Host, held: set[int]) -> bool:
    return held.issubset(ids_on(host))


def ids_on(host: Host) -> list[int]:
    """What the writer's table holds on this member."""
    return [int(line) for line in host.sql(f"SELECT id FROM {TABLE}", dbname=DATABASE).split()]
