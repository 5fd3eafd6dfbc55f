"""What makes a server unfit for the product, as the server beside this guardian says it: each with its remedy.

What needs more than a look at a few variables is asked only now and then: a look is cheap and comes five times a second.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from failover.clock import boottime_s
from failover.core.model import Role
from failover.engines import my_events, my_semisync
from failover.engines.my_access import Access
from failover.engines.my_config import boots_writable
from failover.engines.my_connection import Rejected, Session
from failover.engines.my_dialect import Channel, Dialect, off, on
from failover.engines.my_flavour import dialect_of
from failover.engines.my_semisync import SemiSync
from failover.errors import Refused

_ANEW_S = 5.0
_SAME_IDS = (1593, 13117, 13118)
_LOCAL = ("localhost", "127.0.0.1", "::1")
_GRANTEE = "CONCAT('''', SUBSTRING_INDEX(CURRENT_USER(), '@', 1), '''@''', SUBSTRING_INDEX(CURRENT_USER(), '@', -1), '''')"
_RIGHTS = f"SELECT PRIVILEGE_TYPE FROM information_schema.USER_PRIVILEGES WHERE GRANTEE = {_GRANTEE}"
_PERSISTED = "SELECT VARIABLE_NAME, VARIABLE_VALUE FROM performance_schema.persisted_variables"


class Unfit:
    """Remembers for some seconds what it has asked for."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._slow: list[str] = []
        self._until_s = 0.0

    def find(
        self, session: Session, values: Mapping[str, Any], channels: Sequence[Channel], semi: SemiSync
    ) -> list[str]:  # fmt: skip
        dialect = dialect_of(session)
        if boottime_s() >= self._until_s:
            self._slow = list(self._ask(session, dialect, values))
            self._until_s = boottime_s() + _ANEW_S
        now = [*dialect.faults(values), *self._waiting(values, semi), *_replication(dialect, channels)]
        return [*now, *self._slow]

    def _waiting(self, values: Mapping[str, Any], semi: SemiSync) -> Iterable[str]:
        """Only where commits wait for standbys."""
        return unfit_to_wait(values, semi) if self._access.waits else ()

    def _ask(self, session: Session, dialect: Dialect, values: Mapping[str, Any]) -> Iterable[str]:
        operator = self._access.cluster.users.operator.name
        try:
            yield from missing_rights(session, dialect.operator_needs, f"the operator account {operator}@localhost")
            yield from boots_writable(dialect.engine, self._access.config.latest())
            if dialect.engine == "mysql":
                yield from (f"{name} is persisted as OFF: RESET PERSIST {name}" for name in persisted_off(session, READ_ONLY))
            else:
                yield from _past_read_only(session, dialect, operator)
            if dialect.role(values) is Role.PRIMARY:
                yield from my_events.undecided(session)
            if self._access.waits:
                yield from not_loaded(session, dialect)
                found = my_semisync.accounts(session, self._access.cluster.users.replication.name)
                yield from my_semisync.missing_accounts(self._access, found)
                yield from my_semisync.kept_waiting(self._access, session, found)
        except (Rejected, Refused) as error:
            yield str(error)


READ_ONLY = ("read_only", "super_read_only")


def unfit_to_wait(values: Mapping[str, Any], semi: SemiSync) -> Iterable[str]:
    """What breaks the promise of a commit that was acknowledged."""
    if semi.wait_point != "AFTER_SYNC":
        yield f"semi-sync waits at {semi.wait_point}: readers see what may be lost. Set it to AFTER_SYNC in my.cnf"
    if int(values["sync_binlog"]) != 1:
        yield f"sync_binlog is {values['sync_binlog']}: a crash of the host loses log that others have. Set sync_binlog=1"
    if int(values["innodb_flush_log_at_trx_commit"]) != 1:
        yield "innodb_flush_log_at_trx_commit is not 1: a crash of the host loses commits. Set it to 1 in my.cnf"
    if not on(values["skip_name_resolve"]):
        yield "skip_name_resolve is OFF: who replicates from here is known by address only. Set skip_name_resolve=ON in my.cnf"


def not_loaded(session: Session, dialect: Dialect) -> Iterable[str]:
    plugins = dialect.plugins(session)
    return [my_semisync.not_loaded(side) for side in ("source", "replica") if getattr(plugins, side) is None]


def missing_rights(session: Session, needed: Sequence[str], who: str) -> Iterable[str]:
    has = {str(row[0]) for row in session.run(_RIGHTS)}
    if lacks := [right for right in needed if right not in has]:
        account = str(session.value("SELECT CURRENT_USER()")).replace("@", "'@'")
        yield f"{who} lacks privileges: GRANT {', '.join(lacks)} ON *.* TO '{account}'"


def persisted_off(session: Session, names: Sequence[str]) -> list[str]:
    return [str(name).lower() for name, value in session.run(_PERSISTED) if str(name).lower() in names and off(value)]


def boots_off(session: Session, dialect: Dialect, values: Mapping[str, Any]) -> Iterable[str]:
    """Seen from afar: it takes writes, and nobody told it to since its start."""
    names = [name for name in READ_ONLY if name in values and off(values[name])]
    if names:
        for name in dialect.decided_by_files(session, names):
            yield f"{name} was OFF when the server started: write {name}=ON in my.cnf, a start must take no writes"


def _replication(dialect: Dialect, channels: Sequence[Channel]) -> Iterable[str]:
    for channel in channels:
        if channel.name:
            yield f"replication channel {channel.name!r} is not the product's: {dialect.forget_other(channel.name)}"
            continue
        if channel.stopped and channel.receive_errno:
            same = ": two members have the same server_id" if channel.receive_errno in _SAME_IDS else ""
            yield f"the receiver has stopped{same}: {channel.receive_errno} {channel.receive_error}"
        if not channel.applying and channel.apply_errno:
            yield f"the applier has stopped: {channel.apply_errno} {channel.apply_error}"
        if channel.delay_s:
            yield f"it applies {channel.delay_s} s late on purpose: a member that may be chosen must not"


def _past_read_only(session: Session, dialect: Dialect, operator: str) -> Iterable[str]:
    """Who could write over the network to a server that is read-only: MariaDB has no switch that stops them."""
    right = "READ_ONLY ADMIN" if dialect.version >= (10, 11, 0) else "SUPER"
    select = "SELECT GRANTEE FROM information_schema.USER_PRIVILEGES WHERE PRIVILEGE_TYPE = %s"
    for (grantee,) in session.run(select, [right]):
        user, _, host = str(grantee).replace("'", "").rpartition("@")
        if host not in (*_LOCAL, socket.gethostname()) and user != operator:
            yield f"{user}@{host} writes past read_only: REVOKE {right} ON *.* FROM '{user}'@'{host}'"
