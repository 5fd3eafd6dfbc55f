"""Semi-synchronous replication as the sync set of a primary: who may acknowledge is decided there, by accounts.

The plugin has no names: whoever is connected with acknowledging on counts. So each member has a replication account of its own
address, and those of members outside the set are locked (without a trace in the binary log: it is nobody else's business) and
their sessions ended. A member locked out goes on knocking once a second and is in again within a second of the unlocking.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from failover.core.model import SyncSet
from failover.engines import my_sessions
from failover.engines.my_access import Access, may_acknowledge
from failover.engines.my_connection import Rejected, Session
from failover.engines.my_dialect import Plugins, on
from failover.engines.my_flavour import dialect_of
from failover.errors import Refused

FOREVER_MS = 4294967295  # the greatest that both take: 49 days, after which a source would go on without its replicas
_UNKNOWN_VARIABLE = 1193
_WITH_RIGHT = "SELECT GRANTEE FROM information_schema.USER_PRIVILEGES WHERE PRIVILEGE_TYPE = %s"


@dataclass(frozen=True)
class SemiSync:
    """What a server says of both halves. `waiting`: commits that wait; `released`: those that a standby has acknowledged, ever;
    `clients`: connected standbys that acknowledge.

    `answering`: this standby's present connection acknowledges.
    """

    source: bool = False
    replica: bool = False
    waiting: int = 0
    released: int = 0
    clients: int = 0
    answering: bool = False
    wait_point: str = "AFTER_SYNC"


def look(session: Session) -> SemiSync:
    plugins = dialect_of(session).plugins(session)
    try:
        return _look(session, plugins)
    except Rejected as error:
        if error.code != _UNKNOWN_VARIABLE:
            raise
        session.memo.pop("plugins", None)  # one was unloaded since
        return _look(session, dialect_of(session).plugins(session))


def _look(session: Session, plugins: Plugins) -> SemiSync:
    names = {
        **({"source": f"{_source(plugins)}_enabled", "wait_point": f"{_source(plugins)}_wait_point"} if plugins.source else {}),
        **({"replica": f"rpl_semi_sync_{plugins.replica.replica}_enabled"} if plugins.replica else {}),
    }
    if not names:
        return SemiSync()
    row = session.run("SELECT " + ", ".join(f"@@GLOBAL.{name}" for name in names.values()))[0]
    seen = dict(zip(names, row, strict=True))
    source, replica = on(seen.get("source", 0)), on(seen.get("replica", 0))
    said = _status(session) if source or replica else {}
    side = plugins.source.source if plugins.source else ""
    return SemiSync(
        source=source,
        replica=replica,
        waiting=int(said.get(f"rpl_semi_sync_{side}_wait_sessions", 0)) if source else 0,
        released=int(said.get(f"rpl_semi_sync_{side}_yes_tx", 0)),
        clients=int(said.get(f"rpl_semi_sync_{side}_clients", 0)),
        answering=on(said.get(f"rpl_semi_sync_{plugins.replica.replica}_status", "OFF")) if plugins.replica else False,
        wait_point=str(seen.get("wait_point", "AFTER_SYNC")).upper(),
    )


def _status(session: Session) -> dict[str, str]:
    return {str(row[0]).lower(): str(row[1]) for row in session.run("SHOW GLOBAL STATUS LIKE 'rpl_semi_sync%'")}


def _source(plugins: Plugins) -> str:
    assert plugins.source is not None
    return f"rpl_semi_sync_{plugins.source.source}"


def acknowledge(session: Session, wanted: bool) -> bool:
    """This standby's half, for connections from now on. True if that is new. Raises Refused where it is not loaded."""
    replica = dialect_of(session).plugins(session).replica
    if replica is None:
        if wanted:
            raise Refused(not_loaded("replica"))
        return False
    name = f"rpl_semi_sync_{replica.replica}_enabled"
    if on(session.value(f"SELECT @@GLOBAL.{name}")) is wanted:
        return False
    session.run(f"SET GLOBAL {name} = {'ON' if wanted else 'OFF'}")
    return True


def wait_for_nobody(session: Session) -> None:
    """Commits that wait are told "done": only where that is the meaning, or when nobody hears it any more."""
    plugins = dialect_of(session).plugins(session)
    if plugins.source is not None and on(session.value(f"SELECT @@GLOBAL.{_source(plugins)}_enabled")):
        session.run(f"SET GLOBAL {_source(plugins)}_enabled = OFF")


def wait_for_one(session: Session) -> None:
    """Every commit waits, however long, until one has it on disk, and before anybody else sees it. Raises Refused."""
    plugins = dialect_of(session).plugins(session)
    if plugins.source is None:
        raise Refused(not_loaded("source"))
    prefix, replica = _source(plugins), plugins.source.replica
    settings = {f"{prefix}_timeout": str(FOREVER_MS), f"{prefix}_wait_point": "'AFTER_SYNC'", f"{prefix}_wait_no_{replica}": "ON"}
    if dialect_of(session).engine == "mysql":
        settings[f"{prefix}_wait_for_{replica}_count"] = "1"  # MariaDB knows no other number
    settings[f"{prefix}_enabled"] = "ON"
    session.run("SET " + ", ".join(f"GLOBAL {name} = {value}" for name, value in settings.items()))


