"""How answers look."""

from __future__ import annotations

import pytest

from failover.cli.printing import amount, span, table


def test_columns_are_as_wide_as_their_content_and_nothing_trails() -> None:
    assert table(("A", "BB"), [("long word", "x"), ("y", "")]) == "A          BB\nlong word  x\ny"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0.0, "0.00 s"), (0.254, "0.25 s"), (3.21, "3.2 s"), (41, "41 s"), (3600, "60 min"), (7500, "2 h 05 min"),
     (200000, "2 d 7 h")],
)  # fmt: skip
def test_durations_read_naturally(seconds: float | None, text: str) -> None:
    assert span(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(None, "-"), (0, "0 B"), (1023, "1023 B"), (1258291, "1.2 MB"), (200 * 1024**2, "200 MB"), (3 * 1024**4, "3.0 TB")],
)
def test_sizes_read_naturally(size: int | None, text: str) -> None:
    assert amount(size) == text
