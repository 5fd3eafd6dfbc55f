"""The application's webhook: checks who sent the notice, acts on each notice once, and writes down every delivery.

    python -m failover.lab.receiver --secret-file F --out FILE [--port 8080] [--fail-first N]

It verifies with the function that an application's developer would import, `failover.actuators.notify.verify`.
`--fail-first N` answers the first N genuine deliveries with 500, so that the redelivery shows. Each delivery leaves
one line of JSON: `{"key", "at", "status", "repeated", "body"}`, `at` in BOOTTIME seconds.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TextIO

from failover.actuators.notify import BODY_MAX_BYTES, verify
from failover.clock import boottime_s
from failover.lab.writer import stop_on_request

PORT = 8080
PATH = "/api/db-failover"


class Receiver(ThreadingHTTPServer):
    """Serves until `shutdown()`. Deliveries go to `out`, one line each."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], secret: str, out: TextIO, fail_first: int = 0) -> None:
        super().__init__(address, _Handler)
        self._secret = secret
        self._out = out
        self._failures_left = fail_first
        self._done: set[str] = set()
        self._lock = threading.Lock()

    def take(self, headers: Mapping[str, str], body: bytes) -> int:
        """Judge and record one delivery; the HTTP status to answer. A repeated one gets 200 and is not acted on."""
        key = next((value for name, value in headers.items() if name.lower() == "failover-id"), "")
        with self._lock:
            repeated = key in self._done
            status = self._judge(key, headers, body)
            said = json.loads(body) if status == 200 else None
            line = {"key": key, "at": boottime_s(), "status": status, "repeated": repeated, "body": said}
            self._out.write(json.dumps(line) + "\n")
            return status

    def _judge(self, key: str, headers: Mapping[str, str], body: bytes) -> int:
        if not verify([self._secret], headers, body, time.time()):
            return 401
        if self._failures_left > 0:
            self._failures_left -= 1
            return 500
        try:
            json.loads(body)
        except ValueError:
            return 400
        self._done.add(key)
        return 200


class _Handler(BaseHTTPRequestHandler):
    server: Receiver
    timeout = 5.0  # a client that stops in the middle of its request keeps no thread

    def do_POST(self) -> None:
        try:
            length = int(self.headers.get("Content-Length", ""))
        except ValueError:
            length = -1
        if self.path != PATH or not 0 <= length <= BODY_MAX_BYTES:
            self._answer(404 if self.path != PATH else 413)
            return
        self._answer(self.server.take(dict(self.headers), self.rfile.read(length)))

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """The history file is the log."""


def main() -> None:
    parser = argparse.ArgumentParser(description="receive and verify failover notices")
    parser.add_argument("--secret-file", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--fail-first", type=int, default=0, metavar="N", help="answer the first N deliveries with 500")
    options = parser.parse_args()
    secret = options.secret_file.read_text().strip()
    stop = stop_on_request()
    with options.out.open("a", buffering=1) as out:
        server = Receiver(("", options.port), secret, out, options.fail_first)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stop.wait()
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    main()
