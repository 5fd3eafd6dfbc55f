"""Connect, keep one cluster's records in view, and look at them the way a controller does.

A record that nobody refreshes looks the same as one that is a second old, so one look cannot tell a silent guardian from a
living one. `watch` looks until every guardian has spoken again (they do once a second); who did not is *silent*, and the
observation says so in the way the core understands: the record was last seen too long ago to count.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from failover.cli.options import Scope
from failover.clock import boottime_s
from failover.config import load
from failover.coordination.base import Coordinator, Mirror
from failover.coordination.ledger import Ledger, Records
from failover.core.observation import Observation
from failover.core.plan import Key, Kind
from failover.core.rules import Rules
from failover.errors import Unreachable
from failover.runtime.observer import Observer
from failover.settings import ClusterSettings, Settings

CONNECT_S = 5.0
WATCH_S = 1.5  # guardians speak once a second; on a busy host a little later
NEVER_S = -math.inf


@dataclass(frozen=True)
class Look:
    """One look. `ages_s[member]`: since the guardian's last word; None when it is silent or only one look was taken."""

    seen: Observation
    leader: str | None
    ages_s: Mapping[str, float | None]
    corrupt: tuple[str, ...]


class View:
    """One cluster in view. `ledger` is for the few who write."""

    def __init__(
        self, settings: Settings, cluster: ClusterSettings, rules: Rules, ledger: Ledger, mirror: Mirror, observer: Observer
    ) -> None:
        self.settings, self.cluster, self.rules, self.ledger, self.mirror = settings, cluster, rules, ledger, mirror
        self._observer = observer

    def records(self) -> Records:
        return self.ledger.view(self.mirror)

    def look(self) -> Look:
        """What is in view now."""
        records = self.records()
        leader = records.one(Kind.LEADER)
        seen = self._observer.observe(records)
        return Look(seen, leader.value if leader else None, dict.fromkeys(seen.members), records.corrupt)

    def watch(self, for_s: float = WATCH_S) -> Look:
        """What is in view once every guardian has spoken again, or after `for_s`: the others are silent."""
        first = self.look()
        before = {name: stored.version for name, stored in first.seen.members.items()}
        end_s = boottime_s() + for_s
        while True:
            self.mirror.changed.clear()
            look = self.look()
            moved = {n for n, s in look.seen.members.items() if s.version != before.get(n)}
            left_s = end_s - boottime_s()
            if moved >= set(self.rules_names(before)) or left_s <= 0:
                return _with_silence(look, moved)
            self.mirror.changed.wait(left_s)

    def rules_names(self, known: Mapping[str, object]) -> tuple[str, ...]:
        """The configured members that have said something at least once."""
        return tuple(m.name for m in self.rules.members if m.name in known)


def _with_silence(look: Look, moved: set[str]) -> Look:
    seen = look.seen
    members = {n: s if n in moved else replace(s, seen_at_s=NEVER_S) for n, s in seen.members.items()}
    ages: dict[str, float | None] = {n: seen.now_s - s.seen_at_s if n in moved else None for n, s in seen.members.items()}
    return replace(look, seen=replace(seen, members=members), ages_s=ages)


def client_of(settings: Settings, cluster: ClusterSettings) -> Coordinator:
    """One client of the ensemble, not started yet."""
    from failover.bootstrap import coordinator

    return coordinator(settings, settings.zookeeper.hosts, cluster.timings.session_s, "failoverctl")


@contextmanager
def opened(scope: Scope) -> Iterator[View]:
    """The cluster that was asked for, in view. Raises ConfigurationError; Unreachable when no ZooKeeper server answers."""
    from failover.bootstrap import ledger_of, observer_of, rules_of

    settings = load(scope.config)
    cluster = settings.cluster(scope.cluster)
    client = client_of(settings, cluster)
    budget_s = min(CONNECT_S, scope.timeout_s)
    try:
        _start(client, settings, budget_s)
        ledger = ledger_of(settings, cluster, client)
        mirror = client.mirror(ledger.paths.singles(), ledger.paths.trees())
        try:
            _until_ready(ledger, mirror, settings, budget_s)
            rules = rules_of(cluster, tuple(c.name for c in settings.controllers))
            yield View(settings, cluster, rules, ledger, mirror, observer_of(cluster, "failoverctl"))
        finally:
            mirror.close()
    finally:
        client.close()


def _start(client: Coordinator, settings: Settings, budget_s: float) -> None:
    try:
        client.start(budget_s)
    except Unreachable as error:
        raise _nobody(settings, budget_s) from error


def _until_ready(ledger: Ledger, mirror: Mirror, settings: Settings, budget_s: float) -> None:
    """Raises Unreachable; WrongCredentials when the servers answer, but not to us."""
    end_s = boottime_s() + budget_s
    while not mirror.ready():
        left_s = end_s - boottime_s()
        if left_s <= 0:
            ledger.read(Key(Kind.TERM), budget_s)
            raise _nobody(settings, budget_s)
        mirror.changed.wait(left_s)
        mirror.changed.clear()


def _nobody(settings: Settings, budget_s: float) -> Unreachable:
    hosts = ", ".join(settings.zookeeper.hosts)
    return Unreachable(f"no ZooKeeper server answers within {budget_s:g} s: {hosts}")
