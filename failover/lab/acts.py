"""The acts: one fault or one command each, done to a healthy cluster under traffic, watched from outside, judged, made
whole again.

An act begins when the cluster is settled and ends when it is settled again, so that the windows of two acts never
share a change of primary. While writes are interrupted nothing is asked of the cluster: on two cores the question
would be part of the answer.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePath

from failover.clock import boottime_s
from failover.lab import verdict
from failover.lab.commands import LabError
from failover.lab.configuration import CLUSTER, DNS, ZONE
from failover.lab.host import Host
from failover.lab.lab import Lab
from failover.lab.observed import status
from failover.lab.services import PGDATA, entry_point
from failover.lab.traffic import DATABASE, Traffic
from failover.lab.verdict import Row, Window, Write
from failover.profiles import PROFILES

NAME = f"orders.{ZONE}"
RESUME_S = 30.0  # writes are back within this, or the act has failed
ROUTE_S = 10.0  # VIP, DNS and notice follow the writes within this
SETTLE_S = 120.0  # everybody replicates again
ADOPT_S = 30.0  # the guardians report for the first time
CATCH_UP_S = 10.0  # a standby has replayed what was acknowledged
BUSY_S = 1.5
POLL_S = 0.05


@dataclass
class Stage:
    """A settled cluster, its traffic, and whom to tell.

    `measuring` is set while questions would disturb the measurement; whoever asks holds `asking` and looks at it first.
    """

    lab: Lab
    traffic: Traffic
    says: Callable[[str], None] = lambda _: None
    measuring: threading.Event = field(default_factory=threading.Event)
    asking: threading.Lock = field(default_factory=threading.Lock)
    last_failover: float | None = None
    whole: bool = True  # false once an act left members that do not replicate: no further act makes sense

    @property
    def members(self) -> list[Host]:
        return [self.lab.host(name) for name in self.lab.options.members]

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Nobody asks the cluster anything, from here to the end of the block."""
        self.measuring.set()
        try:
            with self.asking:  # a question under way ends first
                pass
            yield
        finally:
            self.measuring.clear()


@dataclass(frozen=True)
class Done:
    """What an act did: the BOOTTIME moment of the fault, and why it failed, if it did."""

    fault: float
    why_not: str | None = None


@dataclass(frozen=True)
class Act:
    """What is done. `perform(stage, primary)` does it; `automatic`: only once the cool-down is over."""

    name: str
    title: str
    automatic: bool
    perform: Callable[[Stage, str], Done]


def _switchover(stage: Stage, primary: str) -> Done:
    target = next(host.name for host in stage.members if host.name != primary)
    stage.says(f"failoverctl switchover --to {target}")
    fault = boottime_s()
    done = stage.lab.ctl("switchover", "--to", target, "--yes", "--wait", timeout_s=60.0)
    said = " ".join((done.stderr or done.stdout).split())
    return Done(fault, None if done.returncode == 0 else f"failoverctl switchover: exit {done.returncode}: {said}")


def _process_kill(stage: Stage, primary: str) -> Done:
    """Only the postmaster is killed. A child of it is in the middle of a statement and would commit without a fence."""
    busy = stage.traffic.busy(primary, BUSY_S)
    stage.says(f"kill -9 of PostgreSQL's main process on {primary}, while a statement runs there")
    fault = boottime_s()
    if not stage.lab.host(primary).kill("postmaster", signal.SIGKILL):
        raise LabError(f"there was no postmaster to kill on {primary}")
    stage.last_failover = fault
    busy_ends = fault + BUSY_S + 2.0
    stage.lab.wait(lambda: busy.poll() is not None or boottime_s() > busy_ends, 10.0, "the long statement's end")
    stage.traffic.stop_client(busy)
    return Done(fault)


ACTS = {
    act.name: act
    for act in (
        Act("switchover", "planned switchover", False, _switchover),
        Act("process_kill", "database process killed", True, _process_kill),
    )
}


