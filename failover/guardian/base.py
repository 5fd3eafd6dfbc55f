"""The guardian's hands on its own host: kernel gate, seal, VIP, database processes, durable state. Each has one file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from failover.core.model import RejoinWay
from failover.core.pledge import PledgeAsk, PledgeWord
from failover.core.rejoin import Data


@dataclass(frozen=True)
class GateState:
    """What the kernel says. `table`: our table is there; `current` the ticket number in force, `expires_in_s` what is left
    of it (None: untimed), `open` whether a client's packet would pass now."""

    table: bool
    open: bool
    current: int | None
    expires_in_s: float | None
    repaired: bool = False


class Gate(Protocol):
    """The kernel's hold on every guarded port. Thread-safe: closing and arming exclude each other by one lock (G3).

    A guardian starts with `adopt()`. A missing table is an open port, so every `read_back` puts it back, shut, and says so.
    """

    def adopt(self) -> GateState:
        """Take over what an earlier guardian left in the kernel, never shortening a running ticket; installs nothing."""
        ...

    def install_open(self, ticket: int, lifetime_s: float | None) -> None:
        """Make the table with `ticket` already in force, in one transaction: no client notices (adoption)."""
        ...

    def install_shut(self) -> None:
        """Make the table with no ticket in force. If it is there, nothing changes."""
        ...

    def arm(self, ticket: int, lifetime_s: float | None, epoch: int) -> bool:
        """Add the inert ticket *before* the first message of a renewal. False, and nothing done, if `epoch` is closed."""
        ...

    def switch(self, ticket: int) -> None:
        """Put an armed ticket in force, after the acknowledgement. Switching to an expired one leaves the port shut."""
        ...

    def shut(self, closes: int | None) -> None:
        """Close epochs <= `closes` against `arm`, flush all tickets, delete the map entries, in one transaction.

        None (soft fence, handover): flush without closing an epoch; the same epoch may arm again.
        """
        ...

    def cut_sessions(self) -> int:
        """Reset every established client connection on the guarded ports, also of a stopped server (ss -K). Count of them."""
        ...

    def read_back(self) -> GateState: ...

    def release(self) -> None:
        """Delete the table: the port is open for good. Break-glass."""
        ...


class Pledgers(Protocol):
    """The other members' guardians, who are asked for pledges."""

    def ask(self, ask: PledgeAsk, members: Sequence[str], budget_s: float) -> tuple[PledgeWord, ...]:
        """What each of `members` said in this round; returns as soon as all have spoken, or after `budget_s` with what there is.

        Never raises for a path that is broken: who cannot be reached has not spoken.
        """
        ...


class Sealer(Protocol):
    """The kernel's half of a seal: nothing from or to the old primary's database passes, acknowledgements above all."""

    def seal(self, address: str, port: int) -> None: ...

    def unseal(self) -> None: ...

    def sealed(self) -> str | None:
        """The address sealed against, read from the kernel, or None."""
        ...


class Vip(Protocol):
    """The virtual address on this host's interface, kept only as long as it is renewed (valid_lft, whole seconds)."""

    def hold(self, lifetime_s: float | None, announce: bool) -> None:
        """Add it or prolong it; `announce` sends gratuitous ARP frames. Rounds the lifetime up to whole seconds.

        None: without an end (a release: the client's path must outlive us).
        """
        ...

    def drop(self) -> bool:
        """Remove it; True if it was there. Reads back; raises Unknown if it is still there."""
        ...

    def held(self) -> bool: ...


@dataclass(frozen=True)
class Processes:
    """Every process that belongs to the data directory, children that outlived their parent included."""

    main: int | None
    all: tuple[int, ...]


class Instance(Protocol):
    """The database's processes on this host. The only starter, and it starts standbys only.

    `system_identifier` is what a start demands of the data directory; None while nothing is adopted.
    """

    system_identifier: str | None

    def processes(self) -> Processes: ...

    def start_standby(self, deadline_s: float) -> int:
        """Arm standby start-up, start, wait until it accepts connections or the deadline. Returns the main pid.

        Refuses (Refused) a data directory that is missing or of another system identifier. The database outlives us.
        """
        ...

    def stop(self, mode: str, deadline_s: float) -> bool:
        """mode "fast" or "immediate". True once no process is left; False at the deadline."""
        ...

    def kill_all(self, deadline_s: float) -> bool:
        """SIGKILL every process of the data directory until none is left. True if none is left."""
        ...

    def watch(self) -> "Deathwatch | None":
        """A handle that becomes readable when the main process ends, or None when none runs."""
        ...


class Deathwatch(Protocol):
    """A pidfd on the main process."""

    @property
    def pid(self) -> int: ...

    def wait(self, timeout_s: float) -> bool:
        """True when the process has ended."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Durable:
    """What a guardian remembers across restarts. `closed`: no opening under an epoch <= this. `frozen`/`frozen_against`:
    the claim this standby is sealed for and the old primary's address. `highest`: the greatest epoch ever seen. `followed`: the
    latest epoch whose primary this member followed, its log being part of that primary's. `wrote`: the
    latest epoch under which this member may have taken writes, stored before it could. `home`: the file system that held the
    data when all was well. `rejoined`: the last consent to a rejoin that was used. `stopped`: a member
    without a guardian was fenced, and nobody starts it until a person releases it. `proven_life`: the run of the database
    (`life_of`) in which it was last seen to have caught up: where a restart may lose received log, no other may testify.
    """

    closed: int = 0
    frozen: int = 0
    frozen_against: str = ""
    highest: int = 0
    released: bool = False
    followed: int = 0
    wrote: int = 0
    stopped: bool = False
    home: str = ""
    rejoined: str = ""
    proven_life: str = ""


@dataclass(frozen=True)
class RejoinState:
    """What the duty table is told. `startable`: the data directory is whole and nobody is about to change it."""

    data: Data = Data.HERE
    doubt: str = ""
    unfinished: RejoinWay | None = None
    startable: bool = True
    failed: str | None = None
    obstacle: str | None = None
    ready: bool = False


class StateFile(Protocol):
    """Two preallocated slots with a checksum and a sequence; the newer valid one counts. One guardian at a time holds it."""

    def load(self) -> Durable: ...

    def store(self, durable: Durable) -> None:
        """Durable when it returns. Raises Unknown if the disk did not say so. Fencing never waits for it; a receipt does."""
        ...


@dataclass(frozen=True)
class Guarded:
    """What the gate is told: the ports, who is let through without a ticket (members and controllers), per address family."""

    ports: Sequence[int]
    peers: Sequence[str]
