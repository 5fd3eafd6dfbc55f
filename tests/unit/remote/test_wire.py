"""The grammar: what is read, what is refused, and how a "no" travels."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from failover.errors import Conflict, Corrupt, FailoverError, Refused, Unknown, Unreachable
from failover.remote.verbs import LINE_MAX_BYTES
from failover.remote.wire import (
    ANSWER_MAX_BYTES,
    FRAME_MAX_BYTES,
    FRAMES_END,
    FrameReader,
    Garbage,
    LineReader,
    Reply,
    failure_line,
    frame,
    read_answer,
    read_request,
    reply_line,
    request_line,
)


def test_a_request_arrives_as_it_was_sent() -> None:
    asked = read_request(request_line(7, "fence", {"cluster": "orders", "closes": 4}))
    assert (asked.id, asked.verb, asked.fields) == (7, "fence", {"cluster": "orders", "closes": 4})


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"hello",
        b"[]",
        b'{"id": 1}',
        b'{"id": true, "verb": "hello"}',
        b'{"id": -1, "verb": "hello"}',
        b'{"id": 1.0, "verb": "hello"}',
        b'{"id": 9223372036854775808, "verb": "hello"}',
        b'{"id": 1, "verb": "reboot"}',
        b'{"id": 1, "verb": ["hello"]}',
        b'{"id": 1, "verb": "hello", "extra": 1}',
        b'{"id": 1, "verb": "fence", "cluster": "orders"}',
        b'{"id": 1, "verb": "fence", "cluster": "orders", "closes": "4"}',
        b'{"id": 1, "verb": "fence", "cluster": "orders", "closes": true}',
        b'{"id": 1, "verb": "fence", "cluster": "orders", "closes": -1}',
        b'{"id": 1, "verb": "fence", "cluster": "orders", "closes": 4, "closes": 9}',
        b'{"id": 1, "verb": "fence", "cluster": "orders", "closes": NaN}',
        b'{"id": 1, "verb": "status", "cluster": "../orders"}',
        b'{"id": 1, "verb": "status", "cluster": ".."}',
        b'{"id": 1, "verb": "status", "cluster": "a/b"}',
        b'{"id": 1, "verb": "status", "cluster": "orders\\n"}',
        b'{"id": 1, "verb": "status", "cluster": ""}',
        b'{"id": 1, "verb": "status", "cluster": null}',
        b"[" * 4000,
        b"\xff\xfe{}",
    ],
)
def test_everything_else_is_garbage(line: bytes) -> None:
    with pytest.raises(Garbage):
        read_request(line)


def test_the_id_is_echoed_where_it_can_be_read() -> None:
    with pytest.raises(Garbage) as caught:
        read_request(b'{"id": 7, "verb": "reboot"}')
    assert caught.value.id == 7


@pytest.mark.parametrize("error", [Refused("no", "and no"), Unreachable("nobody there"), Unknown("perhaps")])
def test_a_no_keeps_its_branch_across_the_wire(error: FailoverError) -> None:
    id, outcome = read_answer(failure_line(7, error))
    assert (id, type(outcome), str(outcome)) == (7, type(error), str(error))


def test_any_other_failure_arrives_as_unknown() -> None:
    assert isinstance(read_answer(failure_line(7, Conflict("lost")))[1], Unknown)


def test_an_answer_too_long_to_send_becomes_unknown() -> None:
    assert isinstance(read_answer(reply_line(7, Reply("x" * 10**6, {})))[1], Unknown)


@pytest.mark.parametrize("line", [b"", b"[]", b'{"id": 1}', b'{"id": 1, "ok": 1}', b'{"id": 1, "ok": true}', b"\xff"])
def test_what_is_no_answer_is_corrupt(line: bytes) -> None:
    with pytest.raises(Corrupt):
        read_answer(line)


def test_a_request_too_long_is_refused_before_it_is_sent() -> None:
    with pytest.raises(Refused):
        request_line(1, "status", {"cluster": "x" * LINE_MAX_BYTES})


def test_an_oversized_line_is_skipped_whole_and_the_next_one_is_read() -> None:
    stream = io.BytesIO(b"first\n" + b"x" * (3 * LINE_MAX_BYTES) + b"\nlast\nunfinished")
    assert list(LineReader(stream)) == [b"first\n", None, b"last\n"]


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_no_bytes_break_the_reader_of_requests(line: bytes) -> None:
    try:
        read_request(line)
    except Garbage as error:
        assert "\n" not in str(error)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["id", "verb", "cluster", "closes", "epoch", "x"]), json_values))
def test_only_the_exact_shape_passes(said: dict[str, object]) -> None:
    said["verb"] = "fence"
    try:
        asked = read_request(json.dumps(said).encode())
    except Garbage:
        return
    assert said.keys() == {"id", "verb", "cluster", "closes"}
    assert type(asked.fields["closes"]) is int and type(asked.fields["cluster"]) is str


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=6), st.lists(st.integers(1, 40), min_size=1, max_size=9))
def test_frames_are_read_back_whatever_pieces_they_arrive_in(frames: list[bytes], cuts: list[int]) -> None:
    sent = b"first\n" + b"".join(map(frame, frames)) + FRAMES_END + b"last\n"
    reader, found, at, turn = FrameReader(), [], 0, 0
    first: bytes | None = None
    last: bytes | None = None
    while at < len(sent):
        piece = sent[at : at + cuts[turn % len(cuts)]]
        at, turn = at + len(piece), turn + 1
        if first is None:
            first = reader.line(piece)
            piece = b""
        if first is not None and not reader.over:
            found += list(reader.frames(piece))
            piece = b""
        if first is not None and reader.over and last is None:
            last = reader.line(piece)
    assert (first, found, last) == (b"first", frames, b"last")


def test_what_is_no_frame_or_no_answer_is_corrupt() -> None:
    reader = FrameReader()
    reader.line(b"first\n")
    with pytest.raises(Corrupt, match="endless frame"):
        list(reader.frames((FRAME_MAX_BYTES + 1).to_bytes(4, "big")))
    with pytest.raises(Corrupt, match="endless answer"):
        FrameReader().line(b"x" * (ANSWER_MAX_BYTES + 1))
