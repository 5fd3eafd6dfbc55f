"""The stage of an act: a settled cluster under traffic, and how it is brought into that state, before and after."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from failover.clock import boottime_s
from failover.lab.commands import LabError
from failover.lab.configuration import DNS, ZONE
from failover.lab.host import Host
from failover.lab.lab import Lab
from failover.lab.observed import MemberSeen, Seen, status
from failover.lab.traffic import Traffic

NAME = f"orders.{ZONE}"
POLL_S = 0.05
ASK_S = 1.0  # `failoverctl` costs a third of a second of one core
SETTLE_S = 120.0  # everybody replicates again
ADOPT_S = 30.0  # the guardians report for the first time
READY_S = 60.0
ACKNOWLEDGED = (0, 5)  # exit codes: done; refused, because nothing was failed over since the last time

PATIENCE_S = 10.0  # so long may a member ask for a new copy before the lab makes one, which is a fault of the act


@dataclass
class Stage:
    """A settled cluster, its traffic, and whom to tell.

    `measuring` is set while questions would disturb the measurement; whoever asks holds `asking` and looks at it first.
    """

    lab: Lab
    traffic: Traffic
    says: Callable[[str], None] = lambda _: None
    beside_zookeeper: bool = False  # each act begins with the primary on the host of ZooKeeper's leader
    measuring: threading.Event = field(default_factory=threading.Event)
    asking: threading.Lock = field(default_factory=threading.Lock)
    lost: set[int] = field(default_factory=set)  # acknowledged ids that an earlier act has lost and been judged for
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


def happens(condition: Callable[[], bool], deadline_s: float) -> bool:
    """True as soon as the condition holds; False if it did not within the deadline."""
    end = boottime_s() + deadline_s
    pause = threading.Event()
    while not condition():
        if boottime_s() > end:
            return False
        pause.wait(POLL_S)
    return True


# --- names ---------------------------------------------------------------------------------------------------------
def resolved(lab: Lab) -> str | None:
    """The address that the application's own resolver finds for the service name, or None."""
    answer = lab.app.run(["getent", "ahostsv4", NAME], check=False).stdout.split()
    return answer[0] if answer else None


def use_lab_resolver(lab: Lab) -> None:
    """Make the application's host ask the lab's name server, and give up quickly."""
    text = f"nameserver {DNS}\noptions timeout:1 attempts:1\n"
    lab.app.run(["sh", "-c", "rm -f /etc/resolv.conf && cat >/etc/resolv.conf"], stdin=text)


# --- before an act -------------------------------------------------------------------------------------------------
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

    if not happens(adopted, ADOPT_S):
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

    if not happens(held, 60.0):
        raise LabError(f"adopted, but not ready within 60 s: {why}")


def join_zookeepers_leader(stage: Stage) -> None:
    """Hand the primary over to the host whose ZooKeeper leads the ensemble, unless it is there. Raises LabError."""
    lab = stage.lab
    lab.wait(lambda: lab.zookeeper_leader() is not None, 15.0, "a ZooKeeper server that leads")
    leader = lab.zookeeper_leader()
    if leader is None or leader == lab.primary():
        return
    stage.says(f"ZooKeeper's leader is on {leader}: failoverctl switchover --to {leader}")
    done = lab.ctl("switchover", "--to", leader, "--yes", "--wait", timeout_s=60.0)
    if done.returncode != 0:
        raise LabError(f"switchover to ZooKeeper's leader {leader}: {' '.join((done.stderr or done.stdout).split())}")
    unsettled = settle(stage, leader)
    if unsettled:
        raise LabError(f"after the switchover to ZooKeeper's leader: {'; '.join(unsettled)}")


def free_to_fail_over(lab: Lab) -> str | None:
    """End a cool-down as an operator does who has seen why it failed over. Why the leader still would not fail over by itself,
    or None.
    """
    acknowledged = lab.ctl("ack", "--yes")
    if acknowledged.returncode not in ACKNOWLEDGED:
        return _said("ack", acknowledged)
    done = lab.ctl("plan", "-o", "json")
    try:
        plan = json.loads(done.stdout)
        return None if plan["verdict"] == "failover" else str(plan["says"])
    except (ValueError, KeyError, TypeError):
        return _said("plan", done)


def _said(command: str, done: subprocess.CompletedProcess[str]) -> str:
    return f"failoverctl {command}: exit {done.returncode}: {(done.stderr or done.stdout).strip()[-200:]}"


def wait_until_free(stage: Stage) -> None:
    """Until the leader may fail over by itself. Raises LabError."""
    end = boottime_s() + READY_S
    pause = threading.Event()
    while (why := free_to_fail_over(stage.lab)) is not None:
        if boottime_s() > end:
            raise LabError(f"no automatic failover is possible for {READY_S:g} s: {why}")
        pause.wait(ASK_S)


# --- after an act --------------------------------------------------------------------------------------------------
def settle(stage: Stage, promoted: str | None, deadline_s: float = SETTLE_S) -> list[str]:
    """Wait until every member replicates; copy one anew if the product says that it must be and does not do it. What was
    wrong on the way, or still is.
    """
    copies = _Copies(stage)
    why = "no status"
    end = boottime_s() + deadline_s
    pause = threading.Event()
    while boottime_s() < end:
        try:
            seen = status(stage.lab)
        except LabError as error:  # a controller may be changing its leader: asked again
            why = str(error)
            pause.wait(ASK_S)
            continue
        if seen.settled and seen.primary == (promoted or seen.primary):
            return copies.faults
        why = seen.unsettled_because or f"failoverctl says that the primary is {seen.primary}"
        for member in seen.members:
            copies.consider(seen, member)
        pause.wait(ASK_S)
    return [*copies.faults, f"not whole after {deadline_s:g} s: {why}"]


class _Copies:
    """The new copies that the lab makes while a cluster settles: at most one per member, and only if the product does not."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._asked: dict[str, float] = {}
        self._made: set[str] = set()
        self.faults: list[str] = []

    def consider(self, seen: Seen, member: MemberSeen) -> None:
        rejoin = seen.rejoins.get(member.name)
        if not member.needs_reseed or member.name in self._made or (rejoin is not None and rejoin.state == "running"):
            self._asked.pop(member.name, None)
            return
        if boottime_s() - self._asked.setdefault(member.name, boottime_s()) < PATIENCE_S:
            return
        self._stage.says(f"{member.name} asks for a new copy: {member.rejoin}")
        self._made.add(member.name)
        self._stage.lab.reseed(member.name)
        self.faults.append(f"{member.name} did not come back by itself, the lab copied it anew: {member.rejoin}")
