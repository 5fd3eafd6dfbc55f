"""The words of MySQL and MariaDB for what happens in a lab story."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from failover.lab.my import CONFIG, MyDatabases
from tests.support.stagehand import Stagehand, ask, session, tell
from tests.support.still_thread import stands_still

REPLICA = {"mariadb": "SLAVE", "mysql": "REPLICA"}
WAITS = "SELECT count(*) FROM information_schema.PROCESSLIST WHERE STATE LIKE '{}'"
RECEIVER = {
    "mariadb": "SELECT TID FROM information_schema.PROCESSLIST WHERE COMMAND = 'Slave_IO'",
    "mysql": "SELECT THREAD_OS_ID FROM performance_schema.threads WHERE NAME = 'thread/sql/replica_io'",
}
# Who turned read_only off last: an account of SQL, or the configuration that it was started with.
READ_ONLY = {
    "mariadb": "SELECT @@read_only, GLOBAL_VALUE_ORIGIN FROM information_schema.SYSTEM_VARIABLES"
    " WHERE VARIABLE_NAME = 'READ_ONLY'",
    "mysql": "SELECT @@read_only, VARIABLE_SOURCE FROM performance_schema.variables_info WHERE VARIABLE_NAME = 'read_only'",
}
GATHER_USEC = 1_000_000
BY_SQL = ("SQL", "DYNAMIC")


class MyStagehand(Stagehand):
    """See stagehand.py."""

    session_sql = "SELECT connection_id()"
    begin_sql = "BEGIN"
    busy_sql = "SELECT count(*), SLEEP({seconds}) FROM {table}"
    storm = ("LOCK TABLES failover.heartbeat WRITE",)
    whole_storm = ("FLUSH TABLES WITH READ LOCK",)
    queue_behind = "DELETE FROM failover.heartbeat WHERE epoch = 0"
    refuses_password = "Access denied"
    full = "Too many connections"

    @property
    def engine(self) -> str:
        return self.lab.options.engine

    def session_of_the_writer(self, member: str) -> str:
        return self.sql(member, "SELECT ID FROM information_schema.PROCESSLIST WHERE USER = 'app'")

    def not_replayed(self, member: str) -> bool:
        if self.engine == "mysql":
            received = "(SELECT received_transaction_set FROM performance_schema.replication_connection_status LIMIT 1)"
            return self.sql(member, f"SELECT GTID_SUBSET({received}, @@gtid_executed)") == "0"
        status = self._status(member)
        return (status["Read_Master_Log_Pos"], status["Master_Log_File"]) != (
            status["Exec_Master_Log_Pos"], status["Relay_Master_Log_File"],
        )  # fmt: skip

    def replay_paused(self, member: str) -> bool:
        databases = self.lab.databases
        assert isinstance(databases, MyDatabases)
        received = databases.received(self.lab.host(member))
        return received is not None and not received.applies

    def queued(self, member: str) -> int:
        return int(self.sql(member, WAITS.format("Waiting for % lock%")))

    def came_after_the_seal(self, new: str, old: str, sealed: str) -> str:
        """Only what the old primary's server has numbered counts: the new one has written under its own number since."""
        if self.engine == "mysql":
            mine = self.sql(new, "SELECT @@server_uuid")
            left = self.sql(new, f"SELECT GTID_SUBTRACT(@@gtid_executed, '{sealed.partition('@')[0]}')").replace("\\n", "")
            return ",".join(part for part in left.split(",") if part.strip() and not part.strip().startswith(mine))
        number = old.removeprefix("db")  # the lab numbers its servers as it names them
        there, then = _last_of(number, self.sql(new, "SELECT @@gtid_binlog_state")), _last_of(number, sealed)
        return f"0-{number}-{there}" if there > then else ""

    def began_as_a_standby(self, member: str, log: str) -> bool:
        read_only, origin = self.sql(member, READ_ONLY[self.engine]).split("|")
        return read_only == "1" or origin in BY_SQL

    def pause_replay(self, member: str) -> None:
        self.sql(member, f"STOP {self._replica} SQL_THREAD")

    def resume_replay(self, member: str) -> None:
        if self.replay_paused(member):
            self.sql(member, f"START {self._replica} SQL_THREAD")

    def let_readers_block_replay(self, member: str, yes: bool) -> None:
        """The applier waits for a reader's lock for as long as it takes, by itself."""

    def end_session(self, member: str, number: str) -> None:
        there = f"SELECT count(*) FROM information_schema.PROCESSLIST WHERE ID = {number}"
        if self.sql(member, there) == "1":
            self.sql(member, f"KILL {number}")

    @contextmanager
    def receiver_stands_still(self, member: str) -> Iterator[None]:
        """One thread of the server, which the kernel can stop alone."""
        main = self.lab.host(member).pid_of("database")
        assert main is not None
        with stands_still(main, int(self.sql(member, RECEIVER[self.engine]))):
            yield

    def change_password(self, member: str, account: str, password: str) -> None:
        self.lab.host(member).sql_script(f"ALTER USER '{account}'@'%' IDENTIFIED BY '{password}';")

    @contextmanager
    def commits_that_nobody_gets(self, member: str, table: str, rows: int) -> Iterator[None]:
        """Each in a session of its own, written to the log and waiting for an acknowledgement that does not come.

        MariaDB writes one group and a second one while the first waits, so they are made to be one.
        """
        host, waiting = self.lab.host(member), WAITS.format("Waiting for semi-sync ACK%")
        committing = f"SELECT count(*) FROM information_schema.PROCESSLIST WHERE INFO LIKE 'INSERT INTO {table}%'"
        with ExitStack() as stack:
            sessions = [stack.enter_context(session(host)) for _ in range(rows)]
            for mine in sessions:  # each takes a while to begin, and the lease of a host that is cut off does not
                ask(mine, "DO 1")
            if self.engine == "mariadb":
                self.sql(member, f"SET GLOBAL binlog_commit_wait_count = {rows}, GLOBAL binlog_commit_wait_usec = {GATHER_USEC}")
            self.lab.cut(member)
            for number, mine in enumerate(sessions):
                tell(mine, f"INSERT INTO {table} VALUES ({number})")
            both = f"{committing}; {waiting}"
            self.lab.wait(lambda: _at_least(self.sql(member, both), rows, 1), 5.0, f"{rows} commits on {member} alone")
            looks = ["", self.sql(member, "SHOW BINARY LOGS")]
            while looks[-1] != looks[-2]:
                looks.append(self.sql(member, "SHOW BINARY LOGS"))
            yield

    def reconnect(self, member: str) -> None:
        """The receiver alone: the applier runs on, so what was received is kept."""
        self.sql(member, f"STOP {self._replica} IO_THREAD; START {self._replica} IO_THREAD")

    def write_on_a_standby(self, member: str, statement: str) -> None:
        """As an administrator with the wrong window open."""
        guard = ("read_only",) if self.engine == "mariadb" else ("read_only", "super_read_only")
        off, on = (";".join(f"SET GLOBAL {name} = {value}" for name in guard) for value in ("OFF", "ON"))
        self.sql(member, f"{off}; {statement}; {on}")

    @contextmanager
    def recovers_relay_log(self, member: str) -> Iterator[None]:
        """From its next start on; MariaDB does so always."""
        if self.engine == "mariadb":
            yield
            return
        file = self.lab.host(member).directory / "overlay" / CONFIG.lstrip("/")
        before = file.read_text()
        file.write_text(before.replace("relay_log_recovery = OFF", "relay_log_recovery = ON"))
        try:
            yield
        finally:
            file.write_text(before)

    @property
    def _replica(self) -> str:
        return REPLICA[self.engine]

    def _status(self, member: str) -> dict[str, str]:
        host = self.lab.host(member)
        shell = host.dialect.shell(None, None, None)
        told = host.run([*shell.argv, "--column-names", *shell.once, "SHOW ALL SLAVES STATUS"], user=shell.login).stdout
        names, values = (line.split("\t") for line in told.splitlines()[:2])
        return dict(zip(names, values, strict=True))


def _at_least(said: str, *numbers: int) -> bool:
    return all(int(word) >= number for word, number in zip(said.split(), numbers, strict=True))


def _last_of(server: str, position: str) -> int:
    """Sequence number of the last transaction by that server in a position of MariaDB, 0 if there is none."""
    found = re.findall(rf"\b\d+-{server}-(\d+)", position)
    return max(map(int, found), default=0)
