"""What a simulation is of: members, controllers, clocks and promises. Made from a profile, or from the user's own file."""

from __future__ import annotations

from dataclasses import dataclass, replace

from failover.core.model import Member, Mode, Replication
from failover.core.rules import Rules
from failover.profiles import PROFILES
from failover.settings import ClusterSettings, Timings

PORT = 5432
HOSTS = ("db1", "db2", "db3")


@dataclass(frozen=True)
class Setting:
    """One cluster. `hosts` carry ZooKeeper and, the first `controllers` of them, a controller each."""

    timings: Timings
    members: tuple[Member, ...]
    replication: Replication = Replication.STRICT
    controllers: tuple[str, ...] = HOSTS
    hosts: tuple[str, ...] = HOSTS
    cluster: str = "simulated"
    mode: Mode = Mode.AUTOMATIC
    switchover_deadline_s: float = 4.0
    crash_recovery_max_s: float = 30.0
    cooldown_s: float = 1.0  # a history is short: what comes after the first failover should be in it
    has_stonith: bool = False
    pledges: bool = True

    @property
    def rules(self) -> Rules:
        timings = self.timings
        return Rules(
            cluster=self.cluster, members=self.members, controllers=self.controllers, replication=self.replication,
            lease_s=timings.lease_s, wait_s=timings.wait_s, probes_lost=timings.probes_lost, silence_s=timings.silence_s,
            cooldown_s=self.cooldown_s, on_clean_stop_wait_s=0.0, crash_recovery_max_s=self.crash_recovery_max_s,
            switchover_deadline_s=self.switchover_deadline_s, lag_max_bytes=1 << 20, has_vip=False, has_dns=False,
            service_address="", webhooks=(), has_stonith=self.has_stonith, seal_grace_s=1.0, shrink_after_s=1.0,
            settle_s=1.0, step_s=1.0,
        )  # fmt: skip


def of_profile(profile: str, members: int = 3, replication: Replication = Replication.STRICT) -> Setting:
    """The product's own clocks. Raises KeyError for a profile that is none."""
    names = HOSTS[:members]
    return Setting(PROFILES[profile], tuple(Member(name, f"10.0.0.{n}") for n, name in enumerate(names, start=1)), replication)


def with_members(setting: Setting, count: int) -> Setting:
    """The same clocks and promises over the first `count` hosts; a host without a member keeps ZooKeeper and its controller."""
    names = HOSTS[:count]
    return replace(setting, members=tuple(Member(name, f"10.0.0.{n}") for n, name in enumerate(names, start=1)))


def of_cluster(cluster: ClusterSettings) -> Setting:
    """The user's own timers, promises and number of members; hosts and faults are the simulator's."""
    count = min(max(len(cluster.members), 2), 3)
    names = HOSTS[:count]
    wanted = cluster.members[:count]
    members = tuple(
        Member(name, f"10.0.0.{n}", priority=mine.priority, failover=mine.failover)
        for n, (name, mine) in enumerate(zip(names, wanted, strict=True), start=1)
    )
    return Setting(
        cluster.timings, members, cluster.replication, cluster=cluster.name,
        switchover_deadline_s=cluster.switchover_deadline_s, has_stonith=cluster.fencing.has_command,
        pledges=cluster.pledges is not None,
    )  # fmt: skip