def not_loaded(side: str) -> str:
    return (
        f"the plugin semisync_{side}.so is not loaded, and commits are to wait for standbys:"
        f" plugin_load_add=semisync_{side}.so in my.cnf, and INSTALL PLUGIN rpl_semi_sync_{side} SONAME 'semisync_{side}.so'"
    )


# --- who may acknowledge --------------------------------------------------------------------------------------------------


def accounts(session: Session, user: str) -> dict[str, bool]:
    """Of each host the replication account is for: is it locked?"""
    return {str(host): on(locked) for host, locked in session.run(dialect_of(session).accounts, [user])}


def locked_out(access: Access, sync: SyncSet | None) -> dict[str, bool]:
    """Whether the account of each other guarded member's address must be locked."""
    return {
        member.address: sync is not None and may_acknowledge(member) and member.name not in sync.names
        for member in access.others
        if member.guarded
    }


def let_in(access: Access, found: Mapping[str, bool]) -> SyncSet:
    """The set that these accounts make, where semi-sync is on."""
    names = [m.name for m in access.others if may_acknowledge(m) and m.address in found and not found[m.address]]
    return SyncSet(1, tuple(sorted(names)))


def beyond_the_last_connection(flavour: str) -> str:
    """The right to one connection more than there are, which a standby needs: commits that wait for it may hold all the others,
    and none of them ends before it is back."""
    return "CONNECTION ADMIN" if flavour == "mariadb" else "CONNECTION_ADMIN"


def kept_waiting(access: Access, session: Session, found: Mapping[str, bool]) -> list[str]:
    """The replication accounts without that right, each with the statement that gives it."""
    user, right = access.cluster.users.replication.name, beyond_the_last_connection(access.engine)
    able = {str(grantee) for (grantee,) in session.run(_WITH_RIGHT, [right])}
    return [
        f"{m.name} cannot come back while commits that wait for it hold every connection: GRANT {right} ON *.* TO"
        f" '{user}'@'{m.address}'"
        for m in access.others
        if may_acknowledge(m) and m.address in found and f"'{user}'@'{m.address}'" not in able
    ]


def missing_accounts(access: Access, found: Mapping[str, bool]) -> list[str]:
    """The statements that make what a sync set needs."""
    user = access.cluster.users.replication.name
    rights = f"REPLICATION SLAVE, {beyond_the_last_connection(access.engine)}"
    return [
        f"no account {user}@{m.address}, and without it {m.name} can be neither let in nor locked out: CREATE USER"
        f" '{user}'@'{m.address}' IDENTIFIED BY '(its password)'; GRANT {rights} ON *.* TO '{user}'@'{m.address}'"
        for m in access.others
        if may_acknowledge(m) and m.address not in found
    ]


def in_force(access: Access, session: Session, sync: SyncSet | None, pause: Callable[[Session, str], None]) -> None:
    """Make `sync` the set, on a server whose accounts may be changed; when this returns nobody else can acknowledge.

    A login that was under way when an account was locked may still get in: so whoever comes from a locked address is ended
    until nobody is there. `pause` waits a moment and raises Unknown at the deadline.
    """
    user = access.cluster.users.replication.name
    found = accounts(session, user)
    if sync is None:
        wait_for_nobody(session)
    elif missing := missing_accounts(access, found):
        raise Refused(*missing)
    wanted = {address: locked for address, locked in locked_out(access, sync).items() if address in found}
    changes = {address: locked for address, locked in wanted.items() if found[address] is not locked}
    if changes:
        session.run("SET SESSION sql_log_bin = 0")
        for address, locked in changes.items():
            session.run(f"ALTER USER %s@%s ACCOUNT {'LOCK' if locked else 'UNLOCK'}", [user, address])
    if sync is None:
        return
    outside = [address for address, locked in wanted.items() if locked]
    while left := my_sessions.of_account(session, user, outside):
        my_sessions.end(session, left)
        pause(session, f"sessions of {', '.join(sorted({who.address for who in left}))} have not ended")
    wait_for_one(session)
    _nobody_else_acknowledges(access, session, sync, pause)


def _nobody_else_acknowledges(
    access: Access, session: Session, sync: SyncSet, pause: Callable[[Session, str], None]
) -> None:
    inside = {member.address for member in access.others if member.name in sync.names}
    while True:
        dumps = my_sessions.everybody(session, my_sessions.DUMPS)  # one whose standby has gone counts until it notices
        if look(session).clients <= sum(who.address in inside for who in dumps):
            return
        others = sorted({who.address for who in dumps if who.address not in inside}) or ["somebody"]
        pause(session, f"{', '.join(others)} may acknowledge without being in the sync set: turn semi-sync off there")
