"""The guardian's rejoin on real databases: duties, thread, tools and files together; the kernel and ZooKeeper are in memory."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from failover.coordination.memory import MemoryEnsemble
from failover.core.model import Grant, Member, MemberStatus, RejoinOrder, RejoinWay, Role
from failover.engines.base import Upstream, Work
from failover.engines.lsn import Lsn
from failover.guardian.board import Board, Identity
from failover.guardian.fencer import Fencer
from failover.guardian.instance import DatabaseInstance
from failover.guardian.rejoin import Rejoining
from failover.guardian.rejoin_files import Places
from failover.guardian.reporter import Reporter
from failover.guardian.warden import Hands, Warden
from tests.contract.test_engine import PostgresLab
from tests.contract.test_rejoiner import Diverged
from tests.support import postgres_server as pg
from tests.support.builders import TIMES
from tests.support.fake_host import Authority, Clock, FakeHost

pytestmark = pytest.mark.skipif(pg.missing() is not None, reason=pg.missing() or "")
EPOCH = 5


class RealHost(FakeHost):
    """db1's guardian with its real database; db2 has the grant."""

    def __init__(self, diverged: Diverged, ensemble: MemoryEnsemble, clock: Clock, state_dir: Path) -> None:
        super().__init__(ensemble, "db1", clock)
        lab, server = diverged.lab, diverged.db1
        members = tuple(Member(s.name, s.address) for s in lab.cluster.servers.values())
        self.board = Board(Identity("db1", members, TIMES, 10.0, 3.0, rejoin_automatic=True), Lsn.parse)
        self.real = lab.engine(server)
        instance = self.real._instance
        self.places = Places(server.data_dir, pg.OS_USER, state_dir / "discarded", state_dir / "lock")
        self.database_instance = DatabaseInstance(self.real, instance, None, lab.cluster.root, state_dir, cluster="main")
        self.rejoiner_of_db1 = diverged.rejoiner()
        self.rejoin = Rejoining(
            self.board, self.rejoiner_of_db1, self.database_instance, self.memory, self.places, server.port
        )
        self.board.bind(lambda: self.keeper.state, lambda: self.memory.now, lambda: self.rejoin.state)
        self.fencer = Fencer("db1", self.gate, self.keeper, self.database_instance, self.real, self.memory, self.vip)
        self.reporter = Reporter(
            self.board, self.ledger, self.real, self.database_instance, self.gate, self.vip, self.keeper, 3.0
        )
        hands = Hands(self.real, self.database_instance, self.sealer, self.vip, self.fencer, self.keeper, self.memory,
                      server.port, self.rejoin)  # fmt: skip
        self.warden = Warden(self.board, self.ledger, hands, self.reporter.look, self.reporter.step)

    def turn_warden(self) -> None:
        self.see()
        self.rejoin.look_again()
        self.warden.step()

    def until_streaming(self) -> None:
        def step() -> bool:
            self.turn_warden()
            assert self.rejoin.wait(60.0)
            return bool(self.board.local and self.board.local.streaming)

        pg.until(step, 60.0, f"streaming: {self.board.own}")


@pytest.fixture
def comes_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[Diverged, RealHost, Authority]]:
    with pg.PostgresCluster() as cluster:
        diverged = Diverged(PostgresLab(cluster)).wrote_on("INSERT INTO lab.writes SELECT n, 'x' FROM generate_series(1, 5) AS n")
        diverged.db2.sql("INSERT INTO lab.writes VALUES (100, 'kept')")
        engine = diverged.lab.engine(diverged.db2)
        engine.checkpoint(10)
        clock = Clock(monkeypatch)
        ensemble = MemoryEnsemble(clock)
        leader = Authority(ensemble)
        position = engine.state(3).position.text()
        leader.grant(Grant("db2", EPOCH, ("db1",)))
        leader.status(MemberStatus("db2", Role.PRIMARY, position=position, writable=True, epoch=EPOCH, rewind_ready=True), "db2")
        tmp_path.chmod(0o755)
        host = RealHost(diverged, ensemble, clock, tmp_path)
        yield diverged, host, leader
        host.close()


def test_the_old_primary_is_rewound_and_streams(comes_back: tuple[Diverged, RealHost, Authority]) -> None:
    diverged, host, _ = comes_back
    host.until_streaming()
    record = host.rejoined()
    assert record is not None and (record.state, record.discarded_commits) == ("done", 1), record
    assert record.tables == (("lab.writes", 5),) and record.says.startswith("rewound against db2; 1 commit given up")
    pg.until(lambda: diverged.db1.sql("SELECT id FROM lab.writes") == [(100,)], what="db2's rows and nothing else")
    host.turn_warden()
    assert not host.places.marker.exists()
    assert sorted(p.name for p in diverged.db1.home.iterdir()) == ["data", "s", "server.log"]


def test_an_emptied_directory_is_filled_again(comes_back: tuple[Diverged, RealHost, Authority]) -> None:
    diverged, host, _ = comes_back
    host.rejoin.remember_home()
    copy = host.rejoiner_of_db1.copy

    def with_own_addresses(source: Upstream, into: Path, work: Work) -> None:
        """Its own files went with the directory; here, unlike on hosts, the source's would start it on the source's address."""
        copy(source, into, work)
        diverged.db1.configure(into=into)

    host.rejoiner_of_db1.copy = with_own_addresses  # type: ignore[method-assign]  # what /etc is on a host
    diverged.db1.kill()
    shutil.rmtree(diverged.db1.data_dir)
    host.until_streaming()
    record = host.rejoined()
    assert record is not None and (record.way, record.state) == (RejoinWay.RESEED, "done"), record
    assert diverged.db1.sql("SELECT id FROM lab.writes") == [(100,)]


def test_an_ordered_copy_lists_what_is_given_up_and_keeps_the_old_data(
    comes_back: tuple[Diverged, RealHost, Authority]
) -> None:
    diverged, host, leader = comes_back
    leader.policy(rejoin=(RejoinOrder("db1", RejoinWay.RESEED, "ann", "req-1"),))
    host.until_streaming()
    record = host.rejoined()
    assert record is not None and (record.way, record.state, record.discarded_commits) == (RejoinWay.RESEED, "done", 1), record
    (kept,) = diverged.db1.home.glob("data.before-*")
    assert (kept / "PG_VERSION").exists() and str(kept) in record.says
