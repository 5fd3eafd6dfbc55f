"""Pays the notices owed to applications: at least once, in their own time, never in the way of an operation.

The queue is in ZooKeeper, written by the transaction that switched the name, so it survives every leader. A notice is erased
when its receiver answered 2xx; the receiver recognises repeats by the idempotency key.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from failover.clock import boottime_s
from failover.core.model import Notice, Stored
from failover.errors import FailoverError

log = logging.getLogger("failover.notifier")
BACKOFF_S = (0.2, 1.0, 5.0, 15.0, 60.0)


class Notifier:
    """`deliver(notice)` raises on anything but an acknowledgement; `erase(notice, version)` forgets a delivered one."""

    def __init__(self, deliver: Callable[[Notice], None], erase: Callable[[str, int], None]) -> None:
        self._deliver, self._erase = deliver, erase
        self._pool = ThreadPoolExecutor(max_workers=4, thread_name_prefix="notify")
        self._lock = threading.Lock()
        self._running: set[str] = set()
        self._tries: dict[str, tuple[int, float]] = {}
        self._paid: set[str] = set()  # delivered and erased, but perhaps still in view

    def pay(self, notices: Mapping[str, Stored[Notice]]) -> None:
        """Start every delivery that is due."""
        now_s = boottime_s()
        with self._lock:
            self._tries = {key: tried for key, tried in self._tries.items() if key in notices}
            self._paid &= notices.keys()
            for key, stored in notices.items():
                _, due_s = self._tries.get(key, (0, 0.0))
                if key not in self._running and key not in self._paid and now_s >= due_s:
                    self._running.add(key)
                    self._pool.submit(self._one, key, stored)

    def owing(self) -> tuple[str, ...]:
        """Notices that were tried in vain at least three times, for people."""
        with self._lock:
            return tuple(sorted(key for key, (tries, _) in self._tries.items() if tries >= 3))

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _one(self, key: str, stored: Stored[Notice]) -> None:
        try:
            self._deliver(stored.value)
            with self._lock:
                self._paid.add(key)
            self._erase(key, stored.version)
            log.info("notice %s delivered", key)
        except FailoverError as error:
            with self._lock:
                tries = self._tries.get(key, (0, 0.0))[0] + 1
                pause_s = BACKOFF_S[min(tries, len(BACKOFF_S)) - 1]
                self._tries[key] = (tries, boottime_s() + pause_s)
            log.warning("notice %s not delivered (try %d): %s", key, tries, error)
        finally:
            with self._lock:
                self._running.discard(key)
