"""The product's own table: made on a primary, written by its guardian, read everywhere.

A heartbeat commits like any transaction and so waits for an acknowledgement where commits do; that cannot be turned off for one
session. A server whose commits wait, and of which none was acknowledged since the last heartbeat, is alive, so nothing is
inserted then, and no sessions pile up behind the wait. Under load some commit always waits for a moment: that is no such server.
"""

from __future__ import annotations

from failover.clock import boottime_s
from failover.core.model import Role
from failover.engines import my_semisync
from failover.engines.my_access import Access
from failover.engines.my_connection import NO_SUCH_TABLE, TABLE_ACCESS_DENIED, UNKNOWN_DATABASE, Session
from failover.engines.my_dialect import limited_rows
from failover.engines.my_flavour import dialect_of
from failover.errors import FailoverError, Refused, Unknown

_KEPT = 50
_NEWEST_S = 0.1
_LEFT_FOR_A_LOOK_S = 0.1
ABSENT = (NO_SUCH_TABLE, UNKNOWN_DATABASE, TABLE_ACCESS_DENIED)


def newest_rows(schema: str) -> str:
    return f"SELECT epoch, sequence FROM `{schema}`.heartbeat ORDER BY epoch DESC, sequence DESC LIMIT 1"


class Heartbeats:
    def __init__(self, access: Access) -> None:
        self._access = access
        self._released = -1
        self._schema = access.cluster.instance.database.replace("`", "``")

    def newest(self, session: Session) -> tuple[int, int] | None:
        """None where the table is not there, or locked."""
        rows = limited_rows(session, dialect_of(session), newest_rows(self._schema), _NEWEST_S, ABSENT)
        return (int(rows[0][0]), int(rows[0][1])) if rows else None

    def beat(self, epoch: int, sequence: int, deadline_s: float) -> None:
        """Raises Refused on a standby, also where administrators write past read-only."""
        with self._access.work(deadline_s - min(_LEFT_FOR_A_LOOK_S, (deadline_s - boottime_s()) / 4)) as session:
            if dialect_of(session).role(dialect_of(session).read(session)) is not Role.PRIMARY:
                raise Refused(f"{self._access.me} is read-only: it has no heartbeat")
            semi, before = my_semisync.look(session), self._released
            self._released = semi.released
            if semi.waiting and semi.released == before:
                return
            try:
                self._insert(session, epoch, sequence)
            except Unknown:
                if not self._commits_wait(deadline_s):
                    raise
                # Left to wait: ended, it would make room for the next one, and that for the next.

    def _insert(self, session: Session, epoch: int, sequence: int) -> None:
        session.run("SET SESSION lock_wait_timeout = 1, innodb_lock_wait_timeout = 1")
        session.run("BEGIN")
        session.run(f"INSERT INTO `{self._schema}`.heartbeat (epoch, sequence) VALUES (%s, %s)", [epoch, sequence])
        session.run(
            f"DELETE FROM `{self._schema}`.heartbeat WHERE epoch < %s OR (epoch = %s AND sequence <= %s)",
            [epoch, epoch, sequence - _KEPT],
        )
        session.run("COMMIT")

    def prepare(self, session: Session) -> None:
        """Idempotent, and without a line in the binary log where all is there."""
        monitor = self._access.cluster.users.monitor.name
        table = session.value(
            "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s AND TABLE_NAME = 'heartbeat'",
            [self._access.cluster.instance.database],
        )
        if not table:
            session.run(f"CREATE DATABASE IF NOT EXISTS `{self._schema}`")
            session.run(
                f"CREATE TABLE IF NOT EXISTS `{self._schema}`.heartbeat (epoch INT UNSIGNED NOT NULL, sequence BIGINT UNSIGNED"
                " NOT NULL, at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6), PRIMARY KEY (epoch, sequence)) ENGINE = InnoDB"
            )
        hosts = [str(row[0]) for row in session.run("SELECT Host FROM mysql.user WHERE User = %s", [monitor])]
        if not hosts:
            raise Refused(f"there is no account {monitor}: CREATE USER '{monitor}'@'%' IDENTIFIED BY '(its password)'")
        for host in hosts:
            if not self._may_read(session, monitor, host):
                session.run(f"GRANT SELECT ON `{self._schema}`.* TO %s@%s", [monitor, host])

    def _may_read(self, session: Session, monitor: str, host: str) -> bool:
        schema = self._access.cluster.instance.database
        rights = session.value(
            "SELECT COUNT(*) FROM mysql.db WHERE User = %s AND Host = %s AND Db IN (%s, %s) AND Select_priv = 'Y'",
            [monitor, host, schema, schema.replace("_", "\\_")],
        )
        return bool(rights)

    def _commits_wait(self, deadline_s: float) -> bool:
        """And none was acknowledged since this heartbeat began."""

        def ask(session: Session) -> bool:
            semi = my_semisync.look(session)
            return semi.waiting > 0 and semi.released == self._released

        try:
            return self._access.kept(ask, deadline_s)
        except FailoverError:
            return False
