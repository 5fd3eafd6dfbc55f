"""Heartbeat rows: numbered so that a standby can tell a new one, whoever of us has written the one before."""

from __future__ import annotations

from failover.core.model import Role
from failover.guardian.reporter import Heart
from tests.support.fake_host import Clock, FakeHost


def test_a_restarted_guardian_counts_on_where_its_predecessor_ended(host: FakeHost) -> None:
    """The lab found it: beginning at 1 again, MySQL refused twenty rows in a row and PostgreSQL's standbys saw no new one."""
    host.board.note(prepared=True)
    first = Heart(host.board, host.engine, 1.0)
    for _ in range(3):
        first.beat()
    host.see()
    Heart(host.board, host.engine, 1.0).beat()
    assert [sequence for _, sequence in host.database.beats] == [1, 2, 3, 4]
    assert host.board.own.heartbeat_fails == 0


def test_rows_of_an_earlier_epoch_are_not_counted_on(host: FakeHost) -> None:
    host.board.note(prepared=True)
    host.database.beats.append((host.board.own.served - 1, 70))
    host.see()
    Heart(host.board, host.engine, 1.0).beat()
    assert host.database.beats[-1] == (host.board.own.served, 1)


def test_heartbeats_that_fail_at_once_do_not_count_more_often_than_those_that_hang(host: FakeHost, clock: Clock) -> None:
    """A MySQL server that is being stopped refuses every connection, for seconds: it was failed over for that."""
    host.board.note(prepared=True)
    host.see()
    heart = Heart(host.board, host.engine, 0.5)
    host.database.refuses = True
    counted = []
    for _ in range(9):
        heart.beat()
        counted.append(host.board.own.heartbeat_fails)
        clock.advance(0.25)
    assert counted == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    host.database.refuses = False
    heart.beat()
    assert host.board.own.heartbeat_fails == 0


def test_a_server_that_has_just_ended_after_a_long_stop_is_not_lost_before_its_receipt(host: FakeHost, clock: Clock) -> None:
    """Between its end and the receipt nothing spoke for it, and the votes of ten seconds counted."""
    host.board.note(prepared=True)
    host.see()
    heart = Heart(host.board, host.engine, 0.5)
    host.database.refuses = True
    for _ in range(9):
        heart.beat()
        clock.advance(0.25)
    host.database.end(clean=True)
    host.see()
    heart.beat()
    host.board.note(served=0)  # it is being fenced, and the receipt is written when that is done
    heart.beat()
    assert host.board.own.heartbeat_fails == 3
    host.database.run(12, Role.STANDBY)
    host.see()
    heart.beat()
    assert host.board.own.heartbeat_fails == 0
