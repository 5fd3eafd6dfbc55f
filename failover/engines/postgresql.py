"""PostgreSQL 13 and later, seen from beside it: the guardian's verbs over the local socket and on the data directory.

The operator account is a superuser that logs in with a password over the socket (`local all <operator> scram-sha-256`).
"""

from __future__ import annotations

import logging
import re
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event, Lock
from typing import TypeVar

from psycopg2 import sql
from psycopg2.extensions import make_dsn, parse_dsn

from failover.clock import boottime_s
from failover.core.model import Role, SyncSet
from failover.engines import pg_files, pg_probe, pg_statements, pg_sync
from failover.engines.base import ControlState, LocalState, Upstream
from failover.engines.lsn import Lsn, parse_offset
from failover.engines.pg_connection import Row, Session
from failover.engines.pg_reload import checkpointer_has_reloaded
from failover.engines.stale import remove_stale
from failover.errors import Corrupt, Refused, Unknown
from failover.settings import Account, InstanceSettings

log = logging.getLogger("failover.engines")

APPLICATION = "failover guardian"

_HOLDS_S = 1.0  # holds() has no budget of its own
_POLL_S = 0.002
_NUDGE_S = 0.02  # a promotion that is not through by then gets its obstacles removed again
_HEARTBEATS_KEPT = 50
# A promotion within some 5 ms of the death of the primary's connection sleeps this long in half of the runs, and a
# standby whose primary restarts in place reconnects only after it. The default is 5 s; each retry is one connect, so
# not much less.
_RETRY_INTERVAL = "100ms"
_SLOT_PREFIX = "failover_"
T = TypeVar("T")


