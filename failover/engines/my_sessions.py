"""Other people's sessions: who is there, and ending them.

A session that was ended shows as "Killed" until it has rolled back, which may take long; and on MySQL, if its commit waits for an
acknowledgement, until that comes. Its client has no connection any more from the moment it was ended.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from failover.engines.my_connection import NO_SUCH_THREAD, Rejected, Session
from failover.engines.my_flavour import dialect_of

_SERVERS_OWN = ("system user", "event_scheduler", "")
_LOGGING_IN = "unauthenticated user"
DUMPS = "COMMAND LIKE 'Binlog Dump%'"
_ENDED = "Killed"
_FINISHED = "Waiting to finalize termination"  # a dump thread whose standby has gone (MySQL)


@dataclass(frozen=True)
class Someone:
    """One session. `address` is where it comes from, without the port; "localhost" over the socket file."""

    id: int
    user: str
    address: str
    command: str
    state: str

    @property
    def ended(self) -> bool:
        return self.command == _ENDED

    @property
    def dumps(self) -> bool:
        """It sends the log to a standby."""
        return self.command.startswith("Binlog Dump")

    @property
    def is_client(self) -> bool:
        return self.user not in (*_SERVERS_OWN, _LOGGING_IN) and self.command != "Daemon" and not self.dumps


def everybody(session: Session, where: str = "") -> list[Someone]:
    """All sessions but this one; `where` is a condition on its columns."""
    table = dialect_of(session).processes(session)
    condition = f" AND ({where})" if where else ""
    rows = session.run(f"SELECT ID, USER, HOST, COMMAND, STATE FROM {table} WHERE ID <> CONNECTION_ID(){condition}")
    return [Someone(int(row[0]), row[1] or "", _address(row[2] or ""), row[3] or "", row[4] or "") for row in rows]


def dumping(session: Session) -> list[Someone]:
    """Those that send the log to a standby which is still there."""
    return [someone for someone in everybody(session, DUMPS) if someone.state != _FINISHED]


def clients(session: Session, ours: Collection[int], monitor: str) -> list[Someone]:
    """Applications and administrators; not the guardian's sessions, nor the controllers', which only look."""
    return [who for who in everybody(session) if who.is_client and who.id not in ours and who.user != monitor]


def of_account(session: Session, user: str, addresses: Collection[str]) -> list[Someone]:
    """Whoever has logged in, or is about to, as `user` from one of these addresses, or receives log under whatever name."""
    found = [who for who in everybody(session) if who.address in addresses]
    return [who for who in found if who.dumps or who.user in (user, _LOGGING_IN)]


def end(session: Session, found: Collection[Someone]) -> None:
    for who in found:
        if not who.ended:
            try:
                session.run(f"KILL {who.id}")
            except Rejected as error:
                if error.code != NO_SUCH_THREAD:
                    raise


def _address(host: str) -> str:
    """Of "10.77.0.12:40412"; the server writes no brackets around an IPv6 address."""
    bare, colon, port = host.rpartition(":")
    return bare if colon and port.isdigit() else host
