"""What my.cnf says of the next start, as the server itself reads it: with its includes, its groups and its order."""

from __future__ import annotations

import logging
import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from threading import Lock, Thread

from failover.clock import boottime_s
from failover.engines.my_dialect import Version, on, version_of
from failover.errors import Refused

log = logging.getLogger("failover.engines")

_TOOL_S = 10.0
_FRESH_S = 30.0
_VERSION = re.compile(r"\bVer (\S+)")
_NEW_OPTION = (8, 0, 26)


class Config:
    """The options that a plain start of this server takes from its files. What was read is believed for half a minute."""

    def __init__(self, program: Path, config_file: Path | None) -> None:
        self._program, self._config_file = program, config_file
        self._lock = Lock()
        self._options: Mapping[str, str] = {}
        self._until_s = 0.0
        self._version: tuple[float, Version] | None = None

    def options(self) -> Mapping[str, str]:
        """By name, with underscores; a switch without a value is "ON". Raises Refused if the server does not understand them."""
        with self._lock:
            if boottime_s() >= self._until_s:
                self._options = parse_options(self._run(*self.file_option, "--print-defaults"))
                self._until_s = boottime_s() + _FRESH_S
            return self._options

    def latest(self) -> Mapping[str, str]:
        """As `options`, at once: what was read last, while it is read anew in the background. Only the first look waits."""
        if not self._options:
            return self.options()
        if boottime_s() >= self._until_s and not self._lock.locked():
            Thread(target=self._refresh, name="my.cnf", daemon=True).start()
        return self._options

    def _refresh(self) -> None:
        try:
            self.options()
        except Refused as error:
            log.warning("my.cnf cannot be read: %s", error)

    def version(self) -> Version:
        """Of the program that the next start runs."""
        with self._lock:
            try:
                changed = self._program.stat().st_mtime
            except OSError as error:
                raise Refused(f"there is no {self._program}: {error.strerror}") from error
            if self._version is None or self._version[0] != changed:
                found = _VERSION.search(self._run("--version"))
                self._version = changed, version_of(found[1] if found else "")
            return self._version[1]

    @property
    def file_option(self) -> tuple[str, ...]:
        return (f"--defaults-file={self._config_file}",) if self._config_file is not None else ()

    def _run(self, *options: str) -> str:
        try:
            done = subprocess.run(
                (str(self._program), *options), cwd="/", env={"LC_ALL": "C", "PATH": os.defpath}, stdin=subprocess.DEVNULL,
                capture_output=True, text=True, errors="replace", timeout=_TOOL_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise Refused(f"{self._program.name} {options[-1]} did not end within {_TOOL_S:.0f} s") from error
        except OSError as error:
            raise Refused(f"{self._program} cannot be run: {error.strerror}") from error
        if done.returncode != 0:
            raise Refused(f"{self._program.name} {options[-1]}: {(done.stderr or done.stdout).strip()[:200]}")
        return done.stdout


def parse_options(printed: str) -> dict[str, str]:
    """From what `--print-defaults` prints. The last word on an option counts."""
    options: dict[str, str] = {}
    for word in printed.split():
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            name = name.replace("-", "_").removeprefix("loose_")
            options[name] = value if equals else "ON"
    return options


def boots_writable(engine: str, options: Mapping[str, str]) -> list[str]:
    """What my.cnf lacks so that a start by whomever is a start as a standby, each with its line."""
    wanted = ["read_only", *(["super_read_only"] if engine == "mysql" else [])]
    found = [
        f"{name} is not ON in my.cnf: a start by anybody but the guardian would take writes. Write {name}=ON there"
        for name in wanted
        if not on(options.get(name, "OFF"))
    ]
    if not any(on(options.get(name, "OFF")) for name in ("skip_replica_start", "skip_slave_start")):
        line = "skip_replica_start=ON" if engine == "mysql" else "skip_slave_start=ON"
        found.append(f"replication starts by itself: a start must receive from nobody. Write {line} in my.cnf")
    return found


def start_options(engine: str, version: Version) -> tuple[str, ...]:
    """What makes a start one as a standby that receives from nobody, whatever the files say.

    MariaDB: a server that starts as a semi-sync replica cuts off the end of its log that it had not committed yet, and part of
    that may have been acknowledged. A receiver gives up after so many failures there, and 0 means never.
    """
    if engine == "mysql":
        skip = "--skip-replica-start" if version >= _NEW_OPTION else "--skip-slave-start"
        return ("--read-only=ON", "--super-read-only=ON", f"{skip}=ON", "--event-scheduler=OFF")
    return (
        "--read-only=ON", "--skip-slave-start=ON", "--event-scheduler=OFF", "--rpl-semi-sync-slave-enabled=OFF",
        "--master-retry-count=0",
    )  # fmt: skip
