"""Which sync sets are safe. The heart is one property: whatever the interleaving, what was acknowledged is counted."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from failover.core.candidate import count_shortfall
from failover.core.decide import decide
from failover.core.model import Grant, OperationKind, Policy, Replication, SyncSet, Willingness
from failover.core.plan import Kind, Swap
from failover.core.replication import first_set, next_edit, next_promotable, wanted_names
from tests.support.builders import Cluster, a_cluster, lsn, some_rules, willing, written

BOTH, DB2, DB3 = SyncSet(1, ("db2", "db3"), "1"), SyncSet(1, ("db2",), "1"), SyncSet(1, ("db3",), "1")


def edit(cluster: Cluster, **rules: object) -> tuple[Grant, str] | None:
    seen = cluster.build()
    assert seen.grant is not None
    return next_edit(seen, some_rules(**rules), seen.grant.value)


def sync_after(cluster: Cluster, **rules: object) -> tuple[SyncSet, ...] | None:
    found = edit(cluster, **rules)
    return found[0].sync if found else None


# --- who acknowledges -----------------------------------------------------------------------------------------------------
def test_a_set_in_force_that_fits_the_standbys_is_left_alone() -> None:
    assert edit(a_cluster()) is None


def test_wanted_are_the_streaming_members_that_could_take_over() -> None:
    seen = a_cluster().build()
    assert wanted_names(seen, some_rules(), "db1") == ("db2", "db3")
    assert wanted_names(seen, some_rules(members=willing(db2=Willingness.NEVER)), "db1") == ("db3",)
    assert wanted_names(a_cluster().standby("db2", streaming=False).build(), some_rules(), "db1") == ("db3",)
    assert wanted_names(a_cluster().status("db3", ago_s=3.1).build(), some_rules(), "db1") == ("db2",)
    assert wanted_names(a_cluster().maintenance("db3").build(), some_rules(), "db1") == ("db2",)


def test_a_member_of_the_set_that_just_stopped_streaming_stays_for_a_while() -> None:
    """A dying primary loses its standbys first: an edit then would only be in the way of the failover."""
    assert edit(a_cluster().silent("db3").streaming_since("db3", 4.9)) is None
    assert sync_after(a_cluster().silent("db3").streaming_since("db3", 5.0)) == (BOTH, DB2)
    stranger = a_cluster().synced_by(DB2).silent("db3").streaming_since("db3", 0.1)
    assert edit(stranger) is None, "who is not in the set is not taken in for having streamed lately"


# --- the four steps ---------------------------------------------------------------------------------------------------
def test_step_one_records_the_new_pair_beside_the_old_one() -> None:
    assert sync_after(a_cluster().silent("db3")) == (BOTH, DB2)


def test_step_two_and_three_are_waited_for() -> None:
    changing = a_cluster().silent("db3").synced_by(BOTH, DB2)
    assert edit(changing) is None, "the primary still uses the old set"
    changing.primary("db1", 3, applied_sync=DB2, applied_at="1@0/600")
    assert edit(changing) is None, "db2 stands at 0/500, before the barrier at 0/600"


def test_step_four_drops_every_older_pair_at_once() -> None:
    there = a_cluster().silent("db3").synced_by(DB3, BOTH, DB2).standby("db2", at="1@0/600")
    there.primary("db1", 3, applied_sync=DB2, applied_at="1@0/600")
    assert sync_after(there) == (DB2,)


def test_a_position_on_another_history_is_behind_no_barrier() -> None:
    """The rejoined member stands at a higher number of a timeline that the cluster has left."""
    after = a_cluster().synced_by(BOTH, SyncSet(1, ("db2",), "2")).standby("db2", at="1@0/900")
    after.primary("db1", 3, at="2@0/700 1:0/500", applied_sync=DB2, applied_at="2@0/600 1:0/500")
    assert edit(after) is None
    assert sync_after(after.standby("db2", at="2@0/600 1:0/500")) == (SyncSet(1, ("db2",), "2"),)


def test_an_unsaid_barrier_is_no_barrier() -> None:
    assert edit(a_cluster().synced_by(BOTH, DB2).primary("db1", 3, applied_sync=DB2, applied_at=None)) is None


def test_one_change_at_a_time() -> None:
    assert edit(a_cluster().synced_by(BOTH, DB2)) is None, "a third pair is not added while two stand"


def test_a_set_of_which_nobody_is_left_is_not_begun() -> None:
    """Two standbys die a moment apart: to wait for one of two that are dead is no worse than for the second of them."""
    dying = a_cluster().silent("db2").silent("db3").streaming_since("db3", 4.0)
    for replication in (Replication.STRICT, Replication.SYNC):
        assert edit(dying, replication=replication) is None


def test_a_change_that_nobody_can_end_any_more_is_superseded_and_forgets_no_pair() -> None:
    """The lab found it: under `sync` the last standby died before its set of one was proved, and writes waited for ever."""
    gone = a_cluster().silent("db2").silent("db3").synced_by(BOTH, DB2)
    assert edit(gone) is None, "strict waits for somebody"
    degraded = edit(gone, replication=Replication.SYNC)
    assert degraded and degraded[0].sync == (BOTH, DB2, SyncSet(1, (), "1"))
    back = a_cluster().silent("db2").synced_by(BOTH, DB2)
    assert sync_after(back) == (BOTH, DB2, DB3)
    assert sync_after(back.synced_by(BOTH, DB3, DB2)) is None, "none is recorded twice: an old proof of it would count"
    assert sync_after(a_cluster().silent("db2").streaming_since("db2", 4.0).synced_by(BOTH, DB2)) is None


def test_nothing_is_edited_from_what_a_primary_of_another_epoch_says() -> None:
    cluster = a_cluster().silent("db3")
    assert edit(cluster.primary("db1", 2)) is None
    assert edit(a_cluster().silent("db3").status("db1", writable=False)) is None
    assert edit(a_cluster().silent("db3").silent("db1")) is None


# --- how strict ---------------------------------------------------------------------------------------------------------
def test_strict_never_empties_its_set_but_sync_does_and_says_so() -> None:
    alone = a_cluster().silent("db2").silent("db3")
    assert edit(alone) is None, "strict blocks rather than lose"
    degraded = edit(alone, replication=Replication.SYNC)
    assert degraded and degraded[0].sync == (BOTH, SyncSet(1, (), "1"))
    applied = alone.synced_by(BOTH, SyncSet(1, (), "1")).primary("db1", 3, applied_sync=SyncSet(1, ()), applied_at="1@0/500")
    dropped = edit(applied, replication=Replication.SYNC)
    assert dropped and dropped[0].sync == () and "degraded" in dropped[1]


def test_every_time_that_sync_waited_for_nobody_is_recorded_from_before_it_does_until_a_set_is_in_force_again() -> None:
    rules = some_rules(replication=Replication.SYNC)
    began = decide(a_cluster().silent("db2").silent("db3").build(), rules)
    (grant,), (policy,) = written(began, Kind.GRANT), written(began, Kind.POLICY)
    assert isinstance(grant, Swap) and isinstance(grant.value, Grant) and grant.value.sync[-1].names == ()
    assert isinstance(policy, Swap) and isinstance(policy.value, Policy), "in the transaction that lets commits wait for nobody"
    (since,) = policy.value.degraded
    assert (since.epoch, since.began_at_wall, since.ended_at_wall) == (3, "2026-01-01T00:00:00.000Z", "")
    none = {"applied_sync": SyncSet(1, ()), "applied_at": "1@0/500"}
    lasting = a_cluster().synced_by(BOTH).primary("db1", 3, **none).with_policy(degraded=(since,))
    assert not written(decide(lasting.build(), rules), Kind.POLICY), "a set that is only recorded does not end it"
    over = decide(a_cluster().with_policy(degraded=(since,)).build(), rules)
    (policy,) = written(over, Kind.POLICY)
    assert isinstance(policy, Swap) and isinstance(policy.value, Policy)
    assert policy.value.degraded[0].ended_at_wall and "again" in (over.says or "")


def test_strict_and_async_are_never_degraded() -> None:
    for replication in (Replication.STRICT, Replication.ASYNC):
        for cluster in (a_cluster(), a_cluster().synced_by(), a_cluster().silent("db2").silent("db3")):
            assert not written(decide(cluster.build(), some_rules(replication=replication)), Kind.POLICY)


def test_a_standby_that_is_only_kept_out_by_the_primary_is_wanted() -> None:
    seen = a_cluster().status("db3", streaming=False, kept_out=True).build()
    assert wanted_names(seen, some_rules(), "db1") == ("db2", "db3")


def test_async_promises_nothing_and_removes_what_was_promised() -> None:
    assert sync_after(a_cluster(), replication=Replication.ASYNC) == ()
    assert edit(a_cluster().synced_by(), replication=Replication.ASYNC) is None
    assert first_set(some_rules(replication=Replication.ASYNC), ("db2",), "db1", "2") is None


def test_a_new_primary_waits_for_its_followers_or_strictly_for_anybody() -> None:
    assert first_set(some_rules(), ("db3",), "db2", "1") == SyncSet(1, ("db3",), "1")
    assert first_set(some_rules(), (), "db2", "1") == SyncSet(1, ("db1", "db3"), "1")
    assert first_set(some_rules(replication=Replication.SYNC), (), "db2", "1") is None


# --- the property -------------------------------------------------------------------------------------------------------
EVENTS = st.lists(
    st.sampled_from([
        ("write", 0), ("write", 1), ("leader", 0), ("leader", 0), ("leader", 0), ("apply", 0), ("apply", 0), ("catch up", 0),
        ("gone", 0), ("gone", 1), ("back", 0), ("back", 1),
    ]),
    min_size=10, max_size=40,
)  # fmt: skip


class Model:
    """A primary that acknowledges a commit once w members of the set it *applied* have it, and a leader that edits the grant.

    The leader's picture of the primary (`status`) is what the primary published when it last applied a set.
    """

    def __init__(self) -> None:
        self.log = 0x500
        self.has = {"db2": 0x500, "db3": 0x500}
        self.up = {"db2": True, "db3": True}
        self.acknowledged = 0
        self.cluster = a_cluster()
        self.applied = BOTH
        self.applied_at = 0x400

    @property
    def grant(self) -> Grant:
        grant: Grant = self.cluster.fields["grant"].value
        return grant

    def do(self, what: str, number: int) -> None:
        name = ("db2", "db3")[number]
        if what == "write":
            takers = [m for m in (name, *self.applied.names) if m in self.applied.names and self.up[m]]
            if takers:
                self.log += 1
                self.has[takers[0]] = self.acknowledged = self.log
        elif what == "apply":
            self.applied, self.applied_at = self.grant.sync[-1], self.log
        elif what == "catch up" and self.up[name]:
            self.has[name] = self.log
        elif what in ("gone", "back"):
            self.up[name] = what == "back"
        elif what == "leader":
            changed = edit(self.picture())
            if changed:
                self.cluster.synced_by(*changed[0].sync)

    def picture(self) -> Cluster:
        for name, at in self.has.items():
            self.cluster.standby(name, at=f"1@0/{at:X}", streaming=self.up[name])
        return self.cluster.primary(
            "db1", 3, at=f"1@0/{self.log:X}", applied_sync=self.applied, applied_at=f"1@0/{self.applied_at:X}"
        )  # fmt: skip


@settings(max_examples=400)
@given(EVENTS)
def test_whatever_the_interleaving_a_count_that_is_met_has_every_acknowledged_write(events: list[tuple[str, int]]) -> None:
    """S2: after any history, every set of sealed members that the count accepts holds the newest acknowledged commit."""
    world = Model()
    for what, number in events:
        world.do(what, number)
        for size in (1, 2):
            for names in combinations(("db2", "db3"), size):
                sealed = {name: lsn(f"1@0/{world.has[name]:X}") for name in names}
                if count_shortfall(some_rules(), world.grant, sealed) is None:
                    assert max(world.has[name] for name in names) >= world.acknowledged, (events, names, world.grant.sync)


def test_the_model_has_teeth_applying_before_recording_loses_a_write() -> None:
    """The same world with the order of steps (1) and (2) exchanged must be caught, or the property proves nothing."""
    world = Model()
    world.applied = DB2  # in force on the primary, recorded nowhere: the grant still says any one of (db2, db3)
    world.cluster.synced_by(DB3)
    world.do("write", 0)
    assert count_shortfall(some_rules(), world.grant, {"db3": lsn("1@0/500")}) is None
    assert world.has["db3"] < world.acknowledged


@given(st.permutations(["db2", "db3", "db4", "db5"]), st.integers(1, 4), st.integers(1, 4), st.data())
def test_r_plus_w_above_s_means_every_acknowledging_set_meets_the_sealed(
    members: list[str], size: int, w: int, data: st.DataObject
) -> None:
    names = tuple(members[:size])
    pair = SyncSet(min(w, size), names)
    sealed = frozenset(data.draw(st.sets(st.sampled_from(members))))
    meets = all(sealed & set(quorum) for quorum in combinations(names, pair.w))
    assert pair.satisfied_by(sealed) == meets


def test_a_change_ends_after_a_failover_when_the_new_primary_proved_its_own_set() -> None:
    """The old pairs stay until the barrier: then, and only then, the new history is written into the pair."""
    new = SyncSet(1, ("db3",), "1")
    moved = a_cluster().with_grant("db2", 5, sync=(BOTH, new)).silent("db1").standby("db3", at="2@0/600 1:0/500")
    moved.primary("db2", 5, at="2@0/600 1:0/500", applied_sync=replace(new), applied_at="2@0/600 1:0/500")
    assert sync_after(moved) == (SyncSet(1, ("db3",), "2"),)


# --- who may be chosen -----------------------------------------------------------------------------------------------------
def promotable_after(cluster: Cluster, **rules: object) -> tuple[str, ...] | None:
    seen = cluster.build()
    assert seen.grant is not None
    found = next_promotable(seen, some_rules(**rules), seen.grant.value)
    if found is None:
        return None
    assert replace(found[0], promotable=seen.grant.value.promotable) == seen.grant.value, "nothing else changes"
    return found[0].promotable


def test_a_member_in_maintenance_owes_no_pledge_and_does_again_afterwards() -> None:
    assert promotable_after(a_cluster()) is None
    assert promotable_after(a_cluster().maintenance("db3")) == ("db2",)
    assert promotable_after(a_cluster().with_grant("db1", 3, promotable=("db2",))) == ("db2", "db3")
    assert promotable_after(a_cluster().maintenance("db2").maintenance("db3")) == ()


def test_a_fenced_member_is_left_out_as_well() -> None:
    assert promotable_after(a_cluster().with_policy(fenced=("db2",))) == ("db3",)


def test_who_may_be_chosen_is_never_edited_while_an_operation_runs() -> None:
    """The operation decides on this very grant, and one that proves a standby down goes on beside the primary's care."""
    for kind in OperationKind:
        assert promotable_after(a_cluster().maintenance("db3").operation(kind, "opened")) is None
    assert promotable_after(a_cluster().maintenance("db3").with_grant(None, 4)) is None


def test_the_leader_makes_that_edit_after_the_sync_set_and_under_the_grant_it_saw() -> None:
    first = decide(a_cluster().maintenance("db3").build(), some_rules())
    (swap,) = written(first, Kind.GRANT)
    assert isinstance(swap, Swap) and isinstance(swap.value, Grant)
    assert swap.value.sync[-1].names == ("db2",) and swap.value.promotable == ("db2", "db3")
    second = decide(a_cluster().maintenance("db3").synced_by(DB2).build(), some_rules())
    (swap,) = written(second, Kind.GRANT)
    assert isinstance(swap, Swap) and isinstance(swap.value, Grant) and swap.version == 20
    assert swap.value.promotable == ("db2",) and second.says == "promotable: db2"
