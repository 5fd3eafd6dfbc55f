"""The one clock that decides: CLOCK_BOOTTIME, which counts suspend and that nobody can set."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def _kernel_boottime_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


_boottime_s: Callable[[], float] = _kernel_boottime_s
_wall_s: Callable[[], float] = time.time


def boottime_s() -> float:
    """Seconds since this host booted, suspend included. Comparable only within one host and one boot."""
    return _boottime_s()


def wall_text() -> str:
    """UTC now as people read it, to the millisecond. For records and logs; decides nothing."""
    now = _wall_s()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"


@contextmanager
def run_on(boottime: Callable[[], float], wall: Callable[[], float]) -> Iterator[None]:
    """The whole process on other clocks, until the block ends: for the simulator, whose time stands still while it thinks."""
    global _boottime_s, _wall_s
    before = _boottime_s, _wall_s
    _boottime_s, _wall_s = boottime, wall
    try:
        yield
    finally:
        _boottime_s, _wall_s = before
