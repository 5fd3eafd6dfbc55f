"""Where the lab's observations are kept: the files that its clients write."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from failover.lab.verdict import Probe, Write

T = TypeVar("T")


class Tail(Generic[T]):
    """Reads a growing file of JSON lines; each `read` takes in what is new. A half-written last line waits for its
    end.
    """

    def __init__(self, path: Path, parse: Callable[[dict[str, object]], T]) -> None:
        self._path = path
        self._parse = parse
        self._offset = 0
        self._lock = threading.Lock()  # the screen reads beside the judge
        self.all: list[T] = []

    def read(self) -> list[T]:
        """Everything so far, in file order. A file that does not exist yet is empty."""
        with self._lock:
            if self._path.exists():
                self._take_in()
            return self.all

    def _take_in(self) -> None:
        with self._path.open("rb") as file:
            file.seek(self._offset)
            fresh = file.read()
        whole = fresh[: fresh.rfind(b"\n") + 1]
        self._offset += len(whole)
        self.all += [self._parse(json.loads(line)) for line in whole.splitlines()]


def write_of(line: dict[str, object]) -> Write:
    """One line of writer.py."""
    return Write(int(str(line["id"])), _seconds(line, "invoke"), _seconds(line, "done"), str(line["outcome"]))


def probe_of(line: dict[str, object]) -> Probe:
    """One line of prober.py."""
    return Probe(str(line["host"]), _seconds(line, "invoke"), _seconds(line, "done"), str(line["outcome"]))


def writes_in(path: Path) -> list[Write]:
    """A whole file of writer.py."""
    return Tail(path, write_of).read()


def probes_in(path: Path) -> list[Probe]:
    """A whole file of prober.py."""
    return Tail(path, probe_of).read()


def _seconds(line: dict[str, object], key: str) -> float:
    return float(str(line[key]))
