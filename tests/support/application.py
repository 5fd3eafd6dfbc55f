"""A reader session of the application that stays open, and says who serves it."""

from __future__ import annotations

import select
import subprocess

from failover.lab import Lab
from failover.lab.commands import LabError
from failover.lab.configuration import VIP
from failover.lab.traffic import DATABASE
from tests.support.stagehand import stagehand


class Client:
    """One client program on the application's host, connected to `address` for as long as it lives. Ended by `close`."""

    def __init__(self, lab: Lab, address: str) -> None:
        shell = lab.dialect.shell("app", DATABASE, address)
        secret = {shell.password_variable: lab.secrets.password("app"), "PGCONNECT_TIMEOUT": "3"}
        self._process: subprocess.Popen[str] = lab.app.popen(shell.argv, env=secret)
        self._asks_number = stagehand(lab).session_sql
        self.number = self.ask_number()

    def ask_number(self) -> str:
        """The session's own: another one if the connection was made anew."""
        return self.ask(self._asks_number)

    def send(self, sql: str) -> None:
        """Without waiting for an answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{sql};\n")
        self._process.stdin.flush()

    def ask(self, sql: str, deadline_s: float = 5.0) -> str:
        """The first line of the answer. LabError when none comes: the session is gone, or its server hangs."""
        self.send(sql)
        assert self._process.stdout is not None
        heard, _, _ = select.select([self._process.stdout], [], [], deadline_s)
        line = self._process.stdout.readline() if heard else ""
        if not line:
            raise LabError(f"no answer within {deadline_s:g} s to {sql!r}")
        return line.strip()

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(5.0)


def can_write(lab: Lab, address: str = VIP, deadline_s: float = 3.0) -> bool:
    """One write of the application through `address`, on a connection of its own, with the cluster's own durability."""
    shell = lab.dialect.shell("app", DATABASE, address)
    argv = [*shell.argv, *shell.once, "INSERT INTO lab.prober (host, seq) VALUES ('by hand', 0)"]
    secret = {shell.password_variable: lab.secrets.password("app"), "PGCONNECT_TIMEOUT": "2"}
    try:
        return lab.app.run(argv, deadline_s, check=False, env=secret).returncode == 0
    except LabError:  # no answer in time: whatever became of it, the application cannot write
        return False
