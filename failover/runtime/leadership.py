"""Which controller leads. Liveness only: nothing safe rests on there being one leader.

The winner creates the ephemeral `leader` and raises `term` in one transaction. Ownership is the session of the ephemeral, never
a host name: a restarted process does not own what its predecessor left behind, and waits for it to expire.
"""

from __future__ import annotations

import logging

from failover.coordination.base import LostRace
from failover.coordination.ledger import Ledger, Records
from failover.core.plan import Create, Key, Kind, Swap
from failover.errors import FailoverError

log = logging.getLogger("failover.leadership")
COMMIT_S = 1.0


class Leadership:
    def __init__(self, me: str, ledger: Ledger) -> None:
        self._me, self._ledger = me, ledger
        self._led = False

    def leads(self, records: Records) -> bool:
        """True if the `leader` in view is owned by this very session."""
        leader, session = records.one(Kind.LEADER), self._ledger.coordinator.session()
        mine = leader is not None and session is not None and leader.owner_session == session
        if mine != self._led:
            log.warning("this controller %s", "leads" if mine else "does not lead any more")
            self._led = mine
        return mine

    def campaign(self, records: Records) -> bool:
        """Stand for election if nobody leads. True if this transaction won it."""
        term = records.one(Kind.TERM)
        if records.one(Kind.LEADER) is not None or term is None:
            return False
        writes = (
            Create(Key(Kind.LEADER), self._me, ephemeral=True),
            Swap(Key(Kind.TERM), term.value + 1, term.version),
        )
        try:
            self._ledger.commit(writes, COMMIT_S)
        except LostRace:
            return False  # another was first
        except FailoverError as error:
            log.info("the election is unclear: %s", error)  # the next look shows who owns it
            return False
        log.warning("elected: term %d", term.value + 1)
        return True
