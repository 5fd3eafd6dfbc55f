"""What MySQL and MariaDB say differently, behind one face: words of statements, columns of status, and who has which position.

Versions are compared with >= and never for equality: both vendors keep removing words, and messages are never matched, only
numbers and columns.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from failover.core.model import Position, Role
from failover.engines.base import Upstream
from failover.engines.my_connection import STATEMENT_TOO_LONG, Rejected, Row, Session

Version = tuple[int, int, int]

_NUMBERS = re.compile(r"(\d+)\.(\d+)\.(\d+)")
_QUERY = re.compile(r"(?i)\s*\b(default database|query):.*$", re.DOTALL)
_ERROR_MAX = 200
_ON = ("1", "ON", "TRUE", "YES")
_OFF = ("0", "OFF", "FALSE", "NO", "")


def version_of(greeting: str) -> Version:
    """(10, 11, 19) of "5.5.5-10.11.19-MariaDB-log". (0, 0, 0) if it says nothing that can be read."""
    found = _NUMBERS.search(greeting.removeprefix("5.5.5-"))
    return (int(found[1]), int(found[2]), int(found[3])) if found else (0, 0, 0)


def is_mariadb(greeting: str) -> bool:
    return "mariadb" in greeting.lower()


def on(value: object) -> bool:
    """A switch as the server shows it, which depends on the statement and the version."""
    return str(value).upper() in _ON


def off(value: object) -> bool:
    """Anything else is more than off: `read_only` has four values from MariaDB 12.0 on."""
    return str(value).upper() in _OFF


@dataclass(frozen=True)
class Words:
    """How the semi-sync plugin that is loaded calls the two sides: it decides, not the version."""

    source: str
    replica: str


OLD_WORDS = Words("master", "slave")
NEW_WORDS = Words("source", "replica")


@dataclass(frozen=True)
class Plugins:
    """The words of the two halves of semi-sync; None where that half is not loaded."""

    source: Words | None = None
    replica: Words | None = None


@dataclass(frozen=True)
class Channel:
    """What a server says of the one channel it receives through. `receiving`: "Yes", "Connecting", "No" or another word.

    `received` is the log that has come through it, in the server's notation. `by_gtid`: it asks its source by position, not by
    file name. `lag_bytes`: received and not applied, in the source's bytes where they are in one file.
    """

    name: str = ""
    host: str = ""
    port: int = 0
    user: str = ""
    receiving: str = "No"
    applying: bool = False
    received: str = ""
    by_gtid: bool = False
    retry_s: int = 0
    delay_s: int = 0
    lag_bytes: int = 0
    receive_errno: int = 0
    receive_error: str = ""
    apply_errno: int = 0
    apply_error: str = ""

    @property
    def stopped(self) -> bool:
        return self.receiving == "No"

    @property
    def upstream(self) -> str | None:
        """The host that it is connected to, or keeps trying to connect to."""
        return self.host if self.host and not self.stopped else None


def parse_channel(row: Mapping[str, Any]) -> Channel:
    """From a row of SHOW REPLICA STATUS or SHOW ALL SLAVES STATUS, in whichever words."""
    seen = {name.lower().replace("master", "source").replace("slave", "replica"): value for name, value in row.items()}

    def number(name: str) -> int:
        return int(seen.get(name) or 0)

    return Channel(
        name=str(seen.get("channel_name") or seen.get("connection_name") or ""),
        host=str(seen.get("source_host") or ""),
        port=number("source_port"),
        user=str(seen.get("source_user") or ""),
        receiving=str(seen.get("replica_io_running") or "No"),
        applying=str(seen.get("replica_sql_running")) == "Yes",
        received="".join(str(seen.get("retrieved_gtid_set") or seen.get("gtid_io_pos") or "").split()),
        by_gtid=on(seen.get("auto_position", 0)) or seen.get("using_gtid") == "Slave_Pos",
        retry_s=number("connect_retry"),
        delay_s=number("sql_delay"),
        lag_bytes=_lag(seen),
        receive_errno=number("last_io_errno"),
        receive_error=_short(seen.get("last_io_error")),
        apply_errno=number("last_sql_errno"),
        apply_error=_short(seen.get("last_sql_error")),
    )


def _lag(seen: Mapping[str, Any]) -> int:
    """In one file of the source the difference; over several what lies in the relay logs, with a few bytes of their own."""
    if seen.get("source_log_file") == seen.get("relay_source_log_file"):
        return max(0, int(seen.get("read_source_log_pos") or 0) - int(seen.get("exec_source_log_pos") or 0))
    return max(0, int(seen.get("relay_log_space") or 0) - int(seen.get("relay_log_pos") or 0))


def _short(text: object) -> str:
    """Without the statement that failed: it holds rows of the application."""
    return " ".join(_QUERY.sub("", str(text or "")).split())[:_ERROR_MAX]


class Dialect(ABC):
    """One server's flavour and version."""

    engine: ClassVar[str]  # the cluster's word for it
    product: ClassVar[str]
    show_channels: str
    replica: str  # REPLICA or SLAVE, in statements
    variables: tuple[str, ...]
    net_timeout: str
    operator_needs: ClassVar[tuple[str, ...]]  # as information_schema.USER_PRIVILEGES calls them
    monitor_needs: ClassVar[tuple[str, ...]]
    changes_while_applying: ClassVar[bool]  # its source; else both threads must stand still
    forget_received: str  # the statement that throws away received log of a stopped channel, and keeps where it comes from
    stops_administrators: ClassVar[bool]  # by being read-only

    def __init__(self, version: Version) -> None:
        self.version = version

    # --- looking ---------------------------------------------------------------------------------------------------------
    def read(self, session: Session) -> dict[str, Any]:
        """The global variables that everything here is decided on."""
        columns = ", ".join(f"@@GLOBAL.{name}" for name in self.variables)
        return dict(zip(self.variables, session.run(f"SELECT {columns}")[0], strict=True))

    def channels(self, session: Session) -> list[Channel]:
        return [parse_channel(row) for row in session.table(self.show_channels)]

    def channel(self, session: Session) -> Channel | None:
        """The one that is ours: it has no name."""
        return next((channel for channel in self.channels(session) if not channel.name), None)

    def role(self, values: Mapping[str, Any]) -> Role:
        return Role.PRIMARY if off(values["read_only"]) else Role.STANDBY

    def closed(self, values: Mapping[str, Any]) -> bool:
        """As read-only as the server can be."""
        return not any(off(values[name]) for name in ("read_only", "super_read_only") if name in values)

    @abstractmethod
    def position(self, values: Mapping[str, Any], channel: Channel | None) -> Position:
        """Everything that is stored here, received or executed. Raises Corrupt."""

    @abstractmethod
    def plugins(self, session: Session) -> Plugins: ...

    @abstractmethod
    def limited(self, select: str, limit_s: float) -> str:
        """The SELECT, given up by the server itself after so long."""

    @abstractmethod
    def processes(self, session: Session) -> str:
        """The table to read sessions from."""

    # --- receiving and applying ------------------------------------------------------------------------------------------
    @abstractmethod
    def stop(self, thread: str = "") -> str:
        """Stop "IO_THREAD", "SQL_THREAD" or, without a name, both."""

    @abstractmethod
    def start(self, thread: str = "") -> str: ...

    def end_of_applying(self, session: Session) -> int | None:
        """The session to end first, for a STOP to be quick: an applier in the middle of a transaction whose rest never came."""
        return None

    @abstractmethod
    def forget_source(self) -> str:
        """Remove the stopped channel and what it received."""

    @abstractmethod
    def forget_other(self, name: str) -> str:
        """The statement that removes a channel that is not ours."""

    @abstractmethod
    def change(self, upstream: Upstream, account: tuple[str, str], channel: Channel | None, session: Session) -> Sequence[str]:
        """Statements that point the channel at `upstream`; both threads are stopped, or only what may go on runs."""

    @abstractmethod
    def apply_all_received(self, session: Session, channel: Channel) -> None:
        """Start the applier of a channel that has received what it has not applied, without losing that."""

    @abstractmethod
    def wait_applied(self, session: Session, received: str, slice_s: float) -> bool:
        """Wait at most so long until all of `received` is executed here."""

    @abstractmethod
    def executed(self, values: Mapping[str, Any]) -> Position:
        """What is executed here, received or not."""

    def with_commits_under_way(self, session: Session) -> Position:
        """What is executed here, and what is being committed just now."""
        return self.executed(self.read(session))

    # --- accepting writes ------------------------------------------------------------------------------------------------
    @property
    @abstractmethod
    def read_only(self) -> str:
        """The statement that stops everybody's writes, ours included where the server can."""

    @property
    @abstractmethod
    def only_administrators(self) -> str:
        """The statement that lets nobody but administrators write: what a read-only server is told before its accounts are
        changed."""

    # --- accounts ---------------------------------------------------------------------------------------------------------
    @property
    @abstractmethod
    def accounts(self) -> str:
        """(host, locked) of every account of one name, %s."""

    @abstractmethod
    def decided_by_files(self, session: Session, names: Sequence[str]) -> list[str]:
        """Those of these variables whose value was found at the start, and not set since."""

    # --- what makes it unfit ------------------------------------------------------------------------------------------------
    @abstractmethod
    def faults(self, values: Mapping[str, Any]) -> list[str]:
        """Each with its remedy."""


def limited_rows(session: Session, dialect: Dialect, select: str, limit_s: float, missing: Sequence[int]) -> list[Row]:
    """Rows, or none if the server says one of the `missing` numbers or does not get to it in time (a lock)."""
    try:
        return session.run(dialect.limited(select, limit_s))
    except Rejected as error:
        if error.code in (*missing, *STATEMENT_TOO_LONG):
            return []
        raise
