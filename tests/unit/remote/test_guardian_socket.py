"""The guardian's door: who may knock, what comes back, and what silence means."""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from failover.clock import boottime_s
from failover.errors import ConfigurationError, Refused, Unknown, Unreachable
from failover.remote.guardian_socket import GuardianClient, GuardianServer
from failover.remote.verbs import LINE_MAX_BYTES
from failover.remote.wire import Facts


@pytest.fixture
def path() -> Iterator[Path]:
    with TemporaryDirectory(prefix="fo-") as folder:
        yield Path(folder) / "guardian.sock"


def echo(verb: str, fields: Facts) -> tuple[str, Facts]:
    return verb, fields


def test_a_question_is_answered_and_the_door_is_closed_to_others(path: Path) -> None:
    server = GuardianServer(path, echo)
    try:
        reply = GuardianClient(path).call("status", {"cluster": "orders"}, 2)
        assert reply == ("status", {"cluster": "orders"})
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    finally:
        server.close()
    assert not path.exists()


def test_no_guardian_means_nothing_happened(path: Path) -> None:
    with pytest.raises(Unreachable, match="no guardian answers"):
        GuardianClient(path).call("hello", {}, 1)
    socket.socket(socket.AF_UNIX).bind(str(path))  # one left behind by a dead guardian
    with pytest.raises(Unreachable):
        GuardianClient(path).call("hello", {}, 1)


def test_the_socket_of_a_dead_guardian_is_replaced(path: Path) -> None:
    socket.socket(socket.AF_UNIX).bind(str(path))
    server = GuardianServer(path, echo)
    try:
        assert GuardianClient(path).call("hello", {}, 2).evidence == "hello"
    finally:
        server.close()


def test_a_guardian_that_goes_leaves_its_successors_socket_alone(path: Path) -> None:
    old = GuardianServer(path, echo)
    new = GuardianServer(path, lambda verb, fields: ("new", {}))
    old.close()
    try:
        assert GuardianClient(path).call("hello", {}, 2).evidence == "new"
    finally:
        new.close()


def test_no_answer_in_time_is_unknown_and_does_not_last_longer(path: Path) -> None:
    let_go = threading.Event()

    def slow(verb: str, fields: Facts) -> tuple[str, Facts]:
        let_go.wait(10)
        return "late", {}

    server = GuardianServer(path, slow)
    try:
        began_s = boottime_s()
        with pytest.raises(Unknown):
            GuardianClient(path).call("hello", {}, 0.2)
        assert boottime_s() - began_s < 1.0
    finally:
        let_go.set()
        server.close()


def test_a_refusal_and_a_bug_arrive_as_what_they_are(path: Path) -> None:
    def handler(verb: str, fields: Facts) -> tuple[str, Facts]:
        if verb == "hello":
            raise Refused("not now")
        raise ZeroDivisionError

    server = GuardianServer(path, handler)
    try:
        with pytest.raises(Refused, match="not now"):
            GuardianClient(path).call("hello", {}, 2)
        with pytest.raises(Unknown, match="ZeroDivisionError"):
            GuardianClient(path).call("status", {"cluster": "orders"}, 2)
    finally:
        server.close()


def test_what_is_outside_the_grammar_never_reaches_the_guardian(path: Path) -> None:
    asked: list[str] = []

    def handler(verb: str, fields: Facts) -> tuple[str, Facts]:
        asked.append(verb)
        return "", {}

    server = GuardianServer(path, handler)
    try:
        with pytest.raises(Refused, match="unknown verb"):
            GuardianClient(path).call("release", {}, 2)
        with socket.socket(socket.AF_UNIX) as raw:
            raw.settimeout(5)
            raw.connect(str(path))
            raw.sendall(b"x" * (2 * LINE_MAX_BYTES) + b"\n")
            assert b"too long" in raw.recv(4096)
    finally:
        server.close()
    assert asked == []


def test_a_wider_grammar_can_be_given_for_local_commands(path: Path) -> None:
    server = GuardianServer(path, echo, grammar={"release": {"cluster": str}})
    try:
        assert GuardianClient(path).call("release", {"cluster": "orders"}, 2).evidence == "release"
    finally:
        server.close()


def test_a_run_dir_too_long_for_a_socket_is_said_plainly(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="too long"):
        GuardianServer(path.parent / ("x" * 120) / "guardian.sock", echo)
