"""The door of the guardian on its own host: a unix socket, mode 0600, one JSON line each way.

The host agent and the local commands ask through it. The socket appears at its path in one step, already closed to
others, and takes the place of one that a dead guardian left; that only one guardian lives is the state file's lock.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, cast

from failover.clock import boottime_s
from failover.errors import ConfigurationError, Corrupt, FailoverError, Refused, Unknown, Unreachable
from failover.remote.verbs import VERBS
from failover.remote.wire import (
    ANSWER_MAX_BYTES,
    Facts,
    Garbage,
    Grammar,
    LineReader,
    Reply,
    failure_line,
    next_id,
    read_answer,
    read_request,
    reply_line,
    request_line,
)

_log = logging.getLogger("failover.remote")

Handler = Callable[[str, Facts], tuple[str, Facts]]

_IDLE_S = 10.0  # a connection that says nothing this long is closed
_CONNECTIONS_MAX = 64
_PATH_MAX_BYTES = 107  # sun_path


def answer_line(line: bytes | None, handler: Handler, grammar: Grammar = VERBS) -> bytes:
    """One request line (None: it was oversized) to one answer line. What goes wrong becomes the answer."""
    try:
        if line is None:
            raise Garbage("the line is too long")
        asked = read_request(line, grammar)
    except Garbage as error:
        return failure_line(error.id, Refused(str(error)))
    try:
        return reply_line(asked.id, Reply(*handler(asked.verb, asked.fields)))
    except FailoverError as error:
        return failure_line(asked.id, error)
    except Exception as error:  # a bug in one verb must not close the door to `fence`; the effect may have happened
        _log.exception("%s failed", asked.verb)
        return failure_line(asked.id, Unknown(f"{asked.verb} failed: {type(error).__name__}"))


class GuardianServer:
    """Answers on `path` from when it is made until `close()`. One thread a connection: a slow verb holds up no other.

    `handler(verb, fields)` gets only requests that fit `grammar`; what it raises becomes the answer.
    Raises ConfigurationError if the socket cannot be made.
    """

    def __init__(self, path: Path, handler: Handler, grammar: Grammar = VERBS) -> None:
        self._path = path
        self._handler = handler
        self._grammar = grammar
        self._free = threading.Semaphore(_CONNECTIONS_MAX)
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._closed = False
        self._listener = _listen(path)
        self._inode = os.stat(path).st_ino
        self._thread = threading.Thread(target=self._accept, name="guardian-socket", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering and remove the socket, unless a newer guardian has put its own there."""
        with self._lock:
            self._closed = True
            doomed = [self._listener, *self._open]
        for sock in doomed:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)  # wakes the thread that blocks on it; close alone does not
        self._thread.join(timeout=2.0)
        self._listener.close()
        with contextlib.suppress(FileNotFoundError):
            if os.stat(self._path).st_ino == self._inode:
                self._path.unlink()

    def _accept(self) -> None:
        while not self._closed:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                if not self._closed:
                    _log.exception("the guardian's socket no longer accepts")
                return
            threading.Thread(target=self._serve, args=(sock,), name="guardian-request", daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with self._lock:
            self._open.add(sock)
        try:
            if not self._closed:
                self._converse(sock)
        except OSError as error:
            _log.info("a local caller went away: %s", error)
        finally:
            with self._lock:
                self._open.discard(sock)
            sock.close()

    def _converse(self, sock: socket.socket) -> None:
        sock.settimeout(_IDLE_S)
        if not self._free.acquire(blocking=False):
            sock.sendall(failure_line(None, Refused(f"busy: {_CONNECTIONS_MAX} callers at once")))
            return
        try:
            with cast(BinaryIO, sock.makefile("rb")) as stream:
                for line in LineReader(stream):
                    sock.sendall(answer_line(line, self._handler, self._grammar))
        finally:
            self._free.release()


class GuardianClient:
    """Asks the guardian behind `path`. A fresh connection for each call: it costs 0.1 ms and cannot be stale."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def call(self, verb: str, fields: Mapping[str, object], deadline_s: float) -> Reply:
        """Raises Unreachable (no guardian there: nothing happened), Unknown (asked, no answer in time), Refused."""
        until_s = boottime_s() + deadline_s
        id = next_id()
        line = request_line(id, verb, fields)
        with socket.socket(socket.AF_UNIX) as sock:
            self._connect(sock, deadline_s)
            try:
                sock.sendall(line)
                said = _receive_line(sock, until_s)
            except OSError as error:
                raise Unknown(f"the guardian at {self._path} did not answer {verb} within {deadline_s:g} s") from error
        answered, reply = _understood(said)
        if answered not in (id, None):
            raise Unknown(f"the guardian at {self._path} answered another request")
        if isinstance(reply, FailoverError):
            raise reply
        return reply

    def _connect(self, sock: socket.socket, deadline_s: float) -> None:
        sock.settimeout(deadline_s)
        try:
            sock.connect(str(self._path))
        except OSError as error:
            raise Unreachable(f"no guardian answers at {self._path}: {error.strerror or error}") from error


def _understood(line: bytes) -> tuple[int | None, Reply | FailoverError]:
    try:
        return read_answer(line)
    except Corrupt as error:
        raise Unknown(f"the guardian's answer cannot be read: {error}") from error


def _receive_line(sock: socket.socket, until_s: float) -> bytes:
    """Until the newline, the deadline or the size limit. Raises OSError; TimeoutError is one."""
    said = b""
    while not said.endswith(b"\n"):
        left_s = until_s - boottime_s()
        if left_s <= 0:
            raise TimeoutError
        sock.settimeout(left_s)
        chunk = sock.recv(65536)
        if not chunk or len(said) + len(chunk) > ANSWER_MAX_BYTES:
            raise ConnectionError("the answer ended early")
        said += chunk
    return said


def _listen(path: Path) -> socket.socket:
    """Bound beside and renamed into place: never visible with another mode, never a moment without a socket."""
    beside = path.with_name(path.name + ".new")
    if len(os.fsencode(beside)) > _PATH_MAX_BYTES:
        raise ConfigurationError([f"run_dir is too long for a unix socket: {path}"])
    listener = socket.socket(socket.AF_UNIX)
    try:
        beside.unlink(missing_ok=True)
        listener.bind(str(beside))
        os.chmod(beside, 0o600)
        listener.listen(128)
        os.rename(beside, path)
    except OSError as error:
        listener.close()
        raise ConfigurationError([f"cannot make the guardian's socket {path}: {error.strerror or error}"]) from error
    return listener
