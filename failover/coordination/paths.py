"""Every znode, once.

`/failover/<cluster>/state/...` is kept in view by the daemons; `/failover/<cluster>/journal/...` only grows and is read on
demand.
"""

from __future__ import annotations

import re

from failover.core.plan import Key, Kind
from failover.errors import Corrupt

SINGLE = (Kind.TERM, Kind.LEADER, Kind.GRANT, Kind.OPERATION, Kind.POLICY, Kind.DECISION)
MANY = (
    Kind.LEASE, Kind.RECEIPT, Kind.SEAL, Kind.HANDOVER, Kind.MEMBER, Kind.VOTES,
    Kind.REQUEST, Kind.ANSWER, Kind.NOTICE, Kind.CONTROLLER, Kind.REJOIN,
)  # fmt: skip
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")


class Paths:
    """Where the records of one cluster are."""

    def __init__(self, cluster: str, prefix: str = "/failover") -> None:
        self.root = f"{prefix}/{cluster}"
        self.state = f"{self.root}/state"
        self.journal = f"{self.root}/journal"

    def of(self, key: Key) -> str:
        """The znode of `key`. A journal key's name is `<operation>/<step>`. Raises Corrupt for a name that is no name."""
        if key.kind in SINGLE:
            return f"{self.state}/{key.kind.value}"
        parts = key.name.split("/")
        if not all(_NAME.fullmatch(part) for part in parts) or len(parts) > (2 if key.kind is Kind.JOURNAL else 1):
            raise Corrupt(f"not a record name: {key.name!r}")
        base = self.journal if key.kind is Kind.JOURNAL else f"{self.state}/{key.kind.value}"
        return f"{base}/{key.name}"

    def tree(self, kind: Kind) -> str:
        """The parent of all records of a kind of which there are many."""
        return self.journal if kind is Kind.JOURNAL else f"{self.state}/{kind.value}"

    def singles(self) -> tuple[str, ...]:
        return tuple(f"{self.state}/{kind.value}" for kind in SINGLE)

    def trees(self) -> tuple[str, ...]:
        return tuple(self.tree(kind) for kind in MANY)

    def skeleton(self) -> tuple[str, ...]:
        """What must exist before anything else: the parents, made at bootstrap and never deleted."""
        return (self.root, self.state, self.journal, *self.trees())
