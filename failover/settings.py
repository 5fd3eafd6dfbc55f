"""What the configuration file says, after it was checked: frozen values with their units in their names.

`config.py` reads, checks and explains files; this module only says what there is. Every field has its unit, its default's
reason or its source. Durations are seconds here and "5s" in the file. A test loads the example file and demands every key.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from failover.core.model import Member, Mode, Replication
from failover.errors import ConfigurationError
from failover.secrets import read_secret


@dataclass(frozen=True)
class Timings:
    """The clock of one cluster (docs/guarantees.md, T1 to T6). Every profile sets all of them; `timings:` overrides one."""

    lease_s: float  # L: how long a primary may write on one renewal
    renew_s: float  # R: a renewal is sent this often
    attempt_s: float  # Q: bound of one renewal attempt
    attempts: int  # k: attempts that must fit before the soft fence (at least 2)
    soft_fence_s: float  # F: stop in order this long before the kernel cuts
    margin_s: float  # delta: scheduler and rounding
    clock_rate_error: float  # rho: 0.01 = clocks may run 1 % apart
    session_s: float  # S: controllers' ZooKeeper session
    zookeeper_tick_s: float  # what the ensemble must run with
    zookeeper_sync_limit: int  # ticks
    probe_interval_s: float
    probe_bound_s: float  # a probe that takes longer has failed
    probes_lost: int  # n: failed probes in a row that make a vote
    coordinator_outage_s: float  # E: leader election and reconnect at that tick and sync limit
    cooldown_s: float  # no second automatic failover within this

    @property
    def wait_s(self) -> float:
        """W (T1): after this long without a renewal no lease can be running, however the clocks run."""
        return self.lease_s * (1 + self.clock_rate_error) / (1 - self.clock_rate_error) + self.margin_s

    @property
    def silence_s(self) -> float:
        """n x (interval + bound): what the latest failed probe must have begun after the last sign of life (T4)."""
        return self.probes_lost * (self.probe_interval_s + self.probe_bound_s)

    @property
    def blip_s(self) -> float:
        """The longest silence that never makes a vote (T4): the last sign of life may be an interval older than it."""
        return self.silence_s - self.probe_interval_s

    @property
    def detection_s(self) -> float:
        """A vote says lost at most this long after the last sign of life."""
        return (self.probes_lost + 1) * (self.probe_interval_s + self.probe_bound_s)


@dataclass(frozen=True)
class Account:
    """A database account. The password is read from its file when it is needed and never kept in a repr."""

    name: str
    password_file: Path | None = None

    def password(self) -> str | None:
        """Raises ConfigurationError if the file cannot be read."""
        return read_secret(self.password_file) if self.password_file else None


@dataclass(frozen=True)
class Accounts:
    monitor: Account
    operator: Account
    replication: Account
    rewind: Account | None = None


@dataclass(frozen=True)
class InstanceSettings:
    """The database on each member's host; the same layout everywhere."""

    port: int
    data_dir: Path
    bin_dir: Path
    provider: str  # "direct" or "systemd"
    unit: str | None  # systemd unit name
    socket_dir: Path
    os_user: str  # account that owns the data directory, "postgres" or "mysql"
    database: str  # where the product's own tables live: PostgreSQL's database "postgres", MySQL's schema "failover"
    config_file: Path | None = None  # MySQL and MariaDB: the server's my.cnf, for --defaults-file


@dataclass(frozen=True)
class VipSettings:
    address: str
    prefix: int
    interface: str


@dataclass(frozen=True)
class DnsSettings:
    server: str
    port: int
    zone: str
    name: str
    ttl_s: int
    tsig_name: str
    tsig_key_file: Path
    tsig_algorithm: str


@dataclass(frozen=True)
class PledgeSettings:
    """How guardians ask each other for pledges when ZooKeeper is away: the UDP port, and the key that only they have."""

    port: int
    key_file: Path


@dataclass(frozen=True)
class WebhookSettings:
    url: str
    secret_file: Path | None


@dataclass(frozen=True)
class FencingSettings:
    order: tuple[str, ...]  # of "guardian", "ssh", "command"
    command: tuple[str, ...] = ()  # argv of the operator's STONITH command; only with "command" in the order

    @property
    def has_command(self) -> bool:
        return "command" in self.order


@dataclass(frozen=True)
class SshSettings:
    """How controllers reach `failover-hostagent`. Host keys are pinned; there is no "accept new"."""

    user: str
    port: int
    key_file: Path
    known_hosts_file: Path


@dataclass(frozen=True)
class ZooKeeperSettings:
    hosts: tuple[str, ...]  # "address:port" each
    prefix: str
    user: str | None  # digest ACL: only this user may read or write
    password_file: Path | None


@dataclass(frozen=True)
class ClusterSettings:
    name: str
    engine: str
    mode: Mode
    replication: Replication
    on_clean_stop_wait_s: float  # 0 = fail over at once
    crash_recovery_max_s: float
    instance: InstanceSettings
    guarded_ports: tuple[int, ...]
    users: Accounts
    members: tuple[Member, ...]
    timings: Timings
    vip: VipSettings | None
    dns: DnsSettings | None
    notify: tuple[WebhookSettings, ...]
    fencing: FencingSettings
    standby_reads: bool  # clients may read from standbys through the gate
    switchover_deadline_s: float  # writes are given back if the handover takes longer
    lag_max_bytes: int  # a candidate further behind is refused in a switchover
    pledges: PledgeSettings | None = None  # None: nobody pledges, and T3 must hold by itself
    rejoin_automatic: bool = True  # a diverged member is rewound (its own log saved first) without asking a person

    def member(self, name: str) -> Member:
        """Raises KeyError."""
        return next(m for m in self.members if m.name == name) if name in self.names else _missing(name)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(m.name for m in self.members)


def _missing(name: str) -> Member:
    raise KeyError(name)


@dataclass(frozen=True)
class ControllerSettings:
    name: str
    address: str


@dataclass(frozen=True)
class Settings:
    """One file. `digest` is the SHA-256 of the file's bytes, published so that a difference between hosts shows."""

    zookeeper: ZooKeeperSettings
    controllers: tuple[ControllerSettings, ...]
    ssh: SshSettings
    clusters: tuple[ClusterSettings, ...]
    state_dir: Path  # /var/lib/failover
    run_dir: Path  # /run/failover
    profile: str
    digest: str
    source: Path
    origins: dict[str, str] = field(default_factory=dict, compare=False)

    def cluster(self, name: str | None = None) -> ClusterSettings:
        """The named cluster, or the only one. Raises ConfigurationError with the names there are."""
        found = [c for c in self.clusters if name is None or c.name == name]
        if len(found) == 1:
            return found[0]
        known = ", ".join(c.name for c in self.clusters)
        raise ConfigurationError([f"no cluster {name!r}; there are: {known}" if name else f"name one of: {known}"])
