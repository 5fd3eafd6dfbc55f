"""Which of the two a server is, from its own greeting: a cluster may hold one of the other by mistake."""

from __future__ import annotations

from failover.core.model import Position
from failover.engines.gtid import GtidPosition, GtidSet
from failover.engines.maria_gtid import MariaPosition
from failover.engines.mariadb import Mariadb
from failover.engines.my_connection import Session
from failover.engines.my_dialect import Dialect, is_mariadb, version_of
from failover.engines.mysql import Mysql
from failover.errors import Unknown

PRODUCTS = {"mysql": "MySQL", "mariadb": "MariaDB"}


def dialect_of(session: Session) -> Dialect:
    """The dialect of the server at the other end, remembered with the session. Raises Unknown."""
    known = session.memo.get("dialect")
    if isinstance(known, Dialect):
        return known
    version = version_of(session.server_version)
    if version == (0, 0, 0):
        raise Unknown(f"the server calls itself {session.server_version[:40]!r}")
    made: Dialect = (Mariadb if is_mariadb(session.server_version) else Mysql)(version)
    session.memo["dialect"] = made
    return made


def nowhere(engine: str) -> Position:
    """The position of a server that has nothing of this engine's log."""
    return MariaPosition((), 0) if engine == "mariadb" else GtidPosition(GtidSet())


def parse_position(engine: str, text: str) -> Position:
    """Raises Corrupt."""
    return MariaPosition.parse(text) if engine == "mariadb" else GtidPosition.parse(text)


def wrong_flavour(engine: str, dialect: Dialect) -> str | None:
    """The fault of a server of the other kind."""
    if dialect.engine == engine:
        return None
    return (
        f"this is {dialect.product}, and the cluster's engine is {engine}: a member of the other kind can never follow;"
        f" install {PRODUCTS[engine]} here or take the member out of the file"
    )
