"""A copy of the MariaDB server on this host, given to another member: mariadb-backup as a stream, run by the host agent.

The password is in a file that only the database's account may read, for as long as the backup lasts. One copy at a time.
"""

from __future__ import annotations

import os
import pwd
import select
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path

from failover.clock import boottime_s
from failover.engines.my_connection import Login, Session
from failover.engines.tools import child, ended, last_words, tool_path
from failover.errors import Unknown, Unreachable
from failover.remote.wire import Facts
from failover.settings import Account, InstanceSettings

_CHUNK = 1 << 18
_SILENCE_S = 570.0  # a little less than the other side waits
_SQL_S = 5.0
_WAIT_S = 20.0
_STATE = "SELECT @@GLOBAL.gtid_binlog_state"
_SOCKET = "mysqld.sock"


class Backup:
    """A backup that runs. `facts` of the beginning: `size_bytes` of the data directory, the state of its binary log then."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, source: Source) -> None:
        self._process, self._log, self._source = process, log, source
        self.evidence = "mariadb-backup is at work"
        self.facts: Facts = {"size_bytes": self._source.size_bytes(), "state": self._source.state()}

    def __iter__(self) -> Iterator[bytes]:
        pipe = self._process.stdout
        assert pipe is not None
        poll = select.poll()
        poll.register(pipe.fileno(), select.POLLIN)
        while poll.poll(_SILENCE_S * 1000):
            if not (data := os.read(pipe.fileno(), _CHUNK)):
                break
            yield data
        else:
            raise Unknown(f"mariadb-backup said nothing for {_SILENCE_S:.0f} s: {last_words(self._log)}")
        if (status := ended(self._process, "mariadb-backup")) != 0:
            raise Unknown(f"mariadb-backup failed with status {status}: {last_words(self._log)}")

    def result(self) -> tuple[str, Facts]:
        """The state of the binary log after the backup: whoever wrote meanwhile shows."""
        return "the backup is complete", {"state": self._source.state()}


class Source:
    """The server in `instance.data_dir`, asked as `operator`; `run_dir` holds what a running backup needs."""

    def __init__(self, instance: InstanceSettings, operator: Account, run_dir: Path) -> None:
        self._instance, self._operator, self._run_dir = instance, operator, run_dir

    @contextmanager
    def copy(self) -> Iterator[Backup]:
        """A backup for as long as the block lasts. Raises Unreachable (also while another one runs), WrongCredentials."""
        instance = self._instance
        tool = tool_path(instance.bin_dir, "mariadb-backup", "mariabackup")
        with self._only_one() as lock, self._folder() as folder:
            argv: list[str | Path] = [tool, f"--defaults-file={self._options(folder)}", "--backup", "--stream=mbstream"]
            argv.append(f"--target-dir={folder / 'at'}")
            log = folder / "log"
            with log.open("wb") as told, child(argv, instance.os_user, lock, stderr=told) as process:
                yield Backup(process, log, self)

    def state(self) -> str:
        """`gtid_binlog_state`."""
        socket = self._instance.socket_dir / _SOCKET
        with Session(Login(self._operator.name, self._operator.password, socket), boottime_s() + _SQL_S) as session:
            return str(session.value(_STATE))

    def size_bytes(self) -> int:
        """Of all files of the data directory; those that go away meanwhile do not count."""
        total = 0
        for folder, _, names in os.walk(self._instance.data_dir):
            for name in names:
                try:
                    total += os.lstat(os.path.join(folder, name)).st_size
                except FileNotFoundError:
                    pass
        return total

    @contextmanager
    def _only_one(self) -> Iterator[int]:
        self._run_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
        descriptor = os.open(self._run_dir / "backup.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            _lock(descriptor)
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def _folder(self) -> Iterator[Path]:
        account = pwd.getpwnam(self._instance.os_user)
        folder = Path(tempfile.mkdtemp(prefix="backup-", dir=self._run_dir))
        try:
            os.chown(folder, account.pw_uid, account.pw_gid)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _options(self, folder: Path) -> Path:
        """The server's own file, and how to log in."""
        config, socket = self._instance.config_file, self._instance.socket_dir / _SOCKET
        include = f"!include {config}\n" if config is not None else ""
        said = (self._operator.password() or "").replace("\\", "\\\\")
        account = pwd.getpwnam(self._instance.os_user)
        options = folder / "options.cnf"
        with open(os.open(options, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            os.fchown(file.fileno(), account.pw_uid, account.pw_gid)
            file.write(f'{include}[mariadb-backup]\nuser={self._operator.name}\npassword="{said}"\nsocket={socket}\n')
        return options


def _lock(descriptor: int) -> None:
    """One whose caller has hung up ends soon. Raises Unreachable: not begun, and worth another try."""
    until_s = boottime_s() + _WAIT_S
    pause = threading.Event()
    while True:
        try:
            return flock(descriptor, LOCK_EX | LOCK_NB)
        except BlockingIOError as error:
            if boottime_s() > until_s:
                raise Unreachable("another copy is being fetched from this host") from error
        pause.wait(0.1)
