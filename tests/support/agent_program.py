"""A host agent for tests, run by a real sshd as its forced command: the product's loop, hands that keep a file.

    python agent_program.py STATE_DIR

`STATE_DIR/host.json` is the host (see FRESH). A copy of it is the file `STATE_DIR/backup`; while `STATE_DIR/breaks` exists, the
agent dies in its middle. While `STATE_DIR/stuck` exists, every verb but `hello` waits, like an
agent whose guardian hangs.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from failover.errors import Refused, Unreachable
from failover.remote.hostagent import Copying, serve
from failover.remote.wire import Facts

FRESH: Facts = {
    "guardian": True,
    "closed": 0,
    "gate": "open",
    "processes": 3,
    "main_pid": 4711,
    "vip": False,
    "proved": 0,  # the epoch this host's guardian has proved for itself
    "inert": False,  # True: every order is answered with "ok" and changes nothing
}


class FileHands:
    def __init__(self, state_dir: Path) -> None:
        self._dir = state_dir
        self._lock = threading.Lock()

    def hello(self) -> tuple[str, Facts]:
        return "a host agent in a test", {"version": "test", "host": self._dir.name, "clusters": ["orders"]}

    def status(self, cluster: str) -> tuple[str, Facts]:
        return "looked", self._host()

    def fence(self, cluster: str, closes: int) -> tuple[str, Facts]:
        host = self._host()
        if int(str(host["proved"])) > closes:
            raise Refused(f"epoch {host['proved']} is proved here")
        return "fenced", self._change(closed=closes, gate="shut", processes=0, main_pid=None, vip=False)

    def vip_drop(self, cluster: str, closes: int) -> tuple[str, Facts]:
        host = self._host()
        if not host["guardian"]:
            raise Unreachable("no guardian answers")
        if int(str(host["proved"])) > closes:
            raise Refused(f"epoch {host['proved']} is proved here")
        return "dropped", self._change(vip=False)

    def vip_take(self, cluster: str, epoch: int) -> tuple[str, Facts]:
        host = self._host()
        if host["proved"] != epoch:
            raise Refused(f"epoch {epoch} is not proved here, but {host['proved']}")
        return "taken", self._change(vip=True)

    def checkpoint(self, cluster: str) -> tuple[str, Facts]:
        return "checkpoint done", self._host()

    def may_start(self, cluster: str) -> tuple[str, Facts]:
        return "nobody may start", {"may_start": False}

    @contextmanager
    def backup(self, cluster: str) -> Iterator[Copying]:
        yield FileCopy(self._dir)

    def _host(self) -> Facts:
        while (self._dir / "stuck").exists():
            threading.Event().wait(0.05)
        found: Facts = json.loads((self._dir / "host.json").read_text())
        return found

    def _change(self, **changes: object) -> Facts:
        if self._host()["inert"]:
            return self._host()
        with self._lock:
            host = {**self._host(), **changes}
            (self._dir / "host.json").write_text(json.dumps(host))
        return host


class FileCopy:
    evidence = "giving a file"

    def __init__(self, state_dir: Path) -> None:
        self._dir = state_dir
        self.facts: Facts = {"size_bytes": (state_dir / "backup").stat().st_size}

    def __iter__(self) -> Iterator[bytes]:
        with (self._dir / "backup").open("rb") as file:
            while data := file.read(100_000):
                yield data
                while (self._dir / "stuck").exists():
                    threading.Event().wait(0.05)
                if (self._dir / "breaks").exists():
                    print("the disk is on fire", file=sys.stderr, flush=True)
                    os._exit(3)

    def result(self) -> tuple[str, Facts]:
        return "given", {"state": "whole"}


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer, FileHands(Path(sys.argv[1])))
