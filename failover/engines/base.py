"""What an engine can do, verb by verb. The rest of the product knows no SQL and no file of any database.

Two halves, because they run in two places: a `Prober` looks at a member from a controller over the network with a monitor
account; a `LocalEngine` works beside its database, for the guardian only, over the local socket with the operator account.
Every verb takes a budget in seconds and keeps it even against a frozen server; running out of it raises `Unknown`, a
server that cannot be asked raises `Unreachable`, refused credentials raise `WrongCredentials`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from failover.core.model import Position, Role, SyncSet


@dataclass(frozen=True)
class ProbeResult:
    """One look from afar. `alive` is None when it cannot be told (credentials, our own fault).

    `recovering` children (SQLSTATE 57P03) count as alive. `epoch` is that of the newest heartbeat row.
    """

    alive: bool | None
    role: Role
    detail: str
    took_s: float
    position: Position | None = None
    system_identifier: str = ""
    writable: bool = False
    epoch: int | None = None


class Prober(Protocol):
    """Looks at one member. One instance belongs to one thread."""

    def fresh(self, budget_s: float) -> ProbeResult:
        """Connect, ask, disconnect: sees a hung postmaster."""
        ...

    def kept(self, budget_s: float) -> ProbeResult:
        """Ask over a connection that is kept open: sees a death within milliseconds. Reconnects when there is none."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class LocalState:
    """What the running database says of itself over the local socket.

    `position` is what is safely stored here: received on a standby (greatest of receive and replay), written and flushed on
    a primary. `upstream` is the host the receiver is connected to now; `configured_upstream` the one it is told to use ("" =
    none, sealed by SQL). `heartbeat` is the newest replayed (epoch, sequence). `attached` are the members streaming from here.
    """

    role: Role
    system_identifier: str
    position: Position
    upstream: str | None = None
    configured_upstream: str = ""
    streaming: bool = False
    replay_paused: bool = False
    replay_lag_bytes: int | None = None
    heartbeat: tuple[int, int] | None = None
    sync: SyncSet | None = None
    attached: tuple[str, ...] = ()
    waiting_for_sync: int = 0


@dataclass(frozen=True)
class ControlState:
    """What the files say while nothing runs. `clean`: shut down in order, `position` then is the end of its log."""

    system_identifier: str
    clean: bool
    position: Position | None
    detail: str


@dataclass(frozen=True)
class Upstream:
    """Where a standby streams from, through the physical slot that the primary keeps for it."""

    member: str
    address: str
    port: int


class LocalEngine(Protocol):
    """The database beside this guardian. SQL verbs may be called from several threads, each opens its own connection."""

    def parse_position(self, text: str) -> Position:
        """Raises Corrupt."""
        ...

    # --- while it runs -----------------------------------------------------------------------------------------
    def state(self, budget_s: float) -> LocalState: ...

    def prepare(self, budget_s: float) -> None:
        """On a primary: make what the product needs inside the database (schema, heartbeat table). Idempotent."""
        ...

    def heartbeat(self, epoch: int, sequence: int, budget_s: float) -> None:
        """Insert one heartbeat row on a *fresh* connection, committed locally (it waits for no standby), and prune old ones."""
        ...

    def end_sessions(self, budget_s: float) -> int:
        """End every client session but our own, so that no lock of a reader holds up replay. Returns how many."""
        ...

    def free_replay(self, budget_s: float) -> None:
        """On a standby: end client sessions and resume a paused replay, so that it can act on what it was told. Idempotent."""
        ...

    def promote(self, sync: SyncSet | None, followers: Sequence[str], budget_s: float) -> None:
        """Set the sync names, make the slots, let replay run, promote and wait until it is out of recovery."""
        ...

    def follow(self, upstream: Upstream, budget_s: float) -> None:
        """Stream from `upstream` under this member's own name; by reload where the server can. Idempotent."""
        ...

    def stop_receiving(self, budget_s: float) -> None:
        """Ask the receiver to stop for good (the SQL half of the seal; the kernel half is the proof). Idempotent."""
        ...

    def apply_sync(self, sync: SyncSet | None, budget_s: float) -> Position:
        """Put `sync` in force on the running primary and prove that nothing uses the old one.

        None means: wait for nobody. Returns the primary's position after that proof (barrier of "Changing a sync set").
        """
        ...

    def ensure_slots(self, members: Sequence[str], budget_s: float) -> None:
        """Exactly one physical slot of ours for each of `members`; others of ours that are idle go.

        New ones hold no log back until their member has connected once.
        """
        ...

    def checkpoint(self, budget_s: float) -> None: ...

    # --- files and processes, whether it runs or not ------------------------------------------------------------
    def control_state(self) -> ControlState:
        """Read the control file. Raises Corrupt if there is no database there."""
        ...

    def holds(self, position: Position) -> bool:
        """True if this *running* standby safely stores everything up to `position` (not merely has seen it)."""
        ...

    def arm_standby(self) -> None:
        """Make sure that the next start, by whomever, is a start as a standby. Idempotent, durable."""
        ...

    def isolate(self) -> None:
        """While stopped: make the next start receive from nobody. Idempotent, durable."""
        ...

    def main_pid(self) -> int | None:
        """Pid of the main process of *this* data directory, verified by /proc (start time, working directory), or None."""
        ...

    def start_command(self) -> tuple[str, ...]:
        """argv, to be run as the database's own account with the data directory as working directory."""
        ...

    def stop_signal(self, mode: str) -> int:
        """Signal number for the main process; mode is "fast" or "immediate"."""
        ...
