"""Whole operations, told: each file in tests/scenarios has commands and what the journal and the guardians say to them.

A changed sentence or a changed order is a changed file, to be read in the review. `python -m tests.unit.test_scenarios <file>`
prints the file as it reads now.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.fake_host import Clock
from tests.support.story import Cluster, tell

SCENARIOS = sorted((Path(__file__).parent.parent / "scenarios").glob("*.txt"))


@pytest.mark.parametrize("file", SCENARIOS, ids=lambda file: file.stem)
def test_the_story_is_told_as_written(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(Clock(monkeypatch))
    try:
        assert tell(cluster, file.read_text()) == file.read_text()
    finally:
        cluster.close()


def test_the_scenarios_are_there() -> None:
    assert {file.stem for file in SCENARIOS} >= {"primary_dies", "switchover", "switchover_primary_dies", "unconfirmed_fence"}


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patch:
        sys.stdout.write(tell(Cluster(Clock(patch)), Path(sys.argv[1]).read_text()))
