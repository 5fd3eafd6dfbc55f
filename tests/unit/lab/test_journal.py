"""A journal is a whole story or it is told what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from failover.core.model import OperationKind
from failover.core.tables import TABLES
from failover.lab.journal import journal_faults

ROWS = {kind: [row.step for row in TABLES[kind]] for kind in (OperationKind.FAILOVER, OperationKind.SWITCHOVER)}


def lines(kind: str, names: Sequence[str], terms: Sequence[int] = (), became: str = "") -> list[dict[str, Any]]:
    """The journal of an operation of that kind, its head first."""
    written = terms or [1] * (len(names) + 1)
    facts = [{"became": "a failover"} if name == became else {} for name in names]
    head = {"number": 0, "name": "opened", "kind": "opened", "term": written[0], "says": f"{kind}: a reason", "facts": {}}
    return [head, *(
        {"number": n, "name": name, "kind": name.rsplit(".")[-1], "term": term, "says": "", "facts": known}
        for n, (name, term, known) in enumerate(zip(names, written[1:], facts, strict=True), 1)
    )]  # fmt: skip


def whole(kind: OperationKind) -> list[str]:
    return [f"{step}.{end}" for step in ROWS[kind] for end in ("intent", "done")]


@pytest.mark.parametrize("kind", ROWS)
def test_every_row_begun_and_done_is_a_whole_story(kind: OperationKind) -> None:
    assert journal_faults(lines(kind.value, whole(kind))) == []


@pytest.mark.parametrize("kind", ROWS)
def test_any_line_that_is_missing_is_found(kind: OperationKind) -> None:
    names = whole(kind)
    for gap in range(len(names)):
        assert journal_faults(lines(kind.value, names[:gap] + names[gap + 1 :])), f"{names[gap]} was not missed"


def test_a_line_twice_or_after_the_end_is_found() -> None:
    names = whole(OperationKind.FAILOVER)
    assert journal_faults(lines("failover", [*names[:2], names[1], *names[2:]]))
    assert journal_faults(lines("failover", [*names, "settle.done"])) == ["after the end there is settle.done"]


def test_a_hold_on_the_way_is_part_of_the_story() -> None:
    names = whole(OperationKind.FAILOVER)
    assert journal_faults(lines("failover", [*names[:3], "confirm.held", *names[3:]])) == []


def test_undone_ends_it_and_nothing_follows() -> None:
    undone = ["prepare.intent", "prepare.undone"]
    assert journal_faults(lines("switchover", undone)) == []
    assert journal_faults(lines("switchover", [*undone, "order.intent"])) == ["after prepare.undone there is order.intent"]


def test_a_switchover_whose_primary_died_goes_on_in_the_failovers_table() -> None:
    names = ["prepare.intent", "prepare.done", *whole(OperationKind.FAILOVER)]
    assert journal_faults(lines("switchover", names, became="prepare.done")) == []
    assert journal_faults(lines("switchover", names))


def test_a_leader_that_was_deposed_and_wrote_all_the_same_is_found() -> None:
    names = whole(OperationKind.FAILOVER)
    taken_over = [4, *[4] * 6, *[5] * (len(names) - 6)]
    assert journal_faults(lines("failover", names, taken_over)) == []
    taken_over[9] = 4
    assert "a deposed leader wrote" in journal_faults(lines("failover", names, taken_over))[0]


def test_without_its_head_it_is_no_story() -> None:
    assert journal_faults([]) == ["the journal does not begin with its head: it is empty"]
    assert journal_faults(lines("failover", whole(OperationKind.FAILOVER))[1:])
