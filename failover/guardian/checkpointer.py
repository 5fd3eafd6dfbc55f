"""A new primary's first checkpoint, in the background: until it is on the disk nobody may be rewound against this member.

pg_rewind reads the history of its source from the control file. Before the first checkpoint that still names the old one, and
the tool says "no rewind required" over a database that has diverged.
"""

from __future__ import annotations

import logging
import threading

from failover.clock import boottime_s
from failover.core.duty import LocalFacts
from failover.engines.base import LocalEngine
from failover.errors import FailoverError
from failover.guardian.board import Board

log = logging.getLogger("failover.guardian.checkpointer")
CHECKPOINT_S = 600.0  # on a slow disk with much in memory
AGAIN_S = 5.0


class Checkpointer:
    """`keep` is called at every turn of a serving primary and returns at once."""

    def __init__(self, board: Board, engine: LocalEngine) -> None:
        self._board, self._engine = board, engine
        self._thread: threading.Thread | None = None
        self._again_at_s = 0.0

    def keep(self, facts: LocalFacts) -> None:
        if facts.position is None or self._board.own.rewind_ready == facts.position.history_id():
            return
        if boottime_s() < self._again_at_s:
            return
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._make, args=(facts,), name="first-checkpoint", daemon=True)
            self._thread.start()

    def wait(self, timeout_s: float) -> None:
        """Until nothing is under way."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _make(self, facts: LocalFacts) -> None:
        assert facts.position is not None
        try:
            if not self._engine.rewind_ready(facts.position):
                self._engine.checkpoint(CHECKPOINT_S)
            if self._engine.rewind_ready(facts.position):
                self._board.note(rewind_ready=facts.position.history_id())
                log.info("others may be rewound against this member: its first checkpoint under epoch %d is done", facts.epoch)
                return
        except FailoverError as error:
            log.warning("no checkpoint of the new history yet: %s", error)
        self._again_at_s = boottime_s() + AGAIN_S
