"""The guardian's hands on the database of its machine: Instance with its Deathwatch, LocalEngine, and the state file."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from failover.core.model import Position, Role, SyncSet
from failover.engines.base import ControlState, LocalState, Upstream
from failover.engines.lsn import Lsn
from failover.errors import Corrupt, Refused, Unknown, Unreachable
from failover.guardian.base import Durable, Processes
from failover.sim.database import SYSTEM_IDENTIFIER, Database
from failover.sim.kernel import Hand
from failover.sim.machine import Machine
from failover.sim.rejoining import SimRejoining
from failover.sim.scheduler import Process
from failover.sim.threads import Event

__all__ = ["SimDisk", "SimEngine", "SimInstance", "SimRejoining", "SimWatch", "parse_position"]

SQL_S, DISK_S = (0.0005, 0.005), (0.0005, 0.003)
PROMOTE_S, CHECKPOINT_S, KILL_S = (0.015, 0.06), (0.02, 0.2), (0.005, 0.03)
RECEIVER_ENDS_S, RECEIVER_STAYS_S = (0.001, 0.005), (0.5, 3.0)
ASK_AGAIN_S = 0.05
_ORPHAN = 1_000_000
_PROMISES = ("closed", "highest", "followed", "wrote")

parse_position = lru_cache(maxsize=4096)(Lsn.parse)


class SimDisk(Hand):
    """The StateFile, on this machine's disk. Trouble "fails": it did not say so, and may have stored it all the same."""

    def load(self) -> Durable:
        self._begin("disk.load", DISK_S)
        return self.machine.disk.durable

    def store(self, durable: Durable) -> None:
        """Raises Corrupt for a promise taken back, as the real file does."""
        disk = self.machine.disk
        if any(getattr(durable, name) < getattr(disk.durable, name) for name in _PROMISES):
            raise Corrupt("the guardian tried to take back what it promised")
        try:
            self._begin("disk.store", DISK_S)
        except Unknown:
            if self._sim.random.random() < 0.5:
                disk.durable = durable
            raise
        disk.durable = durable
        self._done("disk.store")


class SimWatch:
    """A pidfd: it belongs to one life of the main process."""

    def __init__(self, pid: int, ended: Event) -> None:
        self.pid, self._ended = pid, ended

    def wait(self, timeout_s: float) -> bool:
        return self._ended.wait(timeout_s)

    def close(self) -> None:
        """Nothing is held."""


class SimInstance(Hand):
    def __init__(self, machine: Machine, process: Process, system_identifier: str | None = None) -> None:
        super().__init__(machine, process)
        self.system_identifier = system_identifier

    def processes(self) -> Processes:
        self.process.boundary("instance.processes")
        return self._processes()

    def start_standby(self, deadline_s: float) -> int:
        self._begin("instance.start_standby", DISK_S, deadline_s)
        database, ends_s = self.machine.database, self._sim.now_s + self.machine.clock.true_s(deadline_s)
        self._check(database)
        database.standby_signal = True
        self._sim.sleep(database.begin_start())
        while not database.accepts:
            if not database.main:
                raise Unknown("the database ended while it was starting")
            if self._sim.now_s >= ends_s:
                raise Unknown(f"the database was not ready after {deadline_s:.1f} s")
            self._sim.sleep(ASK_AGAIN_S)
        self._done("instance.start_standby")
        return database.main

    def stop(self, mode: str, deadline_s: float) -> bool:
        database, label = self.machine.database, "instance.stop"
        self.process.boundary(label)
        if database.children:
            database.ask_to_stop(mode, hangs=self.machine.trouble.get(label) == "hangs")
        stopped = database.gone.wait(deadline_s)
        self._done(label)
        return stopped

    def kill_all(self, deadline_s: float) -> bool:
        try:
            self._begin("instance.kill_all", KILL_S, deadline_s)
        except Unknown:
            return False
        self.machine.database.kill_all()
        self._done("instance.kill_all")
        return True

    def watch(self) -> SimWatch | None:
        self.process.boundary("instance.watch")
        database = self.machine.database
        return SimWatch(database.main, database.ended) if database.main else None

    def _processes(self) -> Processes:
        database = self.machine.database
        orphans = (_ORPHAN,) if database.children else ()
        return Processes(database.main or None, (database.main, *orphans) if database.main else orphans)

    def _check(self, database: Database) -> None:
        if database.lost or self.machine.disk.rejoin is not None:
            raise Refused("no whole database in the data directory")
        if self.system_identifier not in (None, SYSTEM_IDENTIFIER):
            raise Refused(f"it holds system {SYSTEM_IDENTIFIER}, this cluster is system {self.system_identifier}")
        if database.main:
            raise Refused(f"the database already runs: main process {database.main}")
        if database.children:
            raise Refused("processes of an earlier start still live, end them first")


