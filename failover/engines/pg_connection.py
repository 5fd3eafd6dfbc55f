"""SQL with a deadline that holds against a frozen server.

psycopg2's ordinary `connect` and `execute` block inside libpq where nothing can interrupt them: `statement_timeout`,
keepalives and `tcp_user_timeout` together still hung 8 s on a stopped server, because its kernel went on acknowledging.
So every connection here is asynchronous and this module polls it, never longer than the caller's deadline. Autocommit
is implied.
"""

from __future__ import annotations

import logging
import select
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import psycopg2
from psycopg2 import extensions
from psycopg2.sql import Composable

from failover.clock import boottime_s
from failover.engines.connecting import Closed, Full, LoginHangs, OwnFault, Starting
from failover.errors import Refused, Unknown, Unreachable, WrongCredentials

log = logging.getLogger("failover.engines")

Row = tuple[Any, ...]

_STARTING = "57P03"
_FULL = "53300"
_CREDENTIALS = ("28000", "28P01", "3D000", "42501")
# The server does not pass the SQLSTATE of a failed connect through libpq, only its text. The text is English unless the
# server's lc_messages says otherwise; what is not recognised is reported as unreachable with the server's own words.
_CONNECT_TEXTS = (
    ("the database system is", _STARTING),
    ("too many clients", _FULL),
    ("remaining connection slots", _FULL),
    ("max_wal_senders", _FULL),
    ("too many connections", _FULL),
    ("authentication failed", "28P01"),
    ("no password supplied", "28P01"),
    ("no pg_hba.conf entry", "28000"),
    ("pg_hba.conf rejects", "28000"),
    ("is not permitted to log in", "28000"),
    ("authentication method", "28000"),
    ("permission denied for database", "42501"),
    ("does not exist", "28000"),
)
_CONNECTING = "connecting"
_ASKING_FOR_TLS = 7  # libpq's CONNECTION_SSL_STARTUP; psycopg2 has no names for these
_LOGGING_IN = (4, 5, 6)  # CONNECTION_AWAITING_RESPONSE, CONNECTION_AUTH_OK, CONNECTION_SETENV
_LOST_CODES = ("57014", "57P01", "57P02", "57P03")


class Session:
    """One connection that must be done by `deadline_s` (CLOCK_BOOTTIME). A context manager; belongs to one thread.

    Opening raises Unreachable (Starting, Full, Closed), WrongCredentials, or Unknown (LoginHangs) at the deadline.
    `parameters` are libpq's.
    """

    def __init__(self, parameters: Mapping[str, str | int | None], deadline_s: float) -> None:
        self.deadline_s = deadline_s
        self._asked_for_tls = False
        given: dict[str, Any] = {name: value for name, value in parameters.items() if value is not None}
        try:
            self._connection = psycopg2.connect(async_=1, gssencmode="disable", **given)
        except psycopg2.Error as error:
            raise _connect_error(error) from error
        try:
            self._wait(_CONNECTING)
        except psycopg2.Error as error:
            self.close()
            raise _connect_error(error) from error
        except BaseException:
            self.close()
            raise

    def run(self, statement: str | Composable, parameters: Sequence[object] | None = None) -> list[Row]:
        """Execute and return the rows, if there are any.

        Raises Unknown if the deadline passes or the connection ends first, Refused if the server rejects the statement.
        """
        cursor = self._connection.cursor()
        try:
            cursor.execute(statement, parameters)
            self._wait("waiting for an answer")
            return list(cursor.fetchall()) if cursor.description is not None else []
        except psycopg2.Error as error:
            raise _statement_error(error) from error

    def value(self, statement: str | Composable, parameters: Sequence[object] | None = None) -> Any:
        """The first column of the first row, or None without rows."""
        rows = self.run(statement, parameters)
        return rows[0][0] if rows else None

    @property
    def left_s(self) -> float:
        return self.deadline_s - boottime_s()

    @property
    def broken(self) -> bool:
        return bool(self._connection.closed)

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _wait(self, doing: str) -> None:
        while (state := self._connection.poll()) != extensions.POLL_OK:
            left_s = self.left_s
            self._asked_for_tls |= self._connection.info.status == _ASKING_FOR_TLS
            events = select.POLLIN if state == extensions.POLL_READ else select.POLLOUT
            if left_s <= 0 or not _ready(self._connection.fileno(), events, left_s):
                hangs = doing == _CONNECTING and self._let_in_by_nobody()
                self.close()
                if hangs:
                    raise LoginHangs("PostgreSQL took the connection, but the login did not finish in time")
                raise Unknown(f"PostgreSQL gave no answer in time ({doing})")

    def _let_in_by_nobody(self) -> bool:
        """The question for TLS, which libpq asks first, is answered by the process forked for us. Without that question
        (sslmode=disable) silence after a kernel's accept looks the same as a hung login, and is called silence."""
        return self._asked_for_tls and self._connection.info.status in _LOGGING_IN


def _ready(descriptor: int, events: int, timeout_s: float) -> bool:
    poller = select.poll()  # select() cannot watch descriptors above 1023
    poller.register(descriptor, events)
    return bool(poller.poll(max(1.0, timeout_s * 1000)))


def _one_line(error: psycopg2.Error) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) or type(error).__name__


def _connect_error(error: psycopg2.Error) -> Unreachable | WrongCredentials:
    text = _one_line(error)
    code = error.pgcode or next((code for fragment, code in _CONNECT_TEXTS if fragment in text), "")
    if code == _STARTING:
        return Starting(f"PostgreSQL is not accepting connections: {text}")
    if code == _FULL:
        return Full(f"PostgreSQL has no connection left: {text}")
    if code in _CREDENTIALS:
        return WrongCredentials(f"PostgreSQL refused our account: {text}")
    if "Connection refused" in text:  # the C library's words: this process sets no locale for messages
        return Closed(f"PostgreSQL does not listen: {text}")
    if "could not create socket" in text or "Too many open files" in text:
        return OwnFault(f"this host cannot open a connection: {text}")
    return Unreachable(f"PostgreSQL cannot be reached: {text}")


def _statement_error(error: psycopg2.Error) -> Unknown | Refused:
    text = _one_line(error)
    if error.pgcode is None or error.pgcode in _LOST_CODES or error.pgcode.startswith("08"):
        return Unknown(f"PostgreSQL connection ended or was cancelled: {text}")
    return Refused(f"PostgreSQL refused: {text}")
