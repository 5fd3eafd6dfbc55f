"""Members without a guardian: nobody beside them speaks for them, so the leading controller says what it sees from afar.

What it writes is what a guardian would (a `MemberStatus`), so `adopt`, `status` and `plan` need not know the difference; the
gate reads "agentless". It is for choosing and for people and never a permission, and no age of it is evidence of anything. Two
sources: this controller's own probes, and the host agent over SSH (processes, VIP, whether the member was fenced).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from failover.clock import boottime_s
from failover.coordination.base import Mirror
from failover.coordination.ledger import Ledger, Records
from failover.core.model import Grant, Member, MemberStatus, Role
from failover.core.plan import Check, Create, Key, Kind, Swap, Write
from failover.engines.base import ProbeResult
from failover.errors import FailoverError
from failover.runtime.probes import ProbeBoard

log = logging.getLogger("failover.agentless")
LOOK_S = 0.25
REFRESH_S = 1.0
HOST_S = 3.0  # how often a host agent is asked: each look costs a process or two there
ASK_S = 2.0
KNOWN_S = 10.0  # what a host agent said longer ago is not known any more
COMMIT_S = 1.0
AGENTLESS = "agentless"  # the word in place of the gate's state
SAYS = "no guardian: watched from afar"

AskHost = Callable[[str, float], Mapping[str, object]]
"""The facts of a member's host agent (`status`). Raises as actuators/base.py says."""


@dataclass(frozen=True)
class HostFacts:
    """What a host agent said, and when; nothing at all before it has."""

    facts: Mapping[str, object]
    at_s: float


class AgentlessWatch:
    """Two loops of one controller; only while it leads does either do anything."""

    def __init__(
        self, members: tuple[Member, ...], ledger: Ledger, mirror: Mirror, probes: ProbeBoard, ask: AskHost
    ) -> None:
        self._watched = tuple(m for m in members if not m.guarded)
        self._at = {m.address: m.name for m in members}
        self._ledger, self._mirror, self._probes, self._ask = ledger, mirror, probes, ask
        self._hosts: dict[str, HostFacts] = {}
        self._last: dict[str, tuple[MemberStatus, float]] = {}

    def start(self, stop: threading.Event) -> list[threading.Thread]:
        """The threads, running until `stop`; none where every member has a guardian."""
        if not self._watched:
            return []
        loops = (("agentless", self.step, LOOK_S), ("agentless hosts", self.ask_hosts, HOST_S))
        threads = [
            threading.Thread(target=_repeat, args=(step, pause_s, stop), name=name, daemon=True) for name, step, pause_s in loops
        ]
        for thread in threads:
            thread.start()
        return threads

    def step(self) -> None:
        """Publish what changed, and all of it once a second: others tell our silence by that."""
        records = self._led()
        if records is None:
            return
        grant = records.one(Kind.GRANT)
        for member in self._watched:
            status = self.status(member.name, grant.value if grant else None)
            before, at_s = self._last.get(member.name, (None, 0.0))
            if status != before or boottime_s() - at_s >= REFRESH_S:
                self._publish(records, status)

    def ask_hosts(self) -> None:
        """What only the host itself knows. One that does not answer keeps its last word for a while."""
        if self._led() is None:
            return
        for member in self._watched:
            try:
                self._hosts[member.name] = HostFacts(self._ask(member.name, ASK_S), boottime_s())
            except FailoverError as error:
                log.debug("the host of %s: %s", member.name, error)

    def status(self, name: str, grant: Grant | None) -> MemberStatus:
        """What would be published now."""
        fresh, facts = self._probes.of(name).fresh, self._facts(name)
        found = fresh if fresh is not None and fresh.alive else None
        granted = grant is not None and grant.member == name
        writable = bool(granted and found and found.role is Role.PRIMARY and found.writable)
        follows = self._at.get(found.follows) if found and found.follows else None
        fenced = facts.get("closed") if facts.get("fenced") is True else None
        return MemberStatus(
            member=name,
            role=_role(found, facts),
            system_identifier=found.system_identifier if found else "",
            position=found.position.text() if found and found.position else None,
            follows=follows,
            streaming=bool(found and found.streaming and follows and (grant is None or follows == grant.member)),
            gate=AGENTLESS,
            epoch=grant.epoch if grant and writable else 0,
            vip=facts.get("vip") is True,
            writable=writable,
            rejoin=_by_hand(fenced) if fenced is not None else None,
            problems=_problems(fresh, stray=grant is not None and not granted),
            guardian=SAYS,
        )

    def _facts(self, name: str) -> Mapping[str, object]:
        said = self._hosts.get(name)
        return said.facts if said is not None and boottime_s() - said.at_s < KNOWN_S else {}

    def _led(self) -> Records | None:
        """The records, if this very session leads."""
        coordinator = self._ledger.coordinator
        if not self._mirror.ready() or not coordinator.connected():
            return None
        records = self._ledger.view(self._mirror)
        leader, session = records.one(Kind.LEADER), coordinator.session()
        return records if leader is not None and session is not None and leader.owner_session == session else None

    def _publish(self, records: Records, status: MemberStatus) -> None:
        """Only under the term that we lead: one that was deposed and sleeps changes nothing when it wakes."""
        term, key = records.one(Kind.TERM), Key(Kind.MEMBER, status.member)
        if term is None:
            return
        write: Write = Swap(key, status, None) if status.member in records.all(Kind.MEMBER) else Create(key, status)
        try:
            self._ledger.commit([Check(Key(Kind.TERM), term.version), write], COMMIT_S)
        except FailoverError as error:
            log.debug("status of %s not published: %s", status.member, error)
            return
        self._last[status.member] = status, boottime_s()


def _repeat(step: Callable[[], None], pause_s: float, stop: threading.Event) -> None:
    while not stop.wait(pause_s):
        try:
            step()
        except FailoverError as error:
            log.debug("this look came to nothing: %s", error)


def _role(found: ProbeResult | None, facts: Mapping[str, object]) -> Role:
    """DOWN needs proof: the host itself counts no process."""
    if found is not None:
        return found.role
    return Role.DOWN if facts.get("processes") == 0 and type(facts.get("processes")) is int else Role.UNKNOWN


def _by_hand(closed: object) -> str:
    return f"fenced up to epoch {closed}, and no guardian brings it back: copy it anew, then `failover-guardian release` there"


def _problems(fresh: ProbeResult | None, stray: bool) -> tuple[str, ...]:
    """`stray`: another member has the grant, so here nobody may write."""
    if fresh is None:
        return ("not probed yet",)
    if fresh.alive:
        return ("is a primary without the grant: it may take writes",) if stray and fresh.role is Role.PRIMARY else ()
    return (f"cannot be probed: {fresh.detail}" if fresh.alive is None else f"does not answer: {fresh.detail}",)
