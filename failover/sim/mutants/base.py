"""What a mutant is: the product with one mistake in it, and a way to show that a history finds the mistake.

A mutant changes the product's own functions while a block runs and puts them back. It is *caught* when a history under it
breaks S1 or S2; a cluster that merely does not come to rest proves nothing about the oracle's teeth.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from failover.sim.faults import Fault
from failover.sim.run import Result, play
from failover.sim.setting import Setting, of_profile

SAFETY = ("S1", "S2")
PROFILE = "fast"
Patch = tuple[object, str, object]


@contextmanager
def patched(*patches: Patch) -> Iterator[None]:
    """Each (owner, name, value) in place until the block ends. The owner is a module or a class that has the name itself."""
    before = [(owner, name, vars(owner)[name]) for owner, name, _ in patches]
    try:
        for owner, name, value in patches:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in reversed(before):
            setattr(owner, name, value)


@dataclass(frozen=True)
class Mutant:
    """`promise`: what it breaks. `says`: the mistake, in one sentence. `applied()`: the product with it, while the block runs.

    `setting`: in what cluster it shows. `kinds`: which faults a search for it draws from, () for all. `faults` and `seed`: a
    history that catches it; None: the plan that the seed draws from `kinds`.
    """

    name: str
    promise: str
    says: str
    patches: Callable[[], tuple[Patch, ...]]
    setting: Callable[[Setting], Setting] = lambda setting: setting
    kinds: tuple[str, ...] = ()
    seed: int = 0
    faults: tuple[Fault, ...] | None = None

    @property
    def found_by(self) -> str:
        return f"seed {self.seed} under {'the plan that it draws' if self.faults is None else 'a schedule written by hand'}"

    def applied(self) -> AbstractContextManager[None]:
        return patched(*self.patches())

    @property
    def where(self) -> Setting:
        """The cluster it lives in."""
        return self.setting(of_profile(PROFILE))


def caught(result: Result) -> bool:
    return result.violation is not None and result.violation.promise in SAFETY


def replay(mutant: Mutant) -> Result:
    """The recorded history, with the mistake."""
    with mutant.applied():
        return play(mutant.where, mutant.seed, mutant.faults, mutant.kinds, SAFETY)


def unmutated(mutant: Mutant) -> Result:
    """The same faults and the same chance, without the mistake, every promise judged."""
    return play(mutant.where, mutant.seed, mutant.faults, mutant.kinds)


def hunt(mutant: Mutant, budget_s: float, first: int = 1) -> Result | None:
    """Search seed by seed, the recorded history first; None if the budget ends before anything is found."""
    end_s = time.monotonic() + budget_s
    with mutant.applied():
        found = play(mutant.where, mutant.seed, mutant.faults, mutant.kinds, SAFETY)
        seed = first
        while not caught(found):
            if time.monotonic() >= end_s:
                return None
            found = play(mutant.where, seed, mutant.faults if seed % 2 else None, mutant.kinds, SAFETY)
            seed += 1
    return found


def told(mutant: Mutant, result: Result | None, took_s: float) -> str:
    """One line for `failoverctl simulate --mutants`."""
    if result is None or result.violation is None:
        return f"{mutant.name}: NOT caught in {took_s:.1f} s"
    return f"{mutant.name}: seed {result.seed}, {took_s:.1f} s, {result.violation}"
