"""It knows at once: a pidfd on the database's main process, and what its end means.

The end of a primary's main process closes its epoch here, before anybody is asked (G8). A standby's end, a shutdown that we
ordered, and a death while a person has paused the cluster or set this member aside are noted only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from failover.core.duty import LocalFacts
from failover.errors import FailoverError
from failover.guardian.base import Deathwatch, Instance
from failover.guardian.board import Board
from failover.guardian.fencer import Fencer

log = logging.getLogger("failover.guardian.deaths")


class Deaths:
    """One thread runs `step()`; it returns at the latest after `timeout_s`."""

    def __init__(self, board: Board, instance: Instance, fencer: Fencer, post: Callable[[], None], look: Callable[[], None]):
        self._board, self._instance, self._fencer, self._post, self._look = board, instance, fencer, post, look
        self._watch: Deathwatch | None = None

    def step(self, timeout_s: float) -> bool:
        """Watch the present main process; True if there was one to watch.

        One watch is kept until it fires: opened anew at each step, a death in between would have nobody to notice it.
        """
        if self._watch is None:
            self._watch = self._instance.watch()
        watch = self._watch
        if watch is None:
            return False
        if watch.wait(timeout_s):
            self._watch = None
            watch.close()
            self._ended(watch.pid)
        return True

    def _ended(self, pid: int) -> None:
        facts, own = self._board.facts(), self._board.own
        self._board.found(None, running=False)
        if own.stopping:
            log.info("the database ended as ordered (pid %d)", pid)
            return
        closes = _epoch_to_close(facts)
        if closes is None:
            log.warning("the database ended (pid %d): no epoch of mine was open", pid)
            return
        if facts.paused or facts.set_aside:
            log.warning("the database ended (pid %d) while a person is at work here: noted only", pid)
            return
        log.error("the primary's main process ended (pid %d): fencing", pid)
        self._board.note(fencing=closes, served=0, vip_wanted=False, heartbeat_fails=0)
        try:
            self._fencer.fence(closes, f"the main process (pid {pid}) ended")
            self._post()
        except FailoverError as error:
            log.error("%s; the duty table goes on with it", error)
        self._look()
        self._board.wake.set()


def _epoch_to_close(facts: LocalFacts) -> int | None:
    """The epoch under which this member may have written, or None if it had none open."""
    open_epoch = max(facts.served, facts.lease.epoch if facts.lease.deadline_s else 0)
    if facts.mine and facts.role.value != "standby":
        open_epoch = max(open_epoch, facts.epoch)
    return open_epoch if open_epoch > facts.closed else None
