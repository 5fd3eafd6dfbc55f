"""One controller among three: it commits at most one step a look, and whoever comes after it finishes what it began."""

from __future__ import annotations

from dataclasses import replace

import pytest

from failover.coordination.base import CreateOp, DeleteOp
from failover.core import failover, switchover
from failover.core.model import Mode, Policy, RequestKind, Role
from failover.core.plan import Key, Kind
from tests.support.fake_host import Clock
from tests.support.story import Cluster, cluster_of

FAILOVER_PHASES = [row.phase for row in failover.TABLE]
SWITCHOVER_PHASES = [row.phase for row in switchover.TABLE]
COMMITS = range(len(FAILOVER_PHASES) + 1)  # the opening and every step


def ended_well(cluster: Cluster, primary: str = "db2", epoch: int = 5) -> None:
    """One writer, one word, the VIP there, everybody follows, one operation, one whole journal, one notice."""
    others = sorted({"db1", "db2", "db3"} - {primary})
    assert cluster.summary() == (
        f"writes: {primary}; grant: {primary} under epoch {epoch}; vip: {primary}; following: {', '.join(others)}"
    )
    names = [f"{s.number:02d}-{s.name}" for s in cluster.journal() if s.kind in ("intent", "done")]
    intents = {n.removesuffix(".intent") for n in names if n.endswith(".intent")}
    done = {n.removesuffix(".done") for n in names if n.endswith(".done")}
    assert intents == done and len(names) == 2 * len(done)
    assert cluster.authority.ledger.operations(1.0) == ("op-1",)
    notices = cluster.authority.ledger.coordinator.children(cluster.authority.ledger.paths.tree(Kind.NOTICE), 1.0)
    assert notices == ("op-1-0",)
    assert cluster.name_answers == "10.0.0.100"


def one_writer_through(cluster: Cluster) -> None:
    """To rest, looking at every round that nobody writes beside another."""
    def rest() -> bool:
        assert len(cluster.writers()) <= 1
        return cluster.operation() is None and bool(cluster.journal())

    cluster.until(rest).rounds(60)


def test_a_whole_failover_from_receipt_to_done(cluster: Cluster) -> None:
    cluster.kill("db1")
    one_writer_through(cluster)
    ended_well(cluster)


def test_a_healthy_cluster_is_left_alone(cluster: Cluster) -> None:
    before = cluster.ensemble.node("/failover/main/state/grant")
    cluster.rounds(100)
    assert cluster.summary() == "writes: db1; grant: db1 under epoch 3; vip: db1; following: db2, db3"
    assert cluster.ensemble.node("/failover/main/state/grant") == before and cluster.authority.ledger.operations(1.0) == ()


@pytest.mark.parametrize("phase", FAILOVER_PHASES)
def test_the_leader_dies_right_after_any_step_and_another_one_finishes_it(cluster: Cluster, phase: str) -> None:
    cluster.kill("db1")
    cluster.until(lambda: (o := cluster.operation()) is not None and o.phase == phase)
    dead = cluster.kill_leader()
    one_writer_through(cluster)
    ended_well(cluster)
    assert cluster.leader().name != dead and {s.controller for s in cluster.journal()} == {dead, cluster.leader().name}


@pytest.mark.parametrize("phase", SWITCHOVER_PHASES)
def test_the_leader_dies_in_any_phase_of_a_switchover_and_another_one_finishes_it(cluster: Cluster, phase: str) -> None:
    cluster.ask(RequestKind.SWITCHOVER, "db2")
    cluster.until(lambda: (o := cluster.operation()) is not None and o.phase == phase)
    cluster.kill_leader()
    one_writer_through(cluster)
    ended_well(cluster)


