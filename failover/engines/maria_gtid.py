"""Where a MariaDB server's log ends: for each domain its last transaction, and the last one of every server that wrote in it.

MariaDB has no sets. A domain is one line of transactions with growing numbers (`gtid_strict_mode`), so whoever has the n-th
has all before it, *if both are on the same line*. The number alone does not tell (after a failover the old primary may stand at
a higher one), one domain of several does not tell, and a pair that is missing from a server's `gtid_binlog_state` proves
nothing below the backup that this server was made from.

Not told apart: a server that wrote, lost that tail, was made anew and became primary again, and whose lost tail a third member
still has below what it wrote since. That member is taken for one that merely lags; nothing acknowledged under `strict` can be in
such a tail, and the server itself refuses it by 1236.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from failover.core.model import Position
from failover.errors import Corrupt

MAX_CHARS = 1 << 14
_GTID = re.compile(r"([0-9]{1,10})-([0-9]{1,10})-([0-9]{1,20})")
_SINCE = re.compile(r"([0-9]{1,10})~([0-9]{1,20})")
_MAX_ID = 2**32 - 1
_MAX_NUMBER = 2**64 - 1


class Gtid(NamedTuple):
    domain: int
    server: int
    number: int

    def __str__(self) -> str:
        return f"{self.domain}-{self.server}-{self.number}"


@dataclass(frozen=True)
class Domain:
    """One domain's log: its last transaction, who else wrote in it and up to which number, and what is known of that.

    Above the number `since` the list of writers is complete; below, a writer may be missing, because the server was made from a
    backup or has received what it did not look into yet.
    """

    last: Gtid
    writers: tuple[tuple[int, int], ...]
    since: int

    def has(self, gtid: Gtid) -> bool | None:
        """None: it cannot be told."""
        if gtid.number >= self.last.number:
            return gtid == self.last
        if dict(self.writers).get(gtid.server, 0) >= gtid.number:
            return True
        return False if gtid.number > self.since else None

    def until(self, last: Gtid) -> Domain:
        """The beginning of this log that ends with `last`."""
        writers = {server: number for server, number in self.writers if number < last.number}
        return Domain(last, tuple(sorted({**writers, last.server: last.number}.items())), min(self.since, last.number))


@dataclass(frozen=True)
class MariaPosition:
    """What is stored on a server, received or executed, by domain, in ascending order; `server` is its own id."""

    unit: ClassVar[str] = "transactions"

    domains: tuple[Domain, ...]
    server: int

    @classmethod
    def reported(cls, server_id: int, binlog_state: str, binlog_pos: str, slave_pos: str, received: str = "") -> MariaPosition:
        """From what a server says of itself: the `@@gtid_...` of these names and `Gtid_IO_Pos`. Raises Corrupt."""
        state, written, replicated, waiting = (parse_gtids(text) for text in (binlog_state, binlog_pos, slave_pos, received))
        ends = [_by_domain(gtids) for gtids in (written, replicated, waiting)]
        numbers = sorted({gtid.domain for gtid in (*state, *written, *replicated, *waiting)})
        found = (_domain(server_id, [g for g in state if g.domain == n], *(end.get(n) for end in ends)) for n in numbers)
        return cls(tuple(found), server_id)

    @classmethod
    def parse(cls, text: str) -> MariaPosition:
        """Read `text()` back: `"0-1-105,7-1-9@1 0-3-60 0~60"`. Raises Corrupt."""
        if len(text) > MAX_CHARS:
            raise Corrupt(f"a position of {len(text)} characters; at most {MAX_CHARS} are read")
        head, *tail = text.split(" ")
        lasts, at, server = head.rpartition("@")
        if not at or not server.isascii() or not server.isdigit() or len(server) > 10 or int(server) > _MAX_ID:
            raise Corrupt(f"not a position: {text[:60]!r}")
        writers = [_read_gtid(word) for word in tail if "~" not in word]
        since = dict(_read_since(word) for word in tail if "~" in word)
        found = cls(tuple(_stored(last, writers, since) for last in _each_domain_once(parse_gtids(lasts))), int(server))
        if found.text() != text:
            raise Corrupt(f"not a position in its stored form: {text[:60]!r}")
        return found

    def text(self) -> str:
        words = [",".join(str(domain.last) for domain in self.domains) + f"@{self.server}"]
        for domain in self.domains:
            number, last = domain.last.domain, domain.last
            words += [str(Gtid(number, *writer)) for writer in domain.writers if writer[0] != last.server]
            words += [f"{number}~{domain.since}"] if domain.since != last.number else []
        return " ".join(words)

    def history_id(self) -> str:
        return ""

    def descends_from(self, history: str) -> bool:
        return True

    def covers(self, other: Position) -> bool:
        """True if the last transaction of every domain there is known to be here. It covers less than it could, never more."""
        return isinstance(other, MariaPosition) and all(self._has(domain.last) is True for domain in other.domains)

    def behind(self, other: Position) -> int | None:
        if not isinstance(other, MariaPosition):
            return None
        missing = 0
        for theirs in other.domains:
            mine = self._domain(theirs.last.domain)
            if self._has(theirs.last) is True:
                continue
            if mine is not None and other._has(mine.last) is not True:
                return None
            missing += theirs.last.number - (mine.last.number if mine else 0)
        return missing

    def diverged_from(self, primary: Position) -> bool:
        """Only the primary's own transactions may have come to it since it was asked, and with higher numbers only."""
        return isinstance(primary, MariaPosition) and bool(self.strays(primary))

    def strays(self, primary: MariaPosition) -> str:
        """Where this ends in each domain in which a primary that stood there can never come to, as GTIDs; "" if nowhere."""
        return ",".join(str(domain.last) for domain in self.domains if primary._can_never_have(domain.last))

    def fork(self, primary: MariaPosition) -> MariaPosition | None:
        """Up to where this is the primary's log too, or may be by now; None if a domain shares no transaction that is known."""
        shared: list[Domain] = []
        for domain in self.domains:
            theirs = primary._domain(domain.last.domain)
            if not primary._can_never_have(domain.last):
                shared.append(domain)
            elif theirs is not None:
                ends = dict(theirs.writers)
                common = [Gtid(domain.last.domain, w, min(n, ends[w])) for w, n in domain.writers if w in ends]
                if not common:
                    return None
                shared.append(domain.until(max(common, key=lambda gtid: gtid.number)))
        return MariaPosition(tuple(shared), self.server)

    def number(self, domain: int) -> int:
        """The last transaction of a domain, 0 if there is none."""
        found = self._domain(domain)
        return found.last.number if found else 0

    def _can_never_have(self, gtid: Gtid) -> bool:
        domain = self._domain(gtid.domain)
        since_written = gtid.server == self.server and (domain is None or gtid.number > domain.last.number)
        return not since_written and self._has(gtid) is False

    def _has(self, gtid: Gtid) -> bool | None:
        domain = self._domain(gtid.domain)
        return False if domain is None else domain.has(gtid)

    def _domain(self, number: int) -> Domain | None:
        return next((domain for domain in self.domains if domain.last.domain == number), None)


