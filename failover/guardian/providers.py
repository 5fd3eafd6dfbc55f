"""Who carries out a start: we ourselves (direct), or systemd. The rest of `instance.py` is the same for both.

A provider asks for the start and returns at once, so that a fence never waits behind it; whether the start came to
anything is seen in /proc and heard from the database, not believed from here.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pwd
import re
import stat
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from failover.clock import boottime_s
from failover.errors import Refused, Unknown

log = logging.getLogger("failover.guardian")

_LOG_MAX_BYTES = 16 << 20  # the log is put aside at a start once it is larger: one old one is kept
_REASON_MAX_CHARS = 600
_REASON_LINES = 4
_SHOW_S = 2.0
_SECRET = re.compile(r"(?i)(password\s*[=\s]\s*)('[^']*'|\"[^\"]*\"|[^\s,;]+)|(://[^:/\s]+:)[^@\s]+(?=@)")


class Provider(Protocol):
    def begin(self, argv: Sequence[str], budget_s: float, lasts_s: float) -> None:
        """Ask for the start within `budget_s` and return; it may go on for `lasts_s`.

        Raises Refused if it cannot happen, Unknown if it may be happening.
        """
        ...

    def ended(self) -> str | None:
        """Why the start asked for has come to nothing, or None while it may still succeed."""
        ...

    def settle(self) -> None:
        """The start is over, one way or the other. Idempotent."""
        ...

    def stop_in_order(self, budget_s: float) -> bool:
        """True if somebody else was asked to stop it in order; False if the caller has to send the signal."""
        ...

    def cancel(self, budget_s: float) -> None:
        """Let no start that is still queued come to pass."""
        ...

    def reason(self) -> str:
        """The last words of the database about a failed start, without secrets, on one line."""
        ...


def without_secrets(text: str) -> str:
    """A log excerpt for an error message: statements dropped (they may hold anything), passwords blanked, one line."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and "STATEMENT:" not in line]
    chosen = " | ".join(lines[-_REASON_LINES:])
    return _SECRET.sub(lambda found: (found[1] or found[3]) + "...", chosen)[-_REASON_MAX_CHARS:]


class DirectProvider:
    """Starts the database itself: as its own account, in a session of its own, so that it outlives the guardian.

    Nothing is inherited but a clean environment and the log: no descriptor (the state file's lock!), no secret, no OOM
    protection, no core dumps (they hold rows). The chain choom -> prlimit -> server keeps one pid, without a shell.
    """

    def __init__(self, account: str, data_dir: Path, log_dir: Path, name: str) -> None:
        self._account = account
        self._data_dir = data_dir
        self._log_path = log_dir / f"{name}-database.log"
        self._log_from = 0
        self._child: subprocess.Popen[bytes] | None = None

    def begin(self, argv: Sequence[str], budget_s: float, lasts_s: float) -> None:
        account = pwd.getpwnam(self._account)
        us = os.geteuid() == account.pw_uid
        try:
            with open(self._open_log(account), "wb", buffering=0) as output:
                self._child = subprocess.Popen(
                    ("choom", "-n", "0", "--", "prlimit", "--core=0:0", "--", *argv),
                    cwd=self._data_dir,
                    env=self._environment(account),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                    umask=0o077,
                    user=None if us else account.pw_uid,
                    group=None if us else account.pw_gid,
                    extra_groups=None if us else os.getgrouplist(self._account, account.pw_gid),
                )
        except (OSError, subprocess.SubprocessError) as error:
            raise Refused(f"cannot start {argv[0]} as {self._account}: {error}") from error
        # Reaped whenever it ends, else a dead main process would stay in the process table of a living guardian.
        threading.Thread(target=self._child.wait, name=f"reap-{self._child.pid}", daemon=True).start()

    def ended(self) -> str | None:
        if self._child is None or self._child.returncode is None:
            return None
        return f"the server ended with status {self._child.returncode}"

    def settle(self) -> None:
        """Nothing was lent out."""

    def stop_in_order(self, budget_s: float) -> bool:
        return False

    def cancel(self, budget_s: float) -> None:
        """A start of ours is a process from its first moment: whoever kills the processes has cancelled it."""

    def reason(self) -> str:
        try:
            with self._log_path.open("rb") as written:
                end = written.seek(0, os.SEEK_END)
                written.seek(max(self._log_from, end - 8192))
                return without_secrets(written.read(8192).decode(errors="replace")) or "its log says nothing"
        except OSError as error:
            return f"its log cannot be read: {error.strerror}"

    def _open_log(self, account: pwd.struct_passwd) -> int:
        """Owned by the account, appended to, and never somebody else's file that the account linked to here."""
        with contextlib.suppress(FileNotFoundError):
            if self._log_path.lstat().st_size > _LOG_MAX_BYTES:
                self._log_path.rename(self._log_path.with_suffix(".log.1"))
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(self._log_path, flags, 0o640)
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            os.close(descriptor)
            raise OSError(f"{self._log_path} is not a file of its own")
        if found.st_uid != account.pw_uid:
            os.fchown(descriptor, account.pw_uid, account.pw_gid)
        os.set_blocking(descriptor, True)
        self._log_from = found.st_size
        return descriptor

    def _environment(self, account: pwd.struct_passwd) -> dict[str, str]:
        return {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": account.pw_dir,
            "USER": account.pw_name,
            "LOGNAME": account.pw_name,
            "LANG": "C.UTF-8",
        }


