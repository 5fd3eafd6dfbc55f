"""A MySQL or MariaDB connection of the lab's clients: the driver on a socket that never waits beyond our own deadline."""

from __future__ import annotations

import socket
from typing import Any

import pymysql
from pymysql.connections import Connection
from pymysql.constants import ER

from failover.clock import boottime_s
from failover.lab.session import Answer, Login, NoAnswer, one_line

BUSY = "INSERT INTO lab.prober (host, seq) SELECT '{host}', -1 FROM (SELECT SLEEP({seconds})) AS busy"
LOCAL = "SET SESSION sql_log_bin = 0"
READ_ONLY_TRANSACTION, READ_ONLY_MODE = 1792, 1836
NOTHING_DONE = {
    ER.OPTION_PREVENTS_STATEMENT, READ_ONLY_TRANSACTION, READ_ONLY_MODE, ER.DUP_ENTRY, ER.NO_SUCH_TABLE, ER.BAD_DB_ERROR,
    ER.TABLEACCESS_DENIED_ERROR, ER.DBACCESS_DENIED_ERROR, ER.SPECIFIC_ACCESS_DENIED_ERROR, ER.LOCK_WAIT_TIMEOUT,
    ER.LOCK_DEADLOCK, ER.PARSE_ERROR,
}  # fmt: skip


class _Socket(socket.socket):
    """A TCP socket whose every wait ends at `deadline` (BOOTTIME seconds), whatever the driver sets."""

    deadline = 0.0

    def settimeout(self, value: float | None, /) -> None:
        """The driver's time-outs are for one read each, and an answer may be many."""

    def connect(self, address: Any, /) -> None:
        self._arm()
        super().connect(address)

    def recv_into(self, *args: Any) -> int:
        self._arm()
        return super().recv_into(*args)

    def sendall(self, *args: Any) -> None:
        self._arm()
        super().sendall(*args)

    def _arm(self) -> None:
        left = self.deadline - boottime_s()
        if left <= 0:
            raise TimeoutError("no answer in time")
        super().settimeout(left)


class MySession:
    """Opened in the constructor within `deadline_s` seconds. Raises NoAnswer with the reason in one line.

    `local`: not written to the binary log, which is what a standby acknowledges; so nobody waits for one. The account needs the
    right to that. What is written so is on this server alone. No schema is chosen: the clients' tables are written with theirs.
    """

    def __init__(self, login: Login, deadline_s: float, local: bool = False) -> None:
        self._socket = _Socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.deadline = boottime_s() + deadline_s
        self._connection: Connection[Any] = Connection(
            host=login.host, port=login.port, user=login.user, password=login.password, autocommit=True,
            ssl_disabled=True, init_command=LOCAL if local else None, defer_connect=True,
        )  # fmt: skip
        try:
            self._socket.connect((login.host, login.port))
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connection.connect(self._socket)
        except (pymysql.Error, OSError) as error:
            self.close()
            raise NoAnswer(one_line(error)) from error

    def execute(self, sql: str, values: tuple[object, ...] = (), *, deadline_s: float) -> Answer:
        self._socket.deadline = boottime_s() + deadline_s
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(sql, values or None)
        except (pymysql.Error, OSError) as error:
            return self._refused(error)
        return Answer("ok", "", usable=True)

    def _refused(self, error: pymysql.Error | OSError) -> Answer:
        """Only some errors say that nothing was done. A killed session, a shutdown or a lost connection says nothing."""
        rolled_back = isinstance(error, pymysql.Error) and bool(error.args) and error.args[0] in NOTHING_DONE
        return Answer("fail" if rolled_back else "info", one_line(error), usable=rolled_back)

    def close(self) -> None:
        """Without a farewell, which would be one more wait: past its deadline the socket takes none."""
        self._socket.deadline = 0.0
        try:
            self._connection.close()
        except pymysql.Error:
            pass  # it is closed already
        self._socket.close()
