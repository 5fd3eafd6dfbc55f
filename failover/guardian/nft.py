"""One kept connection to nftables: a whole transaction per call, a deadline on each, and errors that say what is known.

Three ways were tried on the real thing (nft 1.0.6). `nft -f -` forked costs 4-12 ms a time. A kept `nft -i` is fast
but has no framing: it prints nothing after a command that worked, and errors on another stream, so "done" can only be
guessed from a marker. libnftables takes one buffer as one transaction and returns code, output and error apart, but
it calls `exit()` and `abort()` on its own faults, leaks are its caller's, and a call that hangs in the kernel cannot
be ended. So it runs in a small process of ours (`nft_worker.py`): exact framing, a deadline enforced by SIGKILL, and
a fault in the library takes the worker, never the guardian that holds the lease. A call costs 0.1-0.4 ms.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

from failover.clock import boottime_s
from failover.errors import Refused, Unknown, Unreachable
from failover.guardian import nft_worker

_log = logging.getLogger("failover.guardian.nft")

_START_S = 2.0
_REAP_S = 0.2


class Missing(Refused):
    """The table, set or chain a command names is not there. Nothing was changed."""


class Nft:
    """Runs nftables text, one transaction per call, all or nothing. Thread-safe; calls queue for one worker process.

    `deadline_s` bounds a call, the wait for other callers included; one that must start a worker first (some 10 ms) may
    take 2 s more. A call without an answer raises Unknown: it may have been carried out, so the caller reads back. Its
    worker is killed first, so nothing of it comes later.
    """

    def __init__(self, deadline_s: float = 0.5) -> None:
        self._deadline_s = deadline_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._generation = 0

    @property
    def generation(self) -> int:
        """Which worker answers, counted from 1: a new one may be a newer nftables, with another way to print."""
        return self._generation

    def run(self, text: str, deadline_s: float | None = None) -> str:
        """Carry out `text` as one transaction and return what it prints.

        Raises Missing or Refused (nothing was changed), Unknown (read back), Unreachable (never sent).
        """
        end = boottime_s() + (self._deadline_s if deadline_s is None else deadline_s)
        if not self._lock.acquire(timeout=max(0.0, end - boottime_s())):
            raise Unreachable("nftables is busy with another command of ours")
        try:
            code, output, error = self._exchange(text, end)
        finally:
            self._lock.release()
        if code == 0:
            return output
        reason = _one_line(error)
        if "No such file or directory" in error:
            raise Missing(reason)
        raise Refused(reason)

    def close(self) -> None:
        """End the worker. The kernel's tables stay as they are."""
        with self._lock:
            self._end()

    def _exchange(self, text: str, end: float) -> tuple[int, str, str]:
        if self._process is None or self._process.poll() is not None:
            self._start()
            end = max(end, boottime_s() + self._deadline_s)
        assert self._socket is not None
        body = text.encode() + b"\0"
        try:
            _send(self._socket, nft_worker.REQUEST.pack(len(body)) + body, end)
            code, out, err = nft_worker.ANSWER.unpack(_receive(self._socket, nft_worker.ANSWER.size, end))
            both = _receive(self._socket, out + err, end)
        except (OSError, EOFError, struct.error) as error:
            self._end()
            what = "gave no answer in time" if isinstance(error, TimeoutError) else "ended in the middle of a command"
            raise Unknown(f"nftables {what}; it may have been carried out") from error
        return code, both[:out].decode(errors="replace"), both[out:].decode(errors="replace")

    def _start(self) -> None:
        self._end()
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", str(Path(nft_worker.__file__))],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env={"PATH": os.defpath, "LC_ALL": "C"},
                )
            except OSError as error:
                ours.close()
                raise Unreachable(f"the nftables worker does not start: {error.strerror}") from error
        self._socket = ours
        self._greet()
        self._generation += 1
        _log.debug("nftables worker %d runs as pid %d", self._generation, self._process.pid)

    def _greet(self) -> None:
        """An empty transaction: proves library and framing before a command that matters is sent."""
        assert self._socket is not None
        end = boottime_s() + _START_S
        try:
            _send(self._socket, nft_worker.REQUEST.pack(1) + b"\0", end)
            _receive(self._socket, nft_worker.ANSWER.size, end)
        except (OSError, EOFError) as error:
            self._end()
            raise Unreachable("the nftables worker does not answer: is libnftables 1.0 installed?") from error

    def _end(self) -> None:
        """Close the socket, kill the worker and wait a moment for its end, so that a late command cannot follow."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            self._process.kill()
            try:
                self._process.wait(_REAP_S)
            except subprocess.TimeoutExpired:
                _log.error("nftables worker pid %d hangs in the kernel", self._process.pid)
            self._process = None


def _send(to: socket.socket, data: bytes, end: float) -> None:
    to.settimeout(max(0.001, end - boottime_s()))
    to.sendall(data)


def _receive(source: socket.socket, size: int, end: float) -> bytes:
    data = b""
    while len(data) < size:
        source.settimeout(max(0.001, end - boottime_s()))
        piece = source.recv(size - len(data))
        if not piece:
            raise EOFError("end of file")
        data += piece
    return data


def _one_line(error: str) -> str:
    """The first line of what libnftables says, without the picture of carets below it."""
    lines = error.strip().splitlines()
    return "nftables: " + (lines[0].removeprefix("Error: ") if lines else "no reason given")
