"""Where a stopped server's log ends, read from real files: also beside segments that hold nothing yet."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from failover.engines.pg_files import end_of_log, read_control
from tests.support import postgres_server as pg

pytestmark = pytest.mark.skipif(pg.missing() is not None, reason=pg.missing() or "")


@pytest.fixture
def primary() -> Iterator[pg.PostgresServer]:
    with pg.PostgresCluster() as cluster:
        yield cluster.primary()


def preallocate(server: pg.PostgresServer, count: int) -> None:
    """Segments to come, full of zeros, as a checkpoint leaves them; many, so that some stand first in the directory."""
    first = max(path.name for path in (server.data_dir / "pg_wal").iterdir() if len(path.name) == 24)
    for number in range(1, count + 1):
        path = server.data_dir / "pg_wal" / f"{first[:16]}{int(first[16:], 16) + number:08X}"
        path.write_bytes(bytes(8192))  # the header's page is all that a tool looks at
        shutil.chown(path, pg.OS_USER, pg.OS_USER)


def test_segments_that_are_only_preallocated_hide_no_end_of_the_log(primary: pg.PostgresServer) -> None:
    """pg_waldump, told only a directory, asks whichever file it finds first how large a segment is: a handover failed, and so
    did giving writes back, because that file was all zeros."""
    primary.sql("CREATE TABLE t AS SELECT generate_series(1, 1000)")
    primary.stop()
    control = read_control(pg.BIN_DIR, primary.data_dir)
    before = end_of_log(pg.BIN_DIR, primary.data_dir, control)
    preallocate(primary, 60)
    assert before is not None and end_of_log(pg.BIN_DIR, primary.data_dir, control) == before
