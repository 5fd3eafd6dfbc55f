"""Readable worlds for the tests of the core: what the leader sees, what a guardian knows. No mocks, only data.

`a_cluster()` is a healthy three-member cluster, `db1` primary under epoch 3, as its leader `c1` sees it at second 1000.
Every method changes one thing a reader can picture and returns the builder. `a_guardian()` is the same for `LocalFacts`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from failover.core.duty import LocalFacts
from failover.core.lease import LeaseState, LeaseTimes
from failover.core.model import (
    ZOOKEEPER,
    Answer,
    Claim,
    Grant,
    Handover,
    Lease,
    Maintenance,
    Member,
    MemberStatus,
    MemberVote,
    Mode,
    Operation,
    OperationKind,
    Policy,
    Receipt,
    Replication,
    Request,
    RequestKind,
    Role,
    Seal,
    Stored,
    SyncSet,
    Votes,
    Willingness,
)
from failover.core.observation import Observation
from failover.core.plan import Action, Kind, Outcome, Plan, Write
from failover.core.rules import Rules
from failover.engines.lsn import Lsn

NOW_S = 1000.0
TIMES = LeaseTimes(lease_s=3.0, renew_s=0.5, attempt_s=0.5, soft_fence_s=0.5)
MEMBERS = (Member("db1", "10.0.0.1"), Member("db2", "10.0.0.2"), Member("db3", "10.0.0.3"))


def lsn(text: str) -> Lsn:
    return Lsn.parse(text)


def some_rules(**changes: Any) -> Rules:
    """Strict replication, three members, three controllers, a VIP, a service name and one application to notify."""
    rules = Rules(
        cluster="main", members=MEMBERS, controllers=("c1", "c2", "c3"), replication=Replication.STRICT, lease_s=3.0, wait_s=3.4,
        silence_s=1.5, probes_lost=3, cooldown_s=60.0, on_clean_stop_wait_s=10.0, crash_recovery_max_s=60.0,
        switchover_deadline_s=10.0, lag_max_bytes=1_000_000, has_vip=True, has_dns=True, service_address="10.0.0.100",
        webhooks=("http://app/hook",),
    )  # fmt: skip
    return replace(rules, **changes)


def willing(**how: Willingness) -> tuple[Member, ...]:
    """The three members, some with another willingness."""
    return tuple(replace(m, failover=how.get(m.name, m.failover)) for m in MEMBERS)


class Cluster:
    """An Observation under construction."""

    def __init__(self) -> None:
        self.now_s = NOW_S
        self.fields: dict[str, Any] = {"term": Stored(7, 7, 0.0), "wall": "2026-01-01T00:00:00.000Z"}
        self.tables: dict[str, dict[str, Any]] = {
            name: {}
            for name in (
                "leases", "receipts", "seals", "handovers", "members", "votes", "requests", "answers", "positions",
                "heartbeat_moved_s", "inserts_turned_s", "maintenance_since_s", "streaming_since_s",
            )
        }  # fmt: skip
        self.outcomes: list[Outcome] = []

    # --- records --------------------------------------------------------------------------------------------------
    def without(self, field: str) -> Cluster:
        self.fields[field] = None
        return self

    def with_policy(self, **changes: Any) -> Cluster:
        policy = self.fields["policy"].value if self.fields.get("policy") else Policy(mode=Mode.AUTOMATIC)
        self.fields["policy"] = Stored(replace(policy, **changes), 11, 0.0)
        return self

    def paused(self, for_s: float, since_s: float | None = None) -> Cluster:
        self.fields["pause_since_s"] = since_s
        return self.with_policy(paused_for_s=for_s, paused_by="ann")

    def maintenance(self, member: str, for_s: float = 3600.0, began_ago_s: float = 0.0) -> Cluster:
        known = self.fields["policy"].value.maintenance
        self.tables["maintenance_since_s"][member] = self.now_s - began_ago_s
        return self.with_policy(maintenance=(*known, Maintenance(member, for_s, "disk", "ann")))

    def with_grant(self, member: str | None, epoch: int, *, version: int = 20, **changes: Any) -> Cluster:
        others = tuple(m.name for m in MEMBERS if m.name != member)
        grant = Grant(member, epoch, others, (SyncSet(1, others, "1"),))
        self.fields["grant"] = Stored(replace(grant, **changes), version, 0.0)
        return self

    def synced_by(self, *pairs: SyncSet) -> Cluster:
        stored = self.fields["grant"]
        self.fields["grant"] = replace(stored, value=replace(stored.value, sync=pairs))
        return self

    def claimed(self, old: str, closes: int) -> Cluster:
        """The grant names nobody: CLAIM has happened."""
        sync = self.fields["grant"].value.sync
        claim = Claim(old, closes, 5, "op-1")
        return self.with_grant(None, closes + 1, version=21, claim=claim, sync=sync)

    def with_lease(self, member: str, version: int = 5) -> Cluster:
        self.tables["leases"][member] = Stored(Lease(member, 3), version, 0.0)
        return self

    def receipt(self, member: str, closes: int, clean: bool = False, ago_s: float = 0.0, method: str = "gate shut") -> Cluster:
        self.tables["receipts"][member] = Stored(Receipt(member, closes, method, clean), 2, self.now_s - ago_s)
        return self

    def sealed(self, member: str, at: str, claim_epoch: int | None = None) -> Cluster:
        epoch = self.fields["grant"].value.epoch if claim_epoch is None else claim_epoch
        self.tables["seals"][member] = Stored(Seal(member, epoch, self.position(at)), 1, self.now_s)
        return self

    def handover(self, member: str, state: str, at: str | None = None, operation: str = "op-1") -> Cluster:
        record = Handover(member, operation, state, self.position(at) if at else None, "note")
        self.tables["handovers"][member] = Stored(record, 1, self.now_s)
        return self

    def position(self, text: str) -> str:
        self.tables["positions"][text] = lsn(text)
        return text

    # --- what members and controllers say ---------------------------------------------------------------------------
    def status(self, member: str, ago_s: float = 0.0, **fields: Any) -> Cluster:
        for name in ("position", "applied_at"):
            if fields.get(name):
                self.position(fields[name])
        known = self.tables["members"].get(member)
        before = known.value if known else MemberStatus(member)
        self.tables["members"][member] = Stored(replace(before, **fields), 1, self.now_s - ago_s)
        return self.streaming_since(member, 60.0)

    def streaming_since(self, member: str, ago_s: float) -> Cluster:
        """Since when it has been streaming, or has not been."""
        self.tables["streaming_since_s"][member] = self.now_s - ago_s
        return self

    def primary(self, member: str, epoch: int, at: str = "1@0/500", **fields: Any) -> Cluster:
        return self.status(
            member, role=Role.PRIMARY, writable=True, epoch=epoch, position=at, streaming=False, vip=True, **fields
        )  # fmt: skip

    def standby(self, member: str, at: str = "1@0/500", streaming: bool = True, **fields: Any) -> Cluster:
        return self.status(
            member, role=Role.STANDBY, writable=False, epoch=0, position=at, streaming=streaming, vip=False, **fields
        )  # fmt: skip

    def silent(self, member: str) -> Cluster:
        self.tables["members"].pop(member, None)
        return self.streaming_since(member, 60.0)

    def vote(self, controller: str, about: str | None, ago_s: float = 0.0, **fields: Any) -> Cluster:
        """`fields` are those of its vote about that member, lost unless they say otherwise."""
        everybody = (*(m.name for m in MEMBERS), ZOOKEEPER)
        well = {m.name: MemberVote(False, "alive", "alive", Role.PRIMARY, "well", everybody) for m in MEMBERS}
        if about is not None:
            well[about] = replace(MemberVote(True, "dead", "dead", why="refused", sees=everybody), **fields)
        self.tables["votes"][controller] = Stored(Votes(controller, tuple(well.items())), 1, self.now_s - ago_s)
        return self

    def beside(self, controller: str, member: str) -> Cluster:
        """The controller runs on that member's host."""
        stored = self.tables["votes"][controller]
        self.tables["votes"][controller] = replace(stored, value=replace(stored.value, beside=member))
        return self

    def lost_by(self, *controllers: str, member: str = "db1") -> Cluster:
        for controller in controllers:
            self.vote(controller, member)
        return self

    def heartbeat(self, member: str, ago_s: float) -> Cluster:
        self.tables["heartbeat_moved_s"][member] = self.now_s - ago_s
        return self

    def inserts_turned(self, member: str, ago_s: float) -> Cluster:
        self.tables["inserts_turned_s"][member] = self.now_s - ago_s
        return self

    # --- operations, requests, outcomes ------------------------------------------------------------------------------
    def operation(self, kind: OperationKind, phase: str, since_s: float = 0.0, **fields: Any) -> Cluster:
        record = Operation("op-1", kind, phase, "db1", 3, "a test", "ann", opened_at_wall="then")
        self.fields["operation"] = Stored(replace(record, **fields), 30, 0.0)
        self.fields["phase_since_s"] = self.now_s - since_s
        return self

    def failover(self, phase: str, since_s: float = 0.0, **fields: Any) -> Cluster:
        return self.operation(OperationKind.FAILOVER, phase, since_s, **fields)

    def switchover(self, phase: str, since_s: float = 0.0, **fields: Any) -> Cluster:
        return self.operation(OperationKind.SWITCHOVER, phase, since_s, **{"target": "db2", **fields})

    def asked(self, kind: RequestKind, **fields: Any) -> Cluster:
        request = Request("r1", kind, "ann", **fields)
        self.tables["requests"]["r1"] = Stored(request, 1, self.now_s)
        return self

    def answered(self, name: str, ago_s: float) -> Cluster:
        self.tables["answers"][name] = Stored(Answer(name, True), 4, self.now_s - ago_s)
        return self

    def came_of(self, action: Action, ok: bool | None, evidence: str = "read back") -> Cluster:
        self.outcomes.append(Outcome(action, ok, evidence, self.now_s, 0.1))
        return self

    def failed_over(self, ago_s: float) -> Cluster:
        self.fields["last_failover_since_s"] = self.now_s - ago_s
        return self.with_policy(last_failover="op-0")

    def build(self) -> Observation:
        return Observation(self.now_s, "c1", outcomes=tuple(self.outcomes), **self.fields, **self.tables)


