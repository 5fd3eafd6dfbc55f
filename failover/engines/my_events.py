"""Scheduled events: they run on the primary alone. On a standby they would write, past its read-only on MariaDB.

An event that came through replication is marked as another server's, whether it was enabled there or not, and stays so when this
server becomes the primary. Nobody but a person can tell which of them should run here, so they are named, and none is enabled.
"""

from __future__ import annotations

import logging

from failover.engines.my_config import Config
from failover.engines.my_connection import Rejected, Session
from failover.engines.my_dialect import on
from failover.engines.my_flavour import dialect_of
from failover.errors import Refused

log = logging.getLogger("failover.engines")

_NAMED = 5
_ANOTHERS = """
SELECT EVENT_SCHEMA, EVENT_NAME FROM information_schema.EVENTS
 WHERE STATUS IN ('SLAVESIDE_DISABLED', 'REPLICA_SIDE_DISABLED') ORDER BY 1, 2
"""


def stop(session: Session) -> None:
    if on(session.value("SELECT @@GLOBAL.event_scheduler")):
        session.run("SET GLOBAL event_scheduler = OFF")


def run(session: Session, config: Config) -> None:
    """On a primary, if the file says so. What fails here is no reason not to take writes."""
    try:
        wanted = config.latest().get("event_scheduler", "ON" if dialect_of(session).engine == "mysql" else "OFF")
        if on(wanted) and not on(session.value("SELECT @@GLOBAL.event_scheduler")):
            session.run("SET GLOBAL event_scheduler = ON")
    except (Rejected, Refused) as error:
        log.warning("scheduled events do not run: %s", error)


def undecided(session: Session) -> list[str]:
    """On a primary: events that came from another one, and about which nobody has said whether they are to run here."""
    if not on(session.value("SELECT @@GLOBAL.event_scheduler")):
        return []
    found = [f"`{schema}`.`{name}`" for schema, name in session.run(_ANOTHERS)]
    if not found:
        return []
    named = ", ".join(found[:_NAMED]) + (f" and {len(found) - _NAMED} more" if len(found) > _NAMED else "")
    return [f"scheduled events came from another primary and do not run here ({named}): ALTER EVENT ... ENABLE, or DISABLE"]
