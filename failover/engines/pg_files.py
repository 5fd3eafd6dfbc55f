"""What a PostgreSQL data directory says by its files, and the few files this product writes there.

Reading is done as root beside the database; what is written belongs to the database's own account and is durable on
return.
"""

from __future__ import annotations

import os
import pwd
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from failover.engines.lsn import Lsn, Switches, format_offset, parse_offset, parse_timeline
from failover.errors import Corrupt, Refused, Unknown, Unreachable
from failover.settings import Account

_TOOL_S = 10.0
_CLEAN_PRIMARY = "shut down"
_CLEAN_STANDBY = "shut down in recovery"
_SHORT_HEADER, _LONG_HEADER = 24, 40
_RECORD_LENGTH = re.compile(r"len \(rec/tot\):\s*\d+/\s*(\d+),")
_LOG_END = re.compile(r"invalid record length at ([0-9A-F]+/[0-9A-F]+):")
_SETTING = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_.]*)\s*(?:=|\s)")


@dataclass(frozen=True)
class Control:
    """The fields of `pg_controldata` that decide something. `checkpoint` is where the last checkpoint record *starts*.
    """

    system_identifier: str
    state: str
    checkpoint: Lsn
    minimum_recovery: Lsn | None
    page_bytes: int
    segment_bytes: int

    @property
    def clean(self) -> bool:
        return self.state in (_CLEAN_PRIMARY, _CLEAN_STANDBY)


def read_control(bin_dir: Path, data_dir: Path) -> Control:
    """Raises Corrupt if there is no database there or its control file is damaged."""
    done = _run(bin_dir / "pg_controldata", "-D", str(data_dir))
    if done.returncode != 0 or "CRC checksum does not match" in done.stdout or "WARNING" in done.stdout:
        raise Corrupt(f"no usable control file in {data_dir}: {_first_line(done.stderr or done.stdout)}")
    fields = {key.strip(): value.strip() for key, _, value in (x.partition(":") for x in done.stdout.splitlines())}
    try:
        return _control(fields)
    except (KeyError, ValueError) as error:
        raise Corrupt(f"the control file of {data_dir} has an unknown form: {error}") from error


def _control(fields: Mapping[str, str]) -> Control:
    least = parse_offset(fields["Minimum recovery ending location"])
    least_timeline = fields["Min recovery ending loc's timeline"]
    return Control(
        system_identifier=fields["Database system identifier"],
        state=fields["Database cluster state"],
        checkpoint=Lsn(
            parse_timeline(fields["Latest checkpoint's TimeLineID"]),
            parse_offset(fields["Latest checkpoint location"]),
        ),
        minimum_recovery=Lsn(parse_timeline(least_timeline), least) if least else None,
        page_bytes=int(fields["WAL block size"]),
        segment_bytes=int(fields["Bytes per WAL segment"]),
    )


def end_of_log(bin_dir: Path, data_dir: Path, control: Control) -> Lsn | None:
    """Where the log of a *cleanly stopped* server ends, or None if it was not.

    A primary's log ends after its shutdown checkpoint, not where that record starts: a standby that has everything but
    the checkpoint stands exactly at its start. A standby's log may go on past what it replayed; where that cannot be
    read the answer is the lower bound that the control file promises. Raises Corrupt if the shutdown checkpoint is not
    there.
    """
    if control.state == _CLEAN_PRIMARY:
        start = control.checkpoint
        shown = _waldump(bin_dir, data_dir, start, control.segment_bytes, "-n", "1")
        length = _RECORD_LENGTH.search(shown.stdout)
        if length is None or "CHECKPOINT_SHUTDOWN" not in shown.stdout:
            raise Corrupt(f"no shutdown checkpoint at {start.text()}: {_first_line(shown.stderr)}")
        end = record_end(start.offset, int(length[1]), control.page_bytes, control.segment_bytes)
        return Lsn(start.timeline, end, read_switches(data_dir, start.timeline))
    if control.state == _CLEAN_STANDBY:
        start = control.minimum_recovery or control.checkpoint
        ends = _LOG_END.findall(_waldump(bin_dir, data_dir, start, control.segment_bytes, "-z").stderr)
        end = max([start.offset, *map(parse_offset, ends[-1:])])
        return Lsn(start.timeline, end, read_switches(data_dir, start.timeline))
    return None


def record_end(start: int, length: int, page_bytes: int, segment_bytes: int) -> int:
    """The byte after a record of `length` bytes that starts at `start`, as PostgreSQL itself counts it.

    Records are padded to 8 bytes and interrupted by a header on each page they enter (longer on a segment's first
    page). A record that fills its page ends at the page's end, before the next header.
    """
    at, left = start, (length + 7) & ~7
    while left > (room := page_bytes - at % page_bytes):
        left -= room
        at += room
        at += _LONG_HEADER if at % segment_bytes == 0 else _SHORT_HEADER
    return at + left


