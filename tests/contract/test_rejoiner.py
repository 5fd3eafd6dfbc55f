"""Bringing a database back, on real servers: what is given up is saved and listed, and what comes back is the primary's."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from failover.engines.base import Tail, Upstream, Work
from failover.engines.pg_rejoin import PostgresRejoiner
from failover.errors import Refused, Unknown, Unreachable
from failover.settings import Account
from tests.contract.test_engine import PostgresLab
from tests.support import postgres_server as pg

pytestmark = pytest.mark.skipif(pg.missing() is not None, reason=pg.missing() or "")

REWIND_SQL = """
CREATE ROLE rewinder LOGIN PASSWORD 'secret-rew';
GRANT EXECUTE ON FUNCTION pg_catalog.pg_ls_dir(text, boolean, boolean) TO rewinder;
GRANT EXECUTE ON FUNCTION pg_catalog.pg_stat_file(text, boolean) TO rewinder;
GRANT EXECUTE ON FUNCTION pg_catalog.pg_read_binary_file(text) TO rewinder;
GRANT EXECUTE ON FUNCTION pg_catalog.pg_read_binary_file(text, bigint, bigint, boolean) TO rewinder;
CREATE SCHEMA lab; CREATE TABLE lab.writes (id int, what text); CREATE TABLE lab.other (id int);
"""


class Diverged:
    """db1 wrote on after db2 had taken over, and runs again as a standby that receives from nobody."""

    def __init__(self, lab: PostgresLab) -> None:
        self.lab, self.db1 = lab, lab.db1
        secret = lab.cluster.root / "rewinder.secret"
        secret.write_text("secret-rew")
        secret.chmod(0o600)
        self.rewinder = Account("rewinder", secret)
        lab.engine(self.db1).prepare(2)
        self.db1.sql(REWIND_SQL)
        self.db2 = lab.standby("db2")
        lab.caught_up(self.db2, self.db1)
        lab.engine(self.db2).promote(None, ["db1"], 5)

    def wrote_on(self, *statements: str) -> Diverged:
        """Ends as a crash and comes back as the guardian starts it."""
        for statement in statements:
            self.db1.sql(statement)
        self.db1.kill()
        engine = self.lab.engine(self.db1)
        engine.isolate()
        engine.arm_standby()
        (self.db1.data_dir / "postmaster.pid").unlink()
        self.db1.start()
        return self

    def rejoiner(self, account: bool = True) -> PostgresRejoiner:
        engine, replication = self.lab.engine(self.db1), Account("replicator", self.lab.secrets["replicator"])
        instance, rewinder = engine._instance, self.rewinder if account else None
        return PostgresRejoiner(instance, replication, rewinder, "db1", self.lab.cluster.root, engine.session)

    @property
    def upstream(self) -> Upstream:
        return Upstream("db2", self.db2.address, self.db2.port)

    def tail(self) -> Tail:
        mine, theirs = self.lab.engine(self.db1).state(1).position, self.lab.engine(self.db2).state(1).position
        return self.rejoiner().tail(mine, theirs)


@pytest.fixture
def diverged() -> Iterator[Diverged]:
    with pg.PostgresCluster() as cluster:
        yield Diverged(PostgresLab(cluster))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "saved").mkdir()
    return tmp_path / "saved"


def working() -> Work:
    return Work(threading.Event(), lambda words: None)


def test_the_commits_given_up_are_listed_by_table_and_their_log_is_saved(diverged: Diverged, folder: Path) -> None:
    diverged.wrote_on(
        *(f"INSERT INTO lab.writes VALUES ({n}, 'x')" for n in range(3)),
        "INSERT INTO lab.writes SELECT n, 'many' FROM generate_series(1, 50) AS n",
        "BEGIN; INSERT INTO lab.other VALUES (1); ROLLBACK",
        "BEGIN; INSERT INTO lab.other VALUES (2); SAVEPOINT s; UPDATE lab.writes SET what = 'y' WHERE id = 0; COMMIT",
        "INSERT INTO failover.heartbeat (epoch, sequence) VALUES (9, 1)",
        "DELETE FROM lab.writes WHERE id = 2 AND what = 'x'",
    )
    tail = diverged.tail()
    assert tail.diverged_at.text().startswith("1@") and tail.size_bytes >= 16 << 20
    found = diverged.rejoiner().save(tail, folder, working())
    assert found.commits == 6 == len(found.lines) and not found.unread, "neither the rollback nor the heartbeat"
    assert dict(found.tables) == {"lab.writes": 3 + 50 + 1 + 1, "lab.other": 1}
    assert found.lines[3].endswith("UTC: lab.writes 50") and found.lines[4].endswith("lab.other 1, lab.writes 1")
    assert (folder / "commits.txt").read_text().splitlines() == list(found.lines)
    assert "6 commits" in (folder / "README").read_text()
    segments = [path.name for path in folder.iterdir() if len(path.name) == 24]
    assert segments and all((folder / s).read_bytes() == (diverged.db1.data_dir / "pg_wal" / s).read_bytes() for s in segments)


def test_a_database_that_ends_while_its_tables_are_named_is_looked_at_again(diverged: Diverged, folder: Path) -> None:
    """A fence that came late took it down in that very moment, and the loss was reported under numbers nobody knows."""
    diverged.wrote_on("INSERT INTO lab.writes VALUES (1, 'x')")
    tail, rejoiner = diverged.tail(), diverged.rejoiner()
    diverged.db1.kill()
    with pytest.raises(Unreachable, match="while its tables were being named"):
        rejoiner.save(tail, folder, working())
    (diverged.db1.data_dir / "postmaster.pid").unlink()
    diverged.db1.start()
    assert dict(rejoiner.save(tail, folder, working()).tables) == {"lab.writes": 1}


def test_log_without_a_commit_says_so(diverged: Diverged, folder: Path) -> None:
    diverged.wrote_on("CHECKPOINT")
    found = diverged.rejoiner().save(diverged.tail(), folder, working())
    assert (found.commits, found.lines, found.tables) == (0, (), ())


def test_a_rewound_database_follows_the_primary_with_its_own_configuration_and_no_slots(diverged: Diverged) -> None:
    lab, engine = diverged.lab, diverged.lab.engine(diverged.db1)
    diverged.db1.sql("SELECT pg_create_physical_replication_slot('somebody', true)")
    diverged.wrote_on("INSERT INTO lab.writes VALUES (1, 'lost')")
    own = (diverged.db1.data_dir / "postgresql.conf").read_text()
    diverged.db2.sql("INSERT INTO lab.writes VALUES (2, 'kept')")
    lab.engine(diverged.db2).checkpoint(5)
    diverged.db1.stop()
    told: list[str] = []
    diverged.rejoiner().rewind(diverged.upstream, Work(threading.Event(), told.append))
    assert told and told[-1].startswith("100 %")
    assert (diverged.db1.data_dir / "postgresql.conf").read_text() == own
    assert not list((diverged.db1.data_dir / "pg_replslot").iterdir())
    diverged.rejoiner().rewind(diverged.upstream, working())  # a guardian that died just after: done again, from what is kept
    diverged.rejoiner().forget()
    assert sorted(p.name for p in diverged.db1.home.iterdir()) == ["data", "s", "server.log"], "nothing of ours is left beside it"
    engine.follow(diverged.upstream, 2)
    diverged.db1.start()
    lab.streams(diverged.db1, diverged.db2)
    lab.caught_up(diverged.db1, diverged.db2)
    pg.until(lambda: diverged.db1.sql("SELECT id FROM lab.writes") == [(2,)], what="what db2 has and nothing else")


def test_only_a_checkpoint_on_the_new_history_makes_a_primary_a_source(diverged: Diverged) -> None:
    engine = diverged.lab.engine(diverged.db2)
    engine.checkpoint(5)
    pg.until(lambda: engine.rewind_ready(engine.state(1).position), what="the checkpoint in the control file")
    one = engine.state(1).position
    assert not engine.rewind_ready(type(one)(one.timeline + 1, one.offset)), "a history that no checkpoint is on yet"


def test_a_rewind_that_is_stopped_leaves_no_process_and_can_be_done_again(diverged: Diverged) -> None:
    diverged.wrote_on("INSERT INTO lab.writes SELECT n, repeat('x', 100) FROM generate_series(1, 60000) AS n")
    diverged.lab.engine(diverged.db2).checkpoint(5)
    diverged.db1.stop()
    halted = threading.Event()
    with pytest.raises(Unknown, match="stopped"):
        diverged.rejoiner().rewind(diverged.upstream, Work(halted, lambda words: halted.set()))
    pg.until(lambda: not diverged.db2.sql("SELECT 1 FROM pg_stat_activity WHERE usename = 'rewinder'"), what="its session ended")
    assert (diverged.db1.home / "data.kept" / "pg_control").exists()
    diverged.rejoiner().rewind(diverged.upstream, working())
    diverged.lab.engine(diverged.db1).follow(diverged.upstream, 2)
    diverged.db1.start()
    diverged.lab.streams(diverged.db1, diverged.db2)


def test_what_was_put_aside_for_other_data_is_forgotten_when_a_new_rewind_begins(diverged: Diverged) -> None:
    stale = diverged.db1.home / "data.kept"
    stale.mkdir()
    (stale / "pg_control").write_text("of years ago")
    diverged.rejoiner().forget()
    assert not stale.exists()
    diverged.rejoiner().forget()


def test_a_copy_starts_isolated_whatever_its_source_follows(diverged: Diverged) -> None:
    into = diverged.db1.home / "data.new"
    into.mkdir(mode=0o700)
    pg._give_away(into)
    told: list[str] = []
    diverged.rejoiner().copy(diverged.upstream, into, Work(threading.Event(), told.append))
    assert told[-1].startswith("100 %")
    assert (into / "standby.signal").exists() and not list((into / "pg_replslot").iterdir())
    diverged.db1.stop()
    diverged.db1.data_dir.rename(diverged.db1.home / "data.before")
    into.rename(diverged.db1.data_dir)
    diverged.db1.start()
    state = diverged.lab.engine(diverged.db1).state(1)
    assert state.role.value == "standby" and state.configured_upstream == ""
    theirs = diverged.lab.engine(diverged.db2).state(1).position
    assert theirs.covers(state.position)


def test_without_the_account_or_a_common_history_nothing_is_tried(diverged: Diverged) -> None:
    assert diverged.rejoiner(account=False).obstacle() == "users.rewind is not configured"
    assert diverged.rejoiner().obstacle() is None
    engine = diverged.lab.engine(diverged.db1)
    with pytest.raises(Refused, match="share no history"):
        diverged.rejoiner().tail(engine.state(1).position, engine.parse_position("7@0/500"))