class SystemdProvider:
    """Has systemd start the unit; our drop-in refuses every start that is not asked for from here (`may_start`).

    systemctl is called with an argv list and a deadline. The lab has no systemd: the unit tests put a script of that
    name in PATH that keeps the same promises, so flags and parsing are checked, systemd's own behaviour is not.
    """

    def __init__(self, unit: str, run_dir: Path, cluster: str) -> None:
        self._unit = unit
        self._run_dir = run_dir
        self._cluster = cluster

    def begin(self, argv: Sequence[str], budget_s: float, lasts_s: float) -> None:
        """`argv` is the unit's business here. The leave to start holds for `lasts_s` or until `settle`."""
        _write_marker(self._run_dir, self._cluster, lasts_s)
        try:
            done = self._systemctl("start", "--no-block", self._unit, budget_s=budget_s)
        except (Refused, Unknown):
            self.settle()  # nobody will wait for it, so if it comes up from the queue it is refused
            raise
        if done.returncode != 0:
            self.settle()
            raise Refused(f"systemctl start {self._unit}: {without_secrets(done.stderr) or done.returncode}")

    def ended(self) -> str | None:
        try:
            facts = self.show(_SHOW_S)
        except (Refused, Unknown):
            return None  # not known: the caller has its own deadline
        state, result = facts.get("ActiveState", ""), facts.get("Result", "")
        if state in ("activating", "active", "reloading") or facts.get("Job", "0") not in ("", "0"):
            return None
        return f"unit {self._unit} is {state or 'unknown'} with result {result or 'unknown'}"

    def settle(self) -> None:
        marker_path(self._run_dir, self._cluster).unlink(missing_ok=True)

    def stop_in_order(self, budget_s: float) -> bool:
        """`--no-block`: the caller watches the processes, which are the truth, and keeps its own deadline."""
        try:
            return self._systemctl("stop", "--no-block", self._unit, budget_s=budget_s).returncode == 0
        except (Refused, Unknown) as error:
            log.warning("%s; sending the signal instead", error)
            return False

    def cancel(self, budget_s: float) -> None:
        """A stop replaces a queued start. If it fails, the condition of the unit still refuses that start."""
        self.settle()
        try:
            self._systemctl("stop", "--no-block", self._unit, budget_s=budget_s)
        except (Refused, Unknown) as error:
            log.warning("queued start of %s not taken back: %s", self._unit, error)

    def reason(self) -> str:
        try:
            facts = self.show(_SHOW_S)
        except (Refused, Unknown) as error:
            return str(error)
        return " ".join(f"{name}={value}" for name, value in facts.items()) + f" (journalctl -u {self._unit})"

    def show(self, budget_s: float) -> dict[str, str]:
        """What systemd says of the unit: MainPID, ActiveState, SubState, Result, Job. Raises Unknown or Refused."""
        wanted = "--property=MainPID,ActiveState,SubState,Result,Job"
        done = self._systemctl("show", wanted, self._unit, budget_s=budget_s)
        if done.returncode != 0:
            raise Unknown(f"systemctl show {self._unit}: {without_secrets(done.stderr) or done.returncode}")
        return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)

    def _systemctl(self, *words: str, budget_s: float) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                ("systemctl", *words),
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                stdin=subprocess.DEVNULL,
                timeout=max(0.05, budget_s),
            )
        except subprocess.TimeoutExpired as error:
            raise Unknown(f"systemctl {words[0]} {self._unit} did not answer within {budget_s:.1f} s") from error
        except OSError as error:
            raise Refused(f"systemctl cannot be run: {error.strerror}") from error


def marker_path(run_dir: Path, cluster: str) -> Path:
    return run_dir / f"{cluster}.starting"


def _write_marker(run_dir: Path, cluster: str, lasts_s: float) -> None:
    """Leave to start. It names the guardian and an end, so that one left by a crash is leave for nobody."""
    us = os.getpid()
    record = {"pid": us, "started": _start_ticks(us), "boot": _boot_id(), "until_s": boottime_s() + lasts_s}
    temporary = run_dir / f".{cluster}.starting.{os.getpid()}"
    try:
        temporary.write_text(json.dumps(record))
        temporary.rename(marker_path(run_dir, cluster))
    except OSError as error:
        raise Refused(f"cannot write {marker_path(run_dir, cluster)}: {error.strerror}") from error


def may_start(run_dir: Path, cluster: str) -> bool:
    """True only while a living guardian is starting this cluster's database. The unit's ExecCondition asks this."""
    try:
        record = json.loads(marker_path(run_dir, cluster).read_text())
        pid, started, until_s = int(record["pid"]), int(record["started"]), float(record["until_s"])
        return bool(record["boot"] == _boot_id() and boottime_s() <= until_s and _start_ticks(pid) == started)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _start_ticks(pid: int) -> int:
    """Field 22 of /proc/PID/stat. Raises OSError if there is no such process."""
    return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])
