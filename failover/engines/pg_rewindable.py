"""Could this server's data be rewound, and could others be rewound against it? Asked before that is needed, by `check`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from failover.clock import boottime_s
from failover.engines import pg_statements
from failover.engines.pg_connection import Session


def rewind_faults(
    parameters: Mapping[str, str | int | None], password: Callable[[], str | None], rewind: str | None, budget_s: float
) -> tuple[str, ...]:  # fmt: skip
    """What stands in the way of pg_rewind at the server that libpq's `parameters` (without the password) lead to.

    `rewind` is the account of that name, None if none is configured. Raises what a probe raises, ConfigurationError included.
    """
    given = {**parameters, "password": password(), "application_name": "failover check"}
    with Session(given, boottime_s() + budget_s) as session:
        hints, checksums, pages, role = session.run(pg_statements.REWIND_SETTINGS, (rewind,))[0]
        missing = [name for (name,) in session.run(pg_statements.REWIND_FUNCTIONS, (rewind,))] if role else []
    faults = []
    if hints != "on" and checksums != "on":
        faults.append("neither wal_log_hints nor data checksums are on")
    if pages != "on":
        faults.append("full_page_writes is off")
    if rewind is None:
        faults.append("users.rewind is not configured")
    elif not role:
        faults.append(f"there is no role {rewind} (users.rewind)")
    elif missing:
        faults.append(f"{rewind} may not execute {', '.join(missing)}")
    return tuple(faults)