class PostgresLocalEngine:
    """The PostgreSQL server in `instance.data_dir`, which follows others under the name `member`."""

    def __init__(
        self,
        instance: InstanceSettings,
        operator: Account,
        replication: Account,
        monitor: str,
        member: str,
        run_dir: Path,
    ) -> None:
        self._instance = instance
        self._operator = operator
        self._replication = replication
        self._monitor = monitor
        self._member = member
        self._passfile = run_dir / f"{member}.pgpass"
        self._kept: Session | None = None
        self._keeping = Lock()

    def parse_position(self, text: str) -> Lsn:
        return Lsn.parse(text)

    # --- while it runs -----------------------------------------------------------------------------------------

    def state(self, budget_s: float) -> LocalState:
        """Over one kept connection, in logical replication mode: it speaks SQL and also IDENTIFY_SYSTEM.

        That alone names the timeline a standby's position belongs to; SQL knows it only while a receiver runs. Kept,
        because during an operation positions are asked for thirty times a second, and a login costs two processes' time.
        """

        def look(session: Session) -> LocalState:
            facts = session.run(pg_statements.STATE, [APPLICATION])[0]
            identity = session.run("IDENTIFY_SYSTEM")[0]
            newest = session.run(pg_statements.NEWEST_HEARTBEAT) if facts[-1] else []
            return self._state(facts, identity, newest)

        return self._over_kept(look, boottime_s() + budget_s)

    def _over_kept(self, ask: Callable[[Session], T], deadline_s: float) -> T:
        """Ask over the kept connection; one that turns out to have died meanwhile is replaced once."""
        with self._keeping:
            reused = self._kept is not None
            try:
                return self._ask_kept(ask, deadline_s)
            except Unknown:
                if not reused or boottime_s() >= deadline_s:
                    raise
                return self._ask_kept(ask, deadline_s)

    def _ask_kept(self, ask: Callable[[Session], T], deadline_s: float) -> T:
        if self._kept is None:
            self._kept = self._session(deadline_s, replication="database")
        self._kept.deadline_s = deadline_s
        try:
            return ask(self._kept)
        except BaseException:  # whatever it was, what is left in that connection is not an answer to the next question
            self._kept.close()
            self._kept = None
            raise

    def prepare(self, budget_s: float) -> None:
        with self._session(boottime_s() + budget_s) as session:
            monitor = sql.Identifier(self._monitor)
            if session.value(pg_statements.PREPARED, [self._monitor, self._monitor]):
                return
            for statement in pg_statements.PREPARE:
                session.run(sql.SQL(statement).format(monitor=monitor))

    def heartbeat(self, epoch: int, sequence: int, budget_s: float) -> None:
        with self._session(boottime_s() + budget_s) as session:
            session.run(pg_statements.BEAT, [epoch, sequence, epoch, sequence - _HEARTBEATS_KEPT])

    def end_sessions(self, budget_s: float) -> int:
        with self._session(boottime_s() + budget_s) as session:
            told = self._terminate_clients(session)
            while told & self._terminate_clients(session):
                self._pause(session, "sessions still open")
        return len(told)

    def free_replay(self, budget_s: float) -> None:
        with self._session(boottime_s() + budget_s) as session:
            self._terminate_clients(session)
            session.run(pg_statements.RESUME)

    def stop_writes(self, budget_s: float) -> None:
        """A PostgreSQL primary becomes a standby only by a restart."""

    def promote(self, sync: SyncSet | None, followers: Sequence[str], budget_s: float) -> None:
        """Repeatable: on a primary it only makes sure of sync names and slots.

        Sessions of readers are ended again and again until it is through: a lock that one of them holds stops replay,
        and with it promotion, for as long as `max_standby_streaming_delay` allows, and lowering that does not end a
        wait that has begun.
        """
        deadline_s = boottime_s() + budget_s
        with self._session(deadline_s) as session:
            changed = self._set(session, {"synchronous_standby_names": pg_sync.render(sync)})
            if changed or sync is not None:
                self._prove_sync_names(sync, deadline_s)
            self._make_slots(session, followers, reserve=True)
            if not session.value("SELECT pg_is_in_recovery()"):
                return
            before = self._identity(deadline_s).timeline
            self._leave_recovery(session)
            after = int(session.value(pg_statements.PRIMARY_TIMELINE), 16)
        if after <= before:
            raise Corrupt(f"promoted, but the timeline is still {after}")
        log.info("Promoted %s from timeline %d to %d.", self._member, before, after)

    def follow(self, upstream: Upstream, budget_s: float) -> None:
        """Also while the server is stopped: then for its next start."""
        self._write_passfile()
        wanted = {
            "primary_conninfo": self._conninfo(upstream),
            "primary_slot_name": slot_name(self._member) if upstream.slot else "",
            "wal_retrieve_retry_interval": _RETRY_INTERVAL,
        }
        if self.main_pid() is None:
            pg_files.write_settings(self._instance.data_dir, wanted, self._instance.os_user)
            return
        with self._session(boottime_s() + budget_s) as session:
            self._set(session, wanted)

    def stop_receiving(self, budget_s: float) -> None:
        """Returns when the server was told. A replay that is paused or in conflict acts on it only when it goes on."""
        with self._session(boottime_s() + budget_s) as session:
            self._set(session, {"primary_conninfo": ""})

    def apply_sync(self, sync: SyncSet | None, budget_s: float) -> Lsn:
        """Why nothing uses the old set any more when this returns:

        1. A fresh connection shows the new text, so the postmaster has read it and has signalled all its children.
        2. Whether a commit waits at all is one flag in shared memory, set by the checkpointer alone; we see it asleep
           with that signal behind it (`checkpointer_has_reloaded`).
        3. Commits are released by walsenders. One may do so only while its `sync_priority` in shared memory is above
           0, and it counts only others above 0. We see no such walsender outside the new set: each has read the new
           text, or was ended by us. Those left are of the new set, and with w = 1 whoever they count is of the new
           set too, whichever text they hold.

        For None, 1 and 2 are the whole proof: nobody waits. Raises Refused on a standby, Unknown if not proved in time.
        """
        deadline_s = boottime_s() + budget_s
        with self._session(deadline_s) as session:
            if session.value("SELECT pg_is_in_recovery()"):
                raise Refused(f"{self._member} is a standby: its commits wait for nobody")
            self._set(session, {"synchronous_standby_names": pg_sync.render(sync)})
        self._prove_sync_names(sync, deadline_s)
        return self._identity(deadline_s)

    def ensure_slots(self, members: Sequence[str], budget_s: float) -> None:
        with self._session(boottime_s() + budget_s) as session:
            self._make_slots(session, members, reserve=False)
            wanted = [slot_name(member) for member in members]
            session.run(pg_statements.DROP_IDLE_SLOTS, [_SLOT_PREFIX, wanted])

    def checkpoint(self, budget_s: float) -> None:
        with self._session(boottime_s() + budget_s) as session:
            session.run("CHECKPOINT")

    def keeps_received_log(self) -> bool:
        """A receiver acknowledges what it has flushed, and recovery reads it from there."""
        return True

    def rewind_ready(self, position: object) -> bool:
        """pg_rewind reads the source's timeline from its control file, which only a checkpoint brings up to date: before
        that it says "no rewind required" and leaves a database that is neither the old one nor the new one."""
        control = pg_files.read_control(self._instance.bin_dir, self._instance.data_dir)
        return isinstance(position, Lsn) and control.checkpoint.timeline == position.timeline

    def session(self, database: str, deadline_s: float) -> Session:
        """The operator's, to any database of this server."""
        return self._session(deadline_s, database=database)

    # --- files and processes, whether it runs or not ------------------------------------------------------------

    def control_state(self) -> ControlState:
        control = pg_files.read_control(self._instance.bin_dir, self._instance.data_dir)
        try:
            position = pg_files.end_of_log(self._instance.bin_dir, self._instance.data_dir, control)
        except Corrupt as error:  # a database is there all the same, and may be started
            return ControlState(control.system_identifier, control.clean, None, f"{control.state}; {error}")
        return ControlState(control.system_identifier, control.clean, position, control.state)

    def holds(self, position: object) -> bool:
        state = self.state(_HOLDS_S)
        return state.role is Role.STANDBY and isinstance(position, Lsn) and state.position.covers(position)

    def arm_standby(self) -> None:
        """Nothing where there is no database: an emptied directory must go on to look empty."""
        if not (self._instance.data_dir / "global/pg_control").exists():
            return
        pg_files.write_owned(self._instance.data_dir / "standby.signal", "", self._instance.os_user)

    def isolate(self) -> None:
        pg_files.write_settings(self._instance.data_dir, {"primary_conninfo": ""}, self._instance.os_user)

    def remove_stale_files(self) -> None:
        """The socket's lock file goes only if it names this directory (its second line)."""
        data_dir, socket = self._instance.data_dir, f".s.PGSQL.{self._instance.port}"
        socket_lock = self._instance.socket_dir / f"{socket}.lock"
        stale = [data_dir / "postmaster.pid"]
        try:
            if socket_lock.read_text(errors="replace").splitlines()[1:2] == [str(data_dir)]:
                stale += [socket_lock, self._instance.socket_dir / socket]
        except OSError:
            pass  # not there, or not ours to read: then the server itself will say what is wrong
        remove_stale(stale, data_dir)

    def main_pid(self) -> int | None:
        return pg_files.main_pid(self._instance.data_dir, self._instance.bin_dir)

    def start_command(self) -> tuple[str, ...]:
        data_dir = self._instance.data_dir
        command = (str(self._instance.bin_dir / "postgres"), "-D", str(data_dir))
        config = pg_files.config_outside(data_dir)
        return command if config is None else (*command, "-c", f"config_file={config}")

    def stop_signal(self, mode: str) -> int:
        return {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}[mode]

    # --- how -----------------------------------------------------------------------------------------------------

    def _session(self, deadline_s: float, replication: str | None = None, database: str | None = None) -> Session:
        left_ms = max(1, int((deadline_s - boottime_s()) * 1000))
        # statement_timeout: what we gave up on must not pile up in the server.
        options = f"-c search_path=pg_catalog -c synchronous_commit=local -c statement_timeout={left_ms}"
        parameters: dict[str, str | int | None] = {
            "host": str(self._instance.socket_dir),
            "port": self._instance.port,
            "user": self._operator.name,
            "password": self._operator.password(),
            "dbname": database or self._instance.database,
            "application_name": APPLICATION,
            "options": options,
            "replication": replication,
        }
        return Session(parameters, deadline_s)

    def _state(self, facts: Row, identity: Row, newest: list[Row]) -> LocalState:
        standby, paused, replayed, status, host, conninfo, names, waiting, attached, _ = facts
        position = self._position(identity)
        behind = max(0, position.offset - parse_offset(replayed)) if standby and replayed else None
        return LocalState(
            role=Role.STANDBY if standby else Role.PRIMARY,
            system_identifier=str(identity[0]),
            position=position,
            upstream=host if standby else None,
            configured_upstream=parse_dsn(conninfo).get("host", "") if conninfo else "",
            streaming=standby and status == "streaming",
            replay_paused=paused,
            replay_lag_bytes=behind,
            heartbeat=(newest[0][0], newest[0][1]) if newest else None,
            sync=pg_sync.parse(names, "" if standby else position.history_id()),
            attached=tuple(attached or ()),
            waiting_for_sync=waiting,
        )

    def _position(self, identity: Row) -> Lsn:
        """From IDENTIFY_SYSTEM: flushed on a primary; on a standby received, if on the timeline being replayed, or
        replayed.
        """
        timeline, offset = int(identity[1]), parse_offset(identity[2])
        return Lsn(timeline, offset, pg_files.read_switches(self._instance.data_dir, timeline))

    def _identity(self, deadline_s: float) -> Lsn:
        return self._over_kept(lambda session: self._position(session.run("IDENTIFY_SYSTEM")[0]), deadline_s)

    def _set(self, session: Session, wanted: dict[str, str]) -> bool:
        """ALTER SYSTEM what differs from the server's value, and reload. False, and nothing done, if nothing differs.
        """
        differs = session.run(pg_statements.DIFFERS, [list(wanted), list(wanted.values())])
        for (name,) in differs:
            statement = sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(name), sql.Literal(wanted[name]))
            session.run(statement)
        if differs:
            session.run("SELECT pg_reload_conf()")
        return bool(differs)

    def _prove_sync_names(self, sync: SyncSet | None, deadline_s: float) -> None:
        wanted = pg_sync.render(sync)
        while True:
            with self._session(deadline_s) as fresh:
                if fresh.value(pg_statements.SETTING, ["synchronous_standby_names"]) == wanted:
                    break
                self._pause(fresh, "the new synchronous_standby_names is not read yet")
        with self._session(deadline_s) as session:
            while not checkpointer_has_reloaded(session):
                self._pause(session, "the checkpointer has not read the new synchronous_standby_names")
            patience_s = boottime_s() + 10 * _NUDGE_S
            while sync is not None and (old := session.run(pg_statements.OLD_WALSENDERS, [list(sync.names)])):
                if boottime_s() > patience_s:
                    session.run("SELECT pg_terminate_backend(pid) FROM unnest(%s) AS pid", [[row[0] for row in old]])
                self._pause(session, "a walsender of the old sync set has not ended")

    def _make_slots(self, session: Session, members: Sequence[str], reserve: bool) -> None:
        """`reserve`: keep log for them from now on. Without it a slot that nobody ever uses holds nothing back."""
        names = [slot_name(member) for member in members]
        if len(set(names)) != len(names):
            raise Refused(f"two of these members would share a slot: {', '.join(members)}")
        session.run(pg_statements.MAKE_SLOTS, [reserve, names])

    def _leave_recovery(self, session: Session) -> None:
        session.run(pg_statements.RESUME)
        nudge_s = boottime_s()
        while session.value("SELECT pg_is_in_recovery()"):
            if boottime_s() >= nudge_s:
                self._terminate_clients(session)
                self._ask_to_promote(session)
                nudge_s = boottime_s() + _NUDGE_S
            self._pause(session, "still in recovery")

    def _ask_to_promote(self, session: Session) -> None:
        """Asking again wakes a startup process that went to sleep on the first signal (see _RETRY_INTERVAL)."""
        try:
            session.run(pg_statements.PROMOTE)
        except Refused:
            if session.value("SELECT pg_is_in_recovery()"):
                raise  # otherwise it left recovery between our look and our request

    def _terminate_clients(self, session: Session) -> set[int]:
        ours = [self._operator.name, APPLICATION, self._monitor, pg_probe.APPLICATION]
        return {row[0] for row in session.run(pg_statements.TERMINATE_CLIENTS, ours)}

    def _pause(self, session: Session, why: str) -> None:
        if session.left_s <= 0:
            raise Unknown(f"ran out of time: {why}")
        Event().wait(min(_POLL_S, session.left_s))

    def _conninfo(self, upstream: Upstream) -> str:
        """No password: the receiver reads it from a file that only the database's account may read."""
        passfile = {"passfile": str(self._passfile)} if self._replication.password_file else {}
        return make_dsn(
            host=upstream.address,
            port=upstream.port,
            user=self._replication.name,
            application_name=self._member,
            connect_timeout=2,
            keepalives_idle=1,
            keepalives_interval=1,
            keepalives_count=3,
            **passfile,
        )

    def _write_passfile(self) -> None:
        pg_files.write_passfile(self._passfile, self._replication, self._instance.os_user)


def slot_name(member: str) -> str:
    """The physical slot that a primary keeps for `member`."""
    return _SLOT_PREFIX + re.sub(r"[^a-z0-9_]", "_", member.lower())
