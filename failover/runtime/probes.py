"""Health-check loops: one bounded thread per member and kind, writing time-stamped facts to a board. They decide nothing.

Two kinds, because each sees what the other cannot: a *fresh* connection sees a hung postmaster, a *kept* one sees a death
within milliseconds. What a probe can find, and what it means:

- an answer, "starting up" (57P03, bounded by crash_recovery_max) and "no connection left" (53300): alive;
- silence, or a port where nothing listens: one failure. A refusal is quick, but it is also what every restart looks like,
  so it counts like silence; where a guardian lives, its receipt is quicker than any probe;
- a login that a process of the server took and did not finish, while the kept connection works (a lock on the catalogs,
  a starved CPU): alive. Without the kept connection: one failure;
- silence while the kept connection works: the next probe waits four bounds and counts as four. A starved server gets
  round to it in that time, a hung postmaster never, and it is lost no later than by short ones;
- refused credentials, and faults of our own: nothing at all, neither life nor death. It is shown as a broken probe.

A vote says lost after n failures in a row, the latest of which *began* at least n x (interval + bound) after the last sign
of life (T4). So a silence of up to n x (interval + bound) - interval never counts, whatever probe it caught in the middle,
and a death is told within (n + 1) x (interval + bound).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from failover.clock import boottime_s
from failover.core.model import ZOOKEEPER, Member, MemberVote, Problem, Role, Votes
from failover.engines.base import Prober, ProbeResult
from failover.errors import FailoverError

log = logging.getLogger("failover.probes")

PATIENT = 4  # bounds that a fresh probe may take while the kept connection answers: starved is slow, hung is never
SLOWEST = 4  # a member long silent is probed every 4 intervals: a frozen server keeps every probe in its listen queue


@dataclass(frozen=True)
class Watched:
    """What is known of one member from probing it. Times are CLOCK_BOOTTIME.

    `alive_at_s`: the last sign of life, or when the first probe began. `failing_s`: when the latest failed fresh probe
    began. `heard_since_s`: since when its host has answered every fresh probe, with whatever.
    """

    fresh: ProbeResult | None = None
    kept: ProbeResult | None = None
    fails: int = 0
    alive_at_s: float = 0.0
    failing_s: float = 0.0
    heard_since_s: float | None = None
    recovering_since_s: float | None = None

    @property
    def silent_s(self) -> float:
        """From the last sign of life to the beginning of the latest failed fresh probe."""
        return max(0.0, self.failing_s - self.alive_at_s)

    @property
    def login_hangs(self) -> bool:
        """The server takes connections and lets nobody in, and those who are in already are served."""
        fresh, kept = self.fresh, self.kept
        return bool(fresh and kept and fresh.alive is False and fresh.answered_by == "server" and kept.alive)

    @property
    def perhaps_hung(self) -> bool:
        """A fresh connection found silence, and the kept one is served."""
        fresh, kept = self.fresh, self.kept
        return bool(fresh and kept and fresh.alive is False and not fresh.answered_by and kept.alive)

    def after_fresh(self, result: ProbeResult, now_s: float, bound_s: float) -> Watched:
        """One more fresh probe has ended. A patient one counts as the probes that would have fitted into it."""
        began_s = now_s - result.took_s
        times = max(1, round(result.took_s / bound_s)) if self.kept is not None and self.kept.alive else 1
        heard = result.alive is True or bool(result.answered_by)
        known = replace(
            self,
            fresh=result,
            alive_at_s=self.alive_at_s if self.fresh is not None else began_s,
            heard_since_s=None if not heard else self.heard_since_s if self.heard_since_s is not None else now_s,
            recovering_since_s=(self.recovering_since_s or now_s) if result.role is Role.RECOVERING else None,
        )
        if result.alive is None:
            return known
        if result.alive or known.login_hangs:
            return replace(known, fails=0, alive_at_s=now_s)
        return replace(known, fails=self.fails + times, failing_s=began_s + (times - 1) * bound_s)


class ProbeBoard:
    """The findings of this controller, by member.

    `lost_after`: n. `silence_s`: n x (interval + bound), see above. `beside`: the member on this controller's own host.
    """

    def __init__(
        self, lost_after: int, recovery_max_s: float, silence_s: float = 0.0, beside: str | None = None,
        bound_s: float = 1.0,
    ) -> None:  # fmt: skip
        self._lost_after, self._recovery_max_s, self._silence_s = lost_after, recovery_max_s, silence_s
        self._beside, self._bound_s = beside, bound_s
        self._lock = threading.Lock()
        self._found: dict[str, Watched] = {}
        self._zookeeper_since_s: float | None = None

    def found(self, member: str, kind: str, result: ProbeResult) -> None:
        """A probe has just ended."""
        now_s = boottime_s()
        with self._lock:
            before = self._found.get(member, Watched())
            if kind == "kept":
                self._found[member] = replace(before, kept=result)
            else:
                self._found[member] = before.after_fresh(result, now_s, self._bound_s)

    def zookeeper(self, connected: bool) -> None:
        """Whether this controller reaches a majority of ZooKeeper: the witness that is no member."""
        with self._lock:
            if not connected:
                self._zookeeper_since_s = None
            elif self._zookeeper_since_s is None:
                self._zookeeper_since_s = boottime_s()

    def of(self, member: str) -> Watched:
        with self._lock:
            return self._found.get(member, Watched())

    def problems(self) -> tuple[Problem, ...]:
        """Probes that can tell nothing, whatever the database does."""
        with self._lock:
            broken = {name: w.fresh for name, w in self._found.items() if w.fresh is not None and w.fresh.alive is None}
        hint = "the monitor account: its password file here, there its password and where it may come from; failoverctl check"
        return tuple(Problem("probe-broken", f"{name} cannot be probed: {r.detail}", hint) for name, r in broken.items())

    def votes(self, controller: str, members: tuple[Member, ...]) -> Votes:
        """This controller's vote on every member, with the facts behind it."""
        with self._lock:
            found = {m.name: self._found.get(m.name, Watched()) for m in members}
            heard = {name: w.heard_since_s for name, w in found.items() if name != self._beside}
            heard[ZOOKEEPER] = self._zookeeper_since_s
        votes = []
        for name, watched in found.items():
            before_s = watched.failing_s if watched.fails else boottime_s()
            sees = tuple(w for w, since_s in heard.items() if w != name and since_s is not None and since_s <= before_s)
            votes.append((name, self._vote(watched, sees)))
        return Votes(controller, tuple(votes), self._beside)

    def _vote(self, watched: Watched, sees: tuple[str, ...]) -> MemberVote:
        fresh, kept = watched.fresh, watched.kept
        if fresh is None:
            return MemberVote(False, why="not probed yet", sees=sees)
        recovering_s = boottime_s() - watched.recovering_since_s if watched.recovering_since_s is not None else 0.0
        silent = watched.fails >= self._lost_after and watched.silent_s >= self._silence_s
        lost = silent or recovering_s > self._recovery_max_s
        return MemberVote(lost, _word(fresh), _word(kept), fresh.role, self._why(watched, fresh, recovering_s), sees)

    def _why(self, watched: Watched, fresh: ProbeResult, recovering_s: float) -> str:
        if recovering_s > self._recovery_max_s:
            return f"recovering for more than crash_recovery_max ({self._recovery_max_s:.0f} s)"
        if watched.recovering_since_s is not None:
            return f"recovering for {recovering_s:.0f} s of at most {self._recovery_max_s:.0f}: {fresh.detail}"
        if fresh.alive is None:
            return f"probe broken: {fresh.detail}"
        if watched.login_hangs:
            return f"{fresh.detail}; the kept connection is served: busy, not dead"
        if not watched.fails:
            return fresh.detail
        told = f"{watched.fails} fresh probes in a row failed, {watched.silent_s:.1f} s after the last answer: {fresh.detail}"
        if watched.kept is not None and watched.kept.alive:
            told += "; its kept connection still answers (a hung postmaster?)"
        return told


