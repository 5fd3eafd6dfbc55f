"""What a MySQL or MariaDB data directory says by its files and processes, and the little that this product changes there."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from failover.engines.pg_files import write_owned
from failover.engines.stale import remove_stale
from failover.errors import Corrupt

_MAGIC = b"\xfebin"
_ENCRYPTED = b"\xfdbin"
_FLAGS_AT = 4 + 17  # in the first event's header
_IN_USE = 0x01
_PERSISTED = "mysqld-auto.cnf"
_SYSTEM_TABLES = {"mysql": "mysql.ibd", "mariadb": "ibdata1"}
_INDEXES = {"mysql": ("binlog.index",), "mariadb": ("*-bin.index", "binlog.index", "mysql-bin.index")}
_SWITCHED_OFF = re.compile(r"(?i)off|0|false|no")


class Processes:
    """Finds the main process of one data directory. Asked several times a second, so the last find is looked at first."""

    def __init__(self, data_dir: Path, programs: Collection[Path]) -> None:
        self._data_dir, self._programs = data_dir, programs
        self._found: tuple[int, int] | None = None  # pid and start time: a pid alone may come to mean another process

    def main(self) -> int | None:
        """A process that runs this server's program and works in this directory. Pid files are not believed."""
        here, programs = str(self._data_dir.resolve()), {str(path.resolve()) for path in self._programs}
        found = self._found
        if found is not None and _started(found[0]) == found[1] and _runs(found[0], here, programs):
            return found[0]
        self._found = None
        for name in os.listdir("/proc"):
            if name.isdigit() and _runs(int(name), here, programs) and (started := _started(int(name))) is not None:
                self._found = int(name), started
                return int(name)
        return None


def _runs(pid: int, here: str, programs: Collection[str]) -> bool:
    try:
        if os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)") not in programs:
            return False
        return os.readlink(f"/proc/{pid}/cwd") == here
    except OSError:
        return False


def _started(pid: int) -> int | None:
    """Field 22 of its stat, None if it is gone or only a zombie is left of it."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if words[0] in "ZX" else int(words[19])


def check_database(engine: str, data_dir: Path) -> None:
    """Raises Corrupt if there is no database of this kind."""
    missing = _SYSTEM_TABLES[engine]
    if not (data_dir / missing).exists() or not (data_dir / "mysql").is_dir():
        raise Corrupt(f"no {engine} database in {data_dir}: there is no {missing}, or no folder mysql")


def last_log(engine: str, data_dir: Path, base: str) -> Path | None:
    """The newest binary log: `base` is the value of log_bin in the configuration, "" for the server's own name."""
    for index in _index_files(engine, data_dir, base):
        names = [line.strip() for line in index.read_text(errors="replace").splitlines() if line.strip()]
        if names:
            return (data_dir / names[-1]).resolve()
    return None


def _index_files(engine: str, data_dir: Path, base: str) -> list[Path]:
    if base:
        named = data_dir / base
        return [path for path in (named.with_suffix(".index"), Path(f"{named}.index")) if path.is_file()]
    return [path for pattern in _INDEXES[engine] for path in sorted(data_dir.glob(pattern))]


def closed_in_order(log: Path) -> bool | None:
    """A server that stops in order takes the flag "in use" out of its last log. None where that cannot be read."""
    try:
        with log.open("rb") as file:
            head = file.read(_FLAGS_AT + 2)
    except OSError:
        return None
    if len(head) < _FLAGS_AT + 2 or not head.startswith(_MAGIC):
        return None
    return not int.from_bytes(head[_FLAGS_AT:], "little") & _IN_USE


def remove_stale_files(data_dir: Path, socket: Path, programs: Collection[Path]) -> None:
    """A socket lock that names a living stranger would keep MySQL from starting; one that names a server of another directory
    is that server's. Raises Refused."""
    lock = socket.with_name(f"{socket.name}.lock")
    stale = sorted(data_dir.glob("*.pid"))
    try:
        owner = int(lock.read_text(errors="replace").split()[0])
    except (OSError, ValueError, IndexError):
        owner = 0
    if not _is_such_a_server(owner, programs):
        stale += [lock, socket]
    remove_stale(stale, data_dir)


def _is_such_a_server(pid: int, programs: Collection[Path]) -> bool:
    try:
        program = os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)") if pid else ""
    except OSError:
        return False
    return program in {str(path.resolve()) for path in programs}


def forget_persisted(data_dir: Path, names: Collection[str], os_user: str) -> bool:
    """Take what SET PERSIST turned off out of a *stopped* server's file, which beats my.cnf and the command line. True if there
    was any. Raises Corrupt."""
    path = data_dir / _PERSISTED
    try:
        kept = json.loads(path.read_text())
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:
        raise Corrupt(f"{path} cannot be read: the server would not start with it") from error
    return _forget(kept, names) and write_owned(path, json.dumps(kept), os_user)


def _forget(node: Any, names: Collection[str]) -> bool:
    """Its shape differs between versions: a variable is a key somewhere, whose object has a "Value"."""
    if not isinstance(node, dict):
        return False
    gone = [name for name in names if isinstance(node.get(name), dict) and _is_off(node[name])]
    for name in gone:
        del node[name]
    below = [_forget(child, names) for child in node.values()]
    return bool(gone) or any(below)


def _is_off(entry: dict[str, Any]) -> bool:
    return _SWITCHED_OFF.fullmatch(str(entry.get("Value", ""))) is not None
