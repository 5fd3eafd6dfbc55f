"""The leader's judgement on record: written when it means something else, quiet in calm, and never in the way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from failover.coordination.base import LostRace
from failover.coordination.ledger import Ledger
from failover.coordination.memory import MemoryEnsemble
from failover.coordination.paths import Paths
from failover.core.decide import decide
from failover.core.model import Decision, Mode, Policy, RequestKind
from failover.core.plan import Key, Kind
from failover.errors import Unknown
from failover.runtime.decisions import DecisionRecord
from tests.support.builders import Cluster, a_cluster, some_rules
from tests.support.story import Cluster as Story

S = 1.0


class Desk:
    """A leader's record on a memory ensemble; `look` is one tick without anything to write."""

    def __init__(self) -> None:
        client = MemoryEnsemble().client("c1")
        client.start(S)
        self.ledger = Ledger(client, Paths("main"))
        self.ledger.bootstrap(("db1", "db2", "db3"), Policy(mode=Mode.AUTOMATIC), S)
        self.mirror = client.mirror(self.ledger.paths.singles(), self.ledger.paths.trees())
        self.record, self.now_s, self.writes = DecisionRecord("c1", some_rules(), self.ledger), 1000.0, 0

    def look(self, cluster: Cluster, after_s: float = 0.1, term: int = 0) -> Decision | None:
        self.now_s += after_s
        cluster.now_s, before = self.now_s, self.read()
        seen = replace(cluster.build(), now_s=self.now_s, wall=f"at {self.now_s:.1f}")
        assert seen.term is not None
        seen = replace(seen, term=replace(seen.term, value=term, version=0))
        plan = decide(seen, some_rules())
        self.record.note(seen, plan)
        self.record.offer(self.ledger.view(self.mirror), seen, plan)
        self.writes += self.read() != before
        return self.read()

    def read(self) -> Decision | None:
        stored = self.ledger.read(Key(Kind.DECISION), S)
        return stored.value if stored else None


def world(desk: Desk, *lost_by: str, heartbeat: bool = True) -> Cluster:
    """A cluster as of the desk's next look, with fresh facts."""
    cluster = a_cluster()
    for table in ("members", "votes"):
        cluster.tables[table] = {n: replace(s, seen_at_s=desk.now_s) for n, s in cluster.tables[table].items()}
    cluster.now_s = desk.now_s
    for name in ("db2", "db3") if heartbeat else ():
        cluster.heartbeat(name, 0.1)
    return cluster.lost_by(*lost_by)


def test_calm_is_written_once_and_then_rarely() -> None:
    desk = Desk()
    for _ in range(100):
        desk.look(world(desk), 0.1)
    assert desk.writes == 1
    for _ in range(10):
        desk.look(world(desk), 10.0)
    assert 3 <= desk.writes <= 5


def test_another_verdict_is_written_at_once() -> None:
    desk = Desk()
    desk.look(world(desk))
    told = desk.look(world(desk, "c1", "c2"), 0.3)
    assert told is not None and {g.name: g.verdict.value for g in told.guards}["quorum of controllers"] == "PASS"
    assert desk.writes == 2


def test_counting_seconds_in_a_doubt_are_one_write_a_second() -> None:
    desk = Desk()
    for _ in range(50):
        desk.look(world(desk, "c1"), 0.1)
    assert 5 <= desk.writes <= 7


def test_a_doubt_outlives_the_trouble_at_its_worst_moment() -> None:
    desk = Desk()
    desk.look(world(desk))
    desk.look(world(desk, "c1"), 0.5)
    worst = desk.look(world(desk, "c1", "c2"), 0.5)
    desk.look(world(desk, "c3"), 0.5)
    told = None
    for _ in range(4):
        told = desk.look(world(desk), 10.0)
    assert worst is not None and told is not None and told.doubt is not None
    assert told.doubt.guards == worst.guards and told.doubt.doubt is None
    assert "heartbeat" in told.doubt.says


