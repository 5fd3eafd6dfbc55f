"""Statements that are under way when their server's main process is killed, and would be acknowledged after it.

    python orphans.py --login-file F --out FILE --target db1=10.77.0.11:5432 0.3 0.6 1.2

For each number of seconds two sessions, each with one statement: one sleeps that long in the server and then inserts, one
computes that long, never waiting for anything, and then inserts. Prints `running` once all of them were sent; leaves one
line `{"id", "busy", "seconds", "invoke", "done", "outcome", "why"}` for each, times in CLOCK_BOOTTIME seconds. Commits are
as durable as the cluster says: an `ok` is a promise.
"""

from __future__ import annotations

import argparse
import json
import threading
from pathlib import Path

from failover.clock import boottime_s
from failover.lab.prober import Target
from failover.lab.session import Login, Session, connect

ID = 1_000_000  # far above the writer's
SLEEPS = "INSERT INTO lab.writes (id) SELECT {id} FROM pg_sleep({seconds})"
COMPUTES = """DO $$
DECLARE stop timestamptz := clock_timestamp() + make_interval(secs => {seconds});
BEGIN
  WHILE clock_timestamp() < stop LOOP NULL; END LOOP;
  INSERT INTO lab.writes (id) VALUES ({id});
END $$"""


def main() -> None:
    parser = argparse.ArgumentParser(description="statements that outlive their postmaster")
    parser.add_argument("--login-file", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--target", type=Target.parse, required=True, metavar="NAME=ADDRESS:PORT")
    parser.add_argument("seconds", type=float, nargs="+")
    options = parser.parse_args()
    login = Login.parse(options.login_file.read_text()).at(options.target.address, options.target.port)
    jobs = [(seconds, busy) for seconds in options.seconds for busy in (False, True)]
    sessions = [connect(login, 5.0) for _ in jobs]
    writing = threading.Lock()
    sent = threading.Barrier(len(jobs) + 1)

    def run(number: int, session: Session, seconds: float, busy: bool) -> None:
        statement = (COMPUTES if busy else SLEEPS).format(id=ID + number, seconds=seconds)
        sent.wait()
        invoke = boottime_s()
        answer = session.execute(statement, deadline_s=seconds + 5.0)
        record = {"id": ID + number, "busy": busy, "seconds": seconds, "invoke": invoke, "done": boottime_s(),
                  "outcome": answer.outcome, "why": answer.why}  # fmt: skip
        with writing, options.out.open("a") as out:
            out.write(json.dumps(record) + "\n")
        session.close()

    threads = [threading.Thread(target=run, args=(n, s, *job)) for n, (s, job) in enumerate(zip(sessions, jobs, strict=True))]
    for thread in threads:
        thread.start()
    sent.wait()
    threading.Event().wait(0.1)  # every statement has left
    print("running", flush=True)
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
