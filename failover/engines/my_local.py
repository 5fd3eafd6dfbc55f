"""MySQL and MariaDB, seen from beside them: the guardian's verbs over the local socket and on the data directory.

What differs between the two is in `my_dialect.py` and below it; what happens in which order is the same, and is here and in
`my_replication.py`, `my_writes.py` and `my_semisync.py`.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Sequence

from failover.clock import boottime_s
from failover.core.model import Position, Role, SyncSet
from failover.engines import my_files, my_semisync, my_sessions, my_unfit
from failover.engines.base import ControlState, LocalState, Upstream
from failover.engines.my_access import Access
from failover.engines.my_config import boots_writable, start_options
from failover.engines.my_connection import LOCKED_OUT, Row, Session
from failover.engines.my_dialect import on
from failover.engines.my_flavour import dialect_of, nowhere, parse_position, wrong_flavour
from failover.engines.my_heartbeat import Heartbeats
from failover.engines.my_replication import Replication, pause
from failover.engines.my_semisync import SemiSync
from failover.engines.my_writes import Writes
from failover.errors import FailoverError, Refused, Unknown, Unreachable
from failover.settings import ClusterSettings

log = logging.getLogger("failover.engines")

_HOLDS_S = 1.0  # holds() has no budget of its own, nor has arm_standby()
_END_S = 0.5
_PERSISTED = ("read_only", "super_read_only", "skip_replica_start", "skip_slave_start")


class MyLocalEngine:
    """The server in `cluster.instance.data_dir`, which is the member `member`."""

    def __init__(self, cluster: ClusterSettings, member: str) -> None:
        self._instance = cluster.instance
        self._access = Access(cluster, member)
        self._replication = Replication(self._access)
        self._writes = Writes(self._access, self._replication)
        self._heartbeats = Heartbeats(self._access)
        self._unfit = my_unfit.Unfit(self._access)
        self._processes = my_files.Processes(cluster.instance.data_dir, self._access.programs)

    def parse_position(self, text: str) -> Position:
        return parse_position(self._access.engine, text)

    def ask(self, statement: str, budget_s: float) -> Sequence[Row]:
        """The rows of one statement of the operator."""
        with self._access.work(boottime_s() + budget_s) as session:
            return session.run(statement)

    # --- while it runs -----------------------------------------------------------------------------------------

    def state(self, budget_s: float) -> LocalState:
        return self._access.kept(self._look, boottime_s() + budget_s)

    def prepare(self, budget_s: float) -> None:
        with self._access.work(boottime_s() + budget_s) as session:
            self._heartbeats.prepare(session)

    def heartbeat(self, epoch: int, sequence: int, budget_s: float) -> None:
        """Where a commit waits for an acknowledgement already, one of ours would only wait behind it: the server is alive."""
        self._heartbeats.beat(epoch, sequence, boottime_s() + budget_s)

    def end_sessions(self, budget_s: float) -> int:
        """Raises Unknown if one is still there at the end of the budget."""
        with self._access.work(boottime_s() + budget_s) as session:
            return self._writes.end_all(session)

    def free_replay(self, budget_s: float) -> None:
        with self._access.work(boottime_s() + budget_s) as session:
            self._writes.end_sessions(session)
            self._replication.run_applier(session)

    def stop_writes(self, budget_s: float) -> Position:
        position = self._writes.stop(boottime_s() + budget_s)
        log.info("writes stopped at %s", position.text()[:200])
        return position

    def promote(self, sync: SyncSet | None, followers: Sequence[str], budget_s: float) -> None:
        """All that was received is executed before the first new write, and the sync set is in force before it too."""
        self._check(sync)
        self._writes.take(sync, boottime_s() + budget_s)

    def follow(self, upstream: Upstream, budget_s: float) -> None:
        """Raises Unreachable while the server is stopped: it can be told only what it is there to hear."""
        self._replication.follow(upstream, boottime_s() + budget_s)

    def stop_receiving(self, budget_s: float) -> None:
        """Only the receiver stops: what it has received is applied on. Raises Unknown if it has not ended in time; it has been
        told, and ends as soon as it gives up connecting."""
        self._replication.stop_receiving(boottime_s() + budget_s)

    def apply_sync(self, sync: SyncSet | None, budget_s: float) -> Position:
        """Why nothing uses the old set any more when this returns: only connected standbys release commits, those outside the
        new set were locked out and then ended, and no more acknowledge than the set has.

        The position counts transactions that are being committed just now: one may have passed before the change and be told
        "done" after it. Raises Refused on a standby, Unknown if not proved in time.
        """
        self._check(sync)
        with self._access.work(boottime_s() + budget_s) as session:
            dialect = dialect_of(session)
            if dialect.role(dialect.read(session)) is not Role.PRIMARY:
                raise Refused(f"{self._access.me} is a standby: its commits wait for nobody")
            my_semisync.in_force(self._access, session, sync, pause)
            return dialect.with_commits_under_way(session)

    def ensure_slots(self, members: Sequence[str], budget_s: float) -> None:
        """A source keeps its log for a time, not for a standby: there is nothing to do."""

    def checkpoint(self, budget_s: float) -> None:
        """The role changes without a stop here, so there is none to prepare."""

    def keeps_received_log(self) -> bool:
        """MariaDB deletes it when replication starts again; MySQL keeps it if each piece was synced and is not thrown away."""

        def ask(session: Session) -> bool:
            values = dialect_of(session).read(session)
            return not on(values.get("relay_log_recovery", "ON")) and int(values.get("sync_relay_log", 0)) == 1

        return self._access.kept(ask, boottime_s() + _HOLDS_S)

    def rewind_ready(self, position: Position) -> bool:
        """Whoever has to be made anew is copied, from whatever stands here."""
        return True

    # --- files and processes, whether it runs or not ------------------------------------------------------------

    def control_state(self) -> ControlState:
        """Where its log ends only the running server knows."""
        engine, data_dir = self._access.engine, self._instance.data_dir
        my_files.check_database(engine, data_dir)
        base = ""
        try:
            base = self._access.config.latest().get("log_bin", "")
        except Refused as error:
            log.warning("my.cnf cannot be read: %s", error)
        last = my_files.last_log(engine, data_dir, "" if base == "ON" else base)
        clean = my_files.closed_in_order(last) if last is not None else None
        says = {True: "stopped in order", False: "not stopped in order", None: "no binary log can be read"}[clean]
        return ControlState("", bool(clean), None, f"{says} ({last.name})" if last else says)

    def holds(self, position: Position) -> bool:
        state = self.state(_HOLDS_S)
        return state.role is Role.STANDBY and state.position.covers(position)

    def arm_standby(self) -> None:
        """What SET PERSIST has turned off beats my.cnf and the command line; the rest of that file is not ours."""
        if self._access.engine != "mysql":
            return
        if self.main_pid() is None:
            my_files.forget_persisted(self._instance.data_dir, _PERSISTED, self._instance.os_user)
            return
        with self._access.work(boottime_s() + _HOLDS_S) as session:
            for name in my_unfit.persisted_off(session, _PERSISTED):
                session.run(f"RESET PERSIST IF EXISTS {name}")
                log.warning("%s was persisted as OFF, and would have made the next start a primary's: no more", name)

    def isolate(self) -> None:
        """Our own start says so on the command line. Raises Refused where a unit starts the server and my.cnf does not say it."""
        if self._instance.provider != "direct":
            faults = boots_writable(self._access.engine, self._access.config.options())
            if faults:
                raise Refused(*faults)

    def remove_stale_files(self) -> None:
        my_files.remove_stale_files(self._instance.data_dir, self._access.socket, self._access.programs)

    def main_pid(self) -> int | None:
        return self._processes.main()

    def start_command(self) -> tuple[str, ...]:
        config, instance = self._access.config, self._instance
        places = (f"--datadir={instance.data_dir}", f"--socket={self._access.socket}", f"--port={instance.port}")
        options = start_options(self._access.engine, config.version())
        return (str(self._access.program), *config.file_option, *places, *options)

    def stop_signal(self, mode: str) -> int:
        """MySQL tells commits that wait for an acknowledgement "done" when it stops in order: so their sessions are ended first,
        and a server that cannot be told to is killed."""
        if mode == "immediate":
            return signal.SIGKILL
        if self._access.engine == "mysql" and not self._nobody_hears_of_it():
            return signal.SIGKILL
        return signal.SIGTERM

    # --- how -----------------------------------------------------------------------------------------------------

    def _check(self, sync: SyncSet | None) -> None:
        """Raises Refused for a set that semi-sync cannot be."""
        if sync is None:
            return
        known = {member.name for member in self._access.others}
        if sync.w != 1 or not sync.names or not set(sync.names) <= known:
            raise Refused(f"no sync set here: {sync.w} of ({', '.join(sync.names)})")

    def _nobody_hears_of_it(self) -> bool:
        try:
            self._access.kept(self._writes.end_sessions, boottime_s() + _END_S)
        except (Unknown, Unreachable, FailoverError) as error:
            log.warning("its sessions cannot be ended, so it is killed: %s", error)
            return False
        return True

    def _look(self, session: Session) -> LocalState:
        dialect = dialect_of(session)
        values, channels = dialect.read(session), dialect.channels(session)
        channel = next((found for found in channels if not found.name), None)
        semi = my_semisync.look(session)
        wrong = wrong_flavour(self._access.engine, dialect)
        role = dialect.role(values)
        faults = (wrong,) if wrong else tuple(self._unfit.find(session, values, channels, semi))
        return LocalState(
            role=role,
            system_identifier="",
            position=nowhere(self._access.engine) if wrong else dialect.position(values, channel),
            upstream=channel.upstream if channel else None,
            configured_upstream=self._replication.told(channel, semi.answering),
            streaming=channel is not None and channel.receiving == "Yes",
            replay_paused=channel is not None and bool(channel.host) and not channel.applying,
            replay_lag_bytes=channel.lag_bytes if channel and role is Role.STANDBY else None,
            heartbeat=self._heartbeats.newest(session),
            sync=self._sync(session, role, semi),
            attached=self._attached(session),
            waiting_for_sync=semi.waiting,
            faults=faults,
            kept_out=channel is not None and channel.receiving != "Yes" and channel.receive_errno in LOCKED_OUT,
        )

    def _sync(self, session: Session, role: Role, semi: SemiSync) -> SyncSet | None:
        if role is not Role.PRIMARY or not semi.source:
            return None
        return my_semisync.let_in(self._access, my_semisync.accounts(session, self._access.cluster.users.replication.name))

    def _attached(self, session: Session) -> tuple[str, ...]:
        names = {self._access.name_at(who.address) for who in my_sessions.dumping(session)}
        return tuple(sorted(name for name in names if name))
