"""One database dialect per file, all behind base.py. The registry is the only list of them.

A factory imports its engine when it is first asked for, so that a host needs only the driver of its own database.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from failover.core.model import Member, Position
from failover.engines.base import LocalEngine, Prober
from failover.errors import ConfigurationError
from failover.settings import ClusterSettings


@dataclass(frozen=True)
class Engine:
    """How to make the two halves of one engine, and how to read its stored positions (raises Corrupt)."""

    name: str
    local: Callable[[ClusterSettings, str, Path], LocalEngine]  # cluster, own member name, run directory
    prober: Callable[[ClusterSettings, Member], Prober]
    parse_position: Callable[[str], Position]


def _postgres_local(cluster: ClusterSettings, member: str, run_dir: Path) -> LocalEngine:
    from failover.engines.postgresql import PostgresLocalEngine

    users = cluster.users
    return PostgresLocalEngine(
        cluster.instance, users.operator, users.replication, users.monitor.name, member, run_dir
    )


def _postgres_prober(cluster: ClusterSettings, member: Member) -> Prober:
    from failover.engines.pg_probe import PostgresProber

    monitor, instance = cluster.users.monitor, cluster.instance
    return PostgresProber(member.address, instance.port, monitor.name, monitor.password, instance.database)


def _postgres_position(text: str) -> Position:
    from failover.engines.lsn import Lsn

    return Lsn.parse(text)


ENGINES: Mapping[str, Engine] = {
    "postgresql": Engine("postgresql", _postgres_local, _postgres_prober, _postgres_position),
}


def engine(name: str) -> Engine:
    """Raises ConfigurationError with the names there are."""
    if name not in ENGINES:
        raise ConfigurationError([f"no engine {name!r}; there are: {', '.join(sorted(ENGINES))}"])
    return ENGINES[name]
