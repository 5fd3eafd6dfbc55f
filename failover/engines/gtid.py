"""Where a MySQL server's log ends: the set of all transactions it has, and which server said so.

A set carries its whole history in itself, so inclusion is the only question. Counting is not an answer (a longer set may lack
what a shorter one has), nor is the highest number (sets have gaps), nor one source of several.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from failover.core.model import Position
from failover.errors import Corrupt

MAX_CHARS = 1 << 18  # what ZooKeeper and a person can still take; a set beyond it is a fault of its own
_MAX_NUMBER = 2**63 - 2
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TAG = re.compile(r"[a-z_][a-z0-9_]{0,31}")
_NUMBER = re.compile(r"[1-9][0-9]{0,18}")

Interval = tuple[int, int]  # first and last, both inside
Source = tuple[str, str]  # uuid of the server that wrote, tag or ""


@dataclass(frozen=True)
class GtidSet:
    """Transactions by who wrote them. `parts` are sorted; intervals are sorted and neither overlap nor touch."""

    parts: tuple[tuple[Source, tuple[Interval, ...]], ...] = ()

    @classmethod
    def parse(cls, text: str) -> GtidSet:
        """From the server's notation, `uuid:1-5:7:tag:1-3,uuid:...`, whatever its case and line breaks. Raises Corrupt."""
        if len(text) > MAX_CHARS:
            raise Corrupt(f"a GTID set of {len(text)} characters; at most {MAX_CHARS} are read")
        found: dict[Source, list[Interval]] = {}
        for part in text.lower().split(","):
            if part := part.strip():  # the server takes an empty part for nothing, and so a union may be written with a comma
                _read_part(part, found)
        return cls.of(found)

    @classmethod
    def of(cls, intervals: Mapping[Source, Iterable[Interval]]) -> GtidSet:
        """From intervals in any order, overlapping or not."""
        merged = ((source, _merge(spans)) for source, spans in sorted(intervals.items()))
        return cls(tuple((source, spans) for source, spans in merged if spans))

    def text(self) -> str:
        """The server's own notation, on one line and without blanks."""
        words: list[str] = []
        last = ""
        for (uuid, tag), spans in self.parts:
            words.append(f",{uuid}" if uuid != last and words else uuid if uuid != last else "")
            words += [f":{tag}"] if tag else []
            words += [f":{first}" if first == end else f":{first}-{end}" for first, end in spans]
            last = uuid
        return "".join(words)

    def union(self, other: GtidSet) -> GtidSet:
        mine: dict[Source, tuple[Interval, ...]] = dict(self.parts)
        return GtidSet.of({**mine, **{source: (*mine.get(source, ()), *spans) for source, spans in other.parts}})

    def subtract(self, other: GtidSet) -> GtidSet:
        """What is here and not in `other`."""
        gone = dict(other.parts)
        left = ((source, _without(spans, gone.get(source, ()))) for source, spans in self.parts)
        return GtidSet(tuple((source, spans) for source, spans in left if spans))

    def contains(self, other: GtidSet) -> bool:
        return not other.subtract(self).parts

    @property
    def count(self) -> int:
        return sum(end - first + 1 for _, spans in self.parts for first, end in spans)

    def written_by_others(self, uuid: str) -> GtidSet:
        """What any other server than this one wrote."""
        return GtidSet(tuple((source, spans) for source, spans in self.parts if source[0] != uuid))


@dataclass(frozen=True)
class GtidPosition:
    """`log` is all that is stored on a server, received or executed; `writer` is its own uuid, "" where it is not known."""

    unit: ClassVar[str] = "transactions"

    log: GtidSet
    writer: str = ""

    @classmethod
    def reported(cls, server_uuid: str, executed: str, retrieved: str = "") -> GtidPosition:
        """From what a server says of itself (`@@gtid_executed`, `Retrieved_Gtid_Set`). Raises Corrupt."""
        return cls(GtidSet.parse(executed).union(GtidSet.parse(retrieved)), _read_uuid(server_uuid))

    @classmethod
    def parse(cls, text: str) -> GtidPosition:
        """Read `text()` back: `"<uuid>:1-5:7@<uuid>"`. Raises Corrupt."""
        log, at, writer = text.rpartition("@")
        if not at:
            raise Corrupt(f"not a position: {text[:60]!r}")
        return cls(GtidSet.parse(log), _read_uuid(writer) if writer else "")

    def text(self) -> str:
        return f"{self.log.text()}@{self.writer}"

    def history_id(self) -> str:
        return ""

    def descends_from(self, history: str) -> bool:
        return True

    def covers(self, other: Position) -> bool:
        return isinstance(other, GtidPosition) and self.log.contains(other.log)

    def behind(self, other: Position) -> int | None:
        return other.log.subtract(self.log).count if isinstance(other, GtidPosition) else None

    def diverged_from(self, primary: Position) -> bool:
        """Only the primary's own transactions may have come to it since it was asked. Unknown who it is: nothing is proved."""
        return isinstance(primary, GtidPosition) and bool(primary.writer) and bool(self.strays(primary))

    def strays(self, primary: GtidPosition) -> str:
        """The transactions, as a GTID set, that are here and that a primary which stood there can never have; "" if none."""
        return self.log.subtract(primary.log).written_by_others(primary.writer).text()

    def fork(self, primary: GtidPosition) -> GtidPosition:
        """Without the strays: what of this the primary has, or may have by now."""
        return GtidPosition(self.log.subtract(GtidSet.parse(self.strays(primary))), self.writer)


def _read_uuid(text: str) -> str:
    if _UUID.fullmatch(uuid := text.lower()) is None:
        raise Corrupt(f"not a server uuid: {text[:40]!r}")
    return uuid


def _read_part(text: str, found: dict[Source, list[Interval]]) -> None:
    uuid, *words = (word.strip() for word in text.split(":"))
    if _UUID.fullmatch(uuid) is None or not words:
        raise Corrupt(f"not a GTID set: {text[:60]!r}")
    tag, empty = "", True
    for word in words:
        if _TAG.fullmatch(word) is not None:
            if tag and empty:
                raise Corrupt(f"a tag without transactions in a GTID set: {text[:60]!r}")
            tag, empty = word, True
        else:
            found.setdefault((uuid, tag), []).append(_read_interval(word))
            empty = False
    if empty:
        raise Corrupt(f"a tag without transactions in a GTID set: {text[:60]!r}")


def _read_interval(text: str) -> Interval:
    first, dash, last = (word.strip() for word in text.partition("-"))
    if _NUMBER.fullmatch(first) is None or (dash and _NUMBER.fullmatch(last) is None):
        raise Corrupt(f"not an interval of transactions: {text[:40]!r}")
    span = int(first), int(last if dash else first)
    if not span[0] <= span[1] <= _MAX_NUMBER:
        raise Corrupt(f"not an interval of transactions: {text[:40]!r}")
    return span


def _merge(spans: Iterable[Interval]) -> tuple[Interval, ...]:
    merged: list[Interval] = []
    for first, end in sorted(spans):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((first, end))
    return tuple(merged)


def _without(spans: tuple[Interval, ...], gone: tuple[Interval, ...]) -> tuple[Interval, ...]:
    """One pass over both, which are sorted."""
    left: list[Interval] = []
    at = 0
    for first, end in spans:
        while at < len(gone) and gone[at][1] < first:
            at += 1
        look = at
        while look < len(gone) and gone[look][0] <= end:
            if first < gone[look][0]:
                left.append((first, gone[look][0] - 1))
            first = gone[look][1] + 1
            look += 1
        if first <= end:
            left.append((first, end))
    return tuple(left)
