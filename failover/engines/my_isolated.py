"""A MySQL or MariaDB server that nobody but us can reach, for as long as a block lasts: on a copy in the making, or to make one.

It has no network, a socket in a private folder, starts no replication and no events, and writes no log of what it is told.
Everything it needs of the host's configuration file it takes; whatever names a place is overridden.
"""

from __future__ import annotations

import os
import pwd
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from failover.clock import boottime_s
from failover.engines.base import Work
from failover.engines.my_connection import Login, Session
from failover.engines.tools import child, last_words
from failover.errors import Unknown
from failover.settings import Account, InstanceSettings

START_S = 600.0  # a copy begins with a recovery
STOP_S = 300.0
SQL_S = 60.0
_LOOK_S = 0.05
_COMMON = (
    "--skip-networking", "--event-scheduler=OFF", "--general-log=OFF", "--slow-query-log=OFF", "--innodb-data-home-dir=./",
    "--innodb-log-group-home-dir=./", "--innodb-undo-directory=./", "--innodb-buffer-pool-load-at-startup=OFF",
)  # fmt: skip


@dataclass(frozen=True)
class Isolated:
    """`data_dir` is what it works on, `folder` what else it needs; both belong to the database's account."""

    server: Path
    instance: InstanceSettings
    data_dir: Path
    folder: Path
    options: tuple[str, ...]

    @property
    def socket(self) -> Path:
        return self.folder / "s"

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    def argv(self, *more: str) -> list[str | Path]:
        """The command, as the database's account runs it."""
        config = self.instance.config_file
        return [
            self.server, *((f"--defaults-file={config}",) if config is not None else ()), f"--datadir={self.data_dir}",
            f"--socket={self.socket}", f"--pid-file={self.folder / 'pid'}", f"--log-error={self.log}",
            f"--relay-log={self.folder / 'relay'}", f"--relay-log-index={self.folder / 'relay.index'}", *_COMMON, *self.options,
            *more,
        ]  # fmt: skip

    def run(self, what: str, work: Work) -> None:
        """Begin it with this option more, and wait for its end. It closes its output long before. Raises Unknown."""
        until_s = boottime_s() + START_S
        with self._open_log() as log, child(self.argv(what), self.instance.os_user, work.lock, stdout=log) as process:
            while (status := process.poll()) is None:
                if work.stop.wait(_LOOK_S):
                    raise Unknown("stopped before its end")
                if boottime_s() > until_s:
                    raise Unknown(f"{self.server.name} {what} did not end within {START_S:.0f} s: {last_words(self.log)}")
        if status != 0:
            raise Unknown(f"{self.server.name} {what} failed with status {status}: {last_words(self.log)}")

    @contextmanager
    def running(self, work: Work) -> Iterator[None]:
        """It takes connections; stopped in order after the block, and killed if that raises.

        Raises Unknown if it does not start, or `work.stop` is set.
        """
        user = self.instance.os_user
        with self._open_log() as log, child(self.argv(), user, work.lock, stdout=log, cwd=self.data_dir) as process:
            self._wait_for_it(process, work)
            yield
            process.send_signal(signal.SIGTERM)
            try:
                status = process.wait(STOP_S)
            except subprocess.TimeoutExpired as error:
                raise Unknown(f"{self.server.name} does not stop within {STOP_S:.0f} s") from error
        if status != 0:
            raise Unknown(f"{self.server.name} ended with status {status}: {last_words(self.log)}")

    def _open_log(self) -> IO[bytes]:
        """It opens the same file by itself, later."""
        log = self.log.open("ab")
        account = pwd.getpwnam(self.instance.os_user)
        os.fchown(log.fileno(), account.pw_uid, account.pw_gid)
        return log

    def _wait_for_it(self, process: subprocess.Popen[bytes], work: Work) -> None:
        until_s = boottime_s() + START_S
        while not _listens(self.socket):
            if process.poll() is not None:
                raise Unknown(f"{self.server.name} does not start: {last_words(self.log)}")
            if boottime_s() > until_s:
                raise Unknown(f"{self.server.name} did not start within {START_S:.0f} s: {last_words(self.log)}")
            if work.stop.wait(_LOOK_S):
                raise Unknown("stopped before its end")

    def session(self, account: Account | None, budget_s: float = SQL_S) -> Session:
        """As `account`, or as the root of a server that was made just now. What it refuses raises Rejected."""
        user, password = (account.name, account.password) if account is not None else ("root", _none)
        return Session(Login(user, password, self.socket), boottime_s() + budget_s)


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as link:
        try:
            link.connect(str(path))
        except OSError:
            return False
    return True


def _none() -> None:
    return None


def make_folder(path: Path, os_user: str) -> Path:
    """A new folder of the database's account, closed to others."""
    account = pwd.getpwnam(os_user)
    path.mkdir(mode=0o700)
    os.chown(path, account.pw_uid, account.pw_gid)
    return path
