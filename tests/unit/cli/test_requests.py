"""Asking for something: it is done, refused, undone, held or withdrawn, and the exit code says which."""

from __future__ import annotations

import threading

from failover.core.model import Answer, Policy
from failover.core.plan import Create, Key, Kind, Swap
from tests.unit.cli.conftest import Loops, World


def test_adoption_waits_until_the_primary_is_proved(living: World) -> None:
    done = living.run("adopt", "--yes", "--timeout", "5s")
    assert done.exit_code == 0, done.output
    assert done.stdout == "adopted: db1 is primary under its own proof\n"
    assert living.read(Kind.GRANT).member == "db1"


def test_a_switchover_is_followed_to_its_end(living: World) -> None:
    living.adopt()
    code, answer = living.json("switchover", "--to", "db2", "--yes", "--reason", "patches", "--timeout", "10s")
    assert code == 0
    assert (answer["result"], answer["old"], answer["new"], answer["reason"]) == ("done", "db1", "db2", "patches")
    assert living.read(Kind.GRANT).member == "db2"
    assert living.read(Kind.OPERATION) is None


def test_every_step_is_told_on_standard_error_only(living: World) -> None:
    living.adopt()
    done = living.run("switchover", "--yes", "--timeout", "10s")
    assert done.exit_code == 0, done.output
    assert len(done.stdout.splitlines()) == 1
    assert done.stdout.startswith("switchover op-1 done: db1 -> db2 in ")
    for step in ("prepare", "order", "claim", "confirm", "choose", "grant", "verify", "vip", "dns", "settle"):
        assert f"  {step}: " in done.stderr
