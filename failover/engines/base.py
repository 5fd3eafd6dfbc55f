"""What an engine can do, verb by verb. The rest of the product knows no SQL and no file of any database.

Two halves, because they run in two places: a `Prober` looks at a member from a controller over the network with a monitor
account; a `LocalEngine` works beside its database, for the guardian only, over the local socket with the operator account.
Every verb takes a budget in seconds and keeps it even against a frozen server; running out of it raises `Unknown`, a
server that cannot be asked raises `Unreachable`, refused credentials raise `WrongCredentials`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Protocol

from failover.core.model import Position, Role, SyncSet


@dataclass(frozen=True)
class ProbeResult:
    """One look from afar. `alive` is None when it cannot be told (credentials, our own fault).

    `recovering` children (SQLSTATE 57P03) count as alive. `epoch` is that of the newest heartbeat row. `answered_by` says who
    spoke where `alive` is not True: "host" (its kernel: nothing listens), "server" (a process of the database that let nobody
    in), "" (silence). It proves that the way there works. `follows` is the host that a standby's receiver is connected to.
    """

    alive: bool | None
    role: Role
    detail: str
    took_s: float
    position: Position | None = None
    system_identifier: str = ""
    writable: bool = False
    epoch: int | None = None
    answered_by: str = ""
    follows: str | None = None
    streaming: bool = False


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
    none, sealed by SQL). `kept_out`: the primary refuses this standby's replication account, because it is in no sync set there.
    `heartbeat` is the newest replayed (epoch, sequence). `attached` are the members streaming from here. `system_identifier` is
    "" where the engine has none. `faults`: what makes this server unfit for the product, each with its remedy.
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
    faults: tuple[str, ...] = ()
    kept_out: bool = False


@dataclass(frozen=True)
class ControlState:
    """What the files say while nothing runs. `clean`: shut down in order, `position` then is the end of its log.

    `system_identifier` is "" and `position` None where the files do not say.
    """

    system_identifier: str
    clean: bool
    position: Position | None
    detail: str


@dataclass(frozen=True)
class Upstream:
    """Where a standby streams from, through the physical slot that the primary keeps for it.

    `slot`: a guardian beside the primary keeps one. Without, the standby has to live with the log that is still there.
    """

    member: str
    address: str
    port: int
    slot: bool = True


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
        """End every client session but our own, so that no lock of a reader holds up replay. Returns how many.

        Raises Unknown if one of them is still there at the end of the budget. Whoever comes meanwhile is not waited for: clients
        that connect again at once would be there at every look.
        """
        ...

    def free_replay(self, budget_s: float) -> None:
        """On a standby: end client sessions and resume a paused replay, so that it can act on what it was told. Idempotent."""
        ...

    def stop_writes(self, budget_s: float) -> Position | None:
        """On a primary whose port is shut: no commit succeeds any more, those in flight are through; where its log ends.

        From then on it is a standby that receives from nobody, and `promote` gives writes back. None, and nothing done: this
        engine has to be stopped for that.
        """
        ...

    def promote(self, sync: SyncSet | None, followers: Sequence[str], budget_s: float) -> None:
        """Set the sync names, make the slots, let replay run, promote and wait until it is out of recovery."""
        ...

    def follow(self, upstream: Upstream, budget_s: float) -> None:
        """Stream from `upstream` under this member's own name; by reload where the server can. Idempotent.

        While the server is stopped: for its next start, or Unreachable where the engine can be told only as it runs.
        """
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

    def keeps_received_log(self) -> bool:
        """False if a restart of this *running* server may lose log that it received and acknowledged. Raises as `state` does."""
        ...

    def rewind_ready(self, position: Position) -> bool:
        """True if a checkpoint of the history that `position` is on is in this server's files: others may be rewound to it."""
        ...

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

    def remove_stale_files(self) -> None:
        """Remove lock files of a server that is dead, which would keep the next one from starting or name a stranger for life.

        Called only after the proof that nobody works in this data directory. Raises Refused.
        """
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


@dataclass(frozen=True)
class Work:
    """What a long work is given: when to end early (its child processes ended, nothing more touched), and whom to tell.

    `told` hears short words for people, "42 %". `lock` is a descriptor that child processes inherit: whoever waits for that
    lock waits for them too, should their guardian die.
    """

    stop: Event
    told: Callable[[str], None]
    lock: int | None = None


@dataclass(frozen=True)
class Tail:
    """The log that a member has and the granted one does not: after `diverged_at`, up to `end`, `size_bytes` of files."""

    diverged_at: Position
    end: Position
    size_bytes: int


@dataclass(frozen=True)
class Discarded:
    """What is in a tail: the commits a user would miss. `lines` are the first hundred, oldest first; `tables` counts rows.

    The product's own rows (heartbeats) and the server's own (statistics) are nobody's loss and are left out. `unread` says up
    to where the log could be read, if not to its end.
    """

    commits: int = 0
    lines: tuple[str, ...] = ()
    tables: tuple[tuple[str, int], ...] = ()
    unread: str = ""


class Rejoiner(Protocol):
    """Brings a database back that cannot simply follow. Everything here may take hours and ends early on `Work.stop`.

    Raises Refused (a rule, nothing was touched), Unreachable (not begun), Unknown (it may be half done, or was stopped).
    """

    def obstacle(self) -> str | None:
        """Why `rewind` cannot be tried on this host as it is configured, in words; None if it can."""
        ...

    def tail(self, mine: Position, theirs: Position) -> Tail:
        """What `mine` has and `theirs` does not. Raises Refused if they share no history or the log is not there any more."""
        ...

    def save(self, tail: Tail, into: Path, work: Work) -> Discarded:
        """Copy the tail's log into the folder `into` and list its commits in `commits.txt` there, durably.

        Tables have names only while the database runs.
        """
        ...

    def forget(self) -> None:
        """Remove what a rewind or a copy has put aside: when it is through, and before a new one begins."""
        ...

    def rewind(self, source: Upstream, work: Work) -> None:
        """Make the *stopped* database a copy of `source` as of now, keeping what both share, and its own configuration.

        Repeatable after an interruption, as long as nothing was forgotten. Its first start must follow `source`: it is
        consistent only with log that is still to come.
        """
        ...

    def copy(self, source: Upstream, into: Path, work: Work) -> None:
        """A whole copy of `source` in the empty directory `into`, ready to be started as a standby, isolated."""
        ...
