"""Where a PostgreSQL log ends: a byte position, its timeline, and the forks that led there.

Two positions compare only if one lies on the other's history. A byte number alone says nothing: after a failover the
old primary may stand at a higher number on a timeline that the cluster has left.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from failover.core.model import Position
from failover.errors import Corrupt

_OFFSET = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")
_TIMELINE = re.compile(r"[1-9][0-9]{0,9}")
_MAX_OFFSET = 2**64 - 1
_MAX_TIMELINE = 2**32 - 1

Switches = tuple[tuple[int, int], ...]


def parse_offset(text: str) -> int:
    """Bytes from PostgreSQL's `X/Y` notation. Raises Corrupt."""
    match = _OFFSET.fullmatch(text)
    if match is None:
        raise Corrupt(f"not a log position: {text[:40]!r}")
    return (int(match[1], 16) << 32) | int(match[2], 16)


def format_offset(offset: int) -> str:
    """PostgreSQL's `X/Y` notation."""
    return f"{offset >> 32:X}/{offset & 0xFFFFFFFF:X}"


def parse_timeline(text: str) -> int:
    """Raises Corrupt."""
    if _TIMELINE.fullmatch(text) is None or int(text) > _MAX_TIMELINE:
        raise Corrupt(f"not a timeline: {text[:40]!r}")
    return int(text)


@dataclass(frozen=True)
class Lsn:
    """`offset` bytes on `timeline`; `switches` are (ancestor timeline, byte where it was left), oldest first.

    Without the switches of its ancestors a position covers less than it could, never more. Raises Corrupt if the parts
    contradict each other.
    """

    unit: ClassVar[str] = "bytes"

    timeline: int
    offset: int
    switches: Switches = ()

    def __post_init__(self) -> None:
        path = (*self.switches, (self.timeline, self.offset))
        if not all(1 <= tli <= _MAX_TIMELINE and 0 <= offset <= _MAX_OFFSET for tli, offset in path):
            raise Corrupt(f"log position out of range: timeline {self.timeline}, offset {self.offset}")
        for (older, left), (newer, reached) in pairwise(path):
            if older >= newer or left > reached:
                raise Corrupt(f"log position contradicts its history at timeline {newer}")

    @classmethod
    def parse(cls, text: str) -> Lsn:
        """Read `text()` back: `"3@0/5000A28 1:0/3000060 2:0/4000000"`. Raises Corrupt."""
        head, *tail = text.split(" ")
        timeline, at, offset = head.partition("@")
        if not at:
            raise Corrupt(f"not a log position: {text[:60]!r}")
        switches = tuple(_parse_switch(part) for part in tail)
        return cls(parse_timeline(timeline), parse_offset(offset), switches)

    def text(self) -> str:
        path = [f"{self.timeline}@{format_offset(self.offset)}"]
        return " ".join(path + [f"{tli}:{format_offset(left)}" for tli, left in self.switches])

    def history_id(self) -> str:
        return str(self.timeline)

    def descends_from(self, history: str) -> bool:
        return history == str(self.timeline) or any(history == str(tli) for tli, _ in self.switches)

    def covers(self, other: Position) -> bool:
        """True if every byte of `other` is here. Timelines of one number that forked at different places do not match.
        """
        if not isinstance(other, Lsn) or not self._agrees_with(other):
            return False
        if other.timeline == self.timeline:
            return other.offset <= self.offset
        left = dict(self.switches).get(other.timeline)
        return left is not None and other.offset <= left

    def behind(self, other: Position) -> int | None:
        if not isinstance(other, Lsn):
            return None
        if self.covers(other):
            return 0
        return other.offset - self.offset if other.covers(self) else None

    def diverged_from(self, primary: Position) -> bool:
        """Two logs of which neither contains the other. A primary that is merely behind may have written on meanwhile."""
        return not primary.covers(self) and not self.covers(primary)

    def fork(self, other: Lsn) -> Lsn | None:
        """The last point that both histories share, or None if they share nothing."""
        shared: Lsn | None = None
        for number, ((mine, left), (theirs, reached)) in enumerate(zip(self._path, other._path, strict=False)):
            if mine != theirs:
                break
            shared = Lsn(mine, min(left, reached), self.switches[:number])
            if left != reached:
                break
        return shared

    def since(self, fork: Lsn) -> tuple[tuple[int, int, int], ...]:
        """The log after `fork`, which lies on this history, as (timeline, first byte, byte after the last) each."""
        begins, pieces = fork.offset, []
        for timeline, end in self._path[len(fork.switches) :]:
            if end > begins:
                pieces.append((timeline, begins, end))
            begins = end
        return tuple(pieces)

    @property
    def _path(self) -> Switches:
        return (*self.switches, (self.timeline, self.offset))

    def _agrees_with(self, other: Lsn) -> bool:
        mine = dict(self.switches)
        return all(mine.get(tli, left) == left for tli, left in other.switches)


def _parse_switch(text: str) -> tuple[int, int]:
    timeline, colon, offset = text.partition(":")
    if not colon:
        raise Corrupt(f"not a timeline switch: {text[:40]!r}")
    return parse_timeline(timeline), parse_offset(offset)
