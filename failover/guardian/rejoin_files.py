"""What a rejoin leaves on the disk: one marker beside the data directory, a copy in the making, a directory put aside.

    <data_dir>.rejoin          what is under way; while it says `spoiled` or `swapping` nobody starts the database
    <data_dir>.new             a copy in the making, renamed last
    <data_dir>.before-<stamp>  the old data after a copy took its place: never removed by us, and never a second one
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import Any

from failover.core.model import Rejoin, RejoinWay
from failover.core.rejoin import Data
from failover.errors import Corrupt, Refused, Unknown


@dataclass(frozen=True)
class Marker:
    """How far it is. `stage`: rewinding, copying, swapping, ready (started next, following the granted member at once).

    `spoiled`: the data directory is neither the old database nor the new one. `failed`: given up until a person decides.
    """

    way: RejoinWay
    stage: str
    record: Rejoin
    spoiled: bool = False
    attempts: int = 0
    failed: str = ""
    request: str = ""

    def at(self, stage: str, **changes: Any) -> Marker:
        return replace(self, stage=stage, **changes)


@dataclass(frozen=True)
class Places:
    """Where things are on this host. `saved` holds one folder for each discarded tail; `lock` is held by every tool at work."""

    data_dir: Path
    os_user: str
    saved: Path
    lock: Path
    marker: Path = field(init=False)
    new: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "marker", self.data_dir.with_name(self.data_dir.name + ".rejoin"))
        object.__setattr__(self, "new", self.data_dir.with_name(self.data_dir.name + ".new"))

    # --- looking -------------------------------------------------------------------------------------------------------
    def data(self, home: str) -> tuple[Data, str]:
        """What is there, and the doubt in words. `home` is the file system that the data was on when all was well."""
        try:
            if any(self.data_dir.iterdir()):
                return Data.HERE, ""
        except FileNotFoundError:
            pass
        except OSError as error:
            return Data.DOUBTFUL, f"{self.data_dir} cannot be read: {error.strerror}"
        if not home:
            return Data.DOUBTFUL, f"{self.data_dir} is empty, and no guardian has seen its database before"
        try:
            here = filesystem_of(self.data_dir.parent)
        except OSError as error:
            return Data.DOUBTFUL, f"{self.data_dir.parent}: {error.strerror} (not mounted?)"
        if here != home:
            return Data.DOUBTFUL, f"{self.data_dir} is empty, and this is not the file system that held the data (not mounted?)"
        return Data.LOST, ""

    def read_marker(self) -> Marker | None:
        """Raises Corrupt if it is there and does not say what is under way."""
        try:
            text = self.marker.read_text()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Corrupt(f"{self.marker} cannot be read: {error.strerror}") from error
        try:
            return _marker(json.loads(text))
        except (ValueError, TypeError, KeyError) as error:
            raise Corrupt(f"{self.marker} does not say what is under way: {error}") from error

    # --- changing --------------------------------------------------------------------------------------------------------
    def write_marker(self, marker: Marker) -> None:
        """Durable when it returns. Raises Unknown if the disk did not say so."""
        draft = self.marker.with_name(self.marker.name + ".draft")
        try:
            with draft.open("w") as file:
                json.dump(asdict(marker), file)
                file.flush()
                os.fsync(file.fileno())
            draft.rename(self.marker)
            sync(self.marker.parent)
        except OSError as error:
            raise Unknown(f"{self.marker} is not written: {error.strerror}") from error

    def remove_marker(self) -> None:
        try:
            self.marker.unlink(missing_ok=True)
            sync(self.marker.parent)
        except OSError as error:
            raise Unknown(f"{self.marker} is not removed: {error.strerror}") from error

    def make_room(self) -> None:
        """An empty `.new`, owned by the database's account. Raises Refused where a copy could not take the data's place."""
        if self.data_dir.is_mount():
            raise Refused(f"{self.data_dir} is a mount point: a copy cannot be renamed to it (playbooks/reseed.md)")
        earlier = sorted(self.data_dir.parent.glob(self.data_dir.name + ".before-*"))
        if earlier and self.data(".")[0] is Data.HERE:
            raise Refused(f"{earlier[0]} is still there: old data is kept once; remove it when nobody needs it")
        account = pwd.getpwnam(self.os_user)
        try:
            shutil.rmtree(self.new, ignore_errors=True)
            self.new.mkdir(mode=0o700)
            os.chown(self.new, account.pw_uid, account.pw_gid)
        except OSError as error:
            raise Refused(f"{self.new} cannot be made: {error.strerror}") from error

    def swap(self, stamp: str) -> str:
        """The copy takes the data's place; where the old data is now, "" if there was none. Goes on where it was interrupted."""
        before = self.data_dir.with_name(f"{self.data_dir.name}.before-{stamp}")
        try:
            if self.new.exists():
                if self.data_dir.exists() and any(self.data_dir.iterdir()):
                    self.data_dir.rename(before)
                elif self.data_dir.exists():
                    self.data_dir.rmdir()
                self.new.rename(self.data_dir)
            sync(self.data_dir.parent)
        except OSError as error:
            raise Unknown(f"the copy could not take the place of {self.data_dir}: {error.strerror}") from error
        return str(before) if before.exists() else ""

    @contextmanager
    def saving(self, stamp: str) -> Iterator[Path]:
        """A folder for a discarded tail that gets its name when it is whole; what an interrupted one left is removed."""
        self.saved.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in self.saved.glob("*.part"):
            shutil.rmtree(left)
        part = self.saved / f"{stamp}.part"
        part.mkdir(mode=0o700)
        yield part
        part.rename(self.saved / stamp)
        sync(self.saved)

    def forget(self, stamp: str) -> None:
        """A saved tail in which nothing is that anybody would miss."""
        shutil.rmtree(self.saved / stamp)

    @contextmanager
    def locked(self) -> Iterator[int]:
        """The lock that tools inherit: an orphan of an earlier guardian still holds it. Raises Unknown then."""
        descriptor = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            flock(descriptor, LOCK_EX | LOCK_NB)
            yield descriptor
        except BlockingIOError as error:
            raise Unknown(f"a tool of an earlier guardian still holds {self.lock}") from error
        finally:
            os.close(descriptor)


def filesystem_of(path: Path) -> str:
    """Which file system this is, the same after a reboot where the file system can say so."""
    number = os.statvfs(path).f_fsid
    return f"{number:x}" if number else f"device {path.stat().st_dev}"


def sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _marker(record: dict[str, Any]) -> Marker:
    told = dict(record["record"])
    told["way"] = RejoinWay(told["way"])
    told["discarded"] = tuple(told["discarded"])
    told["tables"] = tuple((str(table), int(rows)) for table, rows in told["tables"])
    known = {f.name for f in fields(Marker)}
    plain = {name: value for name, value in record.items() if name in known}
    return Marker(**{**plain, "way": RejoinWay(record["way"]), "record": Rejoin(**told)})
