"""Pledges between guardians: single datagrams, each sealed with a key that only the members' hosts have.

A datagram is HMAC-SHA256(key, context + body) and the body, canonical JSON. UDP, because an answer that is not there in a moment
is worth nothing: no connection can be half dead, and a lost datagram is simply sent again. Nothing here is secret; what must
not be possible is to forge or to replay a word (docs/adr/0014-pledges-are-sealed-datagrams.md).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from failover.core.pledge import PledgeAsk, PledgeWord
from failover.errors import Corrupt

VERSION = 1
CONTEXT = b"failover pledge 1\0"  # the key seals nothing else that looks like this
MAC_BYTES = 32
DATAGRAM_MAX_BYTES = 1200  # fits into one packet on every link
WHY_MAX_CHARS = 200
ROUND_MAX_CHARS = 64
RETIRED_MAX = 64
ASK, WORD, HELLO, HI = "ask", "word", "hello", "hi"
KINDS = (ASK, WORD, HELLO, HI)


@dataclass(frozen=True)
class Letter:
    """One datagram's body. `hello` and `hi` only show that the way is open; they promise nothing."""

    kind: str
    cluster: str
    sender: str
    to: str
    round: str
    epoch: int = 0
    given: bool = False
    why: str = ""
    version: int = VERSION


def seal(letter: Letter, key: bytes) -> bytes:
    """The datagram of a letter."""
    body = json.dumps(asdict(letter), sort_keys=True, separators=(",", ":")).encode()
    return _mac(key, body) + body


def unseal(datagram: bytes, key: bytes) -> Letter:
    """The letter in a datagram. Raises Corrupt with one word for the tally, never with content."""
    if not MAC_BYTES < len(datagram) <= DATAGRAM_MAX_BYTES:
        raise Corrupt("wrong size")
    body = datagram[MAC_BYTES:]
    if not hmac.compare_digest(datagram[:MAC_BYTES], _mac(key, body)):
        raise Corrupt(ANOTHER_KEY)
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        raise Corrupt("no JSON") from None
    if not isinstance(fields, dict) or not _has_shape(fields):
        raise Corrupt("wrong shape")
    return Letter(**fields)


ANOTHER_KEY = "another key"
_SHAPE: Mapping[str, type] = {
    "kind": str, "cluster": str, "sender": str, "to": str, "round": str, "epoch": int, "given": bool, "why": str, "version": int,
}  # fmt: skip


def _has_shape(fields: dict[str, object]) -> bool:
    if fields.keys() != _SHAPE.keys() or any(type(fields[name]) is not kind for name, kind in _SHAPE.items()):
        return False
    round_, kind = fields["round"], fields["kind"]
    return fields["version"] == VERSION and kind in KINDS and isinstance(round_, str) and 0 < len(round_) <= ROUND_MAX_CHARS


def _mac(key: bytes, body: bytes) -> bytes:
    return hmac.digest(key, CONTEXT + body, hashlib.sha256)


class Freshness:
    """Refuses what was recorded and is sent again: within one process of the asker rounds only go up, and a process that
    was followed by another is over. The same round again is a retransmission."""

    def __init__(self) -> None:
        self._latest: dict[str, tuple[str, int]] = {}
        self._retired: deque[str] = deque(maxlen=RETIRED_MAX)

    def admits(self, asker: str, round_: str) -> bool:
        process, _, count = round_.rpartition("-")
        if not process or not (count.isascii() and count.isdigit()) or process in self._retired:
            return False
        known, latest = self._latest.get(asker, (process, 0))
        if known == process and int(count) < latest:
            return False
        if known != process:
            self._retired.append(known)
        self._latest[asker] = (process, int(count))
        return True


class Waiting:
    """One round under way: what has been said so far. The first word of each member counts, unless a later one gives."""

    def __init__(self, asked: Sequence[str]) -> None:
        self._asked = frozenset(asked)
        self._said: dict[str, PledgeWord] = {}
        self._changed = threading.Condition()

    def hear(self, word: PledgeWord) -> None:
        with self._changed:
            before = self._said.get(word.member)
            if word.member in self._asked and (before is None or not before.given):
                self._said[word.member] = word
                self._changed.notify_all()

    def silent(self) -> tuple[str, ...]:
        with self._changed:
            return tuple(sorted(self._asked - self._said.keys()))

    def wait(self, timeout_s: float) -> bool:
        """True once everybody has spoken."""
        with self._changed:
            return self._changed.wait_for(lambda: self._asked <= self._said.keys(), timeout_s)

    def words(self) -> tuple[PledgeWord, ...]:
        with self._changed:
            return tuple(self._said.values())


class Tally:
    """Counts what was dropped and says so at most once in `every_s`, without content: a flood must not fill the log."""

    def __init__(self, say: Callable[[str], None], every_s: float) -> None:
        self._say, self._every_s = say, every_s
        self._dropped: Counter[str] = Counter()
        self._due_s = 0.0
        self._lock = threading.Lock()
        self.total = 0

    def drop(self, why: str, now_s: float) -> None:
        with self._lock:
            self.total += 1
            self._dropped[why] += 1
            if now_s < self._due_s:
                return
            self._due_s = now_s + self._every_s
            text = ", ".join(f"{count} {reason}" for reason, count in self._dropped.most_common())
            self._dropped.clear()
        self._say(f"datagrams dropped on the pledge port: {text}")


def family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def ask_of(letter: Letter) -> PledgeAsk:
    return PledgeAsk(letter.cluster, letter.sender, letter.epoch, letter.round)


def word_of(letter: Letter) -> PledgeWord:
    return PledgeWord(letter.sender, letter.epoch, letter.round, letter.given, letter.why)
