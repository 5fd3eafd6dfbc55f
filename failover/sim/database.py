"""A PostgreSQL-like database as a physical thing: its processes, its log, its commits. No guardian's word is needed here.

It does what the real one was seen to do, also what nobody wants: orphans that commit after their main process has died, a start
by hand as a primary, an answer that waits in a socket.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Protocol

from failover.core.model import Role, SyncSet
from failover.engines.base import LocalState, ProbeResult
from failover.engines.lsn import Lsn
from failover.errors import Refused
from failover.sim import threads
from failover.sim.machine import Machine
from failover.sim.scheduler import Sim, Timer
from failover.sim.streaming import Receiving, Sending
from failover.sim.wal import ENTRY_BYTES, GENESIS, Wal

SYSTEM_IDENTIFIER = "7001"
STATEMENT_S = (0.0001, 0.001)
LONG_STATEMENT_S, LONG_ODDS = (0.05, 0.5), 0.03
ORPHANS_S, ORPHANS_ODDS = (0.0, 0.45), 0.5
START_S, STOP_S, QUIT_S = (0.05, 0.3), (0.02, 0.2), (0.001, 0.02)
HUNG_STOP_S = (5.0, 12.0)
SENDERS_MAX_S = 5.0  # an orderly stop waits no longer for standbys that do not acknowledge


class Network(Protocol):
    def send(self, source: str, target: str, act: Callable[[], None]) -> None: ...

    def connected(self, source: str, target: str) -> bool: ...


class Oracle(Protocol):
    """Hears of everything that a user of the cluster could hold against it, at the instant it happens."""

    def acknowledged(self, member: str, write_id: int, offset: int, sync: SyncSet | None, /) -> None:
        """The answer "committed" leaves `member`. `sync` is what was in force when the commit stopped waiting."""
        ...

    def promoted(self, member: str, /) -> None: ...


class Commit:
    """One client's statement. `connected`: there is still somebody to answer."""

    __slots__ = ("connected", "end", "reply", "write_id")

    def __init__(self, write_id: int, reply: Callable[[], None] | None) -> None:
        self.write_id, self.reply = write_id, reply
        self.end, self.connected = 0, True


