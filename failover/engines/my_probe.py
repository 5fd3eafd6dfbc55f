"""A look at one MySQL or MariaDB member from afar, with the monitor account, never longer than its budget."""

from __future__ import annotations

from collections.abc import Callable

from failover.clock import boottime_s
from failover.core.model import Role
from failover.engines.base import ProbeResult
from failover.engines.judging import judged
from failover.engines.my_connection import ACCESS_DENIED, Login, Rejected, Session
from failover.engines.my_dialect import Channel, Dialect, limited_rows, off
from failover.engines.my_flavour import dialect_of, wrong_flavour
from failover.engines.my_heartbeat import ABSENT, newest_rows
from failover.errors import Unknown

PROGRAM = "failover probe"
_HEARTBEAT_SHARE = 0.3  # of the budget: a locked table is no reason to lose the other answers
_HEARTBEAT_MAX_S = 0.2


class MyProber:
    """Looks at the server at `address`:`port`, which should be of the kind `engine`. `database` holds the product's table."""

    def __init__(
        self, engine: str, address: str, port: int, user: str, password: Callable[[], str | None], database: str
    ) -> None:  # fmt: skip
        self._engine = engine
        self._login = Login(user, password, host=address, port=port, program=PROGRAM)
        self._newest = newest_rows(database.replace("`", "``"))
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
        with Session(self._login, deadline_s) as session:
            return self._look(session)

    def _look_again(self, deadline_s: float) -> ProbeResult:
        if self._kept is not None:
            self._kept.deadline_s = deadline_s
            try:
                return self._look(self._kept)
            except Unknown:
                self.close()
                if boottime_s() >= deadline_s:
                    raise
        session = Session(self._login, deadline_s)
        try:
            result = self._look(session)
        except BaseException:
            session.close()
            raise
        self._kept = session
        return result

    def _look(self, session: Session) -> ProbeResult:
        dialect = dialect_of(session)
        if (fault := wrong_flavour(self._engine, dialect)) is not None:
            return ProbeResult(None, Role.UNKNOWN, f"cannot probe: {fault}", 0.0, answered_by="server")
        limit_s = min(_HEARTBEAT_MAX_S, session.left_s * _HEARTBEAT_SHARE)
        values, channel = dialect.read(session), _channel(session, dialect)
        newest = limited_rows(session, dialect, self._newest, limit_s, ABSENT)
        role = dialect.role(values)
        return ProbeResult(
            alive=True,
            role=role,
            detail=role.value,
            took_s=0.0,
            position=dialect.position(values, channel),
            writable=off(values["read_only"]),
            epoch=int(newest[0][0]) if newest else None,
            follows=channel.upstream if channel else None,
            streaming=channel is not None and channel.receiving == "Yes",
        )


def _channel(session: Session, dialect: Dialect) -> Channel | None:
    """None also where the monitor may not see it: `check` says so."""
    try:
        return dialect.channel(session)
    except Rejected as error:
        if error.code == ACCESS_DENIED:
            return None
        raise
