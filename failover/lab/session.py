"""One database connection that always comes back in time: what the lab's clients need of it, whatever is at the other end.

The lab's clients judge the product, so they share no code with it: the drivers are used here directly (`lab` stands beside the
product). The connections themselves: pg_session.py, my_session.py.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal, Protocol

Outcome = Literal["ok", "fail", "info"]


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


class Session(Protocol):
    """An open connection, autocommit."""

    def execute(self, sql: str, values: tuple[object, ...] = (), *, deadline_s: float) -> Answer:
        """Run one statement. Never raises; never takes longer than the deadline."""
        ...

    def close(self) -> None:
        """Drop the connection; nothing waits."""
        ...


@dataclass(frozen=True)
class Login:
    """Where a client connects and as whom: one line of `name=value` words in a file that only its owner may read."""

    engine: str
    host: str
    port: int
    dbname: str
    user: str
    password: str = ""

    @classmethod
    def parse(cls, text: str) -> "Login":
        """Raises KeyError or ValueError when it has another shape."""
        words = dict(word.split("=", 1) for word in text.split())
        return cls(**{**words, "port": int(words["port"])})  # type: ignore[arg-type]  # a name too many is a TypeError

    def at(self, address: str, port: int) -> "Login":
        """The same at another server."""
        return replace(self, host=address, port=port)

    def __str__(self) -> str:
        """What `parse` reads. Holds the password."""
        return " ".join(f"{one.name}={getattr(self, one.name)}" for one in fields(self) if getattr(self, one.name) != "")

    def __repr__(self) -> str:
        return f"{self.user} at {self.host}:{self.port}"


def connect(login: Login, deadline_s: float, local: bool = False) -> Session:
    """Within `deadline_s` seconds, or NoAnswer with the reason in one line. `local`: commits wait for no standby."""
    if login.engine == "postgresql":
        from failover.lab.pg_session import PgSession

        return PgSession(login, deadline_s, local)
    from failover.lab.my_session import MySession

    return MySession(login, deadline_s, local)


def busy_statement(engine: str) -> str:
    """One that works for `{seconds}` and then inserts into lab.prober, as `{host}` with seq -1."""
    if engine == "postgresql":
        from failover.lab import pg_session

        return pg_session.BUSY
    from failover.lab import my_session

    return my_session.BUSY


def one_line(error: BaseException) -> str:
    """An error's first line, or its kind."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
