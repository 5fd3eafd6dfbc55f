"""The loop on a database host: it answers, outlives garbage, and hands orders to the guardian or fences without it."""

from __future__ import annotations

import io
import json
import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from failover.errors import Refused, Unknown, Unreachable
from failover.remote.guardian_socket import GuardianServer
from failover.remote.hostagent import Copying, GuardianHands, serve
from failover.remote.verbs import COPY_VERBS, VERBS
from failover.remote.wire import FRAME_MAX_BYTES, Facts, FrameReader, read_answer, request_line


class ScriptedHands:
    """Answers with what it was asked; `does` may stand in for one verb's work."""

    def __init__(self, **does: Callable[[], None]) -> None:
        self.calls: list[tuple[str, tuple[object, ...]]] = []
        self.copying: Copying = ScriptedCopy()
        self._does = does

    def _told(self, verb: str, *fields: object) -> tuple[str, Facts]:
        if verb in self._does:
            self._does[verb]()
        self.calls.append((verb, fields))
        return f"{verb} done", {}

    def hello(self) -> tuple[str, Facts]:
        return self._told("hello")

    def status(self, cluster: str) -> tuple[str, Facts]:
        return self._told("status", cluster)

    def fence(self, cluster: str, closes: int) -> tuple[str, Facts]:
        return self._told("fence", cluster, closes)

    def vip_drop(self, cluster: str, closes: int) -> tuple[str, Facts]:
        return self._told("vip_drop", cluster, closes)

    def vip_take(self, cluster: str, epoch: int) -> tuple[str, Facts]:
        return self._told("vip_take", cluster, epoch)

    def checkpoint(self, cluster: str) -> tuple[str, Facts]:
        return self._told("checkpoint", cluster)

    def may_start(self, cluster: str) -> tuple[str, Facts]:
        return self._told("may_start", cluster)

    @contextmanager
    def backup(self, cluster: str) -> Iterator[Copying]:
        self._told("backup", cluster)
        yield self.copying


class ScriptedCopy:
    """Gives `chunks`; one that is an error is raised. `ended` says that nobody holds on to it."""

    evidence = "begun"

    def __init__(self, *chunks: bytes | Exception, end: Exception | None = None) -> None:
        self.facts: Facts = {"size_bytes": 7}
        self._chunks, self._end = chunks, end

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk

    def result(self) -> tuple[str, Facts]:
        if self._end is not None:
            raise self._end
        return "through", {"state": "after"}


def answers(hands: ScriptedHands, said: bytes) -> list[dict[str, object]]:
    out = io.BytesIO()
    serve(io.BytesIO(said), out, hands)
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_every_verb_of_the_grammar_reaches_its_method() -> None:
    examples: dict[str, object] = {"cluster": "orders", "closes": 4, "epoch": 5}
    for number, (verb, fields) in enumerate(VERBS.items()):
        hands = ScriptedHands()
        said = answers(hands, request_line(number, verb, {name: examples[name] for name in fields}))
        assert said == [{"id": number, "ok": True, "evidence": f"{verb.replace('-', '_')} done", "facts": {}}]
        assert hands.calls == [(verb.replace("-", "_"), tuple(examples[name] for name in fields))]


@pytest.mark.parametrize(
    ("error", "way"),
    [(Refused("epoch 5 is proved"), "refused"), (Unknown("?"), "unknown"), (KeyError("bug"), "unknown")],
)
def test_what_a_hand_raises_becomes_the_answer_and_the_loop_goes_on(error: Exception, way: str) -> None:
    def fail() -> None:
        raise error

    hands = ScriptedHands(status=fail)
    first, second = sorted(
        answers(hands, request_line(1, "status", {"cluster": "a"}) + request_line(2, "hello", {})),
        key=lambda answer: str(answer["id"]),
    )
    assert first["ok"] is False and way in first
    assert second["ok"] is True


def test_a_thousand_lines_of_garbage_are_refused_one_by_one_and_change_nothing() -> None:
    dice = random.Random(20261120)
    good = request_line(1, "fence", {"cluster": "orders", "closes": 4})
    lines = [bytes(dice.choices(range(256), k=dice.randrange(1, 200))).replace(b"\n", b"") + b"\n" for _ in range(500)]
    for _ in range(500):  # near misses: a good line with bytes lost
        at = dice.randrange(1, len(good) - 2)
        lines.append(good[:at] + good[at + dice.randrange(1, 6) :].rstrip(b"\n") + b"\n")
    hands = ScriptedHands()
    said = answers(hands, b"".join(lines) + b"x" * 10_000 + b"\n" + request_line(9, "hello", {}))
    assert len(said) == 1002
    obeyed = [answer for answer in said if answer["ok"]]
    # A lost byte can leave a valid request (another cluster, another epoch); every one obeyed was a whole one.
    assert len(hands.calls) == len(obeyed)
    assert all(verb == "hello" or (verb == "fence" and len(fields) == 2) for verb, fields in hands.calls)
    assert {"hello"} <= {verb for verb, _ in hands.calls}


