"""Handles on processes that cannot be confused with a later process of the same number.

A pid is a number that the kernel gives out again; a pidfd is the process. Everything here opens the pidfd first and
asks "is it still the one I mean?" afterwards: if it is, the handle can never point at anything else.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable


class PidfdDeathwatch:
    """A Deathwatch: readable the moment the process ends, also while nobody has reaped it yet.

    `fileno()` lets it join any poll or select together with other descriptors.
    """

    def __init__(self, pid: int, descriptor: int) -> None:
        self._pid = pid
        self._descriptor = descriptor
        self._ended = False

    @classmethod
    def open(cls, pid: int, still: Callable[[], bool]) -> PidfdDeathwatch | None:
        """A handle on `pid` if `still()` holds *after* the handle was taken; None if the process is gone or another."""
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            return None
        handle = cls(pid, descriptor)
        try:
            if still():
                return handle
        except BaseException:
            handle.close()
            raise
        handle.close()
        return None

    @property
    def pid(self) -> int:
        return self._pid

    def fileno(self) -> int:
        return self._descriptor

    def wait(self, timeout_s: float) -> bool:
        """True when the process has ended; False after `timeout_s`. A closed handle answers with what it last knew."""
        if not self._ended and self._descriptor >= 0:
            poller = select.poll()
            poller.register(self._descriptor, select.POLLIN)
            # poll counts whole milliseconds and rounds down to "do not wait": never turn a short wait into a busy loop
            self._ended = bool(poller.poll(max(1, round(timeout_s * 1000)) if timeout_s > 0 else 0))
        return self._ended

    def send(self, number: int) -> bool:
        """Signal exactly this process. False if it has ended."""
        try:
            signal.pidfd_send_signal(self._descriptor, number)
        except ProcessLookupError:
            return False
        return True

    def close(self) -> None:
        """Idempotent."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
