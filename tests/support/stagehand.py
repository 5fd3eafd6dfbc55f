"""What a lab story does to its databases by hand, in the words of whichever engine the lab runs.

A story names what happens ("a reader is in the way"), the stagehand knows the statement. Members go by their names.
"""

from __future__ import annotations

import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from failover.lab import Lab
from failover.lab.commands import LabError, wait
from failover.lab.host import Host
from failover.lab.traffic import DATABASE

WAITERS = 20
LOOK_S = 5.0


class Stagehand(ABC):
    """Of one booted lab."""

    session_sql: str  # a session's own number
    begin_sql: str  # a transaction that sees one state to its end
    busy_sql: str  # `{seconds}` asleep in the server, with a row of `{table}` in use
    storm: tuple[str, ...]  # one session locks the product's own table
    whole_storm: tuple[str, ...]  # and what nothing of the server's own gets past; the rest of it once others queue
    queue_behind: str  # a statement that waits behind the first of either
    refuses_password: str  # what the server says to a wrong one
    full: str  # what it says when it has no connection left

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    # --- asking ---------------------------------------------------------------------------------------------------------
    @abstractmethod
    def session_of_the_writer(self, member: str) -> str:
        """Number of the session through which the writer's last row came."""

    @abstractmethod
    def not_replayed(self, member: str) -> bool:
        """It has received more than it has replayed."""

    @abstractmethod
    def replay_paused(self, member: str) -> bool: ...

    @abstractmethod
    def queued(self, member: str) -> int:
        """Sessions that wait for a lock."""

    @abstractmethod
    def came_after_the_seal(self, new: str, old: str, sealed: str) -> str:
        """What the promoted `new` has of `old` beyond the position `sealed`, in words; "" if nothing."""

    @abstractmethod
    def began_as_a_standby(self, member: str, log: str) -> bool:
        """Whoever started it: it took no write before a guardian made it primary. `log`: what it has said since its start."""

    def sees_table(self, member: str, table: str) -> bool:
        found = f"SELECT count(*) FROM information_schema.tables WHERE table_name = '{table}'"
        return self.sql(member, found, dbname=DATABASE) == "1"

    # --- acting ---------------------------------------------------------------------------------------------------------
    @abstractmethod
    def pause_replay(self, member: str) -> None: ...

    @abstractmethod
    def resume_replay(self, member: str) -> None:
        """Nothing happens on a primary."""

    @abstractmethod
    def let_readers_block_replay(self, member: str, yes: bool) -> None:
        """However long: where the engine gives up on readers by itself, it does not."""

    @abstractmethod
    def end_session(self, member: str, number: str) -> None: ...

    @abstractmethod
    def receiver_stands_still(self, member: str) -> AbstractContextManager[None]:
        """What receives the log there is stopped, its server runs on: until the end of the block."""

    @abstractmethod
    def change_password(self, member: str, account: str, password: str) -> None: ...

    @abstractmethod
    def commits_that_nobody_gets(self, member: str, table: str, rows: int) -> AbstractContextManager[None]:
        """Cut a primary off: in the block there are that many commits more in its log, one row each."""

    @contextmanager
    def lock_storm(self, member: str, everything: bool) -> Iterator[None]:
        """A session holds the product's own table, others queue behind it; or it holds everything there is."""
        host = self.lab.host(member)
        first, *rest = self.whole_storm if everything else self.storm
        with ExitStack() as stack:
            holder = stack.enter_context(session(host))
            ask(holder, first)
            for waiter in [stack.enter_context(session(host)) for _ in range(WAITERS)]:
                tell(waiter, self.queue_behind)
            wait(lambda: self.queued(member) >= WAITERS, 10.0, "a queue of waiting sessions")
            for statement in rest:
                ask(holder, statement)
            yield

    def sql(self, member: str, sql: str, dbname: str | None = None) -> str:
        return self.lab.host(member).sql(sql, dbname=dbname, timeout_s=LOOK_S)


@contextmanager
def session(host: Host) -> Iterator[subprocess.Popen[str]]:
    """The administrator's, over the local socket."""
    opened = host.sql_session()
    try:
        yield opened
    finally:
        host.end(opened)


def tell(opened: subprocess.Popen[str], statement: str) -> None:
    assert opened.stdin is not None
    opened.stdin.write(f"{statement};\n")
    opened.stdin.flush()


def ask(opened: subprocess.Popen[str], statement: str) -> None:
    """The same, and wait until it is done."""
    tell(opened, f"{statement};\nSELECT 'done'")
    assert opened.stdout is not None
    if opened.stdout.readline().strip() != "done":
        raise LabError(f"{statement}: the session ended")


def stagehand(lab: Lab) -> Stagehand:
    if lab.options.engine == "postgresql":
        from tests.support.pg_stagehand import PgStagehand

        return PgStagehand(lab)
    from tests.support.my_stagehand import MyStagehand

    return MyStagehand(lab)
