"""Whole operations, told: each file in tests/scenarios has commands and what the journal and the guardians say to them.

A changed sentence or a changed order is a changed file, to be read in the review. `python -m tests.unit.test_scenarios <file>`
prints the file as it reads now.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.fake_host import Clock
from tests.support.story import cluster_of, tell

SCENARIOS = sorted((Path(__file__).parent.parent / "scenarios").glob("*.txt"))


@pytest.mark.parametrize("file", SCENARIOS, ids=lambda file: file.stem)
def test_the_story_is_told_as_written(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = file.read_text()
    cluster = cluster_of(script, Clock(monkeypatch))
    try:
        assert tell(cluster, script) == script
    finally:
        cluster.close()


def test_the_scenarios_are_there() -> None:
    told = {file.stem for file in SCENARIOS}
    assert told >= {"primary_dies", "silent_host", "switchover", "switchover_primary_dies", "unconfirmed_fence"}


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patch:
        text = Path(sys.argv[1]).read_text()
        sys.stdout.write(tell(cluster_of(text, Clock(patch)), text))
