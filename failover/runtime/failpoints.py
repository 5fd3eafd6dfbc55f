"""Places at which a test may stop or kill this very process, by name. Off, and one look at an attribute, unless asked for.

They are on only in a process whose environment says FAILOVER_FAILPOINTS=<folder>. When it comes to a place, it looks in
that folder for a file of the place's name; the word in it says what it does to itself: `kill` (SIGKILL) or `stop` (SIGSTOP).
The file is first renamed to <name>.reached, so a failpoint fires once and whoever laid it sees which host it was.

Places: `<failover|switchover>.<step>.<intent|done|undone>` and `<kind>.opened`, right after the transaction that wrote that
journal line is known to have succeeded; `action.<MoveVip|Fence|...>`, right before a hand begins an action it was given.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterable
from pathlib import Path

from failover.core.model import Operation, OperationKind, Step
from failover.core.plan import Create, Swap, Write

log = logging.getLogger("failover.failpoints")
ENVIRONMENT = "FAILOVER_FAILPOINTS"
DEEDS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


class Failpoints:
    """`folder` None: every place is passed without a look."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def announce(self) -> None:
        """Say at the start that they are on; nothing if they are off."""
        if self._folder is not None:
            log.warning("failpoints are on: what lies in %s can stop or kill this process; for tests only", self._folder)

    def reach(self, name: str) -> None:
        """Come to the place `name`."""
        if self._folder is not None:
            self._look(self._folder, name)

    def committed(self, writes: Iterable[Write], before: Operation | None) -> None:
        """The journal lines of a transaction that succeeded, in their order. `before`: the operation as it was decided on."""
        if self._folder is None:
            return
        writes = tuple(writes)
        kind = before.kind if before else _opened(writes)
        for write in writes:
            if kind is not None and isinstance(write, Create) and isinstance(write.value, Step):
                self._look(self._folder, f"{kind.value}.{write.value.name}")

    def _look(self, folder: Path, name: str) -> None:
        laid, reached = folder / name, folder / f"{name}.reached"
        try:
            laid.rename(reached)  # of two threads that come here at once, one has it
            deed = reached.read_text().strip()
        except FileNotFoundError:
            return
        except OSError as error:
            log.error("failpoint %s cannot be read: %s", name, error)
            return
        if deed not in DEEDS:
            log.error("failpoint %s says %r; it can say: %s", name, deed[:20], ", ".join(DEEDS))
            return
        log.warning("failpoint %s: %s", name, deed)
        signal.pthread_kill(threading.get_ident(), DEEDS[deed])  # to this thread: kill(2) would let it run on for a moment


def _opened(writes: Iterable[Write]) -> OperationKind | None:
    values = (write.value for write in writes if isinstance(write, Create | Swap))
    return next((value.kind for value in values if isinstance(value, Operation)), None)


def from_environment() -> Failpoints:
    """As this process was started."""
    folder = os.environ.get(ENVIRONMENT)
    return Failpoints(Path(folder) if folder else None)


failpoints = from_environment()
