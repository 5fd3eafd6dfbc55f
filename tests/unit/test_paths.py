"""Every record has one place, and a name that is no name has none."""

from __future__ import annotations

import pytest

from failover.coordination.paths import MANY, SINGLE, Paths
from failover.core.plan import Key, Kind
from failover.errors import Corrupt

PATHS = Paths("orders")


def test_single_records_are_directly_below_state() -> None:
    assert PATHS.of(Key(Kind.GRANT)) == "/failover/orders/state/grant"
    assert PATHS.singles() == tuple(PATHS.of(Key(kind)) for kind in SINGLE)


def test_records_of_which_there_are_many_are_below_their_kind() -> None:
    assert PATHS.of(Key(Kind.LEASE, "db1")) == "/failover/orders/state/lease/db1"
    for kind in MANY:
        assert PATHS.of(Key(kind, "x")).rpartition("/")[0] == PATHS.tree(kind)


def test_the_journal_is_outside_of_what_is_kept_in_view() -> None:
    assert PATHS.of(Key(Kind.JOURNAL, "op-1/0003")) == "/failover/orders/journal/op-1/0003"
    assert PATHS.tree(Kind.JOURNAL) == "/failover/orders/journal"
    assert not PATHS.tree(Kind.JOURNAL).startswith(PATHS.state)
    assert PATHS.tree(Kind.JOURNAL) not in PATHS.trees()


def test_every_kind_has_exactly_one_place() -> None:
    assert {*SINGLE, *MANY, Kind.JOURNAL} == set(Kind)
    assert len(SINGLE) + len(MANY) + 1 == len(Kind)
    places = [PATHS.of(Key(kind, "x")) for kind in Kind]
    assert len(set(places)) == len(places)


def test_two_clusters_share_nothing_but_the_prefix() -> None:
    other = Paths("billing", prefix="/elsewhere")
    assert other.of(Key(Kind.TERM)) == "/elsewhere/billing/state/term"
    assert not set(other.skeleton()) & set(PATHS.skeleton())


def test_the_skeleton_has_every_parent_and_parents_come_first() -> None:
    skeleton = PATHS.skeleton()
    for kind in Kind:
        assert PATHS.of(Key(kind, "x")).rpartition("/")[0] in skeleton
    for position, path in enumerate(skeleton[1:], 1):
        assert path.rpartition("/")[0] in skeleton[:position]


@pytest.mark.parametrize(
    "name", ["", "/", "..", ".", "a/b", "a//b", "-x", "a b", "a\n", "a\0", "quota/..", "é", "x" * 129, "/a", "a/"]
)
def test_what_is_no_name_has_no_place(name: str) -> None:
    with pytest.raises(Corrupt):
        PATHS.of(Key(Kind.LEASE, name))


@pytest.mark.parametrize("name", ["op", "op/1", "2026-11-20T12-00-00.1/0001"])
def test_names_that_are_names(name: str) -> None:
    assert PATHS.of(Key(Kind.JOURNAL, name)).endswith(f"/journal/{name}")


@pytest.mark.parametrize("name", ["op/1/2", "op/", "/1", "op/../1"])
def test_a_journal_name_is_an_operation_and_a_step(name: str) -> None:
    with pytest.raises(Corrupt):
        PATHS.of(Key(Kind.JOURNAL, name))
