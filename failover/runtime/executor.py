"""Turns wanted actions into calls of actuators, one at a time for each action, and remembers what came of them.

Outcomes are facts for the next observation; nothing here steers. An action that failed is tried again after a pause for as
long as the core wants it; one that succeeded is left alone for a while, so that repairing drift costs nothing.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from failover.clock import boottime_s
from failover.core.plan import Action, Outcome, Stonith, VerifyWritable
from failover.errors import FailoverError, Unknown
from failover.runtime.failpoints import failpoints

log = logging.getLogger("failover.executor")
RETRY_S = 0.5
LOOK_AGAIN_S = 0.05  # an action that only looks may look often
STONITH_AGAIN_S = 10.0  # a power switch is not hammered; meanwhile the other channels go on
PAUSES_S: Mapping[type, float] = {VerifyWritable: LOOK_AGAIN_S, Stonith: STONITH_AGAIN_S}
CONTENT_S = 10.0
KEPT = 64
Hand = Callable[[Action], str]  # returns evidence; raises what actuators/base.py says


class Executor:
    """`hands` maps an action's type to what performs it."""

    def __init__(self, hands: Mapping[type, Hand], done: Callable[[], None]) -> None:
        self._hands, self._done = hands, done
        self._pool = ThreadPoolExecutor(max_workers=6, thread_name_prefix="act")
        self._lock = threading.Lock()
        self._running: set[Action] = set()
        self._outcomes: deque[Outcome] = deque(maxlen=KEPT)

    def want(self, actions: tuple[Action, ...]) -> None:
        """Start what is wanted, not running, and due."""
        now_s = boottime_s()
        with self._lock:
            for action in actions:
                if action in self._running or not self._due(action, now_s):
                    continue
                self._running.add(action)
                self._pool.submit(self._perform, action)

    def outcomes(self) -> tuple[Outcome, ...]:
        with self._lock:
            return tuple(self._outcomes)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _due(self, action: Action, now_s: float) -> bool:
        last = next((o for o in reversed(self._outcomes) if o.action == action), None)
        if last is None:
            return True
        return now_s - last.at_s >= (CONTENT_S if last.ok else PAUSES_S.get(type(action), RETRY_S))

    def _perform(self, action: Action) -> None:
        began_s = boottime_s()
        ok: bool | None
        failpoints.reach(f"action.{type(action).__name__}")
        try:
            evidence, ok = self._hands[type(action)](action), True
        except Unknown as error:
            evidence, ok = str(error), None
        except FailoverError as error:
            evidence, ok = str(error), False
        except Exception as error:  # our own bug in one hand must not leave the action "running" for ever
            log.exception("%s failed", action)
            evidence, ok = f"{type(error).__name__} in our own code", None
        now_s = boottime_s()
        (log.info if ok else log.warning)("%s: %s (%.0f ms)", action, evidence, (now_s - began_s) * 1000)
        with self._lock:
            self._running.discard(action)
            self._outcomes.append(Outcome(action, ok, evidence, now_s, now_s - began_s))
        self._done()
