"""A guardian on a host in memory: `host` is db1's, `leader` writes what a leader would."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from failover.coordination.memory import MemoryEnsemble
from failover.core.model import Grant, Role, SyncSet
from tests.support.fake_host import Authority, Clock, FakeHost

SYNC = (SyncSet(1, ("db2", "db3"), "1"),)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def ensemble(clock: Clock) -> MemoryEnsemble:
    return MemoryEnsemble(clock)


@pytest.fixture
def leader(ensemble: MemoryEnsemble) -> Authority:
    return Authority(ensemble)


@pytest.fixture
def host(ensemble: MemoryEnsemble, leader: Authority, clock: Clock) -> Iterator[FakeHost]:
    """db1, primary and serving under epoch 3 with a proved lease."""
    leader.grant(Grant("db1", 3, ("db2", "db3"), SYNC))
    one = FakeHost(ensemble, "db1", clock)
    one.database.run(11, Role.PRIMARY)
    yield one.turn(2)
    one.close()


@pytest.fixture
def standby(ensemble: MemoryEnsemble, leader: Authority, clock: Clock) -> Iterator[FakeHost]:
    """db2, a standby of db1."""
    leader.grant(Grant("db1", 3, ("db2", "db3"), SYNC))
    one = FakeHost(ensemble, "db2", clock)
    one.database.run(21, Role.STANDBY)
    one.database.upstream = "10.0.0.1"
    yield one.turn(2)
    one.close()
