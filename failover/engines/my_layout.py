"""What differs between the programs of MySQL and MariaDB, and where a server keeps its files, as it says itself."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from failover.engines.tools import child, tool_path
from failover.errors import Refused, Unreachable
from failover.settings import InstanceSettings

TOOL_S = 20.0
_HEAD_BYTES = 320  # what stands before a file is said in an event that begins before that, and no row does
_PLACES = ("innodb-data-home-dir", "innodb-log-group-home-dir", "innodb-undo-directory", "innodb-doublewrite-dir",
           "aria-log-dir-path")  # fmt: skip
_BETWEEN = "innodb-temp-tablespaces-dir"  # two servers in one would remove each other's files
_LOGS = ("log-bin", "log-bin-index", "relay-log", "relay-log-index")


@dataclass(frozen=True)
class Programs:
    """Names of programs, the first that is there counts; the variable that says what a server's own log holds; how to list it."""

    servers: tuple[str, ...]
    readers: tuple[str, ...]
    executed: str
    listing: tuple[str, ...] = ()


MYSQL = Programs(("mysqld",), ("mysqlbinlog",), "gtid_executed")
MARIADB = Programs(
    ("mariadbd", "mysqld"), ("mariadb-binlog", "mysqlbinlog"), "gtid_binlog_pos",
    ("--skip-annotate-row-events", "--loose-skip-gtid-strict-mode"),  # relay logs repeat what binary logs have
)  # fmt: skip


class Layout:
    """The files of one server, running or not."""

    def __init__(self, instance: InstanceSettings, programs: Programs) -> None:
        self._instance, self.programs = instance, programs

    @property
    def server(self) -> Path:
        return tool_path(self._instance.bin_dir, *self.programs.servers)

    @property
    def reader(self) -> Path:
        return tool_path(self._instance.bin_dir, *self.programs.readers)

    def demand_one_place(self) -> None:
        """Log or data elsewhere would come back with a new copy, and with it what was given up. Raises Refused."""
        home = self._instance.data_dir
        faults = [
            f"{name} is {value}, outside of {home}: what lies there would not be replaced with a new copy"
            for name, value in self.options().items()
            if (name in _LOGS and (home / value).parent != home)
            or (name in _PLACES and home / value != home)
            or (name == _BETWEEN and Path(value).is_absolute())
        ]
        if faults:
            raise Refused(*faults)

    def options(self) -> Mapping[str, str]:
        """What it would run with of what names a place: defaults, files and all. Raises Unreachable."""
        config = self._instance.config_file
        found = {}
        for line in self._ask([self.server, *([f"--defaults-file={config}"] if config else []), "--verbose", "--help"]):
            name, _, value = line.partition(" ")
            if name in (*_LOGS, *_PLACES, _BETWEEN) and (value := value.strip()) and not value.startswith("(No default"):
                found[name] = os.path.normpath(value)
        return found

    def head(self, path: Path) -> list[str]:
        """The first events of a file of log, as mysqlbinlog prints them. Raises Unreachable."""
        return self._ask([self.reader, "--no-defaults", f"--stop-position={_HEAD_BYTES}", path])

    def _ask(self, argv: Sequence[str | Path]) -> list[str]:
        try:
            with child(argv, self._instance.os_user, None, stderr=subprocess.DEVNULL) as process:
                said, _ = process.communicate(timeout=TOOL_S)
        except subprocess.TimeoutExpired as error:
            raise Unreachable(f"{Path(argv[0]).name} does not answer within {TOOL_S:.0f} s") from error
        return said.decode(errors="replace").splitlines()
