"""SQL to MySQL and MariaDB with a deadline that holds against a frozen server.

The driver's own time-outs bound single reads and take whole seconds; so it is handed a socket of ours (`my_socket.py`) on which
everything, the login included, ends at the caller's deadline. Autocommit is implied.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import pymysql
from pymysql.connections import Connection
from pymysql.constants import CR, ER

from failover.clock import boottime_s
from failover.engines.connecting import Full, LoginHangs, Starting
from failover.engines.my_socket import dial
from failover.engines.my_tls import BoundedTls
from failover.errors import FailoverError, Refused, Unknown, Unreachable, WrongCredentials
from failover.logs import redact

log = logging.getLogger("failover.engines")

Row = tuple[Any, ...]

OFFLINE = 3032  # ER_SERVER_OFFLINE_MODE: alive, and takes administrators only
_FULL = (ER.CON_COUNT_ERROR, ER.TOO_MANY_USER_CONNECTIONS, ER.USER_LIMIT_REACHED, OFFLINE)
_STARTING = (ER.SERVER_SHUTDOWN,)
_CREDENTIALS = (
    ER.DBACCESS_DENIED_ERROR, ER.ACCESS_DENIED_ERROR, ER.HOST_NOT_PRIVILEGED, ER.HOST_IS_BLOCKED, ER.NOT_SUPPORTED_AUTH_MODE,
    ER.SERVER_IS_IN_SECURE_AUTH_MODE, 1524, 1698, 1820, 1862, 3118, 3159, 4151,
    CR.CR_AUTH_PLUGIN_CANNOT_LOAD,
)  # fmt: skip
# 1524 plugin not loaded, 1698 no password, 1820 and 1862 password expired, 3118 and 4151 account locked, 3159 wants TLS
_LOST = (
    CR.CR_SERVER_GONE_ERROR, CR.CR_SERVER_LOST, CR.CR_SERVER_LOST_EXTENDED, ER.SERVER_SHUTDOWN, ER.FORCING_CLOSE,
    ER.QUERY_INTERRUPTED, 1927,
)  # fmt: skip
# 1927: our session was ended (MariaDB)
NO_SUCH_TABLE, UNKNOWN_DATABASE, TABLE_ACCESS_DENIED = ER.NO_SUCH_TABLE, ER.BAD_DB_ERROR, ER.TABLEACCESS_DENIED_ERROR
LOCK_WAIT_TIMEOUT, NO_SUCH_THREAD, ACCESS_DENIED = ER.LOCK_WAIT_TIMEOUT, ER.NO_SUCH_THREAD, ER.SPECIFIC_ACCESS_DENIED_ERROR
LOCKED_OUT = (3118, 4151)  # MySQL, MariaDB: the account is locked
LOCKED_OUT = (3118, 4151)  # the account is locked: MySQL, MariaDB
STATEMENT_TOO_LONG = (1969, 3024)  # MariaDB, MySQL: a limit that we set ourselves
_TEXT_MAX = 300


class Rejected(Refused):
    """The server said no to a statement, with its number; nothing was changed."""

    def __init__(self, code: int, text: str) -> None:
        self.code = code
        super().__init__(text)


@dataclass(frozen=True)
class Login:
    """Who logs in where: over the socket file `local`, or over TCP. The password is read anew for each login."""

    user: str
    password: Callable[[], str | None] = field(repr=False)
    local: Path | None = None
    host: str = ""
    port: int = 3306
    program: str = "failover"

    @property
    def place(self) -> tuple[str, int, str]:
        return self.host, self.port, self.user


_demand_tls: set[tuple[str, int, str]] = set()


class _NeverThis:
    """A server that asks for the password in the clear, over a connection that anybody may read, does not get it."""

    def __init__(self, connection: object) -> None:
        pass

    def authenticate(self, packet: object) -> object:
        raise pymysql.OperationalError(CR.CR_AUTH_PLUGIN_CANNOT_LOAD, "the server wants the password in the clear")


_PLUGINS: dict[str, Callable[[Connection[Any]], Any]] = dict.fromkeys(
    ("mysql_clear_password", "mysql_old_password", "dialog"), _NeverThis
)


class Session:
    """One connection that must be done by `deadline_s` (CLOCK_BOOTTIME). A context manager; belongs to one thread.

    Opening raises Unreachable (Starting, Full, Closed, OwnFault), WrongCredentials, or Unknown (LoginHangs) at the deadline.
    """

    def __init__(self, login: Login, deadline_s: float) -> None:
        """Over TCP without TLS, and once more with it where the server or the account demands that."""
        self._lost = False
        self.memo: dict[str, Any] = {}  # what was learned of this server over this connection
        try:
            self._open(login, deadline_s, login.place in _demand_tls)
        except WrongCredentials as refused:
            if login.local is not None or login.place in _demand_tls:
                raise
            try:
                self._open(login, deadline_s, True)
            except FailoverError:
                raise refused from None  # whatever became of the second attempt, the server has answered the first
            _demand_tls.add(login.place)
        self._id = int(self._connection.thread_id())  # type: ignore[no-untyped-call]

    def _open(self, login: Login, deadline_s: float, tls: bool) -> None:
        password = login.password()
        self._link = dial(login.local, login.host, login.port, deadline_s)
        self._connection: Connection[Any] = Connection(
            user=login.user, password=(password or "").encode(), host=login.host or "localhost", autocommit=True,
            program_name=login.program, ssl_disabled=True, auth_plugin_map=_PLUGINS, defer_connect=True,
        )  # fmt: skip
        if tls:
            self._connection.ssl, self._connection.ctx = True, BoundedTls()  # type: ignore[attr-defined]
        # Over a socket file the server expects the password itself where the network would see it encrypted.
        self._connection._secure = login.local is not None  # type: ignore[attr-defined]
        try:
            self._connection.connect(self._link)
        except pymysql.MySQLError as error:
            self._link.close()
            raise _connect_error(error) from error
        except Unknown as error:
            self._link.close()
            if self._link.heard:
                raise LoginHangs("the server took the connection, but the login did not finish in time") from error
            raise
        except Exception as error:  # the driver trips over whatever is no greeting of such a server
            self._link.close()
            raise Unreachable(f"what answers there is no such server ({type(error).__name__})") from None

    @property
    def deadline_s(self) -> float:
        return self._link.deadline_s

    @deadline_s.setter
    def deadline_s(self, value: float) -> None:
        self._link.deadline_s = value

    @property
    def left_s(self) -> float:
        return self.deadline_s - boottime_s()

    @property
    def lost(self) -> bool:
        """It ended in the middle of a statement, which may still run in the server."""
        return self._lost

    @property
    def id(self) -> int:
        """The server's number for this connection."""
        return self._id

    @property
    def server_version(self) -> str:
        """As it greets, such as "9.7.4" or "10.11.19-MariaDB-log"."""
        return str(self._connection.server_version)  # type: ignore[attr-defined]  # set by the greeting

    def run(self, statement: str, parameters: Sequence[object] | None = None) -> list[Row]:
        """Execute and return the rows, if there are any.

        Raises Unknown if the deadline passes or the connection ends first (it is closed then), Rejected if the server says no.
        """
        return self._execute(statement, parameters)[1]

    def table(self, statement: str, parameters: Sequence[object] | None = None) -> list[dict[str, Any]]:
        """The rows by column name."""
        names, rows = self._execute(statement, parameters)
        return [dict(zip(names, row, strict=True)) for row in rows]

    def value(self, statement: str, parameters: Sequence[object] | None = None) -> Any:
        """The first column of the first row, or None without rows."""
        rows = self.run(statement, parameters)
        return rows[0][0] if rows else None

    def quoted(self, text: str) -> str:
        """A literal of this server, as parameters become."""
        return str(self._connection.escape(text))

    def close(self) -> None:
        try:
            self._connection.close()
        except pymysql.MySQLError:
            pass  # it is closed already
        self._link.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _give_up(self) -> None:
        self._lost = True
        self.close()

    def _execute(self, statement: str, parameters: Sequence[object] | None) -> tuple[list[str], list[Row]]:
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(statement, parameters)
                names = [column[0] for column in cursor.description or ()]
                return names, list(cursor.fetchall()) if names else []
        except pymysql.MySQLError as error:
            found = _statement_error(error)
            if isinstance(found, Unknown):
                self._give_up()
            raise found from error
        except Unknown:
            self._give_up()
            raise
        except (UnicodeDecodeError, ValueError, IndexError) as error:  # what a server that is none sends
            self._give_up()
            raise Unknown(f"the answer cannot be read ({type(error).__name__})") from None


def _words(error: pymysql.MySQLError) -> tuple[int, str]:
    code, text = (*error.args, "", "")[:2]
    line = " ".join(str(text or code).split())[:_TEXT_MAX]
    return (code if isinstance(code, int) else 0), redact(line) or type(error).__name__


def _connect_error(error: pymysql.MySQLError) -> Unreachable | WrongCredentials:
    code, text = _words(error)
    if code in _FULL:
        return Full(f"the server lets nobody else in: {text}")
    if code in _STARTING:
        return Starting(f"the server is shutting down: {text}")
    if code in _CREDENTIALS:
        return WrongCredentials(f"the server refused our account: {code} {text}")
    return Unreachable(f"the server cannot be reached: {text}")


def _statement_error(error: pymysql.MySQLError) -> Unknown | Rejected:
    code, text = _words(error)
    if code == 0 or code in _LOST:
        return Unknown(f"the connection ended or the statement was ended: {text}")
    return Rejected(code, f"the server refused: {code} {text}")
