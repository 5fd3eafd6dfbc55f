"""What this product needs of a coordination service, verb by verb.

One contract suite, tests/contract/test_coordinator.py, for `zookeeper.py` (kazoo), `memory.py` and `pinned.py`.
Every write is one all-or-nothing `commit`, every call has a deadline, and a lost reply is `Unknown`, never "not done".
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from failover.coordination.records import SIZE_MAX_BYTES
from failover.errors import Conflict, Refused


@dataclass(frozen=True)
class Entry:
    """One znode as read.

    `seen_at_s` is CLOCK_BOOTTIME of this process, taken after the reply that first showed this version.
    `mzxid` is the ensemble's number of the change that made this version: it tells a re-created znode from the old one
    (both may have version 0) and the newer of two servers' answers from the older.
    """

    path: str
    data: bytes
    version: int
    owner_session: int
    seen_at_s: float
    mzxid: int = 0


@dataclass(frozen=True)
class CreateOp:
    """Create `path` (parents exist). With `ephemeral` it goes away with this client's session."""

    path: str
    data: bytes
    ephemeral: bool = False


@dataclass(frozen=True)
class SetOp:
    """Replace the data if the version is `version`; -1 means any version and is for a guardian's own records only."""

    path: str
    data: bytes
    version: int


@dataclass(frozen=True)
class DeleteOp:
    path: str
    version: int


@dataclass(frozen=True)
class CheckOp:
    path: str
    version: int


Op = CreateOp | SetOp | DeleteOp | CheckOp
COMMIT_MAX_BYTES = 1_000_000  # ZooKeeper hangs up on a request above 1 MiB (jute.maxbuffer): refused here instead


def refuse_oversize(ops: Sequence[Op]) -> None:
    """Raises Refused if the data of one operation, or the whole commit, is more than the ensemble takes."""
    total = 0
    for op in ops:
        size = len(op.data) if isinstance(op, CreateOp | SetOp) else 0
        total += size + len(op.path) + 256  # an upper bound of the frame and the ACL around it
        if size > SIZE_MAX_BYTES:
            raise Refused(f"{op.path}: {size} bytes is more than the {SIZE_MAX_BYTES} a record may have")
    if total > COMMIT_MAX_BYTES:
        raise Refused(f"a commit of {total} bytes is more than the {COMMIT_MAX_BYTES} ZooKeeper takes")


@dataclass(frozen=True)
class Committed:
    """A transaction that is known to have happened. `sent_at_s`: CLOCK_BOOTTIME just before it was sent (G2).

    `versions[i]` is operation i's new znode version: 0 for a create, the checked one for a check, -1 for a delete.
    """

    sent_at_s: float
    versions: tuple[int, ...]


class LostRace(Conflict):
    """Operation number `index` of a commit did not hold; nothing of the commit was done.

    `why` is one of "version" (another version is there), "exists" (for a delete: children exist), "missing".
    """

    def __init__(self, index: int, path: str, why: str) -> None:
        self.index, self.path, self.why = index, path, why
        super().__init__(f"{path}: {why}")


class Mirror(Protocol):
    """A local picture of some records, kept fresh by watches. For looking, never for deciding alone: commits decide."""

    @property
    def changed(self) -> threading.Event:
        """Set at every change and at every connection event; the owner clears it before it looks."""
        ...

    def entries(self) -> Mapping[str, Entry]:
        """An immutable snapshot by path. Never touches the network."""
        ...

    def ready(self) -> bool:
        """True once everything asked for was read at least once over the present session."""
        ...

    def absent_zxid(self, path: str) -> int:
        """As of which change of the ensemble `path` is known not to exist; 0 if it is in view or not looked for."""
        ...

    def close(self) -> None: ...


class Coordinator(Protocol):
    """One client of the ensemble."""

    @property
    def name(self) -> str:
        """For logs: which server or servers this client may talk to."""
        ...

    def start(self, deadline_s: float) -> None:
        """Connect. Raises Unreachable if no server answers within `deadline_s`; the client keeps trying by itself."""
        ...

    def connected(self) -> bool: ...

    def session(self) -> int | None:
        """The session id, or None when not connected. Ownership of an ephemeral is `owner_session == session()`."""
        ...

    def negotiated_session_s(self) -> float | None:
        """The session time-out the server granted, which may differ from what was asked for."""
        ...

    def get(self, path: str, deadline_s: float) -> Entry | None:
        """Read one znode, None if it does not exist. Raises Unreachable when not connected or too late."""
        ...

    def children(self, path: str, deadline_s: float) -> tuple[str, ...]:
        """Sorted names below `path`, () if it does not exist. Raises Unreachable."""
        ...

    def commit(self, ops: Sequence[Op], deadline_s: float) -> Committed:
        """Do all of `ops` or none. Raises LostRace, Unreachable (nothing was done), Unknown (it may have happened).

        Also, with nothing done: Refused if it is too large, WrongCredentials if the ACL does not let this client write.
        """
        ...

    def ensure(self, path: str, deadline_s: float) -> None:
        """Make `path` and its parents, empty, with the ACL. Idempotent. Raises Unreachable or Unknown."""
        ...

    def mirror(
        self, nodes: Sequence[str] = (), trees: Sequence[str] = (), changed: threading.Event | None = None
    ) -> Mirror:
        """Keep single `nodes` and all direct children of each of `trees` in view, also those that do not exist yet.

        `changed` lets several mirrors wake one waiter; without it the mirror makes its own.
        """
        ...

    def close(self) -> None:
        """End the session (ephemerals go) and stop every thread. Idempotent."""
        ...
