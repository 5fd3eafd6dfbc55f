"""Who accepts writes? Asks each database host directly, not the VIP, 50 times a second.

    python -m failover.lab.prober --login-file F --out FILE db1=10.77.0.11:5432 db2=...
    python -m failover.lab.prober --login-file F --out FILE --busy-s 3 db1=10.77.0.11:5432

One thread per host, so that a silent host delays nobody else. The inserts are committed locally (see session.py): with the
cluster's own setting an isolated old primary would wait for a standby for ever, and a missing fence could not be seen.
Every attempt leaves one line `{"host", "seq", "invoke", "done", "outcome", "why"}` (BOOTTIME seconds): `ok` this host
accepted a write, `no` it refused, `info` nobody can say. With `--busy-s` it runs instead one statement that keeps the
server busy that long and then commits: where it forks, the orphan that goes on committing after its main process was
killed. It prints `running` once the statement was sent.
"""

from __future__ import annotations

import argparse
import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from failover.clock import boottime_s
from failover.lab.session import Login, NoAnswer, Session, busy_statement, connect
from failover.lab.writer import stop_on_request

INTERVAL_S = 0.020
DEADLINE_S = 0.200
INSERT = "INSERT INTO lab.prober (host, seq) VALUES (%s, %s)"


@dataclass(frozen=True)
class Target:
    """One database host as the application reaches it."""

    name: str
    address: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Target":
        """From `db1=10.77.0.11:5432`. Raises ValueError."""
        name, _, where = text.partition("=")
        address, _, port = where.rpartition(":")
        return cls(name, address, int(port))


class History:
    """The output file, shared by the threads; one whole line at a time."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._lock = threading.Lock()

    def add(self, host: str, seq: int, invoke: float, outcome: str, why: str) -> None:
        line = json.dumps(
            {"host": host, "seq": seq, "invoke": invoke, "done": boottime_s(), "outcome": outcome, "why": why}
        )
        with self._lock:
            self._out.write(line + "\n")


def probe(target: Target, base: Login, history: History, stop: threading.Event) -> None:
    """Ask one host until `stop`. A refusal keeps the session (a promoted standby becomes writable in it); silence
    drops it.
    """
    login = base.at(target.address, target.port)
    session: Session | None = None
    seq = 0
    due = boottime_s()
    while not stop.wait(max(0.0, due - boottime_s())):
        invoke = boottime_s()
        due = max(due + INTERVAL_S, invoke)
        seq += 1
        try:
            session = session or connect(login, DEADLINE_S, local=True)
        except NoAnswer as error:
            history.add(target.name, seq, invoke, "no", str(error))
            continue
        invoke = boottime_s()
        answer = session.execute(INSERT, (target.name, seq), deadline_s=DEADLINE_S)
        history.add(target.name, seq, invoke, "no" if answer.outcome == "fail" else answer.outcome, answer.why)
        if not answer.usable:
            session.close()
            session = None
    if session:
        session.close()


def busy(target: Target, base: Login, history: History, seconds: float) -> None:
    """One statement that works for `seconds` without waiting for anything, then commits; recorded like a probe."""
    session = connect(base.at(target.address, target.port), 5.0, local=True)
    print("running", flush=True)
    invoke = boottime_s()
    statement = busy_statement(base.engine).format(seconds=seconds, host=target.name)
    answer = session.execute(statement, deadline_s=seconds + 30.0)
    history.add(target.name, -1, invoke, "no" if answer.outcome == "fail" else answer.outcome, answer.why)
    session.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="ask every database host whether it accepts writes")
    parser.add_argument("--login-file", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--busy-s", type=float, help="one long statement on the (single) target instead of probes")
    parser.add_argument("targets", nargs="+", type=Target.parse, metavar="NAME=ADDRESS:PORT")
    options = parser.parse_args()
    login = Login.parse(options.login_file.read_text())
    with options.out.open("a", buffering=1) as out:
        history = History(out)
        if options.busy_s:
            busy(options.targets[0], login, history, options.busy_s)
            return
        stop = stop_on_request()
        threads = [threading.Thread(target=probe, args=(t, login, history, stop)) for t in options.targets]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main()
