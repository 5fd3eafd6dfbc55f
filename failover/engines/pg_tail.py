"""The log that a member is about to give up: which files hold it, and which commits are in it, read with pg_waldump.

Rows are counted by the heap records of transactions that committed, their subtransactions included. Only commits that a
user would miss count: heartbeats, statistics and toast belong to somebody else's row.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from failover.engines.base import Discarded
from failover.engines.pg_files import segment_name

KEPT_LINES = 100
_LINE_CHARS = 200
_RECORD = re.compile(r"rmgr: (\w+) +len \(rec/tot\): *\d+/ *\d+, tx: +(\d+), lsn: (\S+), prev \S+, desc: (.*)")
_CHANGE = re.compile(r"(MULTI_INSERT|INSERT|HOT_UPDATE|UPDATE|DELETE)(?:\+INIT)?\b(?: (\d+) tuples| ntuples: (\d+))?")
_RELATION = re.compile(r"blkref #0: rel (\d+/\d+/\d+)")
_COMMIT = re.compile(r"COMMIT(?:_PREPARED)? (?:(\d+): )?([^;]+)")
_ABORT = re.compile(r"ABORT(?:_PREPARED)? (?:(\d+): )?")
_CHILDREN = re.compile(r"; subxacts: ([\d ]+)")
_OURS = "failover."
_STATISTICS = ("pg_catalog.pg_statistic", "pg_catalog.pg_statistic_ext_data")
_CATALOG = "pg_catalog"

Pieces = tuple[tuple[int, int, int], ...]
Naming = Callable[[str], str | None]


def segments(pieces: Pieces, segment_bytes: int) -> tuple[str, ...]:
    """Names of the files in pg_wal that hold these pieces of log."""
    names = (
        segment_name(timeline, number, segment_bytes)
        for timeline, start, end in pieces
        for number in range(start // segment_bytes, (end - 1) // segment_bytes + 1)
    )
    return tuple(dict.fromkeys(names))


def present(wal_dir: Path, names: tuple[str, ...]) -> tuple[Path, ...]:
    """The files of that name; an archiving primary's last one may be called .partial. What is not there is left out."""
    found = (next((p for p in (wal_dir / n, wal_dir / f"{n}.partial") if p.exists()), None) for n in names)
    return tuple(path for path in found if path is not None)


@dataclass
class Listing:
    """Fed with pg_waldump's lines in order; `commits()` of a line are those it completes. `name` resolves "space/db/file"."""

    name: Naming
    commits: int = 0
    lines: list[str] = field(default_factory=list)
    tables: Counter[str] = field(default_factory=Counter)
    last: str = ""
    _open: dict[str, Counter[str]] = field(default_factory=dict)

    def feed(self, line: str) -> str | None:
        """The words for the commit that this line completes, if a user would miss it."""
        record = _RECORD.match(line)
        if record is None:
            return None
        manager, xid, self.last, says = record.groups()
        if manager in ("Heap", "Heap2"):
            self._change(xid, says)
        elif manager == "Transaction":
            return self._end(xid, says)
        return None

    def result(self, unread: str) -> Discarded:
        return Discarded(self.commits, tuple(self.lines), tuple(self.tables.most_common()), unread)

    def _change(self, xid: str, says: str) -> None:
        change, relation = _CHANGE.match(says), _RELATION.search(says)
        if change is not None and relation is not None and xid != "0":
            self._open.setdefault(xid, Counter())[relation[1]] += int(change[2] or change[3] or 1)

    def _end(self, xid: str, says: str) -> str | None:
        ended = _COMMIT.match(says)
        over = ended or _ABORT.match(says)
        if over is None:
            return None
        children = _CHILDREN.search(says)
        rows: Counter[str] = Counter()
        for one in (over[1] or xid, *(children[1].split() if children else ())):
            rows += self._open.pop(one, Counter())
        return self._commit(over[1] or xid, ended[2].strip(), rows) if ended else None

    def _commit(self, xid: str, at: str, rows: Counter[str]) -> str | None:
        named: Counter[str] = Counter()
        for relation, count in rows.items():
            table = self.name(relation)
            if table is not None:
                named[table or relation] += count
        if rows and not named:
            return None  # nobody's loss
        self.commits += 1
        self.tables += named
        what = ", ".join(f"{table} {count}" for table, count in named.most_common()) or "no rows"
        line = f"{xid} {at}: {what}"
        if len(self.lines) < KEPT_LINES:
            self.lines.append(line[:_LINE_CHARS])
        return line


def loss(schema: str, table: str, kind: str) -> str | None:
    """The name under which a row of this table counts as lost, or None where it is nobody's loss."""
    full = f"{schema}.{table}"
    if full.startswith(_OURS) or full in _STATISTICS or kind == "t":
        return None
    return _CATALOG if schema == _CATALOG else full


def described(pieces: Pieces) -> Iterator[str]:
    """The pieces in PostgreSQL's notation, for people."""
    for timeline, start, end in pieces:
        yield f"timeline {timeline} from {start >> 32:X}/{start & 0xFFFFFFFF:X} to {end >> 32:X}/{end & 0xFFFFFFFF:X}"