def read_switches(data_dir: Path, timeline: int) -> Switches:
    """The ancestors of `timeline` and where each was left, from its history file. Without a file: none known.

    Raises Corrupt if the file is damaged.
    """
    path = data_dir / "pg_wal" / f"{timeline:08X}.history"
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return ()
    fields = [line.split(None, 2) for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if any(len(field) < 2 for field in fields):
        raise Corrupt(f"{path.name} is damaged")
    return tuple((parse_timeline(field[0]), parse_offset(field[1])) for field in fields)


def main_pid(data_dir: Path, bin_dir: Path) -> int | None:
    """The postmaster of this data directory, or None.

    After a crash `postmaster.pid` may name a stranger, so the process must have this directory as its working
    directory, run this server's program, and not be the child of another such process (a backend that outlived its
    postmaster). The start time in the file is wall clock: after a step of the clock it would deny a live server, so it
    is not asked.
    """
    try:
        pid = abs(int((data_dir / "postmaster.pid").read_text().split("\n", 1)[0]))
    except (FileNotFoundError, ValueError):
        return None
    return pid if _runs_here(pid, data_dir, bin_dir) and not _runs_here(_parent(pid), data_dir, bin_dir) else None


def _runs_here(pid: int, data_dir: Path, bin_dir: Path) -> bool:
    if pid <= 1:
        return False
    try:
        here = os.readlink(f"/proc/{pid}/cwd")
        program = os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)")
    except OSError:
        return False
    return here == str(data_dir.resolve()) and program == str((bin_dir / "postgres").resolve())


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def asleep_without_hangup(pid: int) -> bool:
    """True if the process sleeps and no SIGHUP waits for it. Raises Unreachable if the process is not there."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError as error:
        raise Unreachable(f"process {pid} is not there") from error
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    pending = int(fields["SigPnd"], 16) | int(fields["ShdPnd"], 16)
    return fields["State"].split()[0] == "S" and not pending & 1  # SIGHUP is signal 1, bit 0


def write_owned(path: Path, text: str, os_user: str) -> bool:
    """Replace the file by one that belongs to `os_user`, mode 0600, durably. False, and nothing done, if it says so
    already.
    """
    account = pwd.getpwnam(os_user)
    try:
        if path.read_text() == text and path.stat().st_uid == account.pw_uid and path.stat().st_mode & 0o777 == 0o600:
            return False
    except FileNotFoundError:
        pass
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        os.fchown(descriptor, account.pw_uid, account.pw_gid)
        os.fchmod(descriptor, 0o600)
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    os.replace(draft, path)
    sync_directory(path.parent)
    return True


def write_passfile(path: Path, account: Account, os_user: str) -> bool:
    """The account's password where only `os_user` may read it, for libpq. False, and no file, if it has none."""
    password = account.password()
    if password is not None:
        user, word = (x.replace("\\", "\\\\").replace(":", "\\:") for x in (account.name, password))
        write_owned(path, f"*:*:*:{user}:{word}\n", os_user)
    return password is not None


def config_outside(data_dir: Path) -> Path | None:
    """With Debian's layout the configuration lies in /etc and must be named; None if it is in the data directory.

    Raises Refused if it is nowhere.
    """
    if (data_dir / "postgresql.conf").exists():
        return None
    config = Path("/etc/postgresql", *data_dir.parts[-2:], "postgresql.conf")
    if not config.exists():
        raise Refused(f"no postgresql.conf for {data_dir}")
    return config


def sync_directory(path: Path) -> None:
    """Make a rename or a new name in `path` durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_settings(data_dir: Path, settings: Mapping[str, str], os_user: str) -> bool:
    """Set values in `postgresql.auto.conf` of a *stopped* server; a running one rewrites the file itself (ALTER
    SYSTEM).

    False, and nothing done, if it says so already.
    """
    path = data_dir / "postgresql.auto.conf"
    lines = path.read_text().splitlines() if path.exists() else []
    kept = [line for line in lines if (named := _SETTING.match(line)) is None or named[1].lower() not in settings]
    ours = [f"{name} = '{_quoted(value)}'" for name, value in settings.items()]
    return write_owned(path, "\n".join(kept + ours) + "\n", os_user)


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "''")


def _waldump(
    bin_dir: Path, data_dir: Path, start: Lsn, segment_bytes: int, *options: str
) -> subprocess.CompletedProcess[str]:
    """From `start` as far as there are files."""
    wal, first = data_dir / "pg_wal", start.offset // segment_bytes
    begins = segment_name(start.timeline, first, segment_bytes)
    ends = max((p.name for p in wal.glob(f"{start.timeline:08X}*") if len(p.name) == len(begins)), default=begins)
    return _run(
        bin_dir / "pg_waldump", "-p", str(wal), "-s", format_offset(start.offset), *options, *named_files(begins, ends)
    )


def named_files(begins: str, ends: str) -> tuple[str, ...]:
    """For pg_waldump: the files that the log begins and ends in.

    Told only a directory it asks whichever file it finds first how large a segment is, and one that is only preallocated, all
    zeros, says 0. Told only the first it stops at that one's end.
    """
    return (begins, ends) if ends > begins else (begins,)


def segment_name(timeline: int, number: int, segment_bytes: int) -> str:
    """The file in pg_wal that holds this segment of the log."""
    per_id = 0x1_0000_0000 // segment_bytes
    return f"{timeline:08X}{number // per_id:08X}{number % per_id:08X}"


def _run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {"LC_ALL": "C", "PATH": os.defpath}
    try:
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=_TOOL_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise Unknown(f"{Path(command[0]).name} did not end within {_TOOL_S:.0f} s") from error
    except OSError as error:
        raise Unreachable(f"{command[0]} cannot be run: {error.strerror}") from error


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]
