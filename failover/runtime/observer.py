"""Assembles the frozen Observation: the records in view, the outcomes so far, and since when *this* controller saw what.

Ages are counted from this process's own first sight of a value, on CLOCK_BOOTTIME; no clock of another host is ever read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from failover.clock import boottime_s, wall_text
from failover.coordination.ledger import Records
from failover.core.model import MemberStatus, Position, Stored
from failover.core.observation import Observation
from failover.core.plan import Kind, Outcome
from failover.errors import Corrupt

GONE_S = 3.0  # guardians refresh their status every second


class Since:
    """Since when a value has been what it is, by name."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[object, float]] = {}

    def of(self, name: str, value: object, now_s: float) -> float:
        known = self._seen.get(name)
        if known is None or known[0] != value:
            self._seen[name] = (value, now_s)
            return now_s
        return known[1]


class Changes:
    """When a value last changed in our sight, by name; the first sight of it is no change."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[object, float | None]] = {}

    def of(self, name: str, value: object, now_s: float) -> float | None:
        known = self._seen.get(name)
        if known is None or known[0] != value:
            self._seen[name] = known = (value, None if known is None else now_s)
        return known[1]


class Observer:
    """Stateful only in what it has seen when. One per controller and cluster."""

    def __init__(self, me: str, parse: Callable[[str], Position]) -> None:
        self._me, self._parse = me, parse
        self._since = Since()
        self._highest_epoch = 0
        self._changes = Changes()

    def observe(self, records: Records, outcomes: tuple[Outcome, ...] = ()) -> Observation:
        now_s = boottime_s()
        operation, policy = records.one(Kind.OPERATION), records.one(Kind.POLICY)
        phase = (operation.value.id, operation.value.phase) if operation else None
        switches = policy.value if policy else None
        members: dict[str, Stored[MemberStatus]] = dict(records.all(Kind.MEMBER))
        grant = records.one(Kind.GRANT)
        self._highest_epoch = max(self._highest_epoch, grant.value.epoch if grant else 0)
        return Observation(
            now_s=now_s,
            me=self._me,
            term=records.one(Kind.TERM),
            grant=grant,
            highest_epoch=self._highest_epoch,
            operation=operation,
            policy=policy,
            leases=records.all(Kind.LEASE),
            receipts=records.all(Kind.RECEIPT),
            seals=records.all(Kind.SEAL),
            handovers=records.all(Kind.HANDOVER),
            members=members,
            votes=records.all(Kind.VOTES),
            requests=records.all(Kind.REQUEST),
            answers=records.all(Kind.ANSWER),
            notices=records.all(Kind.NOTICE),
            controllers=records.all(Kind.CONTROLLER),
            rejoins=records.all(Kind.REJOIN),
            positions=self._positions(records),
            heartbeat_moved_s=self._changed("newest row", members, lambda status: status.heartbeat, now_s),
            inserts_turned_s=self._changed("inserts", members, lambda status: status.heartbeat_fails > 0, now_s),
            streaming_since_s={n: self._since.of(f"streaming {n}", self._streams(s, now_s), now_s) for n, s in members.items()},
            outcomes=outcomes,
            phase_since_s=self._since.of("phase", phase, now_s),
            last_failover_since_s=self._since.of("failover", switches.last_failover if switches else None, now_s),
            pause_since_s=self._since.of("pause", (switches.paused_for_s, switches.paused_at_wall) if switches else None, now_s),
            maintenance_since_s={
                m.member: self._since.of(f"maintenance {m.member}", m, now_s) for m in (switches.maintenance if switches else ())
            },
            wall=wall_text(),
        )

    def _streams(self, stored: Stored[MemberStatus], now_s: float) -> bool:
        return stored.value.streaming and now_s - stored.seen_at_s < GONE_S

    def _changed(
        self, what: str, members: Mapping[str, Stored[MemberStatus]], of: Callable[[MemberStatus], object], now_s: float
    ) -> dict[str, float]:
        """When this of each member's status last changed in our sight, where it did."""
        at = {name: self._changes.of(f"{what} {name}", of(stored.value), now_s) for name, stored in members.items()}
        return {name: when_s for name, when_s in at.items() if when_s is not None}

    def _positions(self, records: Records) -> dict[str, Position]:
        """Every stored position parsed once; what cannot be parsed is not there, and so counts for nothing."""
        found: dict[str, Position] = {}
        for text in self._texts(records):
            if text and text not in found:
                try:
                    found[text] = self._parse(text)
                except Corrupt:
                    continue
        return found

    def _texts(self, records: Records) -> Iterable[str | None]:
        for stored in records.all(Kind.MEMBER).values():
            yield stored.value.position
            yield stored.value.applied_at
        for kind in (Kind.SEAL, Kind.HANDOVER):
            for stored in records.all(kind).values():
                yield stored.value.position
        grant = records.one(Kind.GRANT)
        if grant is not None:
            yield grant.value.minimum_position
