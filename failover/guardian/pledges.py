"""Pledges as hands: the book of what this member has promised, and the asking when ZooKeeper does not acknowledge.

The rules are core/pledge.py. What is added here is order: a pledge is in the book before its word can leave, and *quiet* is read
under the same lock as pledges are given, so that no pledge falls between the two.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from failover.clock import boottime_s
from failover.core.lease import LeaseState
from failover.core.model import Grant, Stored
from failover.core.pledge import PledgeAsk, PledgeWord, SentUnder, complete, given_by, judge, missing, quiet
from failover.guardian.base import Durable, Pledgers


class PledgeBook:
    """What this member has pledged. Thread-safe. Made before anything can ask: a restart counts as a pledge.

    `durable`, `granted` and `lease` are read under the book's lock: the disk's memory, the grant in view, a lease of our own.
    """

    def __init__(
        self, me: str, members: Sequence[str], wait_s: float, durable: Callable[[], Durable],
        granted: Callable[[], Stored[Grant] | None], lease: Callable[[], LeaseState],
    ) -> None:  # fmt: skip
        self._me, self._members, self._wait_s = me, frozenset(members), wait_s
        self._durable, self._granted, self._lease = durable, granted, lease
        self._lock = threading.Lock()
        self._began_s = boottime_s()
        self._last_s: float | None = None

    def give(self, ask: PledgeAsk) -> PledgeWord:
        """Judge one request; a pledge is in the book when this returns, before its word can leave."""
        with self._lock:
            stored, held = self._granted(), self._lease()
            holding = held.valid(held.epoch, boottime_s())
            durable = self._durable()  # last: a freeze that was persisted until now is obeyed
            granted = stored.value if stored else None
            word = judge(
                ask, self._me, self._members, durable.highest, durable.frozen, granted, durable.released, holding
            )  # fmt: skip
            if word.given:
                self._last_s = boottime_s()
            return word

    def quiet(self) -> bool:
        """W has passed since the last pledge. For a seal: ask *after* the freeze is on the disk; then none can follow unseen."""
        with self._lock:
            return quiet(boottime_s(), self._began_s, self._last_s, self._wait_s)


class Rounds:
    """Ids of rounds, never used twice: a random word for each guardian process, and a count."""

    def __init__(self) -> None:
        self._process = secrets.token_hex(8)
        self._count = 0
        self._lock = threading.Lock()

    def next(self) -> str:
        with self._lock:
            self._count += 1
            return f"{self._process}-{self._count}"


@dataclass(frozen=True)
class Round:
    """What came of one round. `asked_at_s`: CLOCK_BOOTTIME before its first request."""

    complete: bool
    asked_at_s: float
    given_by: tuple[str, ...]
    missing: tuple[tuple[str, str], ...]

    def says(self) -> str:
        """Who did not pledge and why."""
        return ", ".join(f"{name}: {why}" for name, why in self.missing)


class Asking:
    """The primary's side: remembers under which lists renewals were sent, and asks everybody on them. Thread-safe."""

    def __init__(self, cluster: str, me: str, pledgers: Pledgers | None) -> None:
        self._cluster, self._me, self._pledgers = cluster, me, pledgers
        self._rounds = Rounds()
        self._lock = threading.Lock()
        self._order = 0
        self._sent = SentUnder()

    @property
    def possible(self) -> bool:
        """False: this cluster is configured without pledges, and nobody is ever asked."""
        return self._pledgers is not None

    def sending(self, promotable: tuple[str, ...]) -> int:
        """A renewal is about to leave under this list. Its order, for `acknowledged`."""
        with self._lock:
            self._order += 1
            self._sent = self._sent.sent(self._order, promotable)
            return self._order

    def acknowledged(self, order: int) -> None:
        with self._lock:
            self._sent = self._sent.acknowledged(order)

    def owed(self) -> tuple[str, ...]:
        with self._lock:
            return self._sent.owed()

    def ask(self, epoch: int, budget_s: float) -> Round:
        """One round with an id of its own. The caller has armed the round's ticket already (G3)."""
        owed = self.owed()
        ask = PledgeAsk(self._cluster, self._me, epoch, self._rounds.next())
        asked_at_s = boottime_s()
        words = self._pledgers.ask(ask, owed, budget_s) if self._pledgers is not None and owed else ()
        done = complete(ask, words, owed) and self._pledgers is not None
        return Round(done, asked_at_s, given_by(ask, words, owed), missing(ask, words, owed))
