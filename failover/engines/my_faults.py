"""What `failoverctl check` says of one member's server, asked over the network with the monitor account."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from failover.clock import boottime_s
from failover.core.model import Member, Replication
from failover.engines import my_semisync
from failover.engines.my_connection import Login, Rejected, Session
from failover.engines.my_dialect import Dialect, on
from failover.engines.my_flavour import dialect_of, wrong_flavour
from failover.engines.my_unfit import READ_ONLY, boots_off, missing_rights, not_loaded, persisted_off, unfit_to_wait
from failover.errors import FailoverError
from failover.settings import ClusterSettings

PROGRAM = "failover check"
_OTHER_SHARE = 0.15  # of the budget, for each other member: one that does not answer has no number to compare
_OWN_SHARE = 0.5


def faults(cluster: ClusterSettings, member: Member, budget_s: float) -> tuple[str, ...]:
    """Raises what a probe raises, ConfigurationError included."""
    began_s = boottime_s()
    with Session(_login(cluster, member), began_s + budget_s * _OWN_SHARE) as session:
        dialect = dialect_of(session)
        if (wrong := wrong_flavour(cluster.engine, dialect)) is not None:
            return (wrong,)
        values = dialect.read(session)
        found = list(_own(cluster, session, dialect, values))
    for other in cluster.members:
        if other.name != member.name and boottime_s() < began_s + budget_s:
            until_s = min(began_s + budget_s, boottime_s() + budget_s * _OTHER_SHARE)
            found += _twins(values, other, _identity(cluster, other, until_s))
    return tuple(found)


def _login(cluster: ClusterSettings, member: Member) -> Login:
    monitor = cluster.users.monitor
    return Login(monitor.name, monitor.password, host=member.address, port=cluster.instance.port, program=PROGRAM)


def _own(cluster: ClusterSettings, session: Session, dialect: Dialect, values: Mapping[str, Any]) -> Iterable[str]:
    yield from dialect.faults(values)
    try:
        yield from missing_rights(session, dialect.monitor_needs, f"the monitor account {cluster.users.monitor.name}")
        yield from boots_off(session, dialect, values)
        if dialect.engine == "mysql":
            yield from (f"{name} is persisted as OFF: RESET PERSIST {name}" for name in persisted_off(session, READ_ONLY))
            yield from _lossy_relay_log(values)
        if cluster.replication is not Replication.ASYNC:
            yield from not_loaded(session, dialect)
            yield from unfit_to_wait(values, my_semisync.look(session))
    except Rejected as error:
        yield f"not all could be looked at: {error}"


def _lossy_relay_log(values: Mapping[str, Any]) -> Iterable[str]:
    if on(values["relay_log_recovery"]):
        yield (
            "relay_log_recovery is ON: a restart throws away what was received and acknowledged, so this member says nothing in a"
            " failover until it has caught up again. Set relay_log_recovery=OFF and sync_relay_log=1"
        )
    elif int(values["sync_relay_log"]) != 1:
        yield (
            f"sync_relay_log is {values['sync_relay_log']}: a crash of the host loses what was acknowledged, so after a restart"
            " this member says nothing in a failover until it has caught up again. Set sync_relay_log=1"
        )


def _identity(cluster: ClusterSettings, member: Member, deadline_s: float) -> dict[str, Any]:
    try:
        with Session(_login(cluster, member), deadline_s) as session:
            return dialect_of(session).read(session)
    except FailoverError:
        return {}  # its own line of `check` says why


def _twins(mine: Mapping[str, Any], other: Member, theirs: Mapping[str, Any]) -> Iterable[str]:
    if theirs and mine["server_id"] == theirs["server_id"]:
        yield f"server_id {mine['server_id']} is also that of {other.name}: give each member a number of its own in my.cnf"
    if theirs.get("server_uuid") and mine.get("server_uuid") == theirs["server_uuid"]:
        yield f"server_uuid is also that of {other.name} (a copied data directory): stop one, remove its auto.cnf, start it"
