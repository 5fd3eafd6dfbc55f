"""The one clock that decides: CLOCK_BOOTTIME, which counts suspend and that nobody can set."""

import time


def boottime_s() -> float:
    """Seconds since this host booted, suspend included. Comparable only within one host and one boot."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def wall_text() -> str:
    """UTC now as people read it, to the millisecond. For records and logs; decides nothing."""
    now = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