class Database:
    """`main`: pid of the main process, 0 for none; `children`: processes of the data directory are left. `frozen`: SIGSTOP.

    `ready`: it lets clients in. `standby_signal`, `sync`, `receiving.upstream`, `wal` are files. `timelines` gives numbers that
    no other fork has. `peers` finds a database by its address; each one enters itself.
    """

    def __init__(
        self, sim: Sim, machine: Machine, network: Network, oracle: Oracle, peers: dict[str, Database],
        timelines: Callable[[], int],
    ) -> None:  # fmt: skip
        self.sim, self.machine, self.network, self.peers = sim, machine, network, peers
        self.name, self.address, self.odds = machine.name, machine.address, sim.random
        self._oracle, self._timelines = oracle, timelines
        self._pids = count(100)
        self.wal = Wal(GENESIS)
        self.lost = False
        self.standby_signal, self.clean = True, True
        self.sync: SyncSet | None = None
        self.checkpointed = 1  # the timeline of its last checkpoint
        self.main, self.children, self.frozen = 0, False, False
        self.ready = self.shutting_down = False
        self.role = Role.STANDBY
        self.receiving, self.sending = Receiving(self), Sending(self)
        self.ended, self.gone, self.awake = threads.Event(), threads.Event(), threads.Event()
        self.gone.set()
        self.awake.set()
        self._life = object()
        self._inbox: list[Callable[[], None]] = []
        self._sessions: dict[Commit, None] = {}
        self._waiting: deque[Commit] = deque()
        machine.database = peers[machine.address] = self

    # --- time and processes --------------------------------------------------------------------------------------------
    @property
    def accepts(self) -> bool:
        return self.ready and bool(self.main) and not self.shutting_down

    @property
    def writable(self) -> bool:
        return self.accepts and self.role is Role.PRIMARY

    @property
    def serves(self) -> bool:
        """Some process of it could still tell a client "done": as a primary, or as an orphan of one."""
        if self.role is not Role.PRIMARY or self.frozen:
            return False
        return self.accepts or bool(self._sessions)

    def later(self, seconds: float, act: Callable[[], None]) -> Timer:
        """Something that a process of this database does then, if it still lives."""
        life = self._life
        return self.sim.after(seconds, lambda: self.deliver(act) if self._life is life else None)

    def deliver(self, act: Callable[[], None]) -> None:
        """A process of this database has something to do. A stopped one does it when it goes on."""
        if self.frozen:
            life = self._life
            self._inbox.append(lambda: act() if self._life is life else None)
        elif self.children:
            act()

    def freeze(self) -> None:
        """SIGSTOP to every process."""
        if self.children:
            self.frozen = True
            self.awake.clear()

    def thaw(self) -> None:
        if self.frozen:
            self.frozen = False
            self.awake.set()
            inbox, self._inbox = self._inbox, []
            for act in inbox:
                act()

    def begin_start(self) -> float:
        """Start what the files say it is. Returns the seconds until it lets anybody in."""
        assert not self.main and not self.children, f"{self.name}: two servers on one data directory"
        self._life = object()
        self.main, self.children, self.ready, self.clean = next(self._pids), True, False, False
        self.role = Role.STANDBY if self.standby_signal else Role.PRIMARY
        self.ended, self.gone = threads.Event(), threads.Event()
        takes_s = self.odds.uniform(*START_S)
        self.later(takes_s, self._become_ready)
        return takes_s

    def run_now(self, role: Role, upstream: str = "") -> None:
        """How a history begins: it has been running for long, streaming from the database at address `upstream`."""
        self.standby_signal = role is Role.STANDBY
        self.receiving.upstream = upstream
        self.begin_start()
        self._become_ready()

    def start_by_hand(self) -> bool:
        """By somebody who never heard of a guardian. As a primary, if no file says otherwise."""
        if not self.machine.up or self.children or self.lost or self.machine.disk.rejoin is not None:
            return False
        self.begin_start()
        return True

    def _become_ready(self) -> None:
        if self.main and not self.ready:
            self.ready = True
            self.receiving.begin()

    def crash(self, orphans_s: float | None = None) -> None:
        """SIGKILL to the main process. Its children go on for `orphans_s`; None: for as long as chance lets them."""
        if not self.main:
            return
        if orphans_s is None:
            orphans_s = self.odds.uniform(*ORPHANS_S) if self.odds.random() < ORPHANS_ODDS else 0.0
        self.main = 0
        self.ended.set()
        if orphans_s > 0.0:
            self.later(orphans_s, self.kill_all)
        else:
            self.kill_all()

    def kill_all(self) -> None:
        """SIGKILL to every process of the data directory."""
        self._end(clean=self.clean, tells=True)

    def vanish(self) -> None:
        """The host has no power any more."""
        self._end(clean=self.clean, tells=False)

    def lose_data(self) -> None:
        """The data directory is empty."""
        self.kill_all()
        self.wal, self.lost, self.clean = Wal(), True, False
        self.standby_signal, self.sync, self.receiving.upstream = False, None, ""

    def _end(self, clean: bool, tells: bool) -> None:
        if not self.children:
            return
        self.receiving.end()
        self.main, self.children, self.ready, self.shutting_down, self.frozen = 0, False, False, False, False
        self.clean = clean
        self._life = object()
        self._inbox.clear()
        self._sessions.clear()
        self._waiting.clear()
        self.sending.end(tells)
        for event in (self.ended, self.gone, self.awake):
            event.set()

    # --- an orderly end ----------------------------------------------------------------------------------------------------
    def ask_to_stop(self, mode: str, hangs: bool = False) -> None:
        """SIGINT ("fast") or SIGQUIT ("immediate"). A fast one that `hangs` has ended its sessions and is held up: one client
        frozen in its login does that."""
        if not self.main:
            return
        self.shutting_down = True
        if mode == "immediate":
            self.later(self.odds.uniform(*QUIT_S), self.kill_all)
            return
        self._sessions.clear()
        self._waiting.clear()
        self.later(self.odds.uniform(*(HUNG_STOP_S if hangs else STOP_S)), self._write_shutdown)

    def _write_shutdown(self) -> None:
        self.receiving.end()
        if self.role is Role.PRIMARY and self.ready:
            self.checkpointed = self.wal.append("shutdown").timeline
            self.sending.feed_all()
        self.ready = False
        self.clean = True
        self.later(SENDERS_MAX_S, lambda: self._end(clean=True, tells=True))
        self.drained()

    def drained(self) -> None:
        """Has an orderly stop been waiting for just this acknowledgement?"""
        if self.shutting_down and self.clean and all(link.acked >= len(self.wal) for link in self.sending.links.values()):
            self._end(clean=True, tells=True)

    # --- writes --------------------------------------------------------------------------------------------------------------
    def submit(self, write_id: int, reply: Callable[[], None] | None = None) -> bool:
        """A client's insert arrives at this host. False if it is refused at once; `reply` runs when the answer leaves."""
        if not self.machine.up or not self.machine.kernel.open_to_clients() or not self.writable:
            return False
        commit = Commit(write_id, reply)
        self._sessions[commit] = None
        takes_s = LONG_STATEMENT_S if self.odds.random() < LONG_ODDS else STATEMENT_S
        self.later(self.odds.uniform(*takes_s), lambda: self._commit(commit))
        return True

    def _commit(self, commit: Commit) -> None:
        if commit not in self._sessions or self.role is not Role.PRIMARY:
            return
        commit.end = self.wal.append("write", commit.write_id).end
        self._waiting.append(commit)
        self.sending.feed_all()
        self.release()

    def release(self) -> None:
        """Let go of the commits that enough standbys have, by the set in force now."""
        if not self._waiting:
            return
        covered = self._covered()
        while self._waiting and self._waiting[0].end <= covered:
            self._answer(self._waiting.popleft())

    def _covered(self) -> float:
        """Up to which byte the log is where a commit has to be."""
        if self.sync is None or not self.sync.names:
            return float("inf")
        links, wanted = self.sending.links, self.sync.w
        acked = sorted((links[name].acked for name in self.sync.names if name in links), reverse=True)
        return acked[wanted - 1] * ENTRY_BYTES if len(acked) >= wanted else -1

    def _answer(self, commit: Commit) -> None:
        del self._sessions[commit]
        if commit.connected:
            sync = self.sync
            self.machine.kernel.answer(lambda: self._leave(commit, sync))

    def _leave(self, commit: Commit, sync: SyncSet | None) -> None:
        self._oracle.acknowledged(self.name, commit.write_id, commit.end, sync)
        if commit.reply is not None:
            commit.reply()

    def cut_clients(self) -> int:
        """Their connections are reset: what they sent may still be done, nobody is told."""
        for commit in self._sessions:
            commit.connected = False
        return len(self._sessions)

    def heartbeat(self, epoch: int, sequence: int) -> None:
        """One row, committed here only. Raises Refused on a standby."""
        if self.role is not Role.PRIMARY:
            raise Refused("cannot execute INSERT in a read-only transaction")
        self.wal.append("heartbeat", beat=(epoch, sequence))
        self.sending.feed_all()

    def apply_sync(self, sync: SyncSet | None) -> None:
        self.sync = sync if sync is not None and sync.names else None
        self.release()

    def promote(self) -> None:
        """Leave recovery, on a timeline of its own."""
        self.receiving.end()
        self.role, self.standby_signal = Role.PRIMARY, False
        self.wal.fork(self._timelines())
        self._oracle.promoted(self.name)
        self.sending.feed_all()
        self.release()

    # --- looked at -------------------------------------------------------------------------------------------------------------
    def contains(self, write_id: int) -> bool:
        """Is this write in the log here?"""
        return self.wal.contains(write_id)

    def turn(self) -> tuple[int, bool] | None:
        """What guardian/processes.py reads of the main process: it moves unless it is stopped."""
        if not self.main:
            return None
        return (0, False) if self.frozen else (int(self.sim.now_s * 1e9), False)

    def state(self) -> LocalState:
        """What it says of itself over the local socket."""
        position, link = self.wal.position, self.receiving.link
        history = "" if self.role is Role.STANDBY else position.history_id()
        return LocalState(
            self.role, SYSTEM_IDENTIFIER, position, link.source.address if link else None, self.receiving.upstream,
            streaming=link is not None, replay_lag_bytes=0 if self.role is Role.STANDBY else None, heartbeat=self.wal.beat,
            sync=SyncSet(self.sync.w, self.sync.names, history) if self.sync else None,
            attached=tuple(self.sending.links), waiting_for_sync=len(self._waiting),
        )  # fmt: skip

    def probe(self, kind: str = "fresh") -> ProbeResult | None:
        """What a prober sees that reaches this host; None is silence. `kind` "kept" or "fresh": no difference in this model."""
        if not self.machine.up or self.frozen:
            return None
        if not self.main:
            return ProbeResult(False, Role.UNKNOWN, "connection refused", 0.0, answered_by="host")
        if not self.accepts:
            return ProbeResult(True, Role.RECOVERING, "the database system is starting up or shutting down", 0.0)
        last, link, standby = self.wal.position, self.receiving.link, self.role is Role.STANDBY
        return ProbeResult(
            True, self.role, self.role.value, 0.0,
            position=None if standby and link is None else Lsn(last.timeline, last.offset),
            system_identifier=SYSTEM_IDENTIFIER, writable=not standby, epoch=self.wal.beat[0] if self.wal.beat else None,
            follows=link.source.address if link else None, streaming=link is not None,
        )  # fmt: skip
