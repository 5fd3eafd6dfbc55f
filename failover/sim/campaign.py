"""Many seeds on every core, and what to do with one that fails: make it small, and tell it so that a person can follow."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

from failover.core.model import Replication
from failover.sim.faults import Fault
from failover.sim.run import Result, play
from failover.sim.setting import Setting, with_members

CHUNK = 10
ROUNDS_MAX = 60  # replays that making one history small may cost


@dataclass(frozen=True)
class Found:
    """A seed that broke a promise."""

    seed: int
    promise: str
    says: str
    at_s: float


@dataclass
class Tally:
    """What came of a campaign so far. Rates are in true seconds of this machine."""

    seeds: int = 0
    events: int = 0
    virtual_s: float = 0.0
    promotions: int = 0
    acknowledged: int = 0
    worst_outage_s: float = 0.0
    worst_seed: int | None = None
    states: set[int] = field(default_factory=set)
    found: list[Found] = field(default_factory=list)
    took_s: float = 0.0
    interrupted: bool = False

    @property
    def seeds_per_minute(self) -> float:
        return 60.0 * self.seeds / self.took_s if self.took_s else 0.0

    def add(self, result: Result) -> None:
        self.seeds += 1
        self.events += result.events
        self.virtual_s += result.virtual_s
        self.promotions += result.promotions
        self.acknowledged += result.acknowledged
        self.states |= result.states
        if result.worst_outage_s > self.worst_outage_s:
            self.worst_outage_s, self.worst_seed = result.worst_outage_s, result.seed
        if result.violation is not None:
            broken = result.violation
            self.found.append(Found(result.seed, broken.promise, broken.says, broken.at_s))


def setting_of(seed: int, base: Setting, varied: bool) -> Setting:
    """The cluster of one seed. Varied: two members or three, and every promise in turn; the clocks stay those that were given."""
    if not varied:
        return base
    replication = {3: Replication.SYNC, 7: Replication.ASYNC}.get(seed % 10, Replication.STRICT)
    return replace(with_members(base, 2 if seed % 4 == 1 else 3), replication=replication, has_stonith=seed % 6 == 2)


def run(
    base: Setting, seeds: range, varied: bool, told: Callable[[Tally], None], workers: int | None = None
) -> Tally:
    """Play every seed; `told` hears about once a second how far it is. Ctrl-C ends it: what was played until then
    counts."""
    tally, began_s = Tally(), time.monotonic()
    last_s = began_s
    with _results(base, seeds, varied, workers or os.cpu_count() or 1) as results:
        try:
            for result in results:
                tally.add(result)
                tally.took_s = time.monotonic() - began_s
                if time.monotonic() - last_s >= 1.0:
                    last_s = time.monotonic()
                    told(tally)
        except KeyboardInterrupt:
            tally.interrupted = True
    return tally


@contextmanager
def _results(base: Setting, seeds: range, varied: bool, workers: int) -> Iterator[Iterator[Result]]:
    work = partial(_one, base, varied)
    if workers == 1 or len(seeds) <= CHUNK:
        yield map(work, seeds)
        return
    with multiprocessing.get_context("fork").Pool(workers, _leave_interrupts) as pool:
        yield pool.imap_unordered(work, seeds, CHUNK)


def _leave_interrupts() -> None:
    """Ctrl-C is for the parent, which ends us."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _one(base: Setting, varied: bool, seed: int) -> Result:
    """Without its trace: whoever wants to read it plays the seed again."""
    return replace(play(setting_of(seed, base, varied), seed), trace=())


def smallest(setting: Setting, failed: Result) -> Result:
    """The same promise broken by fewer faults: each is taken out, in turn, for as long as the rest still does it."""
    assert failed.violation is not None
    best, promise, rounds = failed, failed.violation.promise, 0
    shrunk = True
    while shrunk and rounds < ROUNDS_MAX:
        shrunk = False
        for fault in reversed(best.faults):
            rounds += 1
            tried = play(setting, failed.seed, _without(best.faults, fault))
            if tried.violation is not None and tried.violation.promise == promise:
                best, shrunk = tried, True
                break
    return best


def _without(faults: tuple[Fault, ...], gone: Fault) -> tuple[Fault, ...]:
    return tuple(fault for fault in faults if fault is not gone)


def story(result: Result) -> list[str]:
    """The timeline of one history, a line for each thing that somebody did or saw."""
    lines = [f"seed {result.seed}, digest {result.digest}, {len(result.faults)} faults"]
    lines += [f"{at_s:9.3f} s  {who:<16}  {what}" for at_s, who, what in result.trace]
    return lines