def run(stage: Stage, act: Act) -> Row:
    """Perform one act on a settled cluster and judge it. Raises LabError only if the cluster cannot be asked or made
    whole.
    """
    if act.automatic:
        wait_for_cooldown(stage)
    primary = stage.lab.primary()
    if primary is None:
        raise LabError("an act needs one primary to begin with")
    stage.lab.wait(stage.traffic.flowing, RESUME_S, "writes through the VIP before the act")
    start = boottime_s()
    with stage.quiet():
        done = act.perform(stage, primary)
        reasons = [done.why_not] if done.why_not else []
        if not _happens(lambda: stage.traffic.flowing(done.fault), RESUME_S):
            reasons.append(f"no write was acknowledged within {RESUME_S:g} s")
    routed = _routed(stage, primary, done.fault)
    stage.says(f"{routed.promoted or 'nobody new'} takes writes; waiting until every member replicates again")
    unsettled = settle(stage, routed.promoted)
    stage.whole = not unsettled
    return _judged(stage, act, Window(start, done.fault, boottime_s()), routed, reasons + unsettled)


@dataclass(frozen=True)
class Routed:
    """Where clients are sent after the act."""

    promoted: str | None
    vip_ok: bool
    dns_ok: bool
    notified: bool


def _routed(stage: Stage, old: str, fault: float) -> Routed:
    lab = stage.lab
    _happens(lambda: lab.primary() not in (None, old), ROUTE_S)
    found = lab.primary()
    promoted = found if found != old else None
    if promoted is None:
        return Routed(None, False, False, False)
    return Routed(
        promoted,
        vip_ok=_happens(lambda: [h.name for h in stage.members if h.has_vip()] == [promoted], ROUTE_S),
        dns_ok=_happens(lambda: resolved(lab) in lab.host(promoted).addresses(), ROUTE_S),
        notified=_happens(lambda: _notified(stage, promoted, fault), ROUTE_S),
    )


def _notified(stage: Stage, promoted: str, since: float) -> bool:
    """True if a genuine notice that names the new primary was accepted."""
    return any(
        d.at > since and d.status == 200 and d.body is not None and d.body.get("new_primary") == promoted
        for d in stage.traffic.deliveries()
    )


def _judged(stage: Stage, act: Act, window: Window, routed: Routed, reasons: list[str]) -> Row:
    writes, probes = stage.traffic.writes(), stage.traffic.probes()
    conflicts = verdict.vip_conflicts(stage.traffic.vip_samples(), window)
    dual = verdict.dual_writer_ms(probes, window)
    lost, odd = _missing(stage)
    told = {
        "no other member was promoted": routed.promoted is None,
        "the VIP is not on the new primary alone": not routed.vip_ok,
        f"{NAME} does not lead to the new primary": not routed.dns_ok,
        "no genuine notice reached the application": not routed.notified,
        f"{len(lost)} acknowledged writes lost": bool(lost),
        f"two writers for {dual:.0f} ms": dual > 0,
        f"{len(odd)} rows that nobody can have written": bool(odd),
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
    )


def _missing(stage: Stage) -> tuple[list[int], list[int]]:
    """Over all members: acknowledged ids that one lacks (standbys get time to replay), and ids that cannot be."""
    lost: set[int] = set()
    odd: set[int] = set()
    acknowledged = list(stage.traffic.writes())
    for host in stage.members:
        _happens(partial(_has_all, host, acknowledged), CATCH_UP_S)
        present = ids_on(host)
        lost.update(verdict.lost_ids(acknowledged, present))
        odd.update(verdict.impossible_ids(stage.traffic.writes(), present))
    return sorted(lost), sorted(odd)


def _has_all(host: Host, acknowledged: list[Write]) -> bool:
    return not verdict.lost_ids(acknowledged, ids_on(host))


def ids_on(host: Host) -> list[int]:
    """What the writer's table holds on this member."""
    return [int(line) for line in host.psql("SELECT id FROM lab.writes", dbname=DATABASE).split()]


def resolved(lab: Lab) -> str | None:
    """The address that the application's own resolver finds for the service name, or None."""
    answer = lab.app.run(["getent", "ahostsv4", NAME], check=False).stdout.split()
    return answer[0] if answer else None


def use_lab_resolver(lab: Lab) -> None:
    """Make the application's host ask the lab's name server, and give up quickly."""
    text = f"nameserver {DNS}\noptions timeout:1 attempts:1\n"
    lab.app.run(["sh", "-c", "rm -f /etc/resolv.conf && cat >/etc/resolv.conf"], stdin=text)


