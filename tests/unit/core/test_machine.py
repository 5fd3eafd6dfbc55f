"""What the walker adds to every step: term, versions, the journal's grammar; and what it never does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from failover.core.decide import decide
from failover.core.machine import DONE, Go, Row, Situation, Undo, Wait, walk
from failover.core.model import Grant, Operation, OperationKind, RequestKind, Step, SyncSet
from failover.core.plan import Check, Create, Erase, Fence, Key, Kind, MoveVip, Plan, Swap, SwitchDns, VerifyWritable
from failover.core.tables import TABLES
from tests.support.builders import Cluster, a_cluster, journaled, some_rules, written

FAILOVER, SWITCHOVER, FENCE = OperationKind.FAILOVER, OperationKind.SWITCHOVER, OperationKind.FENCE


def look(cluster: Cluster, *rows: Row) -> Plan:
    """One look with a table of our own."""
    seen = cluster.build()
    assert seen.operation is not None and seen.term is not None
    tables = {FAILOVER: rows, SWITCHOVER: rows}
    return walk(tables, Situation(seen, some_rules(), seen.operation.value), seen.term, seen.operation)


def row(answer: Go | Wait | Undo, phase: str = "opened", target: str = "next", step: str = "one") -> Row:
    return Row(phase, target, step, f"{step} is done", lambda at: answer)


AFTER = row(Wait("later"), "next", DONE, "two")


def test_an_advance_is_one_transaction_under_term_and_operation() -> None:
    plan = look(a_cluster().failover("opened"), row(Go({"seen": "it"}, changes={"evidence": "e"})), AFTER)
    term, operation, done, intent = plan.writes
    assert term == Check(Key(Kind.TERM), 7)
    assert isinstance(operation, Swap) and operation.version == 30 and isinstance(operation.value, Operation)
    assert (operation.value.phase, operation.value.evidence, operation.value.held) == ("next", "e", None)
    assert isinstance(done, Create) and done.key.name == "op-1/01-one.done"
    assert isinstance(intent, Create) and intent.key.name == "op-1/02-two.intent"
    assert isinstance(done.value, Step) and done.value.facts == (("seen", "it"),) and done.value.term == 7
    assert not plan.actions


def test_a_wait_writes_nothing_and_asks_for_its_effects() -> None:
    plan = look(a_cluster().failover("opened"), row(Wait("not yet", (Fence("db1", 3),))), AFTER)
    assert plan.writes == () and plan.actions == (Fence("db1", 3),) and plan.says == "not yet"


def test_held_is_recorded_once_for_people_and_the_effects_go_on() -> None:
    rows = (row(Wait("not yet", (Fence("db1", 3),), held="no proof")), AFTER)
    first = look(a_cluster().failover("opened"), *rows)
    assert journaled([first]) == ["op-1/01-one.held"] and first.actions == ()
    (swap,) = written(first, Kind.OPERATION)
    assert isinstance(swap, Swap) and isinstance(swap.value, Operation)
    assert (swap.value.held, swap.value.phase) == ("no proof", "opened")
    again = look(a_cluster().failover("opened", held="no proof"), *rows)
    assert again.writes == () and again.actions == (Fence("db1", 3),)


def test_an_advance_clears_what_was_held() -> None:
    (swap,) = written(look(a_cluster().failover("opened", held="no proof"), row(Go()), AFTER), Kind.OPERATION)
    assert isinstance(swap, Swap) and isinstance(swap.value, Operation) and swap.value.held is None


def test_undone_closes_the_operation_and_says_why() -> None:
    plan = look(a_cluster().switchover("opened"), row(Undo("the target is gone")), AFTER)
    assert Erase(Key(Kind.OPERATION), 30) in plan.writes and Check(Key(Kind.TERM), 7) in plan.writes
    assert journaled([plan]) == ["op-1/01-one.undone"] and plan.says == "undone: the target is gone"
    assert not written(plan, Kind.GRANT) and not written(plan, Kind.POLICY)


def test_the_last_step_erases_the_operation_and_a_failover_starts_the_cool_down() -> None:
    last = row(Go(), "opened", DONE)
    plan = look(a_cluster().failover("opened"), last)
    assert Erase(Key(Kind.OPERATION), 30) in plan.writes and journaled([plan]) == ["op-1/01-one.done"]
    (policy,) = written(plan, Kind.POLICY)
    assert isinstance(policy, Swap) and policy.version == 11 and getattr(policy.value, "last_failover", "") == "op-1"
    assert not written(look(a_cluster().switchover("opened"), last), Kind.POLICY)


def test_a_phase_of_another_version_is_left_alone() -> None:
    plan = look(a_cluster().failover("somewhere"), row(Go()))
    assert plan.writes == () and plan.actions == () and "'somewhere' is not of this version" in plan.says


# --- every plan there is --------------------------------------------------------------------------------------------------
def claimed(cluster: Cluster) -> Cluster:
    return cluster.claimed("db1", 3).silent("db1").sealed("db2", "1@0/500").sealed("db3", "1@0/500").receipt("db1", 3)


def promoted(cluster: Cluster) -> Cluster:
    cluster.with_grant("db2", 5).silent("db1").primary("db2", 5, at="2@0/600 1:0/500").standby("db3")
    for action in (VerifyWritable("db2", 5), MoveVip("db2", 5), SwitchDns("10.0.0.100", 5)):
        cluster.came_of(action, True)
    return cluster


def worlds() -> Iterator[tuple[str, Cluster]]:
    """Every phase of both kinds with everything there that lets it go on, and with nothing; upkeep; opening; closing."""
    for kind in (FAILOVER, SWITCHOVER):
        target = {"target": "db2"} if kind is SWITCHOVER else {}
        for entry in TABLES[kind]:
            phase, known = entry.phase, {"candidate": "db2", **target}
            yield f"{kind.value} {phase}, stuck", a_cluster().operation(kind, phase, 1e6, **known)
            claim_is_made = phase in ("claimed", "confirmed", "chosen")
            before = phase in ("opened", "prepared", "stopping")
            good = a_cluster().handover("db1", "stopped", "1@0/500") if before else a_cluster()
            good = claimed(good) if claim_is_made else good if before else promoted(good)
            yield f"{kind.value} {phase}, all well", good.operation(kind, phase, 6.0, **known)
            dead = claimed(a_cluster()).with_grant("db1", 3)
            yield f"{kind.value} {phase}, the primary died", dead.operation(kind, phase, **known)
    fencing = {"old": "db2", "old_epoch": 2}
    yield "fence, stuck", a_cluster().operation(FENCE, "opened", 1e6, **fencing)
    yield "fence, all well", a_cluster().operation(FENCE, "opened", **fencing).came_of(Fence("db2", 2), True)
    yield "fence, the primary died", a_cluster().operation(FENCE, "opened", **fencing).receipt("db1", 3)
    for request in RequestKind:
        asked = {"for_s": 60.0, "reason": "a test", "confirm": True}
        yield f"request {request.value}", a_cluster().asked(request, target="db2", **asked)
        yield f"request {request.value}, opened", a_cluster().switchover("opened").asked(request, **asked)
        yield f"request {request.value}, claimed", claimed(a_cluster()).failover("claimed").asked(request, target="db1", **asked)
    yield "receipt", a_cluster().receipt("db1", 3)
    yield "standby gone", a_cluster().silent("db3")
    yield "set in force", a_cluster().synced_by(SyncSet(1, ("db2",), "1"), SyncSet(1, ("db2", "db3"), "1"))
    yield "promotable changed", a_cluster().with_grant("db1", 3, promotable=("db2",))
    yield "pause over", a_cluster().paused(10.0, since_s=0.0)
    yield "maintenance over", a_cluster().maintenance("db2", for_s=10.0, began_ago_s=11.0)
    yield "old answer", a_cluster().answered("r9", 700.0)


WORLDS = dict(worlds())
PLANS = {name: decide(cluster.build(), some_rules()) for name, cluster in WORLDS.items()}


def test_the_worlds_reach_every_step_of_both_tables() -> None:
    """Otherwise the assertions below would prove little."""
    done = {name.rpartition("-")[2] for name in journaled(PLANS.values())}
    assert {f"{entry.step}.done" for kind in TABLES for entry in TABLES[kind]} <= done


@pytest.mark.parametrize("name", sorted(PLANS))
def test_every_transaction_checks_the_term(name: str) -> None:
    plan = PLANS[name]
    assert not plan.writes or Check(Key(Kind.TERM), 7) in plan.writes


@pytest.mark.parametrize("name", sorted(PLANS))
def test_every_write_of_the_grant_has_its_version_and_in_an_operation_the_operations_too(name: str) -> None:
    plan, seen = PLANS[name], WORLDS[name].build()
    assert seen.grant is not None
    for write in written(plan, Kind.GRANT):
        assert isinstance(write, Swap) and write.version == seen.grant.version
        if seen.operation is not None:
            (operation,) = written(plan, Kind.OPERATION)
            assert isinstance(operation, Swap) and operation.version == 30


@pytest.mark.parametrize("name", sorted(PLANS))
def test_outside_adoption_and_operations_the_granted_member_and_its_epoch_stay(name: str) -> None:
    seen = WORLDS[name].build()
    for write in written(PLANS[name], Kind.GRANT):
        assert isinstance(write, Swap) and isinstance(write.value, Grant) and seen.grant is not None
        changed = write.value.member != seen.grant.value.member
        assert changed == (write.value.epoch == seen.grant.value.epoch + 1), "the epoch goes up when the member changes"
        assert not changed or seen.operation is not None


@pytest.mark.parametrize("name", sorted(PLANS))
def test_nothing_is_written_and_done_in_one_look_and_nothing_permanent_is_erased(name: str) -> None:
    plan = PLANS[name]
    assert not (plan.writes and plan.actions), "actions belong to a phase that is recorded already"
    erased = [write.key.kind for write in plan.writes if isinstance(write, Erase)]
    assert not set(erased) & {Kind.TERM, Kind.GRANT, Kind.LEASE, Kind.RECEIPT, Kind.JOURNAL}


@pytest.mark.parametrize("name", sorted(PLANS))
def test_no_transaction_names_a_record_twice(name: str) -> None:
    keys = [write.key for write in PLANS[name].writes]
    assert len(keys) == len(set(keys))


def test_whatever_opens_an_operation_checks_policy_and_creates_journal_and_intent() -> None:
    opened = {name: plan for name, plan in PLANS.items() if any(isinstance(w, Create) for w in written(plan, Kind.OPERATION))}
    assert set(opened) == {"receipt", "request switchover", "request failover", "request fence"}
    for plan in opened.values():
        (policy,) = written(plan, Kind.POLICY)
        assert isinstance(policy, Swap) and policy.version == 11
        first = {"failover": "claim", "switchover": "prepare", "fence": "fence"}
        (operation,) = written(plan, Kind.OPERATION)
        assert isinstance(operation, Create) and isinstance(operation.value, Operation)
        assert journaled([plan]) == ["op-1", f"op-1/01-{first[operation.value.kind.value]}.intent"]


# --- the journal's grammar, over whole operations ---------------------------------------------------------------------------
def story(kind: OperationKind, dies_in: str | None = None) -> list[str]:
    """The journal lines of one operation, walked phase by phase through the real tables."""
    lines, phase, died = [], "opened", False
    target = {"target": "db2"} if kind is SWITCHOVER else {}
    while True:
        died = died or phase == dies_in
        before = phase in ("opened", "prepared", "stopping")
        world = a_cluster()
        if not before:
            world = claimed(world) if phase in ("claimed", "confirmed", "chosen") else promoted(world)
        else:
            world = world.receipt("db1", 3) if died else world.handover("db1", "stopped", "1@0/500")
        known = {"candidate": "db2", **target}
        plan = decide(world.operation(kind, phase, 6.0, **known).build(), some_rules())
        lines += journaled([plan])
        (change,) = written(plan, Kind.OPERATION)
        if isinstance(change, Erase):
            return lines
        assert isinstance(change, Swap) and isinstance(change.value, Operation)
        kind, phase = change.value.kind, change.value.phase


@pytest.mark.parametrize(("kind", "dies_in"), [
    (FAILOVER, None), (SWITCHOVER, None), (SWITCHOVER, "opened"), (SWITCHOVER, "prepared"), (SWITCHOVER, "stopping"),
])  # fmt: skip
def test_intent_comes_before_done_and_no_line_is_ever_written_twice(kind: OperationKind, dies_in: str | None) -> None:
    first = f"op-1/01-{TABLES[kind][0].step}.intent"
    lines = [first, *story(kind, dies_in)]
    assert len(lines) == len(set(lines)), lines
    for line in lines:
        if line.endswith(".done"):
            assert lines.index(line.replace(".done", ".intent")) < lines.index(line)
    intents = [line for line in lines if line.endswith(".intent")]
    assert all(line.replace(".intent", ".done") in lines for line in intents), "nothing was intended and forgotten"


def test_a_switchover_whose_primary_died_tells_one_story_to_the_end() -> None:
    steps = [line.split("/")[1] for line in story(SWITCHOVER, "stopping") if line.endswith(".done")]
    assert steps == [
        "01-prepare.done", "02-order.done", "03-claim.done", "01-claim.done", "02-confirm.done", "03-choose.done",
        "04-grant.done", "05-verify.done", "06-vip.done", "07-dns.done", "08-settle.done",
    ]  # fmt: skip
