"""How answers look: plain aligned tables for people, one JSON document for programs. Colour never carries meaning alone."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Sequence

import click

GAP = "  "


def emit_json(document: object) -> None:
    """The one document on standard output. Times are UTC, sizes bytes, durations seconds."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def table(header: Sequence[str], rows: Iterable[Sequence[str]], indent: str = "") -> str:
    """Left-aligned columns, as wide as their content; nothing is cut, nothing trails."""
    lines = [tuple(header), *(tuple(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        (indent + GAP.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))).rstrip() for line in lines
    )


def span(seconds: float | None) -> str:
    """`0.25 s`, `41 s`, `2 h 05 min`; a dash for what is not known."""
    if seconds is None:
        return "-"
    if seconds < 10:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def amount(size_bytes: int | None) -> str:
    """`0 B`, `1.2 MB` (1 MB = 1024 kB); a dash for what is not known."""
    if size_bytes is None:
        return "-"
    value = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TB"


def lag(count: int | None, unit: str) -> str:
    """How far behind, in what its positions count: `1.2 MB`, `14 trx`; a dash for what is not known."""
    return amount(count) if unit == "bytes" else "-" if count is None else f"{count} trx"


def wrapped(text: str, indent: int, width: int = 100) -> str:
    """Long text goes on under itself, so that columns stay readable."""
    lines = textwrap.wrap(text, max(width - indent, 40), break_long_words=False, break_on_hyphens=False)
    return ("\n" + " " * indent).join(lines)


def paint(text: str, color: str, wanted: bool) -> str:
    return click.style(text, fg=color) if wanted else text


def bold(text: str, wanted: bool) -> str:
    return click.style(text, bold=True) if wanted else text
