"""PostgreSQL's words for what happens in a lab story."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.stagehand import Stagehand, ask, session, tell

NOT_REPLAYED = "SELECT pg_last_wal_receive_lsn() > pg_last_wal_replay_lsn()"


class PgStagehand(Stagehand):
    """See stagehand.py."""

    session_sql = "SELECT pg_backend_pid()"
    begin_sql = "BEGIN ISOLATION LEVEL REPEATABLE READ"
    busy_sql = "SELECT count(*), pg_sleep({seconds}) FROM {table}"
    storm = ("BEGIN; LOCK TABLE failover.heartbeat IN ACCESS EXCLUSIVE MODE",)
    whole_storm = (*storm, "LOCK TABLE pg_authid IN ACCESS EXCLUSIVE MODE")
    queue_behind = storm[0]
    refuses_password = "authentication failed"
    full = "remaining connection slots|too many clients"

    def session_of_the_writer(self, member: str) -> str:
        return self.sql(member, "SELECT pid FROM pg_stat_activity WHERE query LIKE 'INSERT INTO lab.writes%' AND usename = 'app'")

    def not_replayed(self, member: str) -> bool:
        return self.sql(member, NOT_REPLAYED) == "t"

    def replay_paused(self, member: str) -> bool:
        return self.sql(member, "SELECT pg_get_wal_replay_pause_state()") == "paused"

    def queued(self, member: str) -> int:
        return int(self.sql(member, "SELECT count(*) FROM pg_locks WHERE NOT granted"))

    def came_after_the_seal(self, new: str, old: str, sealed: str) -> str:
        """Where the new primary's history leaves the old one is the end of everything that it had received."""
        name = "'pg_wal/' || left(pg_walfile_name(pg_current_wal_lsn()), 8) || '.history'"
        forked = self.sql(new, f"SELECT pg_read_file({name})").splitlines()[-1].split()[1]
        return f"log up to {forked}" if _lsn(forked) > _lsn(sealed.split()[0].partition("@")[2]) else ""

    def began_as_a_standby(self, member: str, log: str) -> bool:
        before, entered, _ = log.partition("entering standby mode")
        return bool(entered) and "database system is ready to accept connections" not in before

    def pause_replay(self, member: str) -> None:
        self.sql(member, "SELECT pg_wal_replay_pause()")

    def resume_replay(self, member: str) -> None:
        self.sql(member, "SELECT pg_wal_replay_resume() WHERE pg_is_in_recovery()")

    def let_readers_block_replay(self, member: str, yes: bool) -> None:
        self.sql(member, f"ALTER SYSTEM {'SET' if yes else 'RESET'} max_standby_streaming_delay{' = -1' if yes else ''}")
        self.sql(member, "SELECT pg_reload_conf()")
        if yes:
            self.lab.wait(lambda: self.sql(member, "SHOW max_standby_streaming_delay") == "-1", 5.0, "patience with readers")

    def end_session(self, member: str, number: str) -> None:
        self.sql(member, f"SELECT pg_terminate_backend({number})")

    @contextmanager
    def receiver_stands_still(self, member: str) -> Iterator[None]:
        """It goes on afterwards if it is still there."""
        host = self.lab.host(member)
        (pid,) = [p.pid for p in host.of_role("database_all") if p.argv and p.argv[0].startswith("postgres: walreceiver")]
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            if pid in {p.pid for p in host.of_role("database_all")}:
                os.kill(pid, signal.SIGCONT)

    def change_password(self, member: str, account: str, password: str) -> None:
        self.lab.host(member).sql_script(f"ALTER ROLE {account} PASSWORD '{password}';")

    @contextmanager
    def commits_that_nobody_gets(self, member: str, table: str, rows: int) -> Iterator[None]:
        with session(self.lab.host(member)) as mine:
            ask(mine, "SET synchronous_commit = local")
            self.lab.cut(member)
            for number in range(rows):
                tell(mine, f"INSERT INTO {table} VALUES ({number})")
            there = f"SELECT count(*) FROM {table}"
            self.lab.wait(lambda: self.sql(member, there) == str(rows), 5.0, f"{rows} commits on {member} alone")
            yield


def _lsn(text: str) -> int:
    high, low = text.split("/")
    return (int(high, 16) << 32) + int(low, 16)