def a_cluster() -> Cluster:
    """Healthy: db1 writes under epoch 3, db2 and db3 stream and are the sync set."""
    cluster = Cluster().with_policy().with_grant("db1", epoch=3).with_lease("db1")
    applied = SyncSet(1, ("db2", "db3"), "1")
    cluster.primary("db1", 3, applied_sync=applied, applied_at="1@0/400").standby("db2").standby("db3")
    for controller in ("c1", "c2", "c3"):
        cluster.vote(controller, None)
    return cluster


# --- reading plans ---------------------------------------------------------------------------------------------------------
def written(plan: Plan, kind: Kind) -> list[Write]:
    return [write for write in plan.writes if write.key.kind is kind]


def journaled(plans: Iterable[Plan]) -> list[str]:
    """The names of all journal lines, in order."""
    return [write.key.name for plan in plans for write in written(plan, Kind.JOURNAL)]


# --- a guardian's facts ----------------------------------------------------------------------------------------------------
def a_guardian(me: str = "db1", **changes: Any) -> LocalFacts:
    """db1's guardian: primary under epoch 3, lease proved and running, nothing wrong."""
    facts = LocalFacts(
        now_s=NOW_S, me=me, times=TIMES, switchover_deadline_s=10.0, grant=granted("db1", 3), operation=None,
        policy=Stored(Policy(mode=Mode.AUTOMATIC), 11, 0.0), running=True, role=Role.PRIMARY, upstream=None,
        position=lsn("1@0/500"), grant_position=lsn("1@0/500"), lease=LeaseState(3, NOW_S + 2.5, 1), closed=0, receipted=0,
        frozen=0, followed=0, wrote=0, sealed_for=0, served=3, released=False, handover_since_s=None, handover_operation=None,
    )  # fmt: skip
    return replace(facts, **changes)


def a_standby(me: str = "db2", **changes: Any) -> LocalFacts:
    """db2's guardian: a standby that follows db1."""
    usual: dict[str, Any] = {"role": Role.STANDBY, "upstream": "db1", "lease": LeaseState(), "served": 0}
    return a_guardian(me, **{**usual, **changes})


def granted(member: str | None, epoch: int, seen_at_s: float = 0.0, **fields: Any) -> Stored[Grant]:
    return Stored(Grant(member, epoch, **fields), 20, seen_at_s)


def claim_on(old: str, closes: int, seen_at_s: float = NOW_S) -> Stored[Grant]:
    return granted(None, closes + 1, seen_at_s, claim=Claim(old, closes, 5, "op-1"))


def policy(**fields: Any) -> Stored[Policy]:
    return Stored(Policy(**{"mode": Mode.AUTOMATIC, **fields}), 11, 0.0)


def handing_over(**fields: Any) -> Stored[Operation]:
    record = Operation("op-1", OperationKind.SWITCHOVER, "stopping", "db1", 3, "a test", "ann", "db2")
    return Stored(replace(record, **fields), 30, 0.0)