def streamed(copying: Copying, fail: Exception | None = None) -> tuple[object, bytes, object]:
    """The first answer, the bytes, the last answer."""

    def refuse() -> None:
        if fail is not None:
            raise fail

    hands, out, reader = ScriptedHands(backup=refuse), io.BytesIO(), FrameReader()
    hands.copying = copying
    serve(io.BytesIO(request_line(5, "backup", {"cluster": "a"})), out, hands)
    first = reader.line(out.getvalue())
    assert first is not None
    data = b"".join(reader.frames(b""))
    last = reader.line(b"") if reader.over else None
    return read_answer(first)[1], data, read_answer(last)[1] if last else None


def test_a_stream_is_an_answer_then_bytes_then_an_answer() -> None:
    large = os.urandom(FRAME_MAX_BYTES + 5)
    begun, data, ended = streamed(ScriptedCopy(b"one", large))
    assert begun == ("begun", {"size_bytes": 7})
    assert data == b"one" + large
    assert ended == ("through", {"state": "after"})


@pytest.mark.parametrize("error", [Unknown("it failed"), Unreachable("its server went away"), RuntimeError("a bug")])
def test_a_stream_that_fails_says_so_after_its_bytes(error: Exception) -> None:
    for copying in (ScriptedCopy(b"one", error), ScriptedCopy(b"one", end=error)):
        _, data, ended = streamed(copying)
        assert data == b"one" and isinstance(ended, Unreachable if isinstance(error, Unreachable) else Unknown)


def test_a_stream_that_is_refused_never_begins() -> None:
    begun, data, ended = streamed(ScriptedCopy(b"one"), Refused("not here"))
    assert isinstance(begun, Refused) and (data, ended) == (b"", None)


def test_whoever_may_only_fetch_copies_orders_nothing() -> None:
    hands, out = ScriptedHands(), io.BytesIO()
    asked = request_line(1, "fence", {"cluster": "a", "closes": 4}) + request_line(2, "hello", {})
    serve(io.BytesIO(asked), out, hands, COPY_VERBS)
    assert [verb for verb, _ in hands.calls] == ["hello"]
    assert b'"refused"' in out.getvalue()


def test_no_copy_is_given_where_none_is_known(tmp_path: Path) -> None:
    hands = GuardianHands(tmp_path, lambda cluster, closes: ("", {}))
    with pytest.raises(Refused, match="no copy"), hands.backup("orders"):
        pass


@settings(max_examples=200)
@given(st.lists(st.binary(max_size=80), max_size=5))
def test_no_bytes_end_the_loop(chunks: list[bytes]) -> None:
    said = answers(ScriptedHands(), b"\n".join(chunks) + b"\n" + request_line(77, "hello", {}))
    assert any(answer["id"] == 77 and answer["ok"] for answer in said)


def test_a_fence_does_not_wait_behind_a_hung_status() -> None:
    fenced = threading.Event()
    hands = ScriptedHands(status=lambda: _wait_for(fenced), fence=fenced.set)
    said = answers(hands, request_line(1, "status", {"cluster": "a"}) + request_line(2, "fence", {"cluster": "a", "closes": 4}))
    assert [answer["id"] for answer in said] == [2, 1]


def test_a_fence_once_begun_is_finished_although_the_controller_hung_up() -> None:
    begun, finish = threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        _wait_for(finish)

    hands = ScriptedHands(fence=slow)
    reading, writing = os.pipe()
    gone, out = os.pipe()
    with os.fdopen(reading, "rb") as stdin, os.fdopen(out, "wb", buffering=0) as stdout:
        loop = threading.Thread(target=serve, args=(stdin, cast(BinaryIO, stdout), hands), daemon=True)
        loop.start()
        os.write(writing, request_line(1, "fence", {"cluster": "a", "closes": 4}))
        assert begun.wait(5)
        os.close(writing)
        os.close(gone)
        loop.join(timeout=0.1)
        assert loop.is_alive(), "the loop must wait for the fence that was begun"
        finish.set()
        loop.join(timeout=5)
    assert hands.calls == [("fence", ("a", 4))]


# The guardian behind the loop.


