"""Holds every connection that a server has for it, and takes each one that becomes free, until its standard input ends.

Reads one login (failover/lab/session.py); prints why it got no further connection.
"""

from __future__ import annotations

import sys
import threading

from failover.lab.session import Login, NoAnswer, Session, connect

HELD: list[Session] = []


def fill(login: Login) -> str:
    while True:
        try:
            HELD.append(connect(login, 3.0))
        except NoAnswer as error:
            return str(error)


def main() -> None:
    login, done = Login.parse(sys.stdin.readline()), threading.Event()
    print(fill(login), flush=True)

    def again() -> None:  # whoever leaves is replaced
        while not done.wait(0.1):
            fill(login)

    threading.Thread(target=again, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()
