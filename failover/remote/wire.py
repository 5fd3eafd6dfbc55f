"""The grammar of `verbs.py` as bytes: requests read without trust, answers that keep how the other side said no.

Used by both ends of the SSH channel and of the guardian's socket, so a refusal raised inside the guardian arrives in
the controller as the same `Refused`. Three ways to say no: `refused` (a rule, nothing changed), `unreachable` (could
not be asked, nothing changed), `unknown` (it may have happened).
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from failover.errors import Corrupt, FailoverError, Refused, Unknown, Unreachable
from failover.remote.verbs import LINE_MAX_BYTES, VERBS

Facts = dict[str, object]
Grammar = Mapping[str, Mapping[str, type]]

ANSWER_MAX_BYTES = 16 * LINE_MAX_BYTES
FRAME_MAX_BYTES = 1 << 20
FRAMES_END = bytes(4)  # a frame of no bytes: the last answer follows
_INT_MAX = 2**63 - 1
# A cluster names a folder below run_dir: no separators and no leading dot, or ".." would leave it.
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,62}")
_counter = itertools.count(1)  # count.__next__ is atomic: ids are unique in this process without a lock


class Reply(NamedTuple):
    """What the other side did, in words for the journal, and the facts it read back."""

    evidence: str
    facts: Facts


@dataclass(frozen=True)
class Asked:
    """One well-formed request."""

    id: int
    verb: str
    fields: Facts


class Garbage(Exception):
    """A line that is no request. `id` is echoed where it could be read."""

    def __init__(self, reason: str, id: int | None = None) -> None:
        super().__init__(reason)
        self.id = id


def next_id() -> int:
    return next(_counter)


def request_line(id: int, verb: str, fields: Mapping[str, object]) -> bytes:
    """Raises Refused if it would not fit the grammar: nothing was sent."""
    line = _line({"id": id, "verb": verb, **fields})
    if len(line) > LINE_MAX_BYTES:
        raise Refused(f"the request {verb} has {len(line)} bytes, more than {LINE_MAX_BYTES}")
    return line


def read_request(line: bytes, grammar: Grammar = VERBS) -> Asked:
    """Checks everything: size, JSON, keys, types, ranges. Raises Garbage."""
    said = _object(line)
    id = said.pop("id", None)
    if not _is_count(id):
        raise Garbage("the id must be a whole number from 0 on")
    assert isinstance(id, int)
    verb = said.pop("verb", None)
    if not isinstance(verb, str) or verb not in grammar:
        raise Garbage("unknown verb", id)
    wanted = grammar[verb]
    if said.keys() != wanted.keys():
        raise Garbage(f"{verb} takes exactly: {', '.join(wanted) or 'no fields'}", id)
    for name, kind in wanted.items():
        if not _fits(said[name], kind):
            raise Garbage(f"{verb}: {name} is not a valid {'name' if kind is str else 'value'}", id)
    return Asked(id, verb, said)


def reply_line(id: int, reply: Reply) -> bytes:
    line = _line({"id": id, "ok": True, "evidence": reply.evidence, "facts": reply.facts})
    if len(line) > ANSWER_MAX_BYTES:
        return failure_line(id, Unknown(f"the answer has {len(line)} bytes and cannot be sent"))
    return line


def failure_line(id: int | None, error: FailoverError) -> bytes:
    """The same branch of the error tree for the other side; all that is neither Refused nor Unreachable is unknown."""
    if isinstance(error, Refused):
        return _line({"id": id, "ok": False, "refused": [reason[:1000] for reason in error.reasons[:20]]})
    way = "unreachable" if isinstance(error, Unreachable) else "unknown"
    return _line({"id": id, "ok": False, way: str(error)[:1000]})


def read_answer(line: bytes) -> tuple[int | None, Reply | FailoverError]:
    """The id and what was answered. Raises Corrupt for anything else than an answer."""
    try:
        said = _object(line, ANSWER_MAX_BYTES)
    except Garbage as error:
        raise Corrupt(f"no answer of the grammar: {error}") from error
    id, ok = said.get("id"), said.get("ok")
    if id is not None and not _is_count(id):
        raise Corrupt("an answer with a wrong id")
    assert id is None or isinstance(id, int)
    if ok is True:
        evidence, facts = said.get("evidence"), said.get("facts")
        if isinstance(evidence, str) and isinstance(facts, dict):
            return id, Reply(evidence, facts)
    if ok is False:
        return id, _failure(said)
    raise Corrupt("an answer that says neither yes nor no")


def frame(data: bytes) -> bytes:
    """Bytes between the two answers of a stream: their number in four bytes, then themselves."""
    assert 0 < len(data) <= FRAME_MAX_BYTES
    return len(data).to_bytes(4, "big") + data


class FrameReader:
    """Takes a stream apart as it comes: `lines` (answers) and `frames`, whatever pieces it is fed with.

    Raises Corrupt for what is neither.
    """

    def __init__(self) -> None:
        self._unread = b""
        self._between = False

    def line(self, more: bytes) -> bytes | None:
        """The answer, once it is whole. After the first, frames follow."""
        self._unread += more
        line, newline, rest = self._unread.partition(b"\n")
        if len(line) > ANSWER_MAX_BYTES:
            raise Corrupt("an endless answer")
        if not newline:
            return None
        self._unread, self._between = rest, True
        return line

    def frames(self, more: bytes) -> Iterator[bytes]:
        """Those that are whole. After the empty one `over` is True, and a line follows."""
        self._unread += more
        at = 0
        while self._between and len(self._unread) - at >= 4:
            length = int.from_bytes(self._unread[at : at + 4], "big")
            if length > FRAME_MAX_BYTES:
                raise Corrupt("an endless frame")
            if len(self._unread) - at - 4 < length:
                break
            self._between = length > 0
            if length:
                yield self._unread[at + 4 : at + 4 + length]
            at += 4 + length
        self._unread = self._unread[at:]

    @property
    def over(self) -> bool:
        return not self._between


class LineReader:
    """Iterates whole lines. An oversized one comes as None, once, and is skipped; an unfinished last one is dropped."""

    def __init__(self, stream: BinaryIO, line_max_bytes: int = LINE_MAX_BYTES) -> None:
        self._stream = stream
        self._max = line_max_bytes

    def __iter__(self) -> Iterator[bytes | None]:
        return self

    def __next__(self) -> bytes | None:
        line = self._stream.readline(self._max + 1)
        if line.endswith(b"\n"):
            return line
        if len(line) <= self._max:
            raise StopIteration
        while not line.endswith(b"\n"):
            line = self._stream.readline(self._max + 1)
            if not line:
                raise StopIteration
        return None


def _line(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _object(line: bytes, line_max_bytes: int = LINE_MAX_BYTES) -> Facts:
    if len(line) > line_max_bytes:
        raise Garbage(f"a line has at most {line_max_bytes} bytes")
    try:
        said = json.loads(line.decode(), object_pairs_hook=_each_key_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise Garbage("a line is one JSON object, each key once") from error
    if not isinstance(said, dict):
        raise Garbage("a line is one JSON object")
    return said


def _each_key_once(pairs: list[tuple[str, object]]) -> Facts:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key comes twice")
    return found


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _failure(said: Facts) -> FailoverError:
    reasons = said.get("refused")
    if isinstance(reasons, list):
        return Refused(*[str(reason) for reason in reasons])
    if isinstance(said.get("unreachable"), str):
        return Unreachable(str(said["unreachable"]))
    return Unknown(str(said.get("unknown", "it failed and did not say how")))


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= _INT_MAX  # type() because True is an int too


def _fits(value: object, kind: type) -> bool:
    if kind is int:
        return _is_count(value)
    return type(value) is kind and (kind is not str or _NAME.fullmatch(str(value)) is not None)
