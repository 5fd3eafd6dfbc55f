"""How a member that cannot simply follow comes back, as facts and words. What is done about it is in the duty table.

Diverged: it has log that the granted member does not have; that log is saved and listed, then the data is rewound. Lost: the
data directory is gone or empty; a new copy is made beside it. Whatever else holds data is replaced on a person's word only.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from failover.core.model import RejoinWay

DIVERGED = "diverged: it has log that the primary does not have"


class Data(str, Enum):
    """What is in the place of the data directory. `DOUBTFUL`: nothing is, and perhaps only its file system is not mounted."""

    HERE = "here"
    LOST = "lost"
    DOUBTFUL = "doubtful"


@dataclass(frozen=True)
class RejoinFacts:
    """What a guardian knows about bringing its own member back.

    `order` is a person's consent that was not used yet. `rewind_ready`, `writable`: the granted member has a checkpoint of its
    present history; it takes writes under the grant. `unfinished`: this was begun and must go on. `startable`: the data
    directory is whole. `failed`: why it was given up until a person decides. `obstacle`: why a rewind is not possible here.
    `doubt` says why `data` is doubtful. `returning`: its data was replaced and it has not caught up since, so it cannot
    testify: what it had acknowledged before may not be in what it has now.
    """

    automatic: bool = False
    order: RejoinWay | None = None
    rewind_ready: bool = False
    writable: bool = False
    data: Data = Data.HERE
    doubt: str = ""
    unfinished: RejoinWay | None = None
    startable: bool = True
    failed: str | None = None
    obstacle: str | None = None
    returning: bool = False

    @property
    def may_rewind(self) -> bool:
        """Consent is there, and so is what a rewind needs. One that was given up waits for a new word."""
        if self.obstacle or not (self.rewind_ready and self.writable):
            return False
        return self.order is RejoinWay.REWIND or (self.automatic and self.failed is None)

    @property
    def may_reseed(self) -> bool:
        """A new copy: ordered, begun already, or of a directory that is certainly lost."""
        if not self.writable:
            return False
        if self.order is RejoinWay.RESEED or self.unfinished is RejoinWay.RESEED:
            return True
        return self.data is Data.LOST and (self.automatic or self.order is not None)


NOTHING_WRONG = RejoinFacts()


def held_because(facts: RejoinFacts, me: str, primary: str, busy: bool) -> str:
    """Why this member does not come back by itself right now, and which command lets it."""
    copy = f"`failoverctl rejoin {me} --reseed` makes a new copy and keeps the old data beside it"
    if facts.data is Data.DOUBTFUL:
        return f"{facts.doubt}; if the data is really lost, {copy}"
    if facts.failed is not None:
        return f"the rewind was given up: {facts.failed}; {copy}"
    if facts.data is Data.LOST:
        consents = facts.automatic or facts.order is not None
        why = _waits(primary, busy, facts.writable) if consents else f"`failoverctl rejoin {me}` lets a new copy be made"
        return f"the data directory is lost: {why}"
    begun = "in the middle of a rewind" if facts.unfinished is RejoinWay.REWIND else DIVERGED
    if facts.obstacle:
        return f"{begun}, and {facts.obstacle}; {copy}"
    if not (facts.automatic or facts.order or facts.unfinished):
        return f"{begun}; `failoverctl rejoin {me}` saves and lists that log, then rewinds"
    return f"{begun}: {_waits(primary, busy, facts.writable)}"


def _waits(primary: str, busy: bool, writable: bool) -> str:
    if busy:
        return "waiting for the operation, the pause or the maintenance to end"
    return f"waiting for {primary} to " + ("finish its first checkpoint" if writable else "take writes")
