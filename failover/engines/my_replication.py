"""Receiving and applying: follow, stop receiving, and apply everything that was received.

Two rules of the servers shape all of it. MySQL deletes its relay logs when a source is changed while neither thread runs; MariaDB
deletes them whenever a thread starts while neither runs. What they hold may be acknowledged, so the applier goes on, and comes to
the end of it, before anything else is touched.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from threading import Event

from failover.clock import boottime_s
from failover.core.model import Position, Role
from failover.engines import my_events, my_semisync
from failover.engines.base import Upstream
from failover.engines.my_access import Access
from failover.engines.my_connection import Session
from failover.engines.my_dialect import Channel, Dialect
from failover.engines.my_flavour import dialect_of
from failover.errors import Refused, Unknown
from failover.logs import hide

log = logging.getLogger("failover.engines")

_SLICE_S = 0.2
_TOLD_EVERY_S = 2.0
_POLL_S = 0.005
_SETTLED_S = 1.0  # a connection says that it answers only some ms after it has begun to receive
_ANSWERS_S = 0.2
# A receiver that the source refused is started again, soon at first: a new primary that has not executed all it had received yet
# refuses who stands there already (1236). For good is what it still is after some seconds.
_AGAIN_FIRST_S, _AGAIN_MAX_S = 0.2, 5.0
_NET_TIMEOUT_MAX_S = 8
_NET_TIMEOUT_S = 4


def pause(session: Session, why: str) -> None:
    """Before the next look. Raises Unknown at the deadline."""
    if session.left_s <= 0:
        raise Unknown(f"ran out of time: {why}")
    Event().wait(min(_POLL_S, session.left_s))


class Replication:
    """What the local engine does with the one channel of its server."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._started_at_s, self._again_s = -_AGAIN_MAX_S, _AGAIN_FIRST_S
        self._reconnected_for = ""
        self._wrong_since_s: float | None = None

    # --- following -------------------------------------------------------------------------------------------------------
    def told(self, channel: Channel | None, answering: bool) -> str:
        """The host that this server is told to receive from, as we would tell it; "" if `follow` has something to do yet."""
        if channel is None or channel.stopped or not channel.by_gtid:
            return ""
        if channel.receiving != "Yes" or not self._answers_wrongly(channel, answering):
            self._wrong_since_s = None
            return channel.host
        now_s = boottime_s()
        self._wrong_since_s = self._wrong_since_s or now_s
        return channel.host if now_s - self._wrong_since_s < _SETTLED_S else ""

    def _answers_wrongly(self, channel: Channel, answering: bool) -> bool:
        """A connection keeps the answer it began with. A source without the plugin asks for none: that is tried only once."""
        if answering is self._access.acknowledges:
            return False
        return answering or self._reconnected_for != channel.host

    def follow(self, upstream: Upstream, deadline_s: float) -> None:
        """Raises Refused on a primary, or where the source has refused us for good."""
        with self._access.work(deadline_s) as session:
            dialect = dialect_of(session)
            values = dialect.read(session)
            if dialect.role(values) is Role.PRIMARY:
                raise Refused(f"{self._access.me} takes writes: it follows nobody")
            self._as_a_standby(session, dialect, int(values[dialect.net_timeout]))
            channel = dialect.channel(session)
            if channel is None or not self._is_for(channel, upstream):
                self._point(session, dialect, channel, upstream)
            else:
                self._go_on(session, dialect, channel)

    def _as_a_standby(self, session: Session, dialect: Dialect, net_timeout_s: int) -> None:
        session.run(dialect.read_only)
        my_events.stop(session)
        my_semisync.wait_for_nobody(session)
        my_semisync.acknowledge(session, self._access.acknowledges)
        if net_timeout_s > _NET_TIMEOUT_MAX_S:
            log.info("%s was %d s: a silent source is noticed after %d s", dialect.net_timeout, net_timeout_s, _NET_TIMEOUT_S)
            session.run(f"SET GLOBAL {dialect.net_timeout} = {_NET_TIMEOUT_S}")

    def _is_for(self, channel: Channel, upstream: Upstream) -> bool:
        there = channel.host == upstream.address and channel.port == upstream.port
        return there and channel.user == self._access.cluster.users.replication.name and channel.by_gtid and channel.retry_s == 1

    def _go_on(self, session: Session, dialect: Dialect, channel: Channel) -> None:
        """The source is right: start what stands, or let it connect anew if it acknowledges and should not, or the reverse."""
        if channel.receiving == "Yes":
            self._again_s = _AGAIN_FIRST_S
            if channel.applying and not self._settled(session, channel):
                self._reconnected_for = channel.host
                session.run(dialect.stop("IO_THREAD"))
                session.run(dialect.start("IO_THREAD"))
        elif channel.stopped:
            if channel.receive_errno and boottime_s() < self._started_at_s + self._again_s:
                raise Refused(f"the receiver has stopped: {channel.receive_errno} {channel.receive_error}")
            self._started_at_s, self._again_s = boottime_s(), min(2 * self._again_s, _AGAIN_MAX_S)
            self.run_applier(session)
            session.run(dialect.start("IO_THREAD"))

    def _settled(self, session: Session, channel: Channel) -> bool:
        """True if it answers as it should; one that has only just connected is given a moment to say so."""
        until_s = boottime_s() + _ANSWERS_S
        while self._answers_wrongly(channel, my_semisync.look(session).answering):
            if boottime_s() >= until_s:
                return False
            pause(session, "the receiver has only just connected")
        return True

    def _point(self, session: Session, dialect: Dialect, channel: Channel | None, upstream: Upstream) -> None:
        """Change the source, with what was received so far applied where it would be deleted. Repeatable from any point."""
        account = self._access.cluster.users.replication
        password = account.password() or ""
        hide(session.quoted(password)[1:-1])
        if channel is not None and channel.host:
            channel = self._ready_for_another(session, dialect, channel)
        for statement in dialect.change(upstream, (account.name, password), channel, session):
            session.run(statement)
        self._started_at_s, self._again_s = boottime_s(), _AGAIN_FIRST_S
        self._reconnected_for = ""
        session.run(dialect.start())

    def _ready_for_another(self, session: Session, dialect: Dialect, channel: Channel) -> Channel | None:
        """The receiver stopped, and the applier going on where a change of source allows that, else at the end of what it has.

        A broken applier is no reason to stay: what it has not applied, the new source has (the caller has judged so).
        """
        try:
            self.run_applier(session)
            self._stop_receiver(session, dialect, channel)
            if dialect.changes_while_applying:
                now = dialect.channel(session)
                if now is not None and now.applying and now.by_gtid:
                    return now
            self.drain(session, dialect, lambda: None)
            self._stop_both(session, dialect)
        except Refused as error:
            log.warning("what was received from %s cannot be applied, and is thrown away: %s", channel.host, error)
            self._stop_both(session, dialect)
            session.run(dialect.forget_received)
        return dialect.channel(session)

    # --- not receiving -----------------------------------------------------------------------------------------------------
    def stop_receiving(self, deadline_s: float) -> None:
        with self._access.work(deadline_s) as session:
            dialect = dialect_of(session)
            channel = dialect.channel(session)
            if channel is not None:
                self._stop_receiver(session, dialect, channel)

    def _stop_receiver(self, session: Session, dialect: Dialect, channel: Channel) -> None:
        if not channel.stopped:
            session.run(dialect.stop("IO_THREAD"))

    # --- applying ------------------------------------------------------------------------------------------------------------
    def run_applier(self, session: Session) -> None:
        """Let it run where it stands, keeping what was received."""
        dialect = dialect_of(session)
        channel = dialect.channel(session)
        if channel is not None and channel.host and not channel.applying:
            dialect.apply_all_received(session, self._left(session, dialect, channel))

    def _left(self, session: Session, dialect: Dialect, channel: Channel) -> Channel:
        """The channel, with nothing `received` if all of that is executed already."""
        values = dialect.read(session)
        done = dialect.executed(values).covers(dialect.position(values, channel))
        return replace(channel, received="") if done else channel

    def received_and_stopped(self, session: Session, dialect: Dialect) -> Position:
        """Stop the receiver with the applier running, and say where the received log ends for good."""
        channel = dialect.channel(session)
        if channel is not None and channel.host:
            if not channel.applying:
                dialect.apply_all_received(session, self._left(session, dialect, channel))
            self._stop_receiver(session, dialect, channel)
        return dialect.position(dialect.read(session), dialect.channel(session))

    def drain(self, session: Session, dialect: Dialect, nudge: Callable[[], None]) -> None:
        """Apply all that was received. `nudge` is called between waits, to remove what holds the applier up.

        Raises Refused if the applier is broken, Unknown at the deadline: the next call goes on.
        """
        self.run_applier(session)
        told_s = boottime_s() + _TOLD_EVERY_S
        while True:
            values, channel = dialect.read(session), dialect.channel(session)
            received, executed = dialect.position(values, channel), dialect.executed(values)
            if channel is None or executed.covers(received):
                return
            if not channel.applying:
                raise Refused(f"the applier has stopped: {channel.apply_errno} {channel.apply_error or 'without an error'}")
            if session.left_s <= 0:
                raise Unknown(f"{executed.behind(received)} received transactions are not applied yet")
            if boottime_s() >= told_s:
                log.info("applying what was received: %s transactions to go", executed.behind(received))
                told_s = boottime_s() + _TOLD_EVERY_S
            nudge()
            dialect.wait_applied(session, channel.received, max(0.001, min(_SLICE_S, session.left_s / 2)))

    def forget_source(self, session: Session, dialect: Dialect) -> None:
        """Stop both threads and remove the channel; nothing is received any more, also after a restart."""
        if dialect.channel(session) is not None:
            self._stop_both(session, dialect)
            session.run(dialect.forget_source())

    def _stop_both(self, session: Session, dialect: Dialect) -> None:
        """Of a transaction of which only the beginning was received nothing is kept: nobody was told that it is here."""
        if (number := dialect.end_of_applying(session)) is not None:
            session.run(f"KILL {number}")
            while (channel := dialect.channel(session)) is not None and channel.applying:
                pause(session, "the applier has not ended")
        session.run(dialect.stop())
