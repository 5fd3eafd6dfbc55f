"""Heartbeat rows: numbered so that a standby can tell a new one, whoever of us has written the one before."""

from __future__ import annotations

from failover.guardian.reporter import Heart
from tests.support.fake_host import FakeHost


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
