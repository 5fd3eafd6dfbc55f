"""Positions are a partial order on a tree of timelines. The model is naive on purpose: a log is a set of bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from failover.engines.lsn import Lsn, format_offset, parse_offset
from failover.errors import Corrupt

offsets = st.integers(0, 2**64 - 1)


@st.composite
def trees(draw: st.DrawFn) -> list[Lsn]:
    """Positions on one tree of up to six timelines, each forked off an earlier one at or before a byte of it."""
    paths: dict[int, tuple[tuple[int, int], ...]] = {1: ()}
    for timeline in range(2, draw(st.integers(1, 6)) + 1):
        parent = draw(st.sampled_from(sorted(paths)))
        start = paths[parent][-1][1] if paths[parent] else 0
        paths[timeline] = (*paths[parent], (parent, start + draw(st.integers(0, 4))))
    positions = []
    for timeline in draw(st.lists(st.sampled_from(sorted(paths)), min_size=3, max_size=3)):
        start = paths[timeline][-1][1] if paths[timeline] else 0
        positions.append(Lsn(timeline, start + draw(st.integers(0, 6)), paths[timeline]))
    return positions


def contents(position: Lsn) -> set[tuple[int, int]]:
    """Every byte of the log as (timeline that wrote it, offset), and a mark for each timeline that was entered."""
    found: set[tuple[int, int]] = set()
    start = 0
    for timeline, end in (*position.switches, (position.timeline, position.offset)):
        found |= {(timeline, byte) for byte in range(start, end)} | {(timeline, -1)}
        start = end
    return found


@given(trees())
def test_covers_is_containment_of_bytes(positions: list[Lsn]) -> None:
    for one in positions:
        for other in positions:
            assert one.covers(other) == (contents(other) <= contents(one))


@given(trees())
def test_covers_is_a_partial_order(positions: list[Lsn]) -> None:
    a, b, c = positions
    assert a.covers(a)
    assert not (a.covers(b) and b.covers(a)) or a == b
    assert not (a.covers(b) and b.covers(c)) or a.covers(c)


@given(trees())
def test_the_distance_is_known_exactly_when_one_covers_the_other(positions: list[Lsn]) -> None:
    a, b, _ = positions
    behind = a.behind(b)
    assert (behind is None) == (not a.covers(b) and not b.covers(a))
    if a.covers(b):
        assert behind == 0
    elif b.covers(a):
        assert behind == b.offset - a.offset


@given(trees())
def test_the_stored_form_reads_back(positions: list[Lsn]) -> None:
    for position in positions:
        assert Lsn.parse(position.text()) == position


@given(trees())
def test_a_position_descends_from_every_timeline_on_its_path_and_no_other(positions: list[Lsn]) -> None:
    for position in positions:
        path = {str(timeline) for timeline, _ in contents(position)}
        assert {str(t) for t in range(9) if position.descends_from(str(t))} == path
        assert position.descends_from(position.history_id())


@given(offsets)
def test_offsets_read_back(offset: int) -> None:
    assert parse_offset(format_offset(offset)) == offset


def test_the_documented_form() -> None:
    position = Lsn.parse("3@0/5000A28 1:0/3000060 2:0/4000000")
    assert position == Lsn(3, 0x5000A28, ((1, 0x3000060), (2, 0x4000000)))
    assert position.text() == "3@0/5000A28 1:0/3000060 2:0/4000000"


def test_an_old_primary_with_a_longer_log_is_not_covered_by_the_new_one() -> None:
    old, new = Lsn(1, 900), Lsn(2, 2000, ((1, 800),))
    assert not new.covers(old)
    assert not old.covers(new)
    assert old.behind(new) is None


def test_two_timelines_of_one_number_that_forked_elsewhere_do_not_match() -> None:
    one, other = Lsn(2, 900, ((1, 800),)), Lsn(2, 900, ((1, 700),))
    assert not one.covers(other)
    assert not other.covers(one)


def test_a_position_without_its_ancestors_claims_only_its_own_timeline() -> None:
    assert Lsn(2, 900).covers(Lsn(2, 850, ((1, 800),)))
    assert not Lsn(2, 900).covers(Lsn(1, 100))


@pytest.mark.parametrize(
    "text",
    ["", "3", "0/10", "3@", "@0/10", "0@0/10", "3@0/10 ", "3@0/10  1:0/1", "3@0/1G", "3@100000000/0", "-1@0/10",
     "3@0/10 1", "3@0/10 3:0/5", "3@0/10 2:0/5 1:0/4", "3@0/10 1:0/11", "3@0/10 1:0/9 2:0/8", "4294967296@0/10",
     "3@0/10\n", "03@0/10", "3@0/10 1:0/5 1:0/6"],
)  # fmt: skip
def test_anything_else_is_corrupt(text: str) -> None:
    with pytest.raises(Corrupt):
        Lsn.parse(text)


@given(st.text(max_size=40))
def test_no_text_raises_anything_but_corrupt(text: str) -> None:
    try:
        Lsn.parse(text)
    except Corrupt:
        pass
