"""A primary that dies while it sends: its standby has the beginning of a transaction and will never get the rest.

Told to stop, a MySQL applier waits a minute for that rest, which is how long a promotion would take.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from failover.core.model import Role
from tests.support import mysql_server as my
from tests.support.engine_lab import took_ms
from tests.support.family import made
from tests.support.my_lab import MyLab
from tests.support.mysql_server import MyServer, until

ROWS = 20_000
LIMIT_BYTES = 400_000  # of some 4 MB
NUMBERS = f"WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS}) SELECT i FROM n"


def nft(server: MyServer, script: str) -> None:
    subprocess.run(["ip", "netns", "exec", server.host.namespace, "nft", script], check=True, timeout=10)


@contextmanager
def hears_only_so_much(server: MyServer, of: MyServer) -> Iterator[None]:
    """After so many bytes of `of` the network of `server` swallows everything that comes from there."""
    nft(server, (
        "add table inet t; add chain inet t c { type filter hook input priority 0; policy accept; };"
        f"add rule inet t c ip saddr {of.address} quota over {LIMIT_BYTES} bytes drop"
    ))  # fmt: skip
    yield
    nft(server, "delete table inet t")


@pytest.fixture(params=[(flavour, workers) for flavour in my.FLAVOURS for workers in (0, 4)], ids=lambda p: f"{p[0]}-{p[1]}")
def half(request: pytest.FixtureRequest) -> Iterator[MyLab]:
    """db1 died in the middle of a transaction; db3 has all of it, db2 half."""
    flavour, workers = request.param
    with made(flavour) as lab:
        name = "slave_parallel_threads" if lab.is_mariadb else "replica_parallel_workers"
        db2, db3 = lab.standby("db2", None, f"{name} = {workers}"), lab.standby("db3")
        lab.db1.sql("CREATE TABLE app.wide (v varchar(200))")
        for standby in (db2, db3):
            lab.caught_up(standby, lab.db1)
        begins = received_bytes(lab, db2)
        with hears_only_so_much(db2, lab.db1):
            depth = "max_recursive_iterations" if lab.is_mariadb else "cte_max_recursion_depth"
            lab.db1.sql(f"SET SESSION {depth} = {ROWS}; INSERT INTO wide SELECT repeat('x', 180) FROM ({NUMBERS}) AS s")
            lab.caught_up(db3, lab.db1)
            until(lambda: received_bytes(lab, db2) > begins + LIMIT_BYTES // 2, what="half of it on db2")
            lab.db1.kill()
        assert received_bytes(lab, db2) < received_bytes(lab, db3) - LIMIT_BYTES
        yield lab


def received_bytes(lab: MyLab, server: MyServer) -> int:
    return int(lab.channel(server)["Read_Source_Log_Pos"])


def test_half_a_transaction_does_not_hold_up_a_promotion_and_leaves_no_trace(half: MyLab) -> None:
    db2 = half.cluster.servers["db2"]
    local = half.engine(db2)
    held = local.state(2).position
    local.stop_receiving(5)
    assert local.state(2).position == held
    started = time.perf_counter()
    local.promote(None, [], 20)
    assert took_ms(started) < 5000
    assert local.state(2).role is Role.PRIMARY
    assert db2.value("SELECT count(*) FROM wide") == 0
    db2.sql("INSERT INTO wide VALUES ('y')")


def test_half_a_transaction_becomes_a_whole_one_from_another_source(half: MyLab) -> None:
    db2, db3 = half.cluster.servers["db2"], half.cluster.servers["db3"]
    for standby in (db2, db3):
        half.engine(standby).stop_receiving(5)
    assert not half.engine(db2).holds(half.engine(db3).state(2).position)
    half.engine(db3).promote(None, [], 20)
    half.engine(db2).follow(half.upstream(db3), 10)
    half.streams(db2, db3)
    db3.sql("INSERT INTO wide VALUES ('y')")
    until(lambda: db2.value("SELECT count(*) FROM wide") == ROWS + 1, what="the whole of it, and what came after")
