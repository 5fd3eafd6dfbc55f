"""One PostgreSQL connection that always comes back in time: libpq without blocking, with our own deadline.

The lab's clients judge the product, so they share no code with it: psycopg2 is used here directly (`lab` stands beside
the product). `async_=1` because a blocking libpq call has been seen to hang for 8 s on a frozen server, time-outs set
or not.
"""

from __future__ import annotations

import select
from dataclasses import dataclass
from typing import Literal

import psycopg2
import psycopg2.extensions as ext

from failover.clock import boottime_s

Outcome = Literal["ok", "fail", "info"]

NOT_SURE_WARNING = "canceling wait for synchronous replication"
_MASK = {ext.POLL_READ: select.POLLIN, ext.POLL_WRITE: select.POLLOUT}


class NoAnswer(Exception):
    """The deadline passed or the connection broke. What was under way may have happened."""


@dataclass(frozen=True)
class Answer:
    """What one statement came to. `info` means nobody can say: a time-out, a broken connection, a cancelled sync
    wait.
    """

    outcome: Outcome
    why: str
    usable: bool  # the session may be used again


class Session:
    """Opened in the constructor within `deadline_s` seconds. Raises NoAnswer with the reason in one line."""

    def __init__(self, dsn: str, deadline_s: float) -> None:
        try:
            self._connection = psycopg2.connect(dsn, async_=1)
        except psycopg2.Error as error:
            raise NoAnswer(_one_line(error)) from error
        try:
            self._wait(boottime_s() + deadline_s)
        except (psycopg2.Error, NoAnswer) as error:
            self.close()
            raise NoAnswer(_one_line(error)) from error

    def execute(self, sql: str, values: tuple[object, ...] = (), *, deadline_s: float) -> Answer:
        """Run one statement (autocommit). Never raises; never takes longer than the deadline."""
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
        return Answer("fail" if rolled_back else "info", _one_line(error), usable=rolled_back)

    def close(self) -> None:
        """Drop the connection; nothing waits."""
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


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
