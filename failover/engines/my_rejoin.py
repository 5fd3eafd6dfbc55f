"""Brings a MySQL or MariaDB server back that cannot simply follow: its tail saved and listed, its data replaced by a whole copy.

Neither server can turn its data back to a fork, so a rewind here is a copy made beside the data, which then takes its place.
Of the old data nothing is kept but the configuration that lies in it: the tail is saved. A server uuid is not taken over: the
server would write again under GTIDs that were given up and that somebody may still have.

    <data_dir>.copy   the copy in the making
    <data_dir>.old    what it takes the place of, removed at once
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

from failover.core.model import Position
from failover.engines import my_tail
from failover.engines.base import Discarded, Tail, Upstream, Work
from failover.engines.my_connection import Rejected
from failover.engines.my_isolated import make_folder
from failover.engines.my_layout import Layout
from failover.engines.tools import copy_durably, run_tool, sync_file, write_durably
from failover.errors import FailoverError, Refused, Unknown
from failover.settings import InstanceSettings

SQL_S = 5.0
_SPARE_BYTES = 256 << 20  # left free beside what is saved
_ARGUMENT_MAX = 1 << 16
_OWN = ("mysqld-auto.cnf", "*.pem", "*.cnf")
_LOGS_SQL = "SELECT @@log_bin_index, @@relay_log_index, @@GLOBAL.{executed}"

Ask = Callable[[str, float], Sequence[Sequence[Any]]]


class Copier(Protocol):
    """Makes a whole copy of a server."""

    def obstacle(self) -> str | None:
        """Why it cannot be used on this host, in words. Cheap: asked as the guardian starts."""
        ...

    def copy(self, source: Upstream, into: Path, work: Work) -> None:
        """Fill the empty folder `into`, ready to be started as a standby that follows nobody. Raises as `Rejoiner.copy`."""
        ...


class MyRejoiner:
    """The Rejoiner of the server in `instance.data_dir`. `ask` runs one statement there as the operator, within seconds."""

    def __init__(self, instance: InstanceSettings, layout: Layout, copier: Copier, member: str, ask: Ask) -> None:
        self._instance, self._layout, self._copier = instance, layout, copier
        self._member, self._ask = member, ask
        self._copy = instance.data_dir.with_name(instance.data_dir.name + ".copy")
        self._old = instance.data_dir.with_name(instance.data_dir.name + ".old")

    def obstacle(self) -> str | None:
        data_dir = self._instance.data_dir
        if data_dir.is_mount() or data_dir.is_symlink():
            what = "a mount point" if data_dir.is_mount() else "a symbolic link"
            return f"{data_dir} is {what}: a copy made beside it cannot take its place"
        return self._copier.obstacle()

    # --- what would be given up --------------------------------------------------------------------------------------
    def tail(self, mine: Position, theirs: Position) -> Tail:
        shared = my_tail.fork(mine, theirs)
        self._layout.demand_one_place()
        found = self._files(my_tail.missing(shared, mine))
        return Tail(shared, mine, sum(path.stat().st_size for path in found))

    def save(self, tail: Tail, into: Path, work: Work) -> Discarded:
        missing = my_tail.missing(tail.diverged_at, tail.end)
        found = self._files(missing)
        free = shutil.disk_usage(into).free
        if tail.size_bytes + _SPARE_BYTES > free:
            raise Refused(f"{tail.size_bytes >> 20} MiB of log are to be saved in {into}, {free >> 20} MiB are free there")
        for number, path in enumerate(found):
            if work.stop.is_set():
                raise Unknown("stopped before its end")
            work.told(f"{number} of {len(found)} files of log saved")
            copy_durably(path, into / path.name)
        with (into / "commits.txt").open("w") as listed:
            discarded = self._list(found, missing, listed, work)
            listed.flush()
            os.fsync(listed.fileno())
        write_durably(into / "README", _readme(self._member, missing, found, discarded))
        sync_file(into)
        return discarded

    def _files(self, missing: my_tail.Missing) -> tuple[Path, ...]:
        """The files of log that hold what is missing, oldest first. Raises Refused if the older ones are gone."""
        ((binlog, relay, executed),) = self._ask(_LOGS_SQL.format(executed=self._layout.programs.executed), SQL_S)
        if not binlog:
            raise Refused("this server writes no binary log")
        found = self._since(my_tail.files(Path(binlog), self._instance.data_dir), missing)
        if not missing.executed(executed):  # received only, so far; a relay log is short and looked through from its beginning
            found += my_tail.files(Path(relay), self._instance.data_dir)
        return found

    def _since(self, files: tuple[Path, ...], missing: my_tail.Missing) -> tuple[Path, ...]:
        heads: list[str] = []
        for number in reversed(range(len(files))):
            head = my_tail.head(self._layout.head(files[number]))
            if head is not None and not missing.stands_before(head):
                return files[number:]
            heads += [] if head is None else [head]
        if not heads:
            raise Refused(f"{self._layout.reader.name} cannot read the log of this host: is it encrypted?")
        raise Refused(f"log of {missing.text()} is gone from this host: {len(files)} files are left")

    def _list(self, files: Sequence[Path], missing: my_tail.Missing, listed: TextIO, work: Work) -> Discarded:
        listing = my_tail.Listing(missing, self._instance.database)

        def note(words: str | None) -> None:
            if words is not None:
                listed.write(words + "\n")

        wanted = missing.as_set()
        chosen = [f"--include-gtids={wanted}"] if wanted and len(wanted) < _ARGUMENT_MAX else []
        options = ["--no-defaults", "--base64-output=DECODE-ROWS", "--verbose", *self._layout.programs.listing, *chosen]
        unread = ""
        try:
            reader: list[str | Path] = [self._layout.reader, *options, *files]
            run_tool(reader, self._instance.os_user, work, lambda line: note(listing.feed(line)), {"TZ": "UTC"})
        except Unknown as error:
            if work.stop.is_set():
                raise
            unread = f"the list ends early: {error}"
        note(listing.end())
        return listing.result(unread)

    # --- a copy takes the data's place -----------------------------------------------------------------------------------
    def forget(self) -> None:
        """Never the last copy of anything: data that was put aside and not replaced goes back to its place."""
        if self._old.exists() and not self._instance.data_dir.exists():
            self._old.rename(self._instance.data_dir)
        for left in (self._copy, self._old):
            if left.exists():
                shutil.rmtree(left)

    def rewind(self, source: Upstream, work: Work) -> None:
        if (obstacle := self.obstacle()) is not None:
            raise Refused(obstacle)
        self._layout.demand_one_place()
        self.forget()
        data_dir, copy = self._instance.data_dir, make_folder(self._copy, self._instance.os_user)
        try:
            self._make(source, copy, work)
            if work.stop.is_set():
                raise Unknown("stopped before its end")
        except FailoverError:
            shutil.rmtree(copy, ignore_errors=True)  # room for the next one
            raise
        if data_dir.exists():
            data_dir.rename(self._old)
        copy.rename(data_dir)
        sync_file(data_dir.parent)
        self.forget()

    def copy(self, source: Upstream, into: Path, work: Work) -> None:
        if (obstacle := self._copier.obstacle()) is not None:
            raise Refused(obstacle)
        self._layout.demand_one_place()
        self._make(source, into, work)

    def _make(self, source: Upstream, into: Path, work: Work) -> None:
        """A copy that is on the disk, with the host's own certificates and settings where they lie in the data."""
        try:
            self._copier.copy(source, into, work)
        except Rejected as error:  # by the server of the copy: a new one may not
            raise Unknown(f"the copy cannot be finished: {error}") from error
        data_dir = self._instance.data_dir
        for path in {path for pattern in _OWN for path in data_dir.glob(pattern) if path.is_file()}:
            if path.name != "auto.cnf":  # its uuid
                shutil.copy2(path, into / path.name)
                status = path.stat()
                os.chown(into / path.name, status.st_uid, status.st_gid)
        if data_dir.exists():
            into.chmod(stat.S_IMODE(data_dir.stat().st_mode))
        os.sync()  # the tools leave that to the kernel


def _readme(member: str, missing: my_tail.Missing, files: Sequence[Path], found: Discarded) -> str:
    rows = "".join(f"  {table}: {count} rows\n" for table, count in found.tables)
    return (
        f"Log that {member} had and the primary did not, saved before it was given up.\n{missing.text()}\n"
        + f"{found.commits} commits a user would miss, listed in commits.txt\n{rows}"
        + (f"NOT COMPLETE: {found.unread}\n" if found.unread else "")
        + f"Read it with: mysqlbinlog --base64-output=DECODE-ROWS --verbose {' '.join(path.name for path in files)}\n"
        + "Nothing needs these files; remove them when nobody asks.\n"
    )
