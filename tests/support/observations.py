"""Observations of a small cluster, healthy unless told otherwise: for the tests of pure judgements."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from failover.core.model import (
    ControllerStatus,
    Grant,
    Member,
    MemberStatus,
    Mode,
    Policy,
    Replication,
    Role,
    Stored,
    SyncSet,
)  # fmt: skip
from failover.core.observation import Observation
from failover.core.rules import Rules

NOW_S = 1000.0
RULES = Rules(
    cluster="orders", members=(Member("db1", "10.9.0.1"), Member("db2", "10.9.0.2"), Member("db3", "10.9.0.3")),
    controllers=("c1", "c2", "c3"), replication=Replication.STRICT, lease_s=3, wait_s=3.4, silence_s=1.5,
    probes_lost=3, cooldown_s=20, on_clean_stop_wait_s=10, crash_recovery_max_s=300, switchover_deadline_s=5,
    lag_max_bytes=16 * 1024**2, has_vip=True, has_dns=False, service_address="10.9.0.100", webhooks=(),
)  # fmt: skip


@dataclass(frozen=True)
class At:
    """A position on one history: enough to compare."""

    unit: ClassVar[str] = "bytes"

    offset: int

    def covers(self, other: Any) -> bool:
        return self.offset >= int(other.offset)

    def descends_from(self, history: str) -> bool:
        return history == "1"

    def history_id(self) -> str:
        return "1"

    def diverged_from(self, primary: Any) -> bool:
        return False

    def behind(self, other: Any) -> int | None:
        return max(int(other.offset) - self.offset, 0)

    def text(self) -> str:
        return str(self.offset)


def stored(value: Any, age_s: float = 0.5) -> Any:
    return Stored(value, 1, NOW_S - age_s)


def standby(name: str, **changes: Any) -> MemberStatus:
    return replace(
        MemberStatus(name, Role.STANDBY, "7", "100", 0, "db1", True, "shut", guardian="follows db1"), **changes
    )  # fmt: skip


def primary(name: str = "db1", **changes: Any) -> MemberStatus:
    return replace(
        MemberStatus(name, Role.PRIMARY, "7", "100", gate="open", epoch=4, vip=True, writable=True, guardian="serves"), **changes
    )  # fmt: skip


def healthy(*others: MemberStatus, grant: Grant | None = None, policy: Policy | None = None, **changes: Any) -> Observation:
    """Three members, three controllers, one primary; `others` replace a member's status."""
    members = {s.member: s for s in (primary(), standby("db2"), standby("db3"), *others)}
    granted = grant or Grant("db1", 4, ("db2", "db3"), (SyncSet(1, ("db2", "db3"), "1"),), system_identifier="7")
    seen = Observation(
        NOW_S, "ctl", stored(9), grant=stored(granted), policy=stored(policy or Policy(Mode.AUTOMATIC)),
        members={name: stored(status) for name, status in members.items()},
        controllers={name: stored(ControllerStatus(name, "d" * 64, "1")) for name in RULES.controllers},
        positions={text: At(int(text)) for text in ("90", "100", "110")},
    )  # fmt: skip
    return replace(seen, **changes)
