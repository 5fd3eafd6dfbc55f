"""Streaming replication: a standby's receiver, a primary's senders, and the one connection between two of them.

Every segment passes both kernels and the network, or does not. One transfer of a connection is under way at a time and is
sent again until it is acknowledged. What has arrived at the receiver may still be stored after a seal; its acknowledgement
does not leave.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from failover.core.model import Role
from failover.sim.scheduler import Timer
from failover.sim.wal import Entry

if TYPE_CHECKING:
    from failover.sim.database import Database

RETRY_S = 0.1  # wal_retrieve_retry_interval, as the product sets it
RETRANSMIT_S, RETRANSMIT_MAX_S = 0.2, 1.6
KEEPALIVE_S, KEEPALIVES = 1.0, 4
SENDER_PATIENCE = 6  # retransmissions before a sender gives its standby up
STORE_S = (0.0002, 0.001)
END_S = (0.001, 0.005)


class Link:
    """One connection. `acked`: how many entries the standby has said it stores; `sent`: how many it was sent."""

    __slots__ = ("acked", "last", "pause_s", "sent", "source", "standby", "timer", "tries")

    def __init__(self, source: Database, standby: Database) -> None:
        self.source, self.standby = source, standby
        self.sent = self.acked = len(standby.wal)
        self.last: Entry | None = standby.wal.last
        self.timer: Timer | None = None
        self.pause_s, self.tries = RETRANSMIT_S, 0


def tell(source: Database, target: Database, act: Callable[[], None]) -> None:
    """One segment from database to database: `act` runs there, if nothing in between drops it."""
    if source.machine.up and source.machine.kernel.passes(target.address):

        def arrive() -> None:
            if target.machine.up and target.machine.kernel.passes(source.address):
                target.deliver(act)

        source.network.send(source.name, target.name, arrive)


class Receiving:
    """The standby's half. `upstream`: the address it is told to stream from, in the data directory; "" for none."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.upstream = ""
        self.link: Link | None = None
        self._tried: Link | None = None
        self._retry: Timer | None = None
        self._silent = 0

    # --- told ----------------------------------------------------------------------------------------------------------
    def follow(self, address: str) -> None:
        """Stream from there, now if the server runs, else after its next start."""
        same = address == self.upstream
        self.upstream = address
        if not same:
            self.end()
        self.begin()

    def begin(self) -> None:
        if self._wanted and self.link is None and self._retry is None:
            self._try_in(self._database.odds.uniform(*END_S))

    def stop(self, within_s: float) -> None:
        """The setting is gone at once; the receiver ends when the startup process gets to it."""
        self.upstream = ""
        self._end_in(within_s)

    def cut_off(self, address: str) -> None:
        """The kernel has ended the connection to `address`: what is in the receiver's socket may still be stored."""
        if self.link is not None and self.link.source.address == address:
            self._end_in(self._database.odds.uniform(*END_S))

    def end(self) -> None:
        """The receiver is gone, now."""
        link, self.link, self._tried = self.link, None, None
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if link is not None:
            tell(self._database, link.source, lambda: link.source.sending.drop(link))

    def _end_in(self, seconds: float) -> None:
        link = self.link
        if link is None:
            self._tried = None
        else:
            self._database.later(seconds, lambda: self.lost(link))

    # --- connecting ------------------------------------------------------------------------------------------------------
    @property
    def _wanted(self) -> bool:
        return bool(self.upstream) and self._database.accepts and self._database.role is Role.STANDBY

    def _try_in(self, seconds: float) -> None:
        self._retry = self._database.later(seconds, self._try)

    def _try(self) -> None:
        self._retry = None
        if not self._wanted or self.link is not None:
            return
        self._try_in(RETRY_S)
        source = self._database.peers.get(self.upstream)
        if source is not None and source is not self._database:
            link = self._tried = Link(source, self._database)
            tell(self._database, source, lambda: source.sending.accept(link))

    def connected(self, link: Link) -> None:
        """The upstream has accepted us."""
        if link is not self._tried:
            return
        if not self._wanted or link.source.address != self.upstream:
            tell(self._database, link.source, lambda: link.source.sending.drop(link))
            return
        self.link, self._tried, self._silent = link, None, 0
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._database.later(KEEPALIVE_S, lambda: self._keep_alive(link))

    def _keep_alive(self, link: Link) -> None:
        """TCP's own: it finds out that the other host is gone, or no longer knows this connection."""
        if link is not self.link:
            return
        source, mine = link.source, self._database
        answers = (
            source.machine.up and mine.network.connected(mine.name, source.name)
            and mine.machine.kernel.passes(source.address) and source.machine.kernel.passes(mine.address)
        )  # fmt: skip
        self._silent = 0 if answers else self._silent + 1
        if self._silent >= KEEPALIVES or (answers and not source.sending.knows(link)):
            self.lost(link)
        else:
            mine.later(KEEPALIVE_S, lambda: self._keep_alive(link))

    def lost(self, link: Link) -> None:
        """This connection is no more; another one is tried."""
        if link is self.link:
            self.end()
            if self._wanted:
                self._try_in(RETRY_S * self._database.odds.random())

    # --- receiving -------------------------------------------------------------------------------------------------------
    def arrive(self, link: Link, start: int, entries: list[Entry]) -> None:
        """In the receiver's socket: stored a moment later, unless it ends before."""
        self.connected(link)  # its welcome may have been overtaken
        if link is self.link:
            self._database.later(self._database.odds.uniform(*STORE_S), lambda: self._store(link, start, entries))

    def _store(self, link: Link, start: int, entries: list[Entry]) -> None:
        database = self._database
        have = len(database.wal)
        if link is not self.link or start > have:
            return
        if have < start + len(entries):
            database.wal.take(entries[have - start :])
            database.sending.feed_all()
        stored = len(database.wal)
        tell(database, link.source, lambda: link.source.sending.acknowledged(link, stored))


