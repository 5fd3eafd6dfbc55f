"""Stopping writes in place, and taking them: what turns one of these servers into the other role without a restart.

What stands in the way of read-only are locks, open transactions and new sessions, all of which are ended again and again.
"""

from __future__ import annotations

import logging
from collections.abc import Collection

from failover.clock import boottime_s
from failover.core.model import Position, Role, SyncSet
from failover.engines import my_events, my_semisync, my_sessions
from failover.engines.connecting import Full
from failover.engines.my_access import Access
from failover.engines.my_connection import LOCK_WAIT_TIMEOUT, Rejected, Session
from failover.engines.my_dialect import Dialect
from failover.engines.my_flavour import dialect_of
from failover.engines.my_replication import Replication, pause
from failover.engines.my_sessions import Someone
from failover.errors import Refused, Unknown

log = logging.getLogger("failover.engines")

_TRY_S = 0.2  # of one attempt to become read-only; then sessions are ended again
_NUDGE_S = 0.3
_QUIET_LOOKS = 2
_READ_ONLY_ATTEMPT = "INFO LIKE 'SET GLOBAL %read_only = ON'"


class Writes:
    """The two verbs that change a server's role, and who is ended for them."""

    def __init__(self, access: Access, replication: Replication) -> None:
        self._access, self._replication = access, replication

    # --- sessions --------------------------------------------------------------------------------------------------------
    def end_sessions(self, session: Session) -> set[int]:
        """Tell every client session to end. Returns those that were told so now or before."""
        found = self._clients(session)
        my_sessions.end(session, found)
        return {who.id for who in found}

    def end_all(self, session: Session) -> int:
        """Until those who were there are gone, or their commits only wait for an acknowledgement: their clients have gone.

        Whoever comes meanwhile is not waited for: clients that connect again at once would be there at every look.
        """
        told = self.end_sessions(session)
        while self._held_up(session, told):
            pause(session, "sessions still open")
        return len(told)

    def _held_up(self, session: Session, told: Collection[int]) -> bool:
        left = [who for who in self._clients(session) if who.id in told]
        return bool(left) and (not all(who.ended for who in left) or len(left) > my_semisync.look(session).waiting)

    def _clients(self, session: Session) -> list[Someone]:
        return my_sessions.clients(session, self._access.ours, self._access.cluster.users.monitor.name)

    # --- stopping --------------------------------------------------------------------------------------------------------
    def stop(self, deadline_s: float) -> Position:
        """Raises Unknown at the deadline: then `take` gives writes back, whatever was reached.

        A commit that nobody acknowledges keeps MySQL from becoming read-only although its session was ended. It is left to
        wait: turning semi-sync off would tell a commit that has slipped in meanwhile that it succeeded. Where read-only does not
        stop administrators, whoever was there when it began is waited for; who comes later is ended, but not waited for.
        """
        self._access.kept(self.end_sessions, deadline_s)  # every connection may be taken, and only this one be there
        with self._access.work(deadline_s) as session:
            dialect = dialect_of(session)
            my_events.stop(session)
            while not dialect.closed(dialect.read(session)):
                self.end_sessions(session)
                self._become_read_only(dialect, deadline_s)
            told = self.end_sessions(session)
            while not dialect.stops_administrators and told & self.end_sessions(session):
                pause(session, "sessions that read-only does not stop have not ended")
            return self._end_of_log(session, dialect)

    def _become_read_only(self, dialect: Dialect, deadline_s: float) -> None:
        """One attempt, over a session of its own that is ended if it hangs: left behind, it would succeed when writes have been
        given back."""
        if deadline_s - boottime_s() < _TRY_S:
            raise Unknown("the server still takes writes")
        try:
            with self._access.single(deadline_s, boottime_s() + _TRY_S) as session:
                session.run("SET SESSION lock_wait_timeout = 1")
                session.run(dialect.read_only)
        except (Unknown, Full) as error:
            log.debug("not read-only within %.1f s: %s", _TRY_S, error)
        except Rejected as error:
            if error.code != LOCK_WAIT_TIMEOUT:
                raise

    def _end_of_log(self, session: Session, dialect: Dialect) -> Position:
        """Read until it stands still."""
        seen, looks = dialect.executed(dialect.read(session)), 1
        while looks < _QUIET_LOOKS:
            pause(session, "the log still grows")
            now = dialect.executed(dialect.read(session))
            seen, looks = now, (looks + 1 if now == seen else 1)
        return seen

    # --- taking ----------------------------------------------------------------------------------------------------------
    def take(self, sync: SyncSet | None, deadline_s: float) -> None:
        """Apply what was received, put the sync set in force, and only then take writes. Repeatable from any point."""
        with self._access.work(deadline_s) as session:
            dialect = dialect_of(session)
            values = dialect.read(session)
            self._can(session, sync)
            self._end_strays(session)
            if dialect.role(values) is Role.STANDBY:
                self._prepare(session, dialect)
                my_semisync.acknowledge(session, False)
            my_semisync.in_force(self._access, session, sync, pause)
            session.run("SET GLOBAL read_only = OFF")
            my_events.run(session, self._access.config)
            after = dialect.read(session)
            if dialect.role(after) is not Role.PRIMARY:
                raise Unknown("told to take writes, and it is still read-only")
            began_at = dialect.position(after, None)
        if dialect.role(values) is Role.STANDBY:
            log.info("%s takes writes at %s", self._access.me, began_at.text()[:200])

    def _end_strays(self, session: Session) -> None:
        """An attempt to become read-only that waits behind a commit, left by a guardian that died, would succeed afterwards."""
        while strays := my_sessions.everybody(session, _READ_ONLY_ATTEMPT):
            my_sessions.end(session, strays)
            pause(session, "an attempt to become read-only does not end")

    def _can(self, session: Session, sync: SyncSet | None) -> None:
        """Raises Refused before anything is touched."""
        if sync is None:
            return
        found = my_semisync.accounts(session, self._access.cluster.users.replication.name)
        faults = my_semisync.missing_accounts(self._access, found)
        if dialect_of(session).plugins(session).source is None:
            faults.append(my_semisync.not_loaded("source"))
        if faults:
            raise Refused(*faults)

    def _prepare(self, session: Session, dialect: Dialect) -> None:
        """Out of the standby's role, still read-only. What was received when the receiver stopped must be executed."""
        received = self._replication.received_and_stopped(session, dialect)
        nudged_s = boottime_s()

        def nudge() -> None:
            nonlocal nudged_s
            if boottime_s() >= nudged_s:
                self.end_sessions(session)
                nudged_s = boottime_s() + _NUDGE_S

        self._replication.drain(session, dialect, nudge)
        if not dialect.executed(dialect.read(session)).covers(received):
            raise Refused("what this member had received is not in what it has executed: it must not take writes")
        self._replication.forget_source(session, dialect)
        session.run(dialect.only_administrators)
