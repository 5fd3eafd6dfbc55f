"""Fixtures of the suites that are the MySQL family's own: a new lab, or one of three servers that many stories share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support import mysql_server as my
from tests.support.engine_lab import Whole
from tests.support.my_lab import MyLab


@contextmanager
def made(flavour: str) -> Iterator[MyLab]:
    if reason := my.missing(flavour):
        pytest.skip(reason)
    with my.MyCluster(flavour) as cluster:
        yield MyLab(cluster)


@pytest.fixture(params=my.FLAVOURS)
def lab(request: pytest.FixtureRequest) -> Iterator[MyLab]:
    """db1 alone, new: the story may do to it what it likes."""
    with made(request.param) as new:
        yield new


@pytest.fixture(params=my.FLAVOURS, scope="module")
def shared(request: pytest.FixtureRequest) -> Iterator[Whole]:
    whole = Whole(lambda: made(request.param), ("db2", "db3"))
    yield whole
    whole.close()


@pytest.fixture
def trio(shared: Whole) -> MyLab:
    """db1 with its standbys db2 and db3, shared by all stories that leave them as they were: streaming, and no sync set."""
    whole = shared.lab()
    assert isinstance(whole, MyLab)
    return whole
