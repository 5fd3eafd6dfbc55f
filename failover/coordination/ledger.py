"""Typed access to one cluster's records: writes of the core become transactions, znodes become frozen values.

Nothing is decided here. Content that does not have the promised shape is left out and named in `corrupt`, so that one bad
znode is a visible problem and never a crash.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from failover.coordination.base import CheckOp, Committed, Coordinator, CreateOp, DeleteOp, Entry, LostRace, Mirror, Op, SetOp
from failover.coordination.paths import MANY, SINGLE, Paths
from failover.coordination.records import decode, encode
from failover.core.model import Lease, Policy, Receipt, Step, Stored
from failover.core.plan import Check, Create, Erase, Key, Kind, Swap, Write
from failover.errors import Corrupt

_ORDER = {"opened": 0, "intent": 2}  # one transaction ends a step and begins the next, at one time


@dataclass(frozen=True)
class Records:
    """Everything in view of one cluster, decoded. `many[kind][name]`; `corrupt` names what could not be read."""

    single: Mapping[Kind, Stored[Any]] = field(default_factory=dict)
    many: Mapping[Kind, Mapping[str, Stored[Any]]] = field(default_factory=dict)
    corrupt: tuple[str, ...] = ()

    def one(self, kind: Kind) -> Stored[Any] | None:
        return self.single.get(kind)

    def all(self, kind: Kind) -> Mapping[str, Stored[Any]]:
        return self.many.get(kind, {})


class Ledger:
    """The records of one cluster behind one coordinator."""

    def __init__(self, coordinator: Coordinator, paths: Paths) -> None:
        self.coordinator = coordinator
        self.paths = paths
        self._decoded: dict[str, tuple[Entry, Stored[Any]]] = {}

    def ops(self, writes: Iterable[Write]) -> tuple[Op, ...]:
        """The transaction that `writes` describe. Raises Corrupt for a value that is not of its kind."""
        return tuple(self._op(write) for write in writes)

    def commit(self, writes: Iterable[Write], deadline_s: float) -> Committed:
        """All or nothing. Raises LostRace, Unreachable or Unknown (coordination/base.py)."""
        return self.coordinator.commit(self.ops(writes), deadline_s)

    def view(self, mirror: Mirror) -> Records:
        """Decode a mirror's picture; values that did not change are the same objects as last time."""
        single: dict[Kind, Stored[Any]] = {}
        many: dict[Kind, dict[str, Stored[Any]]] = {kind: {} for kind in MANY}
        corrupt = []
        prefix = len(self.paths.state) + 1
        for path, entry in mirror.entries().items():
            kind_text, _, name = path[prefix:].partition("/")
            try:
                kind = Kind(kind_text)
                stored = self._stored(kind, path, entry)
            except (Corrupt, ValueError) as error:
                corrupt.append(f"{path}: {error}")
                continue
            if kind in SINGLE:
                single[kind] = stored
            elif name:
                many[kind][name] = stored
        return Records(single, many, tuple(corrupt))

    def read(self, key: Key, deadline_s: float) -> Stored[Any] | None:
        """One record, asked for now. Raises Unreachable or Corrupt."""
        entry = self.coordinator.get(self.paths.of(key), deadline_s)
        return None if entry is None else self._stored(key.kind, entry.path, entry)

    def bootstrap(self, members: Iterable[str], policy: Policy, deadline_s: float) -> None:
        """Make what must exist and is never deleted. Idempotent; safe when three controllers do it at once."""
        for path in self.paths.skeleton():
            self.coordinator.ensure(path, deadline_s)
        first: list[Create] = [Create(Key(Kind.TERM), 0), Create(Key(Kind.POLICY), policy)]
        for member in members:
            first.append(Create(Key(Kind.LEASE, member), Lease(member, 0)))
            first.append(Create(Key(Kind.RECEIPT, member), Receipt(member, 0, "never had a grant")))
        for create in first:
            try:
                if self.coordinator.get(self.paths.of(create.key), deadline_s) is None:
                    self.commit([create], deadline_s)
            except LostRace:
                continue  # another controller was first

    def operations(self, deadline_s: float) -> tuple[str, ...]:
        """The names of all operations in the journal, oldest first. Raises Unreachable."""
        names = self.coordinator.children(self.paths.journal, deadline_s)
        return tuple(sorted(names, key=lambda name: (len(name), name)))

    def journal(self, operation: str, deadline_s: float) -> tuple[Step, ...]:
        """The story of one operation, in order: the head (why and by whom), then its steps. Raises Unreachable or Corrupt."""
        head = Key(Kind.JOURNAL, operation)
        names = self.coordinator.children(self.paths.of(head), deadline_s)
        keys = (head, *(Key(Kind.JOURNAL, f"{operation}/{name}") for name in names))
        found = [stored.value for key in keys if (stored := self.read(key, deadline_s)) is not None]
        return tuple(sorted(found, key=lambda step: (step.at_wall, _ORDER.get(step.kind, 1), step.number)))

    def _stored(self, kind: Kind, path: str, entry: Entry) -> Stored[Any]:
        known = self._decoded.get(path)
        if known is not None and known[0] == entry:
            return known[1]
        stored: Stored[Any] = Stored(decode(kind, entry.data), entry.version, entry.seen_at_s, entry.owner_session)
        self._decoded[path] = (entry, stored)
        return stored

    def _op(self, write: Write) -> Op:
        path = self.paths.of(write.key)
        if isinstance(write, Create):
            return CreateOp(path, encode(write.key.kind, write.value), write.ephemeral)
        if isinstance(write, Swap):
            return SetOp(path, encode(write.key.kind, write.value), -1 if write.version is None else write.version)
        if isinstance(write, Erase):
            return DeleteOp(path, write.version)
        assert isinstance(write, Check)
        return CheckOp(path, write.version)
