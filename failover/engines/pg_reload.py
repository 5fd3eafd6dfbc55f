"""Proof that the checkpointer has read a new configuration, not only that it was told to.

It alone copies to shared memory whether commits wait for a standby at all. While it is late, every new connection shows
the new `synchronous_standby_names` and commits still wait for nobody.
"""

from __future__ import annotations

import time

from failover.engines import pg_files, pg_statements
from failover.engines.pg_connection import Session

_NAP_S = 0.1  # how long it sleeps between two writes of a spread checkpoint, reading the configuration before each nap


class ReloadWatch:
    """Begin it only after a fresh connection showed the new value: then the postmaster has signalled all its children.

    A signal leaves the pending set only when its process runs; the handler sets the latch, and with that set the
    process does not fall asleep again at its main wait before it has read the configuration. In the naps of a spread
    checkpoint it may: there it takes two different naps, since between them it reads.
    """

    def __init__(self) -> None:
        self._napping_since_s: float | None = None

    def proved(self, session: Session) -> bool:
        """Ask again until True. During the final syncs of a checkpoint it stays False."""
        seen = session.run(pg_statements.CHECKPOINTER)
        if not seen or not pg_files.asleep_without_hangup(seen[0][0]):
            return False
        pid = seen[0][0]
        wait = session.value(pg_statements.WAIT_OF, [pid])
        if wait == "CheckpointerMain":
            return pg_files.asleep_without_hangup(pid)
        if wait != "CheckpointWriteDelay":
            return False
        now_s = time.monotonic()  # as the kernel counts the nap: without suspend
        if self._napping_since_s is None:
            self._napping_since_s = now_s
        return now_s - self._napping_since_s > 3 * _NAP_S