def settle(stage: Stage, promoted: str | None, deadline_s: float = SETTLE_S) -> list[str]:
    """Wait until every member replicates; copy one anew if the product says that it must be. Reasons why it is not
    so.
    """
    reseeded: set[str] = set()
    why = "no status"
    end = boottime_s() + deadline_s
    pause = threading.Event()
    while boottime_s() < end:
        try:
            seen = status(stage.lab)
        except LabError as error:  # a controller may be changing its leader: asked again
            why = str(error)
            pause.wait(0.5)
            continue
        if seen.settled and seen.primary == (promoted or seen.primary):
            return []
        why = seen.unsettled_because or f"failoverctl says that the primary is {seen.primary}"
        for member in seen.members:
            if member.needs_reseed and member.name not in reseeded:
                stage.says(f"{member.name} asks for a new copy: {member.rejoin}")
                reseeded.add(member.name)
                stage.lab.reseed(member.name)
        pause.wait(0.5)
    return [f"not whole after {deadline_s:g} s: {why}"]


def wait_for_cooldown(stage: Stage) -> None:
    """Until the controllers may fail over by themselves again."""
    if stage.last_failover is None:
        return
    over = stage.last_failover + PROFILES[stage.lab.options.profile].cooldown_s + 5.0
    left = over - boottime_s()
    if left > 0:
        stage.says(f"the cool-down after a failover ends in {left:.0f} s")
        threading.Event().wait(left)


def adopt(lab: Lab, says: Callable[[str], None] = lambda _: None) -> None:
    """Hand a freshly booted cluster to the controllers, as a new user does, and wait until they hold it. Raises
    LabError.
    """
    said = ""

    def adopted() -> bool:
        """Refused until every guardian has reported; asked again then."""
        nonlocal said
        done = lab.ctl("adopt", "--yes", "--wait", timeout_s=60.0)
        said = f"exit {done.returncode}: {' '.join((done.stderr or done.stdout).split())}"
        return done.returncode == 0 or "already adopted" in said

    if not _happens(adopted, ADOPT_S):
        raise LabError(f"failoverctl adopt: {said}")
    says("adopted: the guardians hold the lease and the gate")

    why = ""

    def held() -> bool:
        nonlocal why
        try:
            seen = status(lab)
        except LabError as error:
            why = str(error)
            return False
        why = seen.unsettled_because or "the VIP is not there"
        return seen.settled and seen.primary is not None and lab.host(seen.primary).has_vip()

    if not _happens(held, 60.0):
        raise LabError(f"adopted, but not ready within 60 s: {why}")


def control_run(lab: Lab, traffic: Traffic, for_s: float = 1.0) -> float:
    """Make two writers on purpose and return the `dual_writer_ms` that the lab measures: it must be above zero.

    Guardians are told to let go (`release`, the break-glass) and stopped, controllers too; a standby is promoted by
    hand and the old primary is made a primary by hand. Afterwards the cluster is ruined: close the lab.
    """
    old = lab.primary()
    if old is None:
        raise LabError("the control run needs one primary to begin with")
    new = next(name for name in lab.options.members if name != old)
    start = boottime_s()
    for name in lab.options.members:
        if lab.host(name).pid_of("controller"):
            lab.stop(name, "controller")
    for name in (old, new):
        _let_go(lab.host(name))
    _make_primary(lab, new)
    _make_primary(lab, old)
    lab.wait(lambda: len(_successful(traffic, start)) > 1, 15.0, "two hosts that take writes")
    threading.Event().wait(for_s)
    return verdict.dual_writer_ms(traffic.probes(), Window(start, start, boottime_s()))


def _successful(traffic: Traffic, since: float) -> set[str]:
    return {p.host for p in traffic.probes() if p.outcome == "ok" and p.invoke > since}


def _let_go(host: Host) -> None:
    if host.pid_of("guardian"):
        host.run([entry_point("failover-guardian"), "release", "--cluster", CLUSTER])
        host.stop("guardian")


def _make_primary(lab: Lab, name: str) -> None:
    """By hand, as a careless administrator would: promote a running standby, or start a stopped database as a
    primary.
    """
    host = lab.host(name)
    if host.pid_of("postmaster") is None:
        host.run(["rm", "-f", str(PurePath(PGDATA, "standby.signal"))])
        host.start("postmaster")
    host.psql("SELECT pg_promote(false) WHERE pg_is_in_recovery()")
    lab.wait(lambda: host.psql("SELECT pg_is_in_recovery()") == "f", 10.0, f"{name} promoted by hand")


def _happens(condition: Callable[[], bool], deadline_s: float) -> bool:
    """True as soon as the condition holds; False if it did not within the deadline."""
    end = boottime_s() + deadline_s
    pause = threading.Event()
    while not condition():
        if boottime_s() > end:
            return False
        pause.wait(POLL_S)
    return True
