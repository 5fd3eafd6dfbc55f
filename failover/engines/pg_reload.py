"""Proof that the checkpointer has read a new configuration, not only that it was told to.

It alone copies to shared memory whether commits wait for a standby at all. While it is late, every new connection shows
the new `synchronous_standby_names` and commits still wait for nobody.
"""

from __future__ import annotations

from failover.engines import pg_files, pg_statements
from failover.engines.pg_connection import Session

# Its two sleeps that end when its latch is set and that follow a look at "was I told to reload?": idle, and between
# the writes of a spread checkpoint.
_SLEEPS = ("CheckpointerMain", "CheckpointWriteDelay")


def checkpointer_has_reloaded(session: Session) -> bool:
    """Ask only after a fresh connection showed the new value: then the postmaster has signalled all its children.

    A signal leaves the pending set only when its process runs. The handler sets the latch, which ends the sleep it is
    in and forbids the next one until the configuration was read; so, seen asleep there with nothing pending, it has
    read it. During the final syncs of a checkpoint this stays False.
    """
    pid = session.value(pg_statements.CHECKPOINTER)
    if pid is None or not pg_files.asleep_without_hangup(pid):
        return False
    return session.value(pg_statements.WAIT_OF, [pid]) in _SLEEPS and pg_files.asleep_without_hangup(pid)