@pytest.mark.parametrize("phase", ["opened", "prepared", "stopping"])
def test_the_primary_dies_in_any_early_phase_of_its_switchover(cluster: Cluster, phase: str) -> None:
    cluster.ask(RequestKind.SWITCHOVER, "db2")
    cluster.until(lambda: (o := cluster.operation()) is not None and o.phase == phase)
    if cluster.hosts["db1"].database.pid:
        cluster.kill("db1")
    one_writer_through(cluster)
    ended_well(cluster)


@pytest.mark.parametrize("done", [True, False], ids=["done", "not done"])
@pytest.mark.parametrize("number", COMMITS)
def test_a_lost_answer_to_any_commit_ends_in_the_same_place(cluster: Cluster, number: int, done: bool) -> None:
    """Unknown is never "not done": the next look reads what is so."""
    leader, seen = cluster.leader(), 0
    commit = leader.client.commit

    def losing(ops, deadline_s):  # type: ignore[no-untyped-def]  # as Coordinator.commit
        nonlocal seen
        if any("/journal/" in op.path for op in ops):
            if seen == number:
                leader.client.lose_reply(done)
            seen += 1
        return commit(ops, deadline_s)

    leader.client.commit = losing  # type: ignore[method-assign]  # the reply of exactly this step is lost
    cluster.kill("db1")
    one_writer_through(cluster)
    assert seen > number, "the step was reached"
    ended_well(cluster)


@pytest.mark.parametrize("phase", FAILOVER_PHASES)
def test_of_two_that_both_think_they_lead_only_one_wins_each_step(cluster: Cluster, phase: str) -> None:
    """Both hold the same picture and the same term: whoever commits second finds another version and changes nothing."""
    cluster.kill("db1")
    cluster.until(lambda: (o := cluster.operation()) is not None and o.phase == phase)
    first = cluster.leader()
    second = next(c for c in cluster.controllers if c is not first)
    second.node._parts.leadership.leads = lambda records: True  # type: ignore[method-assign]  # it thinks so
    one_writer_through(cluster)
    ended_well(cluster)
    assert len({(s.number, s.name) for s in cluster.journal()}) == len(cluster.journal())


def test_a_deposed_leader_with_an_old_picture_writes_nothing(cluster: Cluster) -> None:
    """Its plan checks the term of its own election."""
    cluster.kill("db1")
    cluster.until(lambda: (o := cluster.operation()) is not None and o.phase == "claimed")
    old = cluster.leader()
    old.client.expire()
    heal = next(c for c in cluster.controllers if c is not old)
    heal.tick()
    assert heal.leads() and not old.leads()
    before = cluster.operation()
    parts = old.node._parts
    stale = parts.ledger.view(parts.mirror)
    parts.ledger.view = lambda mirror: stale  # type: ignore[method-assign]  # it never sees anything newer
    parts.leadership.leads = lambda records: True  # type: ignore[method-assign]  # and believes in itself
    heal.tick()
    moved = cluster.operation()
    old.tick()
    assert cluster.operation() == moved
    one_writer_through(cluster)
    ended_well(cluster)
    assert before is not None


def test_no_promotion_without_confirmation_and_none_before_it(clock: Clock) -> None:
    cluster = cluster_of("# agentless: db1", clock)  # the clock says nothing about it
    cluster.silence("db1")
    cluster.until(lambda: (o := cluster.operation()) is not None and o.held is not None).rounds(100)
    assert cluster.grant().member is None and cluster.writers() == []
    assert not any(h.database.role.value == "primary" for n, h in cluster.hosts.items() if n != "db1")
    cluster.answer("db1")
    one_writer_through(cluster)
    ended_well(cluster)


def test_a_new_primary_that_dies_before_the_end_begins_a_failover_of_its_own(cluster: Cluster) -> None:
    """No cool-down, no operation without end; strict waits for db2, whose data may be the only copy, and grants it back."""
    cluster.kill("db1")
    cluster.until(lambda: (o := cluster.operation()) is not None and o.phase == "granted")
    cluster.rounds(2)
    cluster.kill("db2")
    cluster.until(lambda: (o := cluster.operation()) is not None and o.id == "op-2").rest()
    (failed,) = [s.name for s in cluster.journal("op-1") if s.kind == "failed"]
    assert failed in ("verify.failed", "vip.failed"), "whichever step it was that waited for db2"
    assert cluster.writers() == ["db2"] and cluster.grant().epoch == 7


