"""What an operation's journal must look like, whoever wrote which part of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from failover.core.machine import DONE, Row
from failover.core.model import OperationKind
from failover.core.tables import TABLES


def journal_faults(steps: Sequence[Mapping[str, Any]]) -> list[str]:
    """Why the lines of `failoverctl timeline -o json` are not a whole story; empty if they are.

    Whole: the head, then for each row of the table INTENT, perhaps a hold, then DONE, in the table's order, and after the last
    one nothing; or an explicit undone; or (a switchover whose primary died) on from the failover's first row. So no line is
    there twice; and the terms of those who wrote never go back. `steps` are in the order of the command.
    """
    names = [str(step["name"]) for step in steps]
    if not names or names[0] != "opened":
        return [f"the journal does not begin with its head: {', '.join(names[:3]) or 'it is empty'}"]
    faults = _walk(_table(steps), names[1:], {str(s["name"]) for s in steps if "became" in s["facts"]})
    terms = [int(step["term"]) for step in steps]
    if terms != sorted(terms):
        faults.append(f"a deposed leader wrote: terms {', '.join(map(str, terms))}")
    return faults


def _table(steps: Sequence[Mapping[str, Any]]) -> tuple[Row, ...]:
    return TABLES[OperationKind(str(steps[0]["says"]).partition(":")[0])]


def _walk(table: Sequence[Row], names: Sequence[str], became: set[str]) -> list[str]:
    """Each row's lines in turn; the first thing that is wrong."""
    left, rows = [name for name in names if not name.endswith(".held")], list(table)
    while rows:
        row = rows.pop(0)
        intent, end = left[:1], left[1:2]
        if intent != [f"{row.step}.intent"]:
            return [f"{row.step}.intent expected, found {', '.join(intent) or 'the end'}"]
        if end == [f"{row.step}.undone"]:
            return [f"after {end[0]} there is {left[2]}"] if left[2:] else []
        if end != [f"{row.step}.{DONE}"]:
            return [f"{row.step}.{DONE} expected, found {', '.join(end) or 'the end'}"]
        left = left[2:]
        if end[0] in became:
            rows, became = list(TABLES[OperationKind.FAILOVER]), set()
    return [f"after the end there is {', '.join(left)}"] if left else []
