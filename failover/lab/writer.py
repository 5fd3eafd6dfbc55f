"""The application: writes the next number every 10 ms through the VIP and remembers what was acknowledged.

    python -m failover.lab.writer --login-file F --out FILE

One connection at a time, as a careful application would hold it: an error or 300 ms of silence abandons it and a new
one is opened at once. Every attempt leaves one line of JSON: `{"id", "invoke", "done", "outcome", "why"}`, times in
CLOCK_BOOTTIME seconds, `outcome` one of `ok` (acknowledged), `fail` (surely not done) and `info` (nobody can say;
never counted as either).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import threading
from pathlib import Path
from typing import TextIO

from failover.clock import boottime_s
from failover.lab.session import Answer, Login, NoAnswer, Session, connect

INTERVAL_S = 0.010
CONNECT_S = 0.200  # one try; a SYN into a moving VIP may be lost, and TCP would repeat it only after a second
ANSWER_S = 0.300
INSERT = "INSERT INTO lab.writes (id) VALUES (%s)"


class Writer:
    """Attempts one id after another. `attempt` never raises and takes at most connect + answer deadline."""

    def __init__(self, login: Login, connect_s: float = CONNECT_S, answer_s: float = ANSWER_S) -> None:
        self._login = login
        self._connect_s = connect_s
        self._answer_s = answer_s
        self._session: Session | None = None

    def attempt(self, number: int) -> Answer:
        """Insert `number`; connect first if there is no connection. A failed connect was never sent: `fail`."""
        try:
            session = self._session or connect(self._login, self._connect_s)
        except NoAnswer as error:
            return Answer("fail", str(error), usable=False)
        answer = session.execute(INSERT, (number,), deadline_s=self._answer_s)
        self._session = session if answer.outcome == "ok" else None
        if self._session is None:  # after a plain ERROR too: behind a VIP only a new connection finds a new primary
            session.close()
        return answer

    def close(self) -> None:
        if self._session:
            self._session.close()


def run(writer: Writer, out: TextIO, stop: threading.Event, first: int) -> None:
    """Write until `stop`, on a fixed grid of 10 ms; what a slow answer missed is not made up for."""
    due = boottime_s()
    for number in itertools.count(first):
        if stop.wait(max(0.0, due - boottime_s())):
            return
        invoke = boottime_s()
        answer = writer.attempt(number)
        done = boottime_s()
        line = {"id": number, "invoke": invoke, "done": done, "outcome": answer.outcome, "why": answer.why}
        out.write(json.dumps(line) + "\n")
        due = max(due + INTERVAL_S, done)


def stop_on_request() -> threading.Event:
    """An event set by SIGTERM, SIGINT or the end of stdin: a client ends between two attempts and outlives no parent."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    def wait_for_end_of_stdin() -> None:
        while os.read(0, 4096):
            pass
        stop.set()

    threading.Thread(target=wait_for_end_of_stdin, daemon=True).start()
    return stop


def main() -> None:
    parser = argparse.ArgumentParser(description="write one row every 10 ms and keep what was acknowledged")
    parser.add_argument("--login-file", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--first", type=int, default=1, help="first id")
    options = parser.parse_args()
    stop = stop_on_request()
    writer = Writer(Login.parse(options.login_file.read_text()))
    with options.out.open("a", buffering=1) as out:
        run(writer, out, stop, options.first)
    writer.close()


if __name__ == "__main__":
    main()