def test_a_healthy_clusters_guards_block_and_are_no_doubt() -> None:
    desk = Desk()
    told = desk.look(world(desk))
    assert told is not None and told.doubt is None and told.guards


def test_a_new_leader_keeps_the_doubt_of_the_one_before() -> None:
    desk = Desk()
    desk.look(world(desk, "c1", "c2"))
    doubt = desk.read()
    desk.record = DecisionRecord("c2", some_rules(), desk.ledger)
    told = desk.look(world(desk), 0.1)
    assert told is not None and doubt is not None and told.controller == "c2"
    assert told.doubt is not None and told.doubt.guards == doubt.guards


@pytest.mark.parametrize("error", [LostRace(0, "/x", "bad version"), Unknown("no answer")])
def test_a_write_that_fails_is_nobodys_problem(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    desk = Desk()

    def broken(*_: Any) -> Any:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(desk.ledger, "commit", broken)
        assert desk.look(world(desk)) is None
    desk.look(world(desk), 60.0)
    assert desk.writes == 1


def test_a_deposed_leader_does_not_write_over_its_successor() -> None:
    """The write checks the term that was read."""
    desk = Desk()
    seen = replace(world(desk).build(), now_s=1.0)
    assert seen.term is not None
    old = replace(seen, term=replace(seen.term, version=5))
    desk.record.offer(desk.ledger.view(desk.mirror), old, decide(seen, some_rules()))
    assert desk.read() is None


# --- whole stories --------------------------------------------------------------------------------------------------------
def test_the_leader_says_what_it_waits_for_and_the_sworn_fence_goes_on(cluster: Story) -> None:
    """Both the guardian and SSH are silent, and the old primary held a ticket without an end: no clock helps."""
    cluster.ask(RequestKind.PAUSE)
    cluster.rounds(20)
    cluster.silence("db1")
    cluster.ask(RequestKind.FAILOVER)
    cluster.until(lambda: (o := cluster.operation()) is not None and o.held is not None).rounds(15)
    stored = cluster.authority.ledger.read(Key(Kind.DECISION), S)
    assert stored is not None
    guards = {guard.name: guard for guard in stored.value.guards}
    assert guards["receipt"].verdict.value == "BLOCK" and guards["SSH read-back"].verdict.value == "UNKNOWN"
    assert "without an end" in guards["clock"].facts
    cluster.kill("db1")  # somebody pulled the plug
    cluster.ask(RequestKind.CONFIRM_FENCED, "db1", reason="powered off", confirm=True)
    cluster.rest()
    assert cluster.grant().member == "db2" and "db2" in cluster.writers()
    assert "confirmed-by-hand" in [step.kind for step in cluster.journal("op-1")]


@pytest.mark.parametrize("phase", ["opened", "prepared", "stopping"])
def test_a_switchover_that_is_given_up_leaves_the_old_primary_writing(cluster: Story, phase: str) -> None:
    """Also when its guardian has begun to shut it down: it starts and promotes it again under the lease it still holds."""
    if phase == "stopping":
        cluster.unreachable.add("db2")  # the end of the log does not arrive, so the phase lasts
    cluster.ask(RequestKind.SWITCHOVER, "db2")
    cluster.until(lambda: (o := cluster.operation()) is not None and o.phase == phase)
    if phase == "stopping":
        cluster.until(lambda: not cluster.hosts["db1"].database.pid)
    cluster.ask(RequestKind.CANCEL)
    cluster.until(lambda: cluster.operation() is None)
    cluster.unreachable.discard("db2")
    cluster.rounds(80)
    assert cluster.writers() == ["db1"] and (cluster.grant().member, cluster.grant().epoch) == ("db1", 3)
    assert [step.kind for step in cluster.journal("op-1")][-1] in ("cancelled", "intent")
    assert cluster.hosts["db1"].vip.here and cluster.authority.ledger.operations(S) == ("op-1",)
