"""The promises and thresholds of one cluster, as the decisions need them. Made from the settings at start-up."""

from __future__ import annotations

from dataclasses import dataclass

from failover.core.model import Member, Replication, Willingness


@dataclass(frozen=True)
class Rules:
    """Durations are seconds, sizes bytes. `votes_needed` is a majority of the *configured* controllers."""

    cluster: str
    members: tuple[Member, ...]
    controllers: tuple[str, ...]
    replication: Replication
    lease_s: float
    wait_s: float
    probes_lost: int
    silence_s: float  # no heartbeat row for this long is silence: as long as a probe's, n x (interval + bound)
    cooldown_s: float
    on_clean_stop_wait_s: float
    crash_recovery_max_s: float
    switchover_deadline_s: float
    lag_max_bytes: int
    has_vip: bool
    has_dns: bool
    service_address: str
    webhooks: tuple[str, ...]
    has_stonith: bool = False
    seal_grace_s: float = 2.0  # how long a choice waits for standbys that are alive but have not reported
    shrink_after_s: float = 5.0  # a standby that stopped streaming leaves the sync set only after this
    settle_s: float = 10.0  # how long an operation waits for followers before it closes without them
    step_s: float = 5.0  # a step that only informs (DNS, checkpoint) blocks the operation no longer than this
    fence_hold_s: float = 3.0  # without confirmation for this long the operation says *held*
    stonith_after_s: float = 1.0  # a host that still talks gives a receipt long before that: power is the last word
    gone_s: float = 3.0  # a record that its writer refreshes every second and did not for this long is old

    @property
    def votes_needed(self) -> int:
        return len(self.controllers) // 2 + 1

    def member(self, name: str) -> Member | None:
        return next((m for m in self.members if m.name == name), None)

    def others(self, name: str | None) -> tuple[Member, ...]:
        return tuple(m for m in self.members if m.name != name)

    def promotable_beside(self, primary: str) -> tuple[str, ...]:
        """Who may ever be chosen while `primary` has the grant: the list that its renewals are sent under."""
        return tuple(m.name for m in self.others(primary) if m.failover is not Willingness.NEVER and m.guarded)
