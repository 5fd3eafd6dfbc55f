"""MySQL positions. The model is naive on purpose: a GTID set is a set of (writer, tag, number)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from failover.engines.gtid import MAX_CHARS, GtidPosition, GtidSet
from failover.errors import Corrupt

A, B, C = (f"{digit * 8}-0000-4000-8000-00000000000{digit}" for digit in "abc")
Model = frozenset[tuple[str, str, int]]

numbers = st.integers(1, 12)
models = st.frozensets(st.tuples(st.sampled_from((A, B)), st.sampled_from(("", "t", "backup_1")), numbers), max_size=24)
positions = st.builds(lambda model, writer: GtidPosition(of(model), writer), models, st.sampled_from((A, B, "")))


def of(model: Model) -> GtidSet:
    return GtidSet.of({(uuid, tag): [(n, n) for u, t, n in model if (u, t) == (uuid, tag)] for uuid, tag, _ in model})


def contents(log: GtidSet) -> Model:
    return frozenset((uuid, tag, n) for (uuid, tag), spans in log.parts for first, end in spans for n in range(first, end + 1))


def at(log: str, writer: str = "") -> GtidPosition:
    return GtidPosition(GtidSet.parse(log), writer)


@given(models, models)
def test_sets_are_sets(one: Model, other: Model) -> None:
    mine, theirs = of(one), of(other)
    assert contents(mine) == one
    assert mine.count == len(one)
    assert mine.contains(theirs) == (other <= one)
    assert contents(mine.union(theirs)) == one | other
    assert contents(mine.subtract(theirs)) == one - other
    assert mine.union(theirs).subtract(theirs) == mine.subtract(theirs)


@given(models)
def test_equal_sets_have_one_text_and_it_reads_back(model: Model) -> None:
    log = of(model)
    singly = ",".join(f"{uuid}{':' + tag if tag else ''}:{n}" for uuid, tag, n in sorted(model, key=lambda g: -g[2]))
    assert GtidSet.parse(singly) == log == GtidSet.parse(log.text())
    assert GtidSet.parse(log.text().upper().replace(",", ",\n").replace(":", " : ")) == log


@given(positions, positions, positions)
def test_covers_is_a_partial_order(a: GtidPosition, b: GtidPosition, c: GtidPosition) -> None:
    assert a.covers(a)
    assert not (a.covers(b) and b.covers(a)) or a.log == b.log
    assert not (a.covers(b) and b.covers(c)) or a.covers(c)


@given(positions, positions)
def test_the_distance_counts_what_is_missing(a: GtidPosition, b: GtidPosition) -> None:
    assert a.behind(b) == len(contents(b.log) - contents(a.log))
    assert (a.behind(b) == 0) == a.covers(b)


@given(positions, positions)
def test_diverged_is_what_the_primary_cannot_have_written_since(mine: GtidPosition, primary: GtidPosition) -> None:
    foreign = {gtid for gtid in contents(mine.log) - contents(primary.log) if gtid[0] != primary.writer}
    assert mine.diverged_from(primary) == (bool(foreign) and primary.writer != "")
    if primary.covers(mine):
        assert not mine.diverged_from(primary)
    assert contents(GtidSet.parse(mine.strays(primary))) == foreign


@given(positions)
def test_the_stored_form_reads_back(position: GtidPosition) -> None:
    assert GtidPosition.parse(position.text()) == position


def test_what_a_server_says() -> None:
    executed = f"{A.upper()}:1-5:7:Backup:1-3,\n{B.upper()}:4"
    position = GtidPosition.reported(A.upper(), executed, f"{A}:6")
    assert position.text() == f"{A}:1-7:backup:1-3,{B}:4@{A}"
    assert position.log.count == 11


def test_an_empty_server() -> None:
    empty = GtidPosition.reported(A, "", "")
    assert empty.text() == f"@{A}"
    assert GtidPosition.parse(empty.text()) == empty
    assert at(f"{B}:1").covers(empty) and not empty.covers(at(f"{B}:1"))


def test_a_tag_is_not_its_writer_without_one() -> None:
    assert not at(f"{A}:1-9").covers(at(f"{A}:tag:1"))
    assert at(f"{A}:1-9:tag:1-2").covers(at(f"{A}:tag:1"))


def test_received_and_not_executed_counts() -> None:
    """orchestrator ranks candidates by what they have executed."""
    lagging, drained = GtidPosition.reported(B, f"{A}:1-10", f"{A}:11-90"), GtidPosition.reported(C, f"{A}:1-50", f"{A}:1-60")
    assert lagging.covers(drained) and not drained.covers(lagging)


def test_more_transactions_are_not_a_superset() -> None:
    """mysql-shell takes the largest count."""
    more, less = at(f"{A}:1-90,{B}:1-9"), at(f"{A}:1-95")
    assert more.log.count > less.log.count
    assert not more.covers(less) and not less.covers(more)
    assert more.behind(less) == 5


def test_a_gap_is_seen() -> None:
    """... and reads the first interval of each writer only."""
    assert not at(f"{A}:1-5:8-100").covers(at(f"{A}:1-7"))
    assert not at(f"{A}:1-100").covers(at(f"{A}:1-5:8-101"))


def test_lag_is_not_divergence() -> None:
    primary = at(f"{A}:1-100,{B}:1-20", writer=B)
    assert not at(f"{A}:1-90").diverged_from(primary)
    ahead_of_an_old_picture = at(f"{A}:1-100,{B}:1-25")
    assert not primary.covers(ahead_of_an_old_picture)
    assert not ahead_of_an_old_picture.diverged_from(primary)


def test_an_old_primary_with_a_tail_and_an_errant_standby_are_divergence() -> None:
    primary = at(f"{A}:1-100,{B}:1-20", writer=B)
    assert at(f"{A}:1-103").strays(primary) == f"{A}:101-103"
    assert at(f"{A}:1-100,{B}:1-20,{C}:1", writer=C).diverged_from(primary)


def test_the_other_kinds_of_position_are_not_compared() -> None:
    class Other:
        pass

    assert not at(f"{A}:1").covers(Other())  # type: ignore[arg-type]
    assert at(f"{A}:1").behind(Other()) is None  # type: ignore[arg-type]
    assert not at(f"{A}:1").diverged_from(Other())  # type: ignore[arg-type]
    assert at("").descends_from("anything") and at("").history_id() == ""


@pytest.mark.parametrize(
    "text",
    ["", A, f"{A}:1", f"{A}@", f"{A}:@{A}", f"{A}:0@", f"{A}:1-@", f"{A}:5-4@", f"{A}:-4@", f"{A}:1-2-3@", f"{A}:01@",
     f"{A}:tag@", f"{A}:a:b:1@", f"{A}:1:a@", f"{A}:9223372036854775807@", f"{A}:1 2@", f"{A[:-1]}:1@", f"{A}:1;{B}:1@",
     f"{A}:1@x", f"{A}:1@{A}@", f"{A}:\u0661@", f"{A}:{'t' * 33}:1@", f"{A}:1-2\0@", f"{{{A}}}:1@", "," * (MAX_CHARS + 1) + "@"],
)  # fmt: skip
def test_anything_else_is_corrupt(text: str) -> None:
    with pytest.raises(Corrupt):
        GtidPosition.parse(text)


@given(st.text(alphabet=f"ab1:-,@ \n{A[8:]}", max_size=60) | st.text(max_size=60))
def test_no_text_raises_anything_but_corrupt(text: str) -> None:
    for candidate in (text, f"{A}:{text}@{A}", f"{text}@{A}"):
        try:
            GtidPosition.parse(candidate)
        except Corrupt:
            pass


def test_the_longest_readable_set_is_read_at_once() -> None:
    """Gaps everywhere: reading and comparing stay linear."""
    words = [f":{n}" for n in range(1_000_001, 1_000_001 + 2 * 30_000, 2)]
    log = GtidSet.parse(A + "".join(words))
    assert log.count == 30_000 and log.contains(log)
    assert not log.subtract(log).parts
