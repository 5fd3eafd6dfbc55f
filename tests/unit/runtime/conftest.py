"""A whole cluster in memory (tests/support/story.py)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.fake_host import Clock
from tests.support.story import Cluster


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def cluster(clock: Clock) -> Iterator[Cluster]:
    one = Cluster(clock)
    yield one
    one.close()