def parse_gtids(text: str) -> tuple[Gtid, ...]:
    """From the server's notation, `0-1-105,7-1-9`, "" included. Raises Corrupt."""
    if len(text) > MAX_CHARS:
        raise Corrupt(f"a list of GTIDs of {len(text)} characters; at most {MAX_CHARS} are read")
    return tuple(_read_gtid(word.strip()) for word in text.split(",")) if text.strip() else ()


def _read_gtid(text: str) -> Gtid:
    found = _GTID.fullmatch(text)
    if found is None:
        raise Corrupt(f"not a GTID: {text[:60]!r}")
    gtid = Gtid(*(int(word) for word in found.groups()))
    if gtid.domain > _MAX_ID or gtid.server > _MAX_ID or not 1 <= gtid.number <= _MAX_NUMBER:
        raise Corrupt(f"a GTID out of range: {text}")
    return gtid


def _read_since(text: str) -> tuple[int, int]:
    found = _SINCE.fullmatch(text)
    if found is None:
        raise Corrupt(f"not a number of a domain: {text[:60]!r}")
    return int(found[1]), int(found[2])


def _each_domain_once(gtids: tuple[Gtid, ...]) -> tuple[Gtid, ...]:
    if [gtid.domain for gtid in gtids] != sorted({gtid.domain for gtid in gtids}):
        raise Corrupt("a position names each domain once, in ascending order")
    return gtids


def _stored(last: Gtid, others: list[Gtid], since: Mapping[int, int]) -> Domain:
    writers = {gtid.server: gtid.number for gtid in others if gtid.domain == last.domain}
    known = since.get(last.domain, last.number)
    if any(number >= last.number for number in writers.values()) or last.server in writers or known > last.number:
        raise Corrupt(f"a position contradicts itself beyond {last}")
    return Domain(last, tuple(sorted({**writers, last.server: last.number}.items())), known)


def _by_domain(gtids: tuple[Gtid, ...]) -> dict[int, Gtid]:
    """The last one of each domain where a server names several."""
    return {gtid.domain: gtid for gtid in sorted(gtids, key=lambda gtid: gtid.number)}


def _domain(own: int, state: list[Gtid], written: Gtid | None, replicated: Gtid | None, received: Gtid | None) -> Domain:
    """One domain of a server whose binlog and replication end there, and whose relay log ends at `received`.

    What it wrote itself after the last one it replicated stops replication in this domain (1950): received log behind that is
    never applied, and does not count.
    """
    known = [gtid for gtid in (written, replicated, *state) if gtid]
    stored = max(known, key=lambda gtid: gtid.number, default=None)
    tail = stored is not None and stored.server == own and (replicated is None or stored.number > replicated.number)
    last = received if received and not tail and (stored is None or received.number > stored.number) else stored
    assert last is not None  # one of them names this domain
    writers: dict[int, int] = {}
    for gtid in (*known, last):
        writers[gtid.server] = max(gtid.number, writers.get(gtid.server, 0))
    return Domain(last, tuple(sorted(writers.items())), last.number if last is not stored else _since(own, writers, replicated))


def _since(own: int, writers: Mapping[int, int], replicated: Gtid | None) -> int:
    """From where on the writers are all known: nothing of others is older than the backup that the server was made from.

    Its own may be: accounts that were made before it was put in its place.
    """
    others = [number for server, number in writers.items() if server != own]
    return min([*others, *([replicated.number] if replicated else [])], default=0)