class SimEngine(Hand):
    """Verbs of LocalEngine. One that needs a running server waits out its budget on a frozen one."""

    def parse_position(self, text: str) -> Position:
        return parse_position(text)

    # --- while it runs -------------------------------------------------------------------------------------------------
    def state(self, budget_s: float) -> LocalState:
        return self._sql("engine.state", budget_s).state()

    def prepare(self, budget_s: float) -> None:
        self._sql("engine.prepare", budget_s)

    def heartbeat(self, epoch: int, sequence: int, budget_s: float) -> None:
        self._sql("engine.heartbeat", budget_s).heartbeat(epoch, sequence)
        self._done("engine.heartbeat")

    def end_sessions(self, budget_s: float) -> int:
        self._sql("engine.end_sessions", budget_s)
        return 0

    def free_replay(self, budget_s: float) -> None:
        self._sql("engine.free_replay", budget_s)

    def stop_writes(self, budget_s: float) -> None:
        """As PostgreSQL: it has to be stopped for that."""

    def promote(self, sync: SyncSet | None, followers: Sequence[str], budget_s: float) -> None:
        database = self._sql("engine.promote", budget_s, PROMOTE_S)
        database.apply_sync(sync)
        if database.role is Role.STANDBY:
            database.promote()
        self._done("engine.promote")

    def follow(self, upstream: Upstream, budget_s: float) -> None:
        """While the server is stopped: for its next start."""
        if self.machine.database.main:
            database = self._sql("engine.follow", budget_s)
        else:
            self._begin("engine.follow", DISK_S, budget_s)
            database = self.machine.database
        database.receiving.follow(upstream.address)
        self._done("engine.follow")

    def stop_receiving(self, budget_s: float) -> None:
        """Trouble "ineffective": the setting is gone, the receiver goes on for seconds (replay paused or in conflict)."""
        database = self._sql("engine.stop_receiving", budget_s)
        ineffective = self.machine.trouble.get("engine.stop_receiving") == "ineffective"
        database.receiving.stop(self._sim.random.uniform(*(RECEIVER_STAYS_S if ineffective else RECEIVER_ENDS_S)))
        self._done("engine.stop_receiving")

    def apply_sync(self, sync: SyncSet | None, budget_s: float) -> Position:
        database = self._sql("engine.apply_sync", budget_s)
        if database.role is not Role.PRIMARY:
            raise Refused("a standby: its commits wait for nobody")
        database.apply_sync(sync)
        position = database.wal.position
        self._done("engine.apply_sync")
        return position

    def ensure_slots(self, members: Sequence[str], budget_s: float) -> None:
        self._sql("engine.ensure_slots", budget_s)

    def checkpoint(self, budget_s: float) -> None:
        database = self._sql("engine.checkpoint", budget_s, CHECKPOINT_S)
        if database.role is Role.PRIMARY:
            database.checkpointed = database.wal.position.timeline
        self._done("engine.checkpoint")

    def keeps_received_log(self) -> bool:
        return True

    def remove_stale_files(self) -> None:
        """There are none."""

    def rewind_ready(self, position: Position) -> bool:
        self._begin("engine.rewind_ready", DISK_S)
        return isinstance(position, Lsn) and self.machine.database.checkpointed == position.timeline

    def holds(self, position: Position) -> bool:
        database = self._sql("engine.holds", 1.0)
        return database.role is Role.STANDBY and database.wal.position.covers(position)

    # --- files and processes, whether it runs or not -----------------------------------------------------------------------
    def control_state(self) -> ControlState:
        self._begin("engine.control_state", DISK_S)
        database = self.machine.database
        if database.lost:
            raise Corrupt("there is no control file")
        position = database.wal.position if database.clean else None
        return ControlState(SYSTEM_IDENTIFIER, database.clean, position, "shut down" if database.clean else "in production")

    def arm_standby(self) -> None:
        self._begin("engine.arm_standby", DISK_S)
        database = self.machine.database
        database.standby_signal = not database.lost
        self._done("engine.arm_standby")

    def isolate(self) -> None:
        self._begin("engine.isolate", DISK_S)
        self.machine.database.receiving.upstream = ""
        self._done("engine.isolate")

    def main_pid(self) -> int | None:
        self.process.boundary("engine.main_pid")
        return self.machine.database.main or None

    def start_command(self) -> tuple[str, ...]:
        return ("postgres",)

    def stop_signal(self, mode: str) -> int:
        return {"fast": 2, "immediate": 3}[mode]

    def _sql(self, label: str, budget_s: float, takes_s: tuple[float, float] = SQL_S) -> Database:
        """The database, once a fresh connection has been let in and its statement is about to act."""
        database = self.machine.database
        if not database.main:
            self.process.boundary(label)
            raise Unreachable("nothing listens on the socket")
        life = database.ended
        self._begin(label, takes_s, budget_s)
        if database.frozen and not database.awake.wait(budget_s):
            raise Unknown(f"PostgreSQL gave no answer within {budget_s:.1f} s")
        if database.ended is not life or not database.main:
            raise Unknown("the connection was lost")
        if not database.accepts:
            raise Unreachable("the database system is starting up or shutting down")
        return database