@pytest.fixture
def run_dir() -> Iterator[Path]:
    with TemporaryDirectory(prefix="fo-") as folder:  # short: a unix socket's path has 107 bytes
        (Path(folder) / "orders").mkdir()
        yield Path(folder)


def no_offline(cluster: str, closes: int) -> tuple[str, Facts]:
    raise AssertionError("the guardian answers, nobody else may fence")


def test_orders_go_to_the_guardian_with_their_fields(run_dir: Path) -> None:
    asked: list[tuple[str, Facts]] = []

    def guardian(verb: str, fields: Facts) -> tuple[str, Facts]:
        asked.append((verb, fields))
        return "the guardian did it", {"vip": True}

    server = GuardianServer(run_dir / "orders" / "guardian.sock", guardian)
    try:
        hands = GuardianHands(run_dir, no_offline)
        assert hands.vip_take("orders", 5) == ("the guardian did it", {"vip": True})
        hands.vip_drop("orders", 4)
        hands.fence("orders", 4)
        hands.checkpoint("orders")
        assert hands.hello()[1]["clusters"] == ["orders"]
    finally:
        server.close()
    assert asked == [
        ("vip-take", {"cluster": "orders", "epoch": 5}),
        ("vip-drop", {"cluster": "orders", "closes": 4}),
        ("fence", {"cluster": "orders", "closes": 4}),
        ("checkpoint", {"cluster": "orders"}),
    ]


def test_without_a_guardian_only_the_fence_still_works(run_dir: Path) -> None:
    fenced: list[tuple[str, int]] = []

    def offline(cluster: str, closes: int) -> tuple[str, Facts]:
        fenced.append((cluster, closes))
        return "closed on disk", {"closed": closes, "gate": "shut", "processes": 0}

    hands = GuardianHands(run_dir, offline)
    evidence, facts = hands.fence("orders", 4)
    assert fenced == [("orders", 4)] and facts["closed"] == 4
    assert evidence.startswith("closed on disk (by the host agent: no guardian answers at")
    assert hands.status("orders")[1] == {"guardian": False}
    with pytest.raises(Unreachable, match="no guardian answers"):
        hands.vip_take("orders", 5)
    with pytest.raises(Unreachable, match="no guardian answers"):
        hands.vip_drop("orders", 4)


def test_where_no_guardian_belongs_the_agent_looks_and_moves_the_vip_itself(run_dir: Path) -> None:
    done: list[tuple[str, str, int]] = []

    def unguarded(verb: str, cluster: str, epoch: int) -> tuple[str, Facts] | None:
        done.append((verb, cluster, epoch))
        return "alone", {"guardian": False, "vip": verb == "vip-take"}

    hands = GuardianHands(run_dir, no_offline, unguarded=unguarded)
    assert hands.status("orders")[1] == {"guardian": False, "vip": False}
    assert hands.vip_take("orders", 1)[1]["vip"] is True and hands.vip_drop("orders", 0)[1]["vip"] is False
    assert done == [("status", "orders", 0), ("vip-take", "orders", 1), ("vip-drop", "orders", 0)]


def test_a_hung_guardian_is_fenced_without_it_and_promises_nothing_else(run_dir: Path) -> None:
    hang = threading.Event()

    def hung(verb: str, fields: Facts) -> tuple[str, Facts]:
        _wait_for(hang)
        return "too late", {}

    server = GuardianServer(run_dir / "orders" / "guardian.sock", hung)
    try:
        hands = GuardianHands(run_dir, lambda cluster, closes: ("offline", {"closed": closes}), answer_s=0.1, work_s=0.1)
        assert hands.fence("orders", 4)[1] == {"closed": 4}
        with pytest.raises(Unknown):
            hands.vip_take("orders", 5)
    finally:
        hang.set()
        server.close()


def test_a_guardian_that_proved_a_later_epoch_is_not_fenced_behind_its_back(run_dir: Path) -> None:
    def proud(verb: str, fields: Facts) -> tuple[str, Facts]:
        raise Refused("epoch 5 is proved here")

    server = GuardianServer(run_dir / "orders" / "guardian.sock", proud)
    try:
        with pytest.raises(Refused, match="epoch 5"):
            GuardianHands(run_dir, no_offline).fence("orders", 4)
    finally:
        server.close()


def test_the_database_may_start_only_while_the_guardians_marker_is_there(run_dir: Path) -> None:
    hands = GuardianHands(run_dir, no_offline)
    assert hands.may_start("orders")[1] == {"may_start": False}
    (run_dir / "orders" / "orders.starting").touch()
    assert hands.may_start("orders")[1] == {"may_start": True}


def _wait_for(event: threading.Event) -> None:
    assert event.wait(10), "the test never let go"
