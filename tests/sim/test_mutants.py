"""The oracle has teeth: with any one mistake in the product some history breaks S1 or S2; without it, it breaks nothing."""

from __future__ import annotations

import pytest

from failover.sim.mutants import MUTANTS, Mutant, caught, patched, told, unmutated
from failover.sim.mutants.base import SAFETY, hunt
from failover.sim.run import play

NEIGHBOURS = 60  # seeds beside the recorded one: another chance of the same story, should the product's own calls have changed
CAUGHT = [mutant for mutant in MUTANTS if mutant.faults is not None]


@pytest.mark.parametrize("mutant", CAUGHT, ids=lambda mutant: mutant.name)
def test_a_mistake_breaks_a_promise_and_the_product_keeps_it(mutant: Mutant) -> None:
    seed = next(seed for seed in (mutant.seed, *range(1, NEIGHBOURS + 1)) if _caught_by(mutant, seed))

    honest = play(mutant.where, seed, mutant.faults)

    assert honest.violation is None, f"without {mutant.name}, seed {seed}: {honest.violation}"


def _caught_by(mutant: Mutant, seed: int) -> bool:
    with mutant.applied():
        return caught(play(mutant.where, seed, mutant.faults, judged=SAFETY))


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_what_a_mutant_changed_is_put_back(mutant: Mutant) -> None:
    patches = mutant.patches()
    before = [vars(owner)[name] for owner, name, _ in patches]

    with mutant.applied():
        assert all(vars(owner)[name] is not was for (owner, name, _), was in zip(patches, before, strict=True))

    assert [vars(owner)[name] for owner, name, _ in patches] == before


def test_it_is_put_back_also_when_the_history_ends_with_an_error() -> None:
    class Owner:
        value = 1

    with pytest.raises(RuntimeError), patched((Owner, "value", 2)):
        raise RuntimeError

    assert Owner.value == 1


def test_a_hunt_reports_the_history_that_it_found() -> None:
    mutant = next(mutant for mutant in MUTANTS if mutant.name == "read-only taken as evidence")

    found = hunt(mutant, 10.0)

    assert found is not None and found.violation is not None and found.violation.promise == "S1"
    assert told(mutant, found, 0.1).startswith("read-only taken as evidence: seed 1, 0.1 s, S1 at ")


def test_the_same_seed_tells_the_same_story_with_and_without_a_mutant_in_between() -> None:
    mutant = MUTANTS[0]
    first = unmutated(mutant)
    with mutant.applied():
        play(mutant.where, mutant.seed, mutant.faults, judged=SAFETY)

    assert unmutated(mutant).digest == first.digest
