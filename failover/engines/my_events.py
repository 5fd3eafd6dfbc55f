"""Scheduled events: they run on the primary alone. On a standby they would write, past its read-only on MariaDB.

An event that came through replication is marked as another server's, and stays so when this server becomes the primary: without
us it would silently never run again.
"""

from __future__ import annotations

import logging

from failover.engines.my_config import Config
from failover.engines.my_connection import Rejected, Session
from failover.engines.my_dialect import on
from failover.engines.my_flavour import dialect_of
from failover.errors import Refused

log = logging.getLogger("failover.engines")

_ANOTHERS = """
SELECT EVENT_SCHEMA, EVENT_NAME, DEFINER FROM information_schema.EVENTS
 WHERE STATUS IN ('SLAVESIDE_DISABLED', 'REPLICA_SIDE_DISABLED')
"""


def stop(session: Session) -> None:
    if on(session.value("SELECT @@GLOBAL.event_scheduler")):
        session.run("SET GLOBAL event_scheduler = OFF")


def on_a_primary(session: Session, config: Config) -> None:
    """Let them run if the file says so, those that came through replication too. What fails here is no reason not to take writes.

    `session` leaves no trace in the binary log: which server an event runs on is each server's own business.
    """
    try:
        if not on(config.latest().get("event_scheduler", "ON" if dialect_of(session).engine == "mysql" else "OFF")):
            return
        if not on(session.value("SELECT @@GLOBAL.event_scheduler")):
            session.run("SET GLOBAL event_scheduler = ON")
        for schema, name, definer in session.run(_ANOTHERS):
            user, _, host = str(definer).rpartition("@")
            session.run("SET SESSION sql_log_bin = 0")
            session.run(f"ALTER DEFINER = {_name(user)}@{_name(host)} EVENT {_name(schema)}.{_name(name)} ENABLE")
            log.info("event %s.%s runs here from now on", schema, name)
    except (Rejected, Refused) as error:
        log.warning("scheduled events may not run: %s", error)


def _name(text: object) -> str:
    return "`" + str(text).replace("`", "``") + "`"
