"""One database dialect per file, all behind base.py. The registry is the only list of them.

A factory imports its engine when it is first asked for, so that a host needs only the driver of its own database.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from failover.core.model import Member, Position
from failover.engines.base import LocalEngine, Prober, Rejoiner
from failover.errors import ConfigurationError
from failover.settings import ClusterSettings, SshSettings

if TYPE_CHECKING:
    from failover.engines.my_local import MyLocalEngine
    from failover.engines.postgresql import PostgresLocalEngine
    from failover.remote.hostagent import Copying


@dataclass(frozen=True)
class Engine:
    """How to make the two halves of one engine, and how to read its stored positions (raises Corrupt)."""

    name: str
    local: Callable[[ClusterSettings, str, Path], LocalEngine]  # cluster, own member name, run directory
    prober: Callable[[ClusterSettings, Member], Prober]
    parse_position: Callable[[str], Position]
    rejoiner: Callable[[SshSettings, ClusterSettings, str, Path], Rejoiner]  # how to reach the other members' host agents
    rewind_faults: Callable[[ClusterSettings, Member, float], tuple[str, ...]]  # budget in s; what stands in a rewind's way
    faults: Callable[[ClusterSettings, Member, float], tuple[str, ...]]  # budget in s; what makes a member's server unfit
    backup: Callable[[ClusterSettings, Path], AbstractContextManager[Copying]] | None = None  # a copy for another member


def _postgres_local(cluster: ClusterSettings, member: str, run_dir: Path) -> PostgresLocalEngine:
    from failover.engines.postgresql import PostgresLocalEngine

    users = cluster.users
    return PostgresLocalEngine(cluster.instance, users.operator, users.replication, users.monitor.name, member, run_dir)


def _postgres_rejoiner(ssh: SshSettings, cluster: ClusterSettings, member: str, run_dir: Path) -> Rejoiner:
    from failover.engines.pg_rejoin import PostgresRejoiner

    users, local = cluster.users, _postgres_local(cluster, member, run_dir)
    return PostgresRejoiner(cluster.instance, users.replication, users.rewind, member, run_dir, local.session)


def _postgres_prober(cluster: ClusterSettings, member: Member) -> Prober:
    from failover.engines.pg_probe import PostgresProber

    monitor, instance = cluster.users.monitor, cluster.instance
    return PostgresProber(member.address, instance.port, monitor.name, monitor.password, instance.database)


def _postgres_rewind_faults(cluster: ClusterSettings, member: Member, budget_s: float) -> tuple[str, ...]:
    from failover.engines.pg_rewindable import rewind_faults

    monitor, rewind, instance = cluster.users.monitor, cluster.users.rewind, cluster.instance
    where: dict[str, str | int | None] = {
        "host": member.address, "port": instance.port, "user": monitor.name, "dbname": instance.database,
    }  # fmt: skip
    return rewind_faults(where, monitor.password, rewind.name if rewind else None, budget_s)


def _postgres_position(text: str) -> Position:
    from failover.engines.lsn import Lsn

    return Lsn.parse(text)


def _my_local(cluster: ClusterSettings, member: str, run_dir: Path) -> MyLocalEngine:
    from failover.engines.my_local import MyLocalEngine

    return MyLocalEngine(cluster, member)


def _my_prober(cluster: ClusterSettings, member: Member) -> Prober:
    from failover.engines.my_probe import MyProber

    monitor, instance = cluster.users.monitor, cluster.instance
    return MyProber(cluster.engine, member.address, instance.port, monitor.name, monitor.password, instance.database)


def _my_faults(cluster: ClusterSettings, member: Member, budget_s: float) -> tuple[str, ...]:
    from failover.engines.my_faults import faults

    return faults(cluster, member, budget_s)


def _mysql_rejoiner(ssh: SshSettings, cluster: ClusterSettings, member: str, run_dir: Path) -> Rejoiner:
    from failover.engines.my_layout import MYSQL, Layout
    from failover.engines.my_rejoin import MyRejoiner
    from failover.engines.mysql_clone import ClonePlugin

    instance, users = cluster.instance, cluster.users
    copier = ClonePlugin(instance, users.operator, users.rewind)
    return MyRejoiner(instance, Layout(instance, MYSQL), copier, member, _my_local(cluster, member, run_dir).ask)


def _mariadb_rejoiner(ssh: SshSettings, cluster: ClusterSettings, member: str, run_dir: Path) -> Rejoiner:
    from failover.engines.mariadb_backup import MariaBackup
    from failover.engines.my_layout import MARIADB, Layout
    from failover.engines.my_rejoin import MyRejoiner

    instance = cluster.instance
    layout = Layout(instance, MARIADB)
    copier = MariaBackup(instance, layout, cluster.users.operator, ssh, cluster.name)
    return MyRejoiner(instance, layout, copier, member, _my_local(cluster, member, run_dir).ask)


def _mariadb_backup(cluster: ClusterSettings, run_dir: Path) -> AbstractContextManager[Copying]:
    from failover.engines.mariadb_source import Source

    return Source(cluster.instance, cluster.users.operator, run_dir).copy()


def _mysql_position(text: str) -> Position:
    from failover.engines.gtid import GtidPosition

    return GtidPosition.parse(text)


def _mariadb_position(text: str) -> Position:
    from failover.engines.maria_gtid import MariaPosition

    return MariaPosition.parse(text)


def _mysql_rewind_faults(cluster: ClusterSettings, member: Member, budget_s: float) -> tuple[str, ...]:
    from failover.engines.mysql_clone import ClonePlugin

    obstacle = ClonePlugin(cluster.instance, cluster.users.operator, cluster.users.rewind).obstacle()
    return (obstacle,) if obstacle else ()


def _none(cluster: ClusterSettings, member: Member, budget_s: float) -> tuple[str, ...]:
    return ()


ENGINES: Mapping[str, Engine] = {
    "postgresql": Engine(
        "postgresql", _postgres_local, _postgres_prober, _postgres_position, _postgres_rejoiner, _postgres_rewind_faults,
        _none,
    ),
    "mysql": Engine("mysql", _my_local, _my_prober, _mysql_position, _mysql_rejoiner, _mysql_rewind_faults, _my_faults),
    "mariadb": Engine("mariadb", _my_local, _my_prober, _mariadb_position, _mariadb_rejoiner, _none, _my_faults, _mariadb_backup),
}


def engine(name: str) -> Engine:
    """Raises ConfigurationError with the names there are."""
    if name not in ENGINES:
        raise ConfigurationError([f"no engine {name!r}; there are: {', '.join(sorted(ENGINES))}"])
    return ENGINES[name]
