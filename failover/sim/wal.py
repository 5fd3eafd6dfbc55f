"""A member's log: entries that are shared by every member that has them, so that "is a prefix of" is one look."""

from __future__ import annotations

from collections.abc import Sequence

from failover.engines.lsn import Lsn, Switches

ENTRY_BYTES = 16
Beat = tuple[int, int]  # epoch, sequence


class Entry:
    """One record. `kind`: write | heartbeat | promotion | shutdown. `end`: the byte after it, the same in every log."""

    __slots__ = ("_position", "beat", "end", "kind", "switches", "timeline", "write_id")

    def __init__(
        self, kind: str, end: int, timeline: int, switches: Switches, write_id: int = 0, beat: Beat | None = None
    ) -> None:  # fmt: skip
        self.kind, self.end, self.timeline, self.switches = kind, end, timeline, switches
        self.write_id, self.beat = write_id, beat
        self._position: Lsn | None = None

    @property
    def position(self) -> Lsn:
        """Where a log stands that ends with this entry."""
        if self._position is None:
            self._position = Lsn(self.timeline, self.end, self.switches)
        return self._position


class Wal:
    """What one member has flushed. It never has an entry without all that came before it."""

    __slots__ = ("_writes", "beat", "entries")

    def __init__(self, entries: Sequence[Entry] = ()) -> None:
        self.entries: list[Entry] = []
        self.beat: Beat | None = None
        self._writes: set[int] = set()
        self.take(entries)

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def last(self) -> Entry | None:
        return self.entries[-1] if self.entries else None

    @property
    def position(self) -> Lsn:
        return self.entries[-1].position if self.entries else Lsn(1, 0)

    def contains(self, write_id: int) -> bool:
        return write_id in self._writes

    def append(self, kind: str, write_id: int = 0, beat: Beat | None = None) -> Entry:
        """One more record of the history that is being written here."""
        last = self.entries[-1]
        entry = Entry(kind, last.end + ENTRY_BYTES, last.timeline, last.switches, write_id, beat)
        self.take((entry,))
        return entry

    def fork(self, timeline: int) -> Entry:
        """Leave the present timeline here: a promotion."""
        last = self.entries[-1]
        entry = Entry("promotion", last.end + ENTRY_BYTES, timeline, (*last.switches, (last.timeline, last.end)))
        self.take((entry,))
        return entry

    def take(self, entries: Sequence[Entry]) -> None:
        self.entries.extend(entries)
        for entry in entries:
            if entry.kind == "write":
                self._writes.add(entry.write_id)
            elif entry.beat is not None:
                self.beat = entry.beat

    def holds(self, length: int, last: Entry | None) -> bool:
        """True if a log of `length` entries that ends with `last` is a prefix of this one."""
        return last is None or (length <= len(self.entries) and self.entries[length - 1] is last)

    def shared_with(self, other: Wal) -> int:
        """How many entries both have before they part."""
        low, high = 0, min(len(self), len(other))
        while low < high:
            middle = (low + high + 1) // 2
            if self.entries[middle - 1] is other.entries[middle - 1]:
                low = middle
            else:
                high = middle - 1
        return low


GENESIS = (Entry("shutdown", ENTRY_BYTES, 1, ()),)  # the log that every member begins with
