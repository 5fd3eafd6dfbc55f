"""A look at one PostgreSQL member from afar, with the monitor account, never longer than its budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from failover.clock import boottime_s
from failover.core.model import Role
from failover.engines import pg_statements
from failover.engines.base import ProbeResult
from failover.engines.judging import judged
from failover.engines.lsn import Lsn, parse_offset
from failover.engines.pg_connection import Row, Session
from failover.errors import Refused, Unknown

APPLICATION = "failover probe"
_KEEPALIVE: Mapping[str, int] = {"keepalives_idle": 1, "keepalives_interval": 1, "keepalives_count": 3}


class PostgresProber:
    """Looks at the server at `address`:`port`. `options` are further libpq parameters, such as sslmode and sslrootcert.

    A position seen from afar carries no ancestors (they are in files), and none at all on a standby that receives
    nothing, whose timeline only the server's own host can tell.
    """

    def __init__(
        self,
        address: str,
        port: int,
        user: str,
        password: Callable[[], str | None],
        database: str,
        options: Mapping[str, str] | None = None,
    ) -> None:
        self._parameters: dict[str, str | int | None] = {
            **(options or {}),
            **_KEEPALIVE,
            "host": address,
            "port": port,
            "user": user,
            "dbname": database,
            "application_name": APPLICATION,
        }
        self._password = password
        self._kept: Session | None = None

    def fresh(self, budget_s: float) -> ProbeResult:
        return judged(self._look_once, budget_s)

    def kept(self, budget_s: float) -> ProbeResult:
        """A connection that somebody ended is no death: it is opened again within the same budget, and that answer
        counts.
        """
        return judged(self._look_again, budget_s)

    def close(self) -> None:
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def _look_once(self, deadline_s: float) -> ProbeResult:
        with self._open(deadline_s) as session:
            return _look(session)

    def _look_again(self, deadline_s: float) -> ProbeResult:
        if self._kept is not None:
            self._kept.deadline_s = deadline_s
            try:
                return _look(self._kept)
            except Unknown:
                self.close()
                if boottime_s() >= deadline_s:
                    raise
        session = self._open(deadline_s)
        try:
            result = _look(session)
        except BaseException:
            session.close()
            raise
        self._kept = session
        return result

    def _open(self, deadline_s: float) -> Session:
        timeout_ms = max(1, int((deadline_s - boottime_s()) * 1000))
        # A server that says "your lock is not free" in half the time is alive; one that we stop waiting for looks dead.
        options = f"-c search_path=pg_catalog -c statement_timeout={timeout_ms} -c lock_timeout={max(1, timeout_ms // 2)}"
        return Session({**self._parameters, "password": self._password(), "options": options}, deadline_s)


def _look(session: Session) -> ProbeResult:
    facts = session.run(pg_statements.LOOK)[0]
    standby, read_only, system_identifier, timeline, offset, has_heartbeat, follows, streaming = facts
    newest = _newest_heartbeat(session) if has_heartbeat else []
    role = Role.STANDBY if standby else Role.PRIMARY
    return ProbeResult(
        alive=True,
        role=role,
        detail=role.value,
        took_s=0.0,
        position=Lsn(timeline, parse_offset(offset)) if timeline and offset else None,
        system_identifier=system_identifier,
        writable=not standby and not read_only,
        epoch=newest[0][0] if newest else None,
        follows=follows,
        streaming=bool(streaming),
    )


def _newest_heartbeat(session: Session) -> list[Row]:
    """Nothing if somebody has locked the table: the server that says so is alive, and its other answers count."""
    try:
        return session.run(pg_statements.NEWEST_HEARTBEAT)
    except Refused:
        return []
