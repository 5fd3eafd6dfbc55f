"""The log that a MySQL or MariaDB member is about to give up: which transactions, which files hold them, what is in them.

Read with the server's own mysqlbinlog. It decodes rows, so tables have their names without the server. Of a statement only what
it does and to what is told: its text may hold a password.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from failover.core.model import Position
from failover.engines.base import Discarded
from failover.engines.gtid import GtidPosition, GtidSet
from failover.engines.maria_gtid import MariaPosition, parse_gtids
from failover.errors import Corrupt, Refused

KEPT_LINES = 100
_LINE_CHARS = 200
_EVENT = re.compile(r"#(\d\d)(\d\d)(\d\d) +(\d{1,2}:\d\d:\d\d) server id \d+ +end_log_pos \d+ (?:CRC32 0x[0-9a-f]+ ?)?\t?(.*)")
_NEXT = re.compile(r"SET @@SESSION\.GTID_NEXT= '([^']+)'")
_ROW = re.compile(r"### (?:INSERT INTO|UPDATE|DELETE FROM) `(.+)`\.`(.+)`")
_ROWS = ("Write_rows", "Update_rows", "Delete_rows")
_STATEMENTS = ("Query", "Execute_load_query")
_HARMLESS = (*_ROWS, *_STATEMENTS, "GTID", "Table_map:", "Xid", "Annotate_rows:", "Rows_query", "Intvar", "Rand", "User_var",
             "Rotate", "Start:", "Stop", "Previous-GTIDs", "Gtid", "Binlog", "Ignorable", "Transaction_payload")  # fmt: skip
_SETTING = re.compile(
    r"use `|SET (?:TIMESTAMP|@|INSERT_ID|LAST_INSERT_ID)|/\*M?!|BEGIN\b|START TRANSACTION|COMMIT\b|ROLLBACK\b|DELIMITER"
)
_NAME = r"((?:`[^`]+`|\w+)(?:\s*\.\s*(?:`[^`]+`|\w+))?)"
_CHANGES = re.compile(
    r"\s*(INSERT|REPLACE|UPDATE|DELETE)\b(?:\s+(?:LOW_PRIORITY|DELAYED|QUICK|IGNORE|INTO|FROM))*\s+" + _NAME, re.I
)
_DEFINES = re.compile(
    r"\s*((?:CREATE|ALTER|DROP|TRUNCATE)(?:\s+OR\s+REPLACE)?\s+(?:TEMPORARY\s+)?(?:TABLE|DATABASE|SCHEMA|VIEW|INDEX))"
    r"\s+(?:IF\s+(?:NOT\s+)?EXISTS\s+)?" + _NAME, re.I
)  # fmt: skip
_KINDS = "USER|ROLE|TABLE|DATABASE|SCHEMA|EVENT|TRIGGER|PROCEDURE|FUNCTION|VIEW|INDEX"
_VERB = re.compile(rf"\s*([A-Za-z]+(?:\s+(?:{_KINDS}))?)\b", re.I)


class Missing(Protocol):
    """Transactions of one member. `head` is what a file of log says stands before it, as mysqlbinlog prints it."""

    def wants(self, gtid: str) -> bool: ...

    def stands_before(self, head: str) -> bool:
        """True if some of them are in older files."""
        ...

    def executed(self, said: str) -> bool:
        """True if all of them are in what the server says that its own log holds."""
        ...

    def unseen(self, seen: set[str]) -> str:
        """In words which of them were not found, "" if all were."""
        ...

    def as_set(self) -> str:
        """As a GTID set for mysqlbinlog, "" where there are none."""
        ...

    def text(self) -> str: ...


@dataclass(frozen=True)
class MissingSet:
    """MySQL."""

    log: GtidSet

    def wants(self, gtid: str) -> bool:
        return self.log.contains(GtidSet.parse(gtid))

    def stands_before(self, head: str) -> bool:
        return self.log.subtract(GtidSet.parse(head)) != self.log

    def executed(self, said: str) -> bool:
        return GtidSet.parse(said).contains(self.log)

    def unseen(self, seen: set[str]) -> str:
        left = self.log.count - len(seen)
        return f"{left} of {self.log.count} transactions are in no file of log" if left else ""

    def as_set(self) -> str:
        return self.log.text()

    def text(self) -> str:
        return self.log.text()


@dataclass(frozen=True)
class MissingLines:
    """MariaDB: for each domain the numbers after one, up to another."""

    spans: tuple[tuple[int, int, int], ...]

    def wants(self, gtid: str) -> bool:
        (one,) = parse_gtids(gtid)
        return any(domain == one.domain and after < one.number <= last for domain, after, last in self.spans)

    def stands_before(self, head: str) -> bool:
        ends = [(gtid.domain, gtid.number) for gtid in parse_gtids(head)]
        return any(domain == d and number > after for domain, after, _ in self.spans for d, number in ends)

    def executed(self, said: str) -> bool:
        ends = {gtid.domain: gtid.number for gtid in parse_gtids(said)}
        return all(ends.get(domain, 0) >= last for domain, _, last in self.spans)

    def unseen(self, seen: set[str]) -> str:
        found = {(gtid.domain, gtid.number) for text in seen for gtid in parse_gtids(text)}
        left = [f"{domain}-…-{last}" for domain, _, last in self.spans if (domain, last) not in found]
        return f"{', '.join(left)} is in no file of log" if left else ""

    def as_set(self) -> str:
        return ""

    def text(self) -> str:
        return ", ".join(f"domain {domain} after {after} up to {last}" for domain, after, last in self.spans)


def fork(mine: Position, theirs: Position) -> Position:
    """Up to where both share one history. Raises Refused if that cannot be told, or there is nothing to give up."""
    shared = _shared(mine, theirs)
    if shared is None:
        raise Refused(f"{mine.text()} and {theirs.text()} share no history")
    if shared == mine:
        raise Refused(f"{mine.text()} has nothing that a primary at {theirs.text()} cannot have")
    return shared


def _shared(mine: Position, theirs: Position) -> Position | None:
    if isinstance(mine, GtidPosition):
        return mine.fork(theirs) if isinstance(theirs, GtidPosition) else None
    assert isinstance(mine, MariaPosition)
    return mine.fork(theirs) if isinstance(theirs, MariaPosition) else None


def missing(shared: Position, end: Position) -> Missing:
    """What stands between a fork and the end."""
    if isinstance(end, GtidPosition) and isinstance(shared, GtidPosition):
        return MissingSet(end.log.subtract(shared.log))
    assert isinstance(end, MariaPosition) and isinstance(shared, MariaPosition)
    spans = ((d.last.domain, shared.number(d.last.domain), d.last.number) for d in end.domains)
    return MissingLines(tuple(span for span in spans if span[1] < span[2]))


def files(index: Path, data_dir: Path) -> tuple[Path, ...]:
    """The files of log that an index names, oldest first. A relative name is in the data directory."""
    try:
        names = index.read_text().split("\n")
    except OSError as error:
        raise Corrupt(f"{index} cannot be read: {error.strerror}") from error
    return tuple(data_dir / name.strip() for name in names if name.strip())


def head(lines: Iterable[str]) -> str | None:
    """What stands before a file, from the first events that mysqlbinlog prints of it; None if it does not say."""
    found: list[str] | None = None
    for line in lines:
        if (event := _EVENT.match(line)) is not None:
            if found is not None:
                break
            if event[5].startswith("Previous-GTIDs"):
                found = []
            elif event[5].startswith("Gtid list ["):
                found = [event[5].partition("[")[2]]
        elif found is not None:
            if not line.startswith("# ") or line.startswith("# at "):
                break
            found.append(line[2:])
    if found is None:
        return None
    told = "".join(found).strip()
    return "" if told == "[empty]" else told.rstrip("]")


@dataclass
class Listing:
    """Fed with mysqlbinlog's lines in order. Rows of the schema `own` are nobody's loss."""

    missing: Missing
    own: str
    commits: int = 0
    lines: list[str] = field(default_factory=list)
    tables: Counter[str] = field(default_factory=Counter)
    seen: set[str] = field(default_factory=set)
    _kind: str = ""
    _at: str = ""
    _gtid: str = ""
    _rows: Counter[str] = field(default_factory=Counter)
    _said: list[str] = field(default_factory=list)
    _stated: bool = False
    _schema: str = ""

    def feed(self, line: str) -> str | None:
        """The words for the commit that ends before this line, if a user would miss it."""
        if line.startswith("#") and (event := _EVENT.match(line)) is not None:
            return self._event(event)
        if self._kind == "GTID" and (named := _NEXT.match(line)) is not None:
            self._begin(named[1])
        elif self._gtid and self._kind.startswith(_ROWS):
            if line.startswith("### ") and (row := _ROW.match(line)) is not None:
                self._rows[f"{row[1]}.{row[2]}"] += 1
        elif self._gtid and self._kind in _STATEMENTS:
            self._statement(line)
        return None

    def end(self) -> str | None:
        """The words for the last one."""
        gtid, self._gtid = self._gtid, ""
        if not gtid or gtid in self.seen:
            return None
        self.seen.add(gtid)
        mine = {table: count for table, count in self._rows.items() if not table.startswith(f"{self.own}.")}
        if not mine and not self._said:
            return None
        self.commits += 1
        self.tables.update(mine)
        what = ", ".join([*(f"{table} {count}" for table, count in Counter(mine).most_common()), *self._said])
        line = f"{gtid} {self._at}: {what}"[:_LINE_CHARS]
        if len(self.lines) < KEPT_LINES:
            self.lines.append(line)
        return line

    def result(self, unread: str) -> Discarded:
        left = unread or self.missing.unseen(self.seen)
        return Discarded(self.commits, tuple(self.lines), tuple(self.tables.most_common()), left)

    def _event(self, event: re.Match[str]) -> str | None:
        year, month, day, clock, says = event.groups()
        self._kind, _, rest = says.partition("\t") if "\t" in says else says.partition(" ")
        self._kind = self._kind.split(" ")[0]
        self._stated = False
        if self._kind != "GTID":
            if self._gtid and not self._kind.startswith(_HARMLESS):
                self._said.append(self._kind)
            return None
        done = self.end()
        self._at = f"20{year}-{month}-{day} {clock.rjust(8, '0')} UTC"
        if "=" not in rest.split(" ")[0]:  # MariaDB names it in the event, MySQL in the line after
            self._begin(rest.split(" ")[0])
        return done

    def _begin(self, gtid: str) -> None:
        self._gtid = gtid if self.missing.wants(gtid) else ""
        self._rows, self._said, self._schema = Counter(), [], ""

    def _statement(self, line: str) -> None:
        if self._stated or line.startswith("#"):  # "# at 154" is the next event already
            return
        if _SETTING.match(line) is not None:
            self._schema = line[5:].partition("`")[0] if line.startswith("use `") else self._schema
            return
        self._stated = True
        words, target = described(line)
        schema = target.partition(".")[0] if "." in target or re.search(r"DATABASE|SCHEMA", words) else self._schema
        if schema != self.own:
            self._said.append(f"{words} {target}".strip())


def described(statement: str) -> tuple[str, str]:
    """What a statement does, and to what: ("INSERT", "app.t"). Nothing else of its text."""
    found = _CHANGES.match(statement) or _DEFINES.match(statement)
    if found is not None:
        return " ".join(found[1].upper().split()), re.sub(r"[`\s]", "", found[2])
    verb = _VERB.match(statement)
    return (" ".join(verb[1].upper().split()) if verb else "a statement"), ""
