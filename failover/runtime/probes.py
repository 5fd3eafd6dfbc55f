"""Health-check loops: one bounded thread per member and kind, writing time-stamped facts to a board. They decide nothing.

Two kinds, because each sees what the other cannot: a *fresh* connection sees a hung postmaster, a *kept* one sees a death within
milliseconds. A vote says lost after n fresh probes in a row failed. Refused credentials and our own faults say nothing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from failover.clock import boottime_s
from failover.core.model import Member, MemberVote, Role, Votes
from failover.engines.base import Prober, ProbeResult
from failover.errors import FailoverError

log = logging.getLogger("failover.probes")


@dataclass(frozen=True)
class Watched:
    """What is known of one member from probing it."""

    fresh: ProbeResult | None = None
    kept: ProbeResult | None = None
    fails: int = 0
    recovering_since_s: float | None = None
    at_s: float = 0.0


class ProbeBoard:
    """The findings of this controller, by member."""

    def __init__(self, lost_after: int, recovery_max_s: float) -> None:
        self._lost_after, self._recovery_max_s = lost_after, recovery_max_s
        self._lock = threading.Lock()
        self._found: dict[str, Watched] = {}

    def found(self, member: str, kind: str, result: ProbeResult) -> None:
        now_s = boottime_s()
        with self._lock:
            before = self._found.get(member, Watched())
            if kind == "kept":
                self._found[member] = replace(before, kept=result)
                return
            fails = before.fails + 1 if result.alive is False else (before.fails if result.alive is None else 0)
            since = (before.recovering_since_s or now_s) if result.role is Role.RECOVERING else None
            self._found[member] = replace(before, fresh=result, fails=fails, recovering_since_s=since, at_s=now_s)

    def of(self, member: str) -> Watched:
        with self._lock:
            return self._found.get(member, Watched())

    def votes(self, controller: str, members: tuple[Member, ...]) -> Votes:
        """This controller's vote on every member, with the facts behind it."""
        found = {m.name: self.of(m.name) for m in members}
        votes = tuple((name, self._vote(watched)) for name, watched in found.items())
        sees = sum(1 for watched in found.values() if watched.fresh is not None and watched.fresh.alive is not False)
        return Votes(controller, votes, sees, len(found))

    def _vote(self, watched: Watched) -> MemberVote:
        fresh, kept = watched.fresh, watched.kept
        if fresh is None:
            return MemberVote(False, why="not probed yet")
        stuck = watched.recovering_since_s is not None and boottime_s() - watched.recovering_since_s > self._recovery_max_s
        lost = watched.fails >= self._lost_after or stuck
        why = f"{watched.fails} fresh probes in a row failed: {fresh.detail}" if watched.fails else fresh.detail
        if stuck:
            why = f"recovering for more than crash_recovery_max ({self._recovery_max_s:.0f} s)"
        return MemberVote(lost, _word(fresh), _word(kept), fresh.role, why)


def _word(result: ProbeResult | None) -> str:
    if result is None or result.alive is None:
        return "unknown"
    return "alive" if result.alive else "dead"


class ProbeLoop:
    """Probes one member in one way until told to stop. The prober belongs to this thread alone."""

    def __init__(
        self, member: str, kind: str, make: Callable[[], Prober], board: ProbeBoard, interval_s: float, bound_s: float
    ) -> None:
        self._member, self._kind, self._make, self._board = member, kind, make, board
        self._interval_s, self._bound_s = interval_s, bound_s

    def run(self, stop: threading.Event) -> None:
        prober = self._make()
        try:
            while not stop.is_set():
                began_s = boottime_s()
                self._board.found(self._member, self._kind, self._look(prober))
                stop.wait(max(0.01, self._interval_s - (boottime_s() - began_s)))
        finally:
            prober.close()

    def _look(self, prober: Prober) -> ProbeResult:
        try:
            return prober.fresh(self._bound_s) if self._kind == "fresh" else prober.kept(self._bound_s)
        except FailoverError as error:  # our own side (a secret that cannot be read): a broken probe, not a dead database
            log.warning("probe of %s is broken: %s", self._member, error)
            return ProbeResult(None, Role.UNKNOWN, f"probe broken: {error}", 0.0)