class Sending:
    """One walsender for each standby that has connected."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.links: dict[str, Link] = {}

    def knows(self, link: Link) -> bool:
        return self.links.get(link.standby.name) is link

    def accept(self, link: Link) -> None:
        """A standby asks for the log from where its own ends. Refused if that is not part of ours."""
        database = self._database
        if not database.accepts or not database.wal.holds(link.acked, link.last):
            return
        if not self.knows(link):
            self.links[link.standby.name] = link
            database.release()
        tell(database, link.standby, lambda: link.standby.receiving.connected(link))
        self.feed(link)

    def feed_all(self) -> None:
        """The log has grown."""
        for link in tuple(self.links.values()):
            self.feed(link)

    def feed(self, link: Link) -> None:
        if link.timer is None and link.sent < len(self._database.wal):
            start, link.sent = link.acked, len(self._database.wal)
            link.pause_s, link.tries = RETRANSMIT_S, 0
            self._push(link, start, self._database.wal.entries[start : link.sent])

    def _push(self, link: Link, start: int, entries: list[Entry]) -> None:
        """Sent until acknowledged, or until this sender gives up."""
        if not self.knows(link):
            return
        if link.tries > SENDER_PATIENCE:
            self.drop(link)
            return
        tell(self._database, link.standby, lambda: link.standby.receiving.arrive(link, start, entries))
        link.timer = self._database.later(link.pause_s, lambda: self._push(link, start, entries))
        link.pause_s, link.tries = min(RETRANSMIT_MAX_S, 2 * link.pause_s), link.tries + 1

    def acknowledged(self, link: Link, stored: int) -> None:
        """The standby says that it has `stored` entries on its disk."""
        if not self.knows(link):
            return
        link.acked = max(link.acked, stored)
        if link.acked >= link.sent and link.timer is not None:
            link.timer.cancel()
            link.timer = None
        self._database.release()
        self.feed(link)
        self._database.drained()

    def drop(self, link: Link) -> None:
        """This sender ends."""
        if self.knows(link):
            del self.links[link.standby.name]
            if link.timer is not None:
                link.timer.cancel()
            self._database.drained()

    def end(self, tells: bool) -> None:
        """All of them end; `tells`: this host's kernel is there to reset their connections."""
        links, self.links = self.links, {}
        for link in links.values():
            if link.timer is not None:
                link.timer.cancel()
            if tells:
                self._reset(link)

    def _reset(self, link: Link) -> None:
        tell(self._database, link.standby, lambda: link.standby.receiving.lost(link))
