"""One controller of one cluster: look, let the core decide, write it down, and only then act.

The loop is level-triggered: watches only shorten the wait. At most one transaction leaves a tick; if it loses or its outcome is
unknown the plan is dropped, and the next tick looks again. Actions run only for what is recorded.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from failover.clock import boottime_s
from failover.coordination.base import LostRace, Mirror
from failover.coordination.ledger import Ledger, Records
from failover.core.decide import decide
from failover.core.invariants import Violated
from failover.core.model import ControllerStatus, Operation, Policy, Problem, Stored, Votes
from failover.core.plan import Create, Erase, Key, Kind, Plan, Swap, Write
from failover.core.rules import Rules
from failover.errors import FailoverError, Unknown
from failover.runtime.decisions import DecisionRecord, violation
from failover.runtime.executor import Executor
from failover.runtime.failpoints import failpoints
from failover.runtime.leadership import Leadership
from failover.runtime.notifier import Notifier
from failover.runtime.observer import Observer
from failover.runtime.probes import ProbeBoard

log = logging.getLogger("failover.node")
COMMIT_S = 1.0
TICK_S = 0.1
CATCH_UP_S = 0.25
REFRESH_S = 1.0


@dataclass(frozen=True)
class NodeParts:
    """Everything one controller of one cluster consists of. `policy` is what the configuration file says of the mode."""

    me: str
    rules: Rules
    policy: Policy
    ledger: Ledger
    mirror: Mirror
    observer: Observer
    leadership: Leadership
    executor: Executor
    notifier: Notifier
    probes: ProbeBoard
    status: ControllerStatus
    problems: Callable[[], tuple[Problem, ...]]


class Node:
    def __init__(self, parts: NodeParts) -> None:
        self._parts = parts
        self._said = ""
        self._votes: tuple[Votes | None, float] = (None, 0.0)
        self._published: tuple[ControllerStatus | None, float] = (None, 0.0)
        self._violation: str | None = None
        self._decisions = DecisionRecord(parts.me, parts.rules, parts.ledger)

    def run(self, stop: threading.Event) -> None:
        """Tick until `stop`. Raises nothing of ZooKeeper's: what fails is looked at again."""
        changed = self._parts.mirror.changed
        failpoints.announce()
        while not stop.is_set():
            changed.wait(TICK_S)
            changed.clear()
            try:
                self.tick()
            except FailoverError as error:
                self._say(f"this tick came to nothing: {error}")

    def tick(self) -> None:
        """One look and at most one transaction."""
        parts = self._parts
        connected = parts.ledger.coordinator.connected()
        parts.probes.zookeeper(connected)
        if not parts.mirror.ready() or not connected:
            return
        records = parts.ledger.view(parts.mirror)
        self._publish(records)
        seen = parts.observer.observe(records, parts.executor.outcomes())  # a follower too: it knows since when, once it leads
        if not parts.leadership.leads(records):
            parts.leadership.campaign(records)
            return
        if self._follow_file(records):
            return
        try:
            plan = decide(seen, parts.rules)
            self._violation = None
        except Violated as violated:
            self._violation = str(violated)
            self._say(f"INVARIANT VIOLATED, hands off: {violated}")
            self._decisions.offer(records, seen, violation(violated))
            return
        self._say(plan.says)
        self._decisions.note(seen, plan)
        if plan.writes:
            self._commit(plan, records.one(Kind.OPERATION))
        else:
            parts.executor.want(plan.actions)
        parts.notifier.pay(seen.notices)
        if not plan.writes:  # whoever has a step to write has no time for stories
            self._decisions.offer(records, seen, plan)

    def _commit(self, plan: Plan, decided_on: Stored[Operation] | None) -> None:
        ops = self._parts.ledger.ops(plan.writes)
        try:
            committed = self._parts.ledger.coordinator.commit(ops, COMMIT_S)
        except LostRace as lost:
            log.info("the world moved (%s): looking again", lost)
            return
        except Unknown as unknown:
            log.warning("outcome unknown (%s): looking again", unknown)
            return
        failpoints.committed(plan.writes, decided_on.value if decided_on else None)
        self._catch_up({op.path: version for op, version in zip(ops, committed.versions, strict=True)})

    def _catch_up(self, versions: dict[str, int]) -> None:
        """Do not decide on a picture of before our own write; bounded, because only the next commit's checks are safe."""
        end_s = boottime_s() + CATCH_UP_S
        in_view = self._parts.ledger.paths.state + "/"
        wanted = {path: version for path, version in versions.items() if path.startswith(in_view)}
        mirror = self._parts.mirror
        while wanted and boottime_s() < end_s:
            entries = mirror.entries()
            if all(_shows(entries.get(path), version) for path, version in wanted.items()):
                break
            mirror.changed.wait(0.005)
            mirror.changed.clear()
        mirror.changed.set()

    def _follow_file(self, records: Records) -> bool:
        """The mode is the file's; the leader writes it into the record that transactions check."""
        stored: Stored[Policy] | None = records.one(Kind.POLICY)
        if stored is None or stored.value.mode is self._parts.policy.mode:
            return False
        changed = replace(stored.value, mode=self._parts.policy.mode)
        self._say(f"mode {stored.value.mode.value} -> {changed.mode.value}, as the file says")
        self._parts.ledger.commit([Swap(Key(Kind.POLICY), changed, stored.version)], COMMIT_S)
        return True

    def _publish(self, records: Records) -> None:
        """Our vote and our own state, as ephemerals: gone when we are."""
        parts, now_s = self._parts, boottime_s()
        votes = parts.probes.votes(parts.me, parts.rules.members)
        if _differs(votes, self._votes[0]) or now_s - self._votes[1] >= REFRESH_S:
            self._own(records, Key(Kind.VOTES, parts.me), votes)
            self._votes = (votes, now_s)
        problems = parts.problems()
        if self._violation:
            problems = (*problems, Problem("invariant", self._violation, "stop and report this with the journal"))
        problems = (*problems, *(Problem("corrupt", text, "somebody wrote there by hand?") for text in records.corrupt))
        status = replace(parts.status, problems=problems) if problems else parts.status
        if status != self._published[0] or records.all(Kind.CONTROLLER).get(parts.me) is None:
            self._own(records, Key(Kind.CONTROLLER, parts.me), status)
            self._published = (status, now_s)

    def _own(self, records: Records, key: Key, value: object) -> None:
        """Write an ephemeral of ours, replacing what a predecessor's session left."""
        stored = records.all(key.kind).get(key.name)
        session = self._parts.ledger.coordinator.session()
        writes: tuple[Write, ...]
        if stored is None:
            writes = (Create(key, value, ephemeral=True),)
        elif stored.owner_session != session:
            writes = (Erase(key, stored.version), Create(key, value, ephemeral=True))
        else:
            writes = (Swap(key, value, None),)
        try:
            self._parts.ledger.commit(writes, COMMIT_S)
        except LostRace:
            log.debug("%s: written again at the next tick", key)

    def _say(self, text: str) -> None:
        if text and text != self._said:
            log.info("%s", text)
            self._said = text


def _shows(entry: object, version: int) -> bool:
    """A delete shows as absence, anything else as that version or a later one."""
    if version < 0:
        return entry is None
    return entry is not None and getattr(entry, "version", -1) >= version


def _differs(now: Votes, before: Votes | None) -> bool:
    """What a vote *says* changed; the texts alone (timings) are refreshed once a second."""
    if before is None:
        return True
    told, tells = ([(n, v.lost, v.fresh, v.role, v.sees) for n, v in votes.members] for votes in (before, now))
    return told != tells