def test_a_new_leader_does_not_begin_the_cooldown_anew(cluster: Cluster) -> None:
    """It has watched like every controller: what it saw as a follower counts."""
    cluster.kill("db1")
    cluster.rest()
    cluster.rounds(round(cluster.rules.cooldown_s / 0.1) - 60)
    cluster.kill_leader()
    cluster.rounds(60)
    cluster.kill("db2")
    cluster.until(lambda: cluster.operation() is not None)
    assert cluster.rest().writers() == ["db1"]


def test_strict_holds_when_a_standby_that_may_have_acknowledged_alone_is_missing(cluster: Cluster) -> None:
    """db3 is silent, then the primary dies: what db3 alone acknowledged is nowhere else. db1's return ends the hold."""
    cluster.silence("db3")
    cluster.rounds(5)
    cluster.kill("db1")
    cluster.until(lambda: (o := cluster.operation()) is not None and o.held is not None)
    assert cluster.writers() == [] and cluster.grant().member is None
    held = cluster.operation()
    assert held is not None and held.held and "2 needed" in held.held
    cluster.until(lambda: cluster.operation() is None).rounds(60)
    assert cluster.writers() == ["db1"] and cluster.grant().epoch == 5, "granted back with its data"


def test_the_mode_is_the_files_and_the_leader_writes_it(clock: Clock) -> None:
    cluster = Cluster(clock)
    try:
        cluster.authority.policy(mode=Mode.OBSERVE)
        cluster.rounds(1)
        stored = cluster.authority.ledger.read(Key(Kind.POLICY), 1.0)
        assert stored is not None and isinstance(stored.value, Policy) and stored.value.mode is Mode.AUTOMATIC
    finally:
        cluster.close()


def test_a_violated_invariant_stops_the_hands_and_is_published(cluster: Cluster) -> None:
    leader, status = cluster.leader(), cluster.hosts["db2"].reporter.status()
    cluster.authority.status(replace(status, role=Role.PRIMARY, writable=True, epoch=3), "db2")
    cluster.kill("db1")
    leader.tick()
    leader.tick()
    published = cluster.authority.ledger.read(Key(Kind.CONTROLLER, leader.name), 1.0)
    assert published is not None and [p.code for p in published.value.problems] == ["invariant"]
    assert cluster.operation() is None, "hands off, although the primary is dead"


def test_a_restarted_controller_replaces_what_its_predecessors_session_left(cluster: Cluster) -> None:
    follower = next(c for c in cluster.controllers if not c.leads())
    key = Key(Kind.VOTES, follower.name)
    before = cluster.authority.ledger.read(key, 1.0)
    stranger = cluster.ensemble.client("stranger")
    stranger.start(1.0)
    cluster.rounds(12)
    after = cluster.authority.ledger.read(key, 1.0)
    assert before is not None and after is not None and after.owner_session == follower.client.session()
    session = stranger.session()
    assert session is not None
    path = follower.ledger.paths.of(key)
    entry = stranger.get(path, 1.0)
    assert entry is not None
    stranger.commit([DeleteOp(path, entry.version), CreateOp(path, entry.data, ephemeral=True)], 1.0)
    cluster.rounds(12)
    mine = cluster.authority.ledger.read(key, 1.0)
    assert mine is not None and mine.owner_session == follower.client.session()


def test_an_unready_picture_or_a_lost_link_decides_nothing(cluster: Cluster) -> None:
    leader = cluster.leader()
    cluster.kill("db1")
    for host in cluster.hosts.values():
        host.turn()
    leader.client.cut()
    leader.tick()
    assert cluster.operation() is None
