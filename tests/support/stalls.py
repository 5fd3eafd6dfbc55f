"""When this machine itself stood still: a thread that wants to run and to write to the disk every 10 ms, and notes when it
could not. Two cores shared with other work stall for tenths of a second; what happens only then says nothing about a product."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from failover.clock import boottime_s

EVERY_S = 0.010
STALL_S = 0.080  # what counts: a quiet machine stays far below


class Stalls:
    """Watches from construction until `close`. `file`: written to the disk, again and again, in its first byte."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._stop = threading.Event()
        self._found: list[tuple[float, float]] = []
        self._thread = threading.Thread(target=self._watch, name="stalls", daemon=True)
        self._thread.start()

    def within_s(self, start: float, end: float) -> float:
        """How much of that time (BOOTTIME seconds) the machine stood still."""
        return sum(max(0.0, min(end, till) - max(start, since)) for since, till in list(self._found))

    def near(self, start: float, end: float) -> bool:
        return self.within_s(start, end) > 0

    def total_s(self) -> float:
        return sum(till - since for since, till in list(self._found))

    def close(self) -> None:
        self._stop.set()
        self._thread.join(5.0)

    def _watch(self) -> None:
        handle = os.open(self._file, os.O_CREAT | os.O_WRONLY, 0o600)
        try:
            last = boottime_s()
            while not self._stop.wait(EVERY_S):
                os.pwrite(handle, b".", 0)
                os.fdatasync(handle)
                now = boottime_s()
                if now - last > STALL_S:
                    self._found.append((last, now))
                last = now
        finally:
            os.close(handle)
