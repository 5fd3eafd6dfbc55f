"""Files that still grow are read without losing, repeating or halving a line."""

from __future__ import annotations

import json
from pathlib import Path

from failover.lab.history import Tail, probe_of, write_of, writes_in


def line(number: int) -> str:
    return json.dumps({"id": number, "invoke": 1.0, "done": 1.5, "outcome": "ok", "why": ""}) + "\n"


def test_a_file_that_is_not_there_yet_is_empty(tmp_path: Path) -> None:
    assert writes_in(tmp_path / "nothing") == []


def test_a_half_written_line_waits_for_its_end(tmp_path: Path) -> None:
    path = tmp_path / "writes"
    tail = Tail(path, write_of)
    path.write_text(line(1) + line(2)[:10])
    assert [w.id for w in tail.read()] == [1]
    with path.open("a") as out:
        out.write(line(2)[10:] + line(3))
    assert [w.id for w in tail.read()] == [1, 2, 3]
    assert [w.id for w in tail.read()] == [1, 2, 3]


def test_a_probe_keeps_its_host_its_moments_and_its_outcome() -> None:
    probe = probe_of({"host": "db2", "seq": 4, "invoke": 1.25, "done": 1.5, "outcome": "no", "why": "read-only"})
    assert (probe.host, probe.invoke, probe.done, probe.outcome) == ("db2", 1.25, 1.5, "no")
