"""A PostgreSQL connection of the lab's clients: libpq without blocking, with our own deadline.

`async_=1` because a blocking libpq call has been seen to hang for 8 s on a frozen server, time-outs set or not.
"""

from __future__ import annotations

import select

import psycopg2
import psycopg2.extensions as ext

from failover.clock import boottime_s
from failover.lab.session import Answer, Login, NoAnswer, one_line

NOT_SURE_WARNING = "canceling wait for synchronous replication"
BUSY = """DO $$
DECLARE stop timestamptz := clock_timestamp() + make_interval(secs => {seconds});
BEGIN
  WHILE clock_timestamp() < stop LOOP NULL; END LOOP;
  INSERT INTO lab.prober (host, seq) VALUES ('{host}', -1);
END $$"""
_MASK = {ext.POLL_READ: select.POLLIN, ext.POLL_WRITE: select.POLLOUT}


class PgSession:
    """Opened in the constructor within `deadline_s` seconds. Raises NoAnswer with the reason in one line.

    `local` with the cluster's own setting an isolated old primary would wait for a standby for ever.
    """

    def __init__(self, login: Login, deadline_s: float, local: bool = False) -> None:
        try:
            self._connection = psycopg2.connect(
                host=login.host, port=login.port, dbname=login.dbname, user=login.user, password=login.password or None,
                options="-c synchronous_commit=local" if local else None, async_=1,
            )  # fmt: skip
        except psycopg2.Error as error:
            raise NoAnswer(one_line(error)) from error
        try:
            self._wait(boottime_s() + deadline_s)
        except (psycopg2.Error, NoAnswer) as error:
            self.close()
            raise NoAnswer(one_line(error)) from error

    def execute(self, sql: str, values: tuple[object, ...] = (), *, deadline_s: float) -> Answer:
        del self._connection.notices[:]
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(sql, values)
                self._wait(boottime_s() + deadline_s)
        except NoAnswer as error:
            return Answer("info", str(error), usable=False)
        except psycopg2.Error as error:
            return self._refused(error)
        warned = any(NOT_SURE_WARNING in notice for notice in self._connection.notices)
        return Answer("info", NOT_SURE_WARNING, usable=True) if warned else Answer("ok", "", usable=True)

    def _refused(self, error: psycopg2.Error) -> Answer:
        """An ERROR rolled the statement back and leaves the session usable; a FATAL or a broken connection says
        nothing.
        """
        rolled_back = error.diag.severity_nonlocalized == "ERROR"
        return Answer("fail" if rolled_back else "info", one_line(error), usable=rolled_back)

    def close(self) -> None:
        try:
            self._connection.close()
        except psycopg2.Error:
            pass  # it is gone either way

    def _wait(self, deadline: float) -> None:
        """Poll until libpq is done. Raises NoAnswer at the deadline (BOOTTIME seconds), psycopg2.Error as libpq
        reports.
        """
        poller = select.poll()
        while (state := self._connection.poll()) != ext.POLL_OK:
            left = deadline - boottime_s()
            if left <= 0:
                raise NoAnswer("no answer in time")
            descriptor = self._connection.fileno()
            poller.register(descriptor, _MASK[state])
            poller.poll(max(left * 1000, 1))
            poller.unregister(descriptor)