def _word(result: ProbeResult | None) -> str:
    if result is None or result.alive is None:
        return "unknown"
    return "alive" if result.alive else "dead"


class ProbeLoop:
    """Probes one member in one way until told to stop. The prober belongs to this thread alone.

    The pause is an interval less the time the probe took, and a whole interval after silence. After `patience` silent
    probes in a row the pauses grow to SLOWEST intervals: everything is known by then.
    """

    def __init__(
        self, member: str, kind: str, make: Callable[[], Prober], board: ProbeBoard, interval_s: float, bound_s: float,
        patience: int = 4,
    ) -> None:  # fmt: skip
        self._member, self._kind, self._make, self._board = member, kind, make, board
        self._interval_s, self._bound_s, self._patience = interval_s, bound_s, patience
        self._silent = 0

    def run(self, stop: threading.Event) -> None:
        prober = self._make()
        try:
            while not stop.is_set():
                result = self._look(prober)
                self._board.found(self._member, self._kind, result)
                stop.wait(self._pause_s(result))
        finally:
            prober.close()

    def _pause_s(self, result: ProbeResult) -> float:
        if result.alive is not False or result.answered_by == "host":
            self._silent = 0
            return max(0.01, self._interval_s - result.took_s)
        self._silent += 1
        growth = max(0, self._silent - self._patience)
        return self._interval_s * min(SLOWEST, 1 + growth)

    def _look(self, prober: Prober) -> ProbeResult:
        try:
            if self._kind == "kept":
                return prober.kept(self._bound_s)
            return prober.fresh(self._bound_s * (PATIENT if self._board.of(self._member).perhaps_hung else 1))
        except FailoverError as error:  # our own side (a secret that cannot be read): a broken probe, not a dead database
            log.warning("probe of %s is broken: %s", self._member, error)
            return ProbeResult(None, Role.UNKNOWN, str(error), 0.0)
