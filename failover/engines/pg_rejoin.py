"""Bringing a PostgreSQL database back: its own log saved and listed, pg_rewind, pg_basebackup, and our files set right after.

Both tools copy what is not ours to copy: the source's configuration, its `postgresql.auto.conf` (once seen torn), its
slots. After either of them this host's own configuration is back, no slot is left, and the next start is a standby's that
receives from nobody, except that of a rewound one: it is consistent only with log of its source that is still to come.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from psycopg2.extensions import make_dsn

from failover.clock import boottime_s
from failover.core.model import Position
from failover.engines import pg_files, pg_statements, pg_tail
from failover.engines.base import Discarded, Tail, Upstream, Work
from failover.engines.lsn import Lsn, format_offset
from failover.engines.pg_connection import Session
from failover.engines.tools import run_tool
from failover.errors import FailoverError, Refused, Unknown, Unreachable
from failover.settings import Account, InstanceSettings

log = logging.getLogger("failover.engines")

_SQL_S = 10.0
_TOOL_S = 10.0
_SPARE_BYTES = 256 << 20  # left free beside what is saved
_PROGRESS = re.compile(r"(\d+)/(\d+) kB \((\d+)%\)")
_VERSION = re.compile(r"\(PostgreSQL\) (\d+)")
_NOTHING_TO_DO = "no rewind required"
_CONTROL = Path("global/pg_control")
_CONFIGURATION = ("postgresql.conf", "postgresql.auto.conf", "pg_hba.conf", "pg_ident.conf")
Sessions = Callable[[str, float], Session]


class PostgresRejoiner:
    """The Rejoiner of the server in `instance.data_dir`. `sessions` opens one of the operator's to a named database.

    `rewind` is an account that may log in to the primary over the network and call the four functions of
    docs/least-privilege.md. While a tool is at work, `<data_dir>.kept` holds what it overwrites and we still need.
    """

    def __init__(
        self, instance: InstanceSettings, replication: Account, rewind: Account | None, member: str, run_dir: Path,
        sessions: Sessions,
    ) -> None:  # fmt: skip
        self._instance, self._replication, self._rewind = instance, replication, rewind
        self._member, self._run_dir, self._sessions = member, run_dir, sessions
        self._kept = instance.data_dir.with_name(instance.data_dir.name + ".kept")

    def obstacle(self) -> str | None:
        return None if self._rewind else "users.rewind is not configured"

    # --- what would be given up --------------------------------------------------------------------------------------
    def tail(self, mine: Position, theirs: Position) -> Tail:
        if not isinstance(mine, Lsn) or not isinstance(theirs, Lsn) or (fork := mine.fork(theirs)) is None:
            raise Refused(f"{mine.text()} and {theirs.text()} share no history")
        names = pg_tail.segments(mine.since(fork), self._segment_bytes())
        files = pg_tail.present(self._instance.data_dir / "pg_wal", names)
        if len(files) < len(names):
            raise Refused(f"log since {fork.text()} is gone from this host: {len(files)} of {len(names)} files are there")
        return Tail(fork, mine, sum(path.stat().st_size for path in files))

    def save(self, tail: Tail, into: Path, work: Work) -> Discarded:
        mine, fork = tail.end, tail.diverged_at
        assert isinstance(mine, Lsn) and isinstance(fork, Lsn)
        pieces = mine.since(fork)
        free = shutil.disk_usage(into).free
        if tail.size_bytes + _SPARE_BYTES > free:
            raise Refused(f"{tail.size_bytes >> 20} MiB of log are to be saved in {into}, {free >> 20} MiB are free there")
        self._copy_log(pieces, into, work)
        with (into / "commits.txt").open("w") as listed, self._naming() as naming:
            found = self._list(pieces, pg_tail.Listing(naming), listed, work)
            listed.flush()
            os.fsync(listed.fileno())
        _write(into / "README", _readme(self._member, pieces, found))
        pg_files.sync_directory(into)
        return found

    def _copy_log(self, pieces: pg_tail.Pieces, into: Path, work: Work) -> None:
        wal = self._instance.data_dir / "pg_wal"
        files = [*pg_tail.present(wal, pg_tail.segments(pieces, self._segment_bytes())), *sorted(wal.glob("*.history"))]
        for number, path in enumerate(files):
            if work.stop.is_set():
                raise Unknown("stopped before its end")
            work.told(f"{number} of {len(files)} files of log saved")
            _copy_file(path, into / path.name)

    def _list(self, pieces: pg_tail.Pieces, listing: pg_tail.Listing, listed: TextIO, work: Work) -> Discarded:
        def heard(line: str) -> None:
            if (words := listing.feed(line)) is not None:
                listed.write(words + "\n")

        unread = ""
        for timeline, start, end in pieces:
            wal, names = self._instance.data_dir / "pg_wal", pg_tail.segments(((timeline, start, end),), self._segment_bytes())
            last = next((name for name in reversed(names) if (wal / name).exists()), names[0])
            until = ("-e", format_offset(end)) if last == names[-1] else ()
            argv: list[str | Path] = [
                self._instance.bin_dir / "pg_waldump", "-p", wal, "-s", format_offset(start), *until,
                *pg_files.named_files(names[0], last),
            ]  # fmt: skip
            try:
                run_tool(argv, self._instance.os_user, work, heard)
            except Unknown as error:
                if work.stop.is_set():
                    raise
                unread = f"read up to {listing.last or format_offset(start)} on timeline {timeline}: {error}"
                log.warning("The list of discarded commits ends early: %s.", unread)
        return listing.result(unread)

    @contextlib.contextmanager
    def _naming(self) -> Iterator[pg_tail.Naming]:
        """Names of tables by their files, asked of the database while it still runs; "" where it cannot say."""
        sessions: dict[str, Session | None] = {}
        known: dict[str, str | None] = {}

        def name(relation: str) -> str | None:
            if relation not in known:
                known[relation] = self._ask_name(sessions, *relation.split("/"))
            return known[relation]

        try:
            yield name
        finally:
            for session in sessions.values():
                if session is not None:
                    session.close()

    def _ask_name(self, sessions: dict[str, Session | None], space: str, database: str, file: str) -> str | None:
        try:
            if database not in sessions:
                sessions[database] = self._open(database)
            session = sessions[database]
            if session is None:
                return ""
            session.deadline_s = boottime_s() + _SQL_S
            rows = session.run(pg_statements.TABLE_OF_FILE, [int(space), int(file)])
        except Unreachable as error:  # it ended in the middle of this: names are worth a second try, once it runs again
            raise Unreachable(f"the database ended while its tables were being named: {error}") from error
        except FailoverError as error:
            log.warning("A table cannot be named: %s.", error)
            sessions[database] = None
            return ""
        return pg_tail.loss(*rows[0]) if rows else ""

    def _open(self, database: str) -> Session | None:
        """A session to the database with this oid; shared tables (oid 0) can be asked for anywhere."""
        own = self._instance.database
        with self._sessions(own, boottime_s() + _SQL_S) as session:
            name = own if database == "0" else session.value(pg_statements.DATABASE_NAME, [int(database)])
        return self._sessions(name, boottime_s() + _SQL_S) if name else None

    def forget(self) -> None:
        for left in (self._kept, self._kept.with_name(self._kept.name + ".new")):
            if left.exists():
                shutil.rmtree(left)

    # --- the tools ---------------------------------------------------------------------------------------------------
    def rewind(self, source: Upstream, work: Work) -> None:
        if self._rewind is None:
            raise Refused("users.rewind is not configured")
        self._keep(with_log=True)
        self._put_back_log()
        version, config = self._version(), self._config_outside()
        argv: list[str | Path] = [
            self._instance.bin_dir / "pg_rewind", "-D", self._instance.data_dir, "-P",
            "--source-server", self._conninfo(self._rewind, source, "rewind", self._instance.database),
        ]  # fmt: skip
        if config is not None and version >= 15:
            argv += ["--config-file", config]
        if (config is None or version >= 15) and self._has_archive(config):
            argv.append("--restore-target-wal")
        said: list[str] = []

        def heard(line: str) -> None:
            said.append(line) if _NOTHING_TO_DO in line else _tell(work, line)

        run_tool(argv, self._instance.os_user, work, heard)
        if said:
            raise Refused("pg_rewind found nothing to rewind although the histories differ")
        self._settle(self._instance.data_dir)

    def copy(self, source: Upstream, into: Path, work: Work) -> None:
        argv: list[str | Path] = [
            self._instance.bin_dir / "pg_basebackup", "-D", into, "-X", "stream", "-c", "fast", "-P", "-w", "--no-manifest",
            "-d", self._conninfo(self._replication, source, "copy", None),
        ]  # fmt: skip
        run_tool(argv, self._instance.os_user, work, lambda line: _tell(work, line))
        self._keep(with_log=False)
        self._settle(into)

    def _keep(self, with_log: bool) -> None:
        """Put aside, once, what the directory holds of our own: after an interrupted tool it may be the source's.

        With its log and its control file an interrupted rewind can be done again: pg_rewind truncates and overwrites
        segments that its next run must read, and changes the control file last.
        """
        data_dir = self._instance.data_dir
        if self._kept.exists() or not (data_dir / _CONTROL).exists():
            return
        draft = self._kept.with_name(self._kept.name + ".new")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        files = [data_dir / name for name in _CONFIGURATION if (data_dir / name).exists()]
        if with_log:
            files += [data_dir / _CONTROL, *self._log_files()]
            needed, free = sum(path.stat().st_size for path in files) + _SPARE_BYTES, shutil.disk_usage(draft).free
            if needed > free:
                raise Refused(f"a rewind keeps its log beside the data: {needed >> 20} MiB are needed, {free >> 20} MiB free")
        for path in files:
            _copy_file(path, draft / path.name)
        pg_files.sync_directory(draft)
        draft.rename(self._kept)
        pg_files.sync_directory(self._kept.parent)

    def _log_files(self) -> list[Path]:
        """Everything in pg_wal but the empty segments that wait for later log."""
        control = pg_files.read_control(self._instance.bin_dir, self._instance.data_dir)
        end = pg_files.end_of_log(self._instance.bin_dir, self._instance.data_dir, control)
        if end is None:
            raise Refused(f"the database was not stopped in order ({control.state})")
        (last,) = pg_tail.segments(((end.timeline, end.offset, end.offset + 1),), control.segment_bytes)
        wal = self._instance.data_dir / "pg_wal"
        return [p for p in sorted(wal.iterdir()) if p.is_file() and (len(p.name) != len(last) or p.name[8:] <= last[8:])]

    def _put_back_log(self) -> None:
        if (self._kept / _CONTROL.name).exists():
            data_dir, owner = self._instance.data_dir, pwd.getpwnam(self._instance.os_user)
            for path in self._kept.iterdir():
                if path.name not in _CONFIGURATION:
                    home = data_dir / _CONTROL if path.name == _CONTROL.name else data_dir / "pg_wal" / path.name
                    _copy_file(path, home)
                    os.chown(home, owner.pw_uid, owner.pw_gid)

    def _settle(self, data_dir: Path) -> None:
        """Own configuration back, no slots of the source, a standby's start, isolated."""
        user = self._instance.os_user
        for name in _CONFIGURATION:
            if (self._kept / name).exists():
                pg_files.write_owned(data_dir / name, (self._kept / name).read_text(), user)
        for slot in (data_dir / "pg_replslot").iterdir():
            shutil.rmtree(slot)
        pg_files.write_owned(data_dir / "standby.signal", "", user)
        (data_dir / "recovery.signal").unlink(missing_ok=True)
        pg_files.write_settings(data_dir, {"primary_conninfo": "", "synchronous_standby_names": ""}, user)

    def _conninfo(self, account: Account, source: Upstream, purpose: str, database: str | None) -> str:
        """No password: libpq reads it from a file that only the database's account may read."""
        passfile = self._run_dir / f"{self._member}-{purpose}.pgpass"
        given = pg_files.write_passfile(passfile, account, self._instance.os_user)
        return make_dsn(
            host=source.address, port=source.port, user=account.name, application_name=f"failover {purpose} {self._member}",
            connect_timeout=5, keepalives_idle=5, keepalives_interval=5, keepalives_count=3,
            options="-c statement_timeout=0", **({"dbname": database} if database else {}),
            **({"passfile": str(passfile)} if given else {}),
        )  # fmt: skip

    # --- small questions -----------------------------------------------------------------------------------------------
    def _segment_bytes(self) -> int:
        return pg_files.read_control(self._instance.bin_dir, self._instance.data_dir).segment_bytes

    def _config_outside(self) -> Path | None:
        return pg_files.config_outside(self._instance.data_dir)

    def _version(self) -> int:
        found = _VERSION.search(self._ask_tool("pg_rewind", "--version"))
        return int(found[1]) if found else 0

    def _has_archive(self, config: Path | None) -> bool:
        """Is there a restore_command? With it pg_rewind finds log of ours that is no longer in pg_wal."""
        words = ["-D", str(self._instance.data_dir), "-C", "restore_command"]
        words += ["-c", f"config_file={config}"] if config is not None else []
        return bool(self._ask_tool("postgres", *words).strip())

    def _ask_tool(self, name: str, *words: str) -> str:
        user = self._instance.os_user
        argv = ["setpriv", "--reuid", user, "--regid", user, "--init-groups", "--", str(self._instance.bin_dir / name), *words]
        try:
            done = subprocess.run(argv, capture_output=True, text=True, timeout=_TOOL_S, check=False, cwd="/",
                                  env={"LC_ALL": "C", "PATH": os.defpath})  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Unreachable(f"{name} cannot be asked: {error}") from error
        return done.stdout


def _tell(work: Work, line: str) -> None:
    if (progress := _PROGRESS.search(line)) is not None:
        work.told(f"{progress[3]} % of {int(progress[2]) >> 10} MiB")


def _copy_file(source: Path, target: Path) -> None:
    """A durable copy, root's own."""
    shutil.copyfile(source, target)
    target.chmod(0o600)
    descriptor = os.open(target, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _readme(member: str, pieces: pg_tail.Pieces, found: Discarded) -> str:
    rows = "".join(f"  {table}: {count} rows\n" for table, count in found.tables)
    return (
        f"Log that {member} had and the primary did not, saved before it was given up.\n"
        + "".join(f"{piece}\n" for piece in pg_tail.described(pieces))
        + f"{found.commits} commits a user would miss, listed in commits.txt\n{rows}"
        + (f"NOT COMPLETE: {found.unread}\n" if found.unread else "")
        + "Read it with: pg_waldump -p . -t TIMELINE -s FROM -e TO\nNothing needs these files; remove them when nobody asks.\n"
    )
