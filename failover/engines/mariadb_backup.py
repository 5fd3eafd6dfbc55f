"""A whole copy of a MariaDB server, fetched over SSH from the host agent beside it, and made ready to follow by GTID.

The backup says where it ends; what it does not say is who wrote in the domains before. That is asked of the source before and
after, and given to the copy, so that it can serve and judge others that are older than itself.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from failover.engines.base import Upstream, Work
from failover.engines.maria_gtid import Gtid, parse_gtids
from failover.engines.my_isolated import SQL_S, Isolated, make_folder
from failover.engines.my_layout import Layout
from failover.engines.tools import child, ended, last_words, run_tool, tool_path
from failover.errors import Corrupt, Refused, Unknown, Unreachable
from failover.settings import Account, InstanceSettings, SshSettings

_SPARE_BYTES = 256 << 20
_TOLD_BYTES = 16 << 20
_ENDS = ("mariadb_backup_binlog_info", "xtrabackup_binlog_info")  # 11.1 and later, before
_LEFT = ("xtrabackup_*", "mariadb_backup_*", "backup-my.cnf")


class MariaBackup:
    """`cluster` is how the host agents know it; `ssh` reaches them. `operator` may log in to the copy as at the source."""

    def __init__(self, instance: InstanceSettings, layout: Layout, operator: Account, ssh: SshSettings, cluster: str) -> None:
        self._instance, self._layout, self._operator = instance, layout, operator
        self._ssh, self._cluster = ssh, cluster

    def obstacle(self) -> str | None:
        if not os.access(self._ssh.key_file, os.R_OK):
            return f"a copy comes over SSH, and the key {self._ssh.key_file} is not on this host"
        return None

    def copy(self, source: Upstream, into: Path, work: Work) -> None:
        """Fill the empty folder `into`. Raises Refused without room, Unreachable, WrongCredentials, Unknown."""
        from failover.remote.stream import stream

        folder = make_folder(into / ".making", self._instance.os_user)
        with stream(source.member, source.address, self._ssh, "backup", {"cluster": self._cluster}, work.stop) as given:
            size_bytes, before = _begun(given.begun.facts)
            free = shutil.disk_usage(into).free
            if size_bytes + _SPARE_BYTES > free:
                raise Refused(f"{source.member} has {size_bytes >> 20} MiB of data, and {free >> 20} MiB are free for a copy")
            self._unpack(given, into, folder / "mbstream.log", size_bytes, work)
            after = str(given.ended.facts.get("state"))
        self._prepare(into, work)
        end = _end_of(into)
        self._finish(into, folder, end, state_at(before, after, end), work)
        shutil.rmtree(folder)
        for pattern in _LEFT:
            for path in into.glob(pattern):
                path.unlink()

    def _unpack(self, chunks: Iterable[bytes], into: Path, log: Path, size_bytes: int, work: Work) -> None:
        argv: list[str | Path] = [self._tool("mbstream"), "-x", "-C", into]
        done = told = 0
        with log.open("wb") as said, child(
            argv, self._instance.os_user, work.lock, stdin=subprocess.PIPE, stdout=said
        ) as process:  # fmt: skip
            assert process.stdin is not None
            try:
                for chunk in chunks:
                    process.stdin.write(chunk)
                    done += len(chunk)
                    if done - told >= _TOLD_BYTES:
                        told = done
                        work.told(f"{min(99, 100 * done // max(1, size_bytes))} % of {size_bytes >> 20} MiB")
                process.stdin.close()
            except OSError as error:
                raise Unknown(f"mbstream does not take the copy: {last_words(log)}") from error
            status = ended(process, "mbstream")
        if status != 0:
            raise Unknown(f"mbstream failed with status {status}: {last_words(log)}")

    def _prepare(self, into: Path, work: Work) -> None:
        work.told("the copy is complete: recovering it")
        argv: list[str | Path] = [self._tool("mariadb-backup", "mariabackup"), "--prepare", f"--target-dir={into}"]
        run_tool(argv, self._instance.os_user, work, lambda line: None)

    def _finish(self, into: Path, folder: Path, end: str, state: str, work: Work) -> None:
        """Started once, alone: where it goes on from is in its tables, and who wrote before that in its own binary log."""
        log_bin = Path(self._layout.options().get("log-bin", "")).name
        logging = (f"--log-bin={log_bin}", f"--log-bin-index={log_bin}.index") if log_bin else ("--skip-log-bin",)
        options = ("--skip-slave-start", "--aria-log-dir-path=./", *logging)
        server = Isolated(self._layout.server, self._instance, into, folder, options)
        with server.running(work), server.session(self._operator, SQL_S) as session:
            if log_bin:
                session.run("SET GLOBAL gtid_binlog_state = %s", [state])
            session.run("SET GLOBAL gtid_slave_pos = %s", [end])

    def _tool(self, *names: str) -> Path:
        return tool_path(self._instance.bin_dir, *names)


def state_at(before: str, after: str, end: str) -> str:
    """`gtid_binlog_state` at the end of a backup, from the states before and after it; "" for a domain where it is not sure.

    It is sure where nobody wrote meanwhile but the server whose transaction is the last one. Raises Corrupt.
    """
    old, new = parse_gtids(before), set(parse_gtids(after))
    found: list[Gtid] = []
    for last in parse_gtids(end):
        domain = {gtid for gtid in old if gtid.domain == last.domain}
        changed = {gtid.server for gtid in new ^ domain if gtid.domain == last.domain}
        if changed <= {last.server}:
            found += [gtid for gtid in domain if gtid.server != last.server and gtid.number < last.number]
            found.append(last)
    return ",".join(str(gtid) for gtid in sorted(found, key=lambda gtid: (gtid.domain, gtid.number)))


def _begun(facts: dict[str, object]) -> tuple[int, str]:
    size, state = facts.get("size_bytes"), facts.get("state")
    if not isinstance(size, int) or not isinstance(state, str):
        raise Unreachable("the agent does not say what it gives a copy of")
    return size, state


def _end_of(into: Path) -> str:
    """The position that the backup itself names: file, offset, GTIDs. Raises Corrupt."""
    for name in _ENDS:
        try:
            words = (into / name).read_text().strip().split("\t")
        except FileNotFoundError:
            continue
        if len(words) == 3 and parse_gtids(words[2]):
            return words[2]
        raise Corrupt(f"{name} names no GTID: the source was not made for replication by GTID")
    raise Corrupt("the copy does not say at which GTID it ends")
