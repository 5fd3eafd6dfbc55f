"""The tables that drive the product, printed for people: docs/architecture.md holds exactly this text between two markers.

    python -m failover.lab.diagrams            print it
    python -m failover.lab.diagrams --check    exit 1 if docs/architecture.md says something else
    python -m failover.lab.diagrams --write    put it there
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from failover.core import duty
from failover.core.machine import Row
from failover.core.model import OperationKind
from failover.core.tables import TABLES

BEGIN = "<!-- tables: printed by `python -m failover.lab.diagrams`, do not edit -->"
END = "<!-- /tables -->"
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "architecture.md"


def text() -> str:
    """Every phase table with its picture, then the guardian's duty table."""
    parts = [part for kind in OperationKind for part in _operation(kind, TABLES[kind])]
    return "\n".join([*parts, *_duties(duty.TABLE)]).strip()


def between_markers(document: str) -> str | None:
    """What the document says between the markers, or None if it does not have both."""
    _, found, rest = document.partition(BEGIN)
    inside, closed, _ = rest.partition(END)
    return inside.strip() if found and closed else None


def with_tables(document: str) -> str:
    """The document with the present tables between its markers. Raises ValueError without them."""
    head, found, rest = document.partition(BEGIN)
    _, closed, tail = rest.partition(END)
    if not (found and closed):
        raise ValueError("the document has no place for the tables")
    return f"{head}{BEGIN}\n\n{text()}\n\n{END}{tail}"


def _operation(kind: OperationKind, rows: Sequence[Row]) -> Iterator[str]:
    yield f"### {kind.value}\n"
    yield from _table(
        ("from", "step", "to", "what is true then", "judged by"),
        [(f"`{row.phase}`", f"**{row.step}**", f"`{row.target}`", row.says, _judge(row)) for row in rows],
    )
    yield "\n```mermaid\nstateDiagram-v2"
    yield f"    [*] --> {rows[0].phase}"
    yield from (f"    {row.phase} --> {row.target}: {row.step}" for row in rows)
    yield f"    {rows[-1].target} --> [*]\n```\n"


def _duties(rows: Sequence[duty.Row]) -> Iterator[str]:
    yield "### the guardian's duty\n"
    yield "Read from the top; the first row that holds is the duty.\n"
    yield from _table(
        ("", "duty", "what `status` says while it holds"),
        [(str(number), f"**{row.duty.value}**", row.says) for number, row in enumerate(rows, start=1)],
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield _line(head)
    yield _line(["---"] * len(head))
    yield from (_line(row) for row in rows)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _judge(row: Row) -> str:
    return f"`{row.rule.__module__.removeprefix('failover.')}.{row.rule.__name__}`"


def main(argv: Sequence[str]) -> int:
    if not argv:
        print(text())
        return 0
    if list(argv) not in (["--check"], ["--write"]):
        print(__doc__, file=sys.stderr)
        return 2
    document = DOCUMENT.read_text()
    wanted = with_tables(document)
    if argv[0] == "--write":
        DOCUMENT.write_text(wanted)
    elif document != wanted:
        print(f"{DOCUMENT.name} differs from the code: python -m failover.lab.diagrams --write", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
