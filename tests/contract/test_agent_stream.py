"""A copy through a real sshd: what arrives, and what a guardian may conclude when it does not."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from failover.clock import boottime_s
from failover.errors import Unknown, Unreachable, WrongCredentials
from failover.remote.stream import stream
from tests.support.sshd_server import SSHD, SshWorld

pytestmark = pytest.mark.skipif(SSHD is None, reason="sshd is not installed")
WHAT = ("backup", {"cluster": "orders"})


@pytest.fixture
def world(tmp_path: Path) -> Iterator[SshWorld]:
    world = SshWorld(tmp_path, ("db1",))
    (world.hosts["db1"].host_dir / "backup").write_bytes(os.urandom(5_000_000))
    yield world
    world.stop()


def fetch(world: SshWorld, stop: threading.Event | None = None) -> bytes:
    with stream("db1", world.members["db1"], world.settings, *WHAT, stop or threading.Event()) as copy:
        assert copy.begun.facts["size_bytes"] == 5_000_000
        data = b"".join(copy)
        assert copy.ended.facts == {"state": "whole"}
        return data


def test_every_byte_arrives(world: SshWorld) -> None:
    assert fetch(world) == (world.hosts["db1"].host_dir / "backup").read_bytes()


def test_an_agent_that_dies_in_the_middle_is_unknown_with_its_last_words(world: SshWorld) -> None:
    (world.hosts["db1"].host_dir / "breaks").touch()
    with pytest.raises(Unknown, match="ended in the middle"):
        fetch(world)


def test_a_wish_to_stop_is_heard_while_nothing_comes(world: SshWorld) -> None:
    (world.hosts["db1"].host_dir / "stuck").touch()
    stop = threading.Event()
    threading.Timer(1.0, stop.set).start()
    began_s = boottime_s()
    with pytest.raises(Unknown, match="stopped before its end"):
        fetch(world, stop)
    assert boottime_s() - began_s < 20


def test_a_session_that_is_cut_is_unknown(world: SshWorld) -> None:
    (world.hosts["db1"].host_dir / "stuck").touch()
    threading.Timer(1.5, world.hosts["db1"].cut_sessions).start()
    with pytest.raises(Unknown):
        fetch(world)


def test_nobody_there_and_a_foreign_host_key_never_begin(world: SshWorld) -> None:
    world.hosts["db1"].restart(new_host_key=True)
    with pytest.raises(WrongCredentials):
        fetch(world)
    world.hosts["db1"].stop()
    with pytest.raises(Unreachable):
        fetch(world)
