"""What SSH may run on a database host: a loop that reads requests, does the few things in `verbs.py`, and answers.

It holds no power of its own: enabling verbs are handed to the guardian, which obeys under its own proof (G1). When the
guardian is dead, one thing still works without it: `fence`, which closes the epoch on disk, flushes the gate and ends
the database. On a host that is configured without a guardian, `status` and the VIP's verbs are done here as well. The loop
outlives garbage, and a fence once begun is finished even if the controller hangs up meanwhile.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from failover import __version__
from failover.clock import boottime_s
from failover.errors import FailoverError, Refused, Unknown, Unreachable
from failover.remote.guardian_socket import GuardianClient, answer_line
from failover.remote.verbs import STREAMS, VERBS
from failover.remote.wire import (
    FRAME_MAX_BYTES,
    FRAMES_END,
    Asked,
    Facts,
    Garbage,
    LineReader,
    Reply,
    failure_line,
    frame,
    read_request,
    reply_line,
)

_log = logging.getLogger("failover.hostagent")

SOCKET_NAME = "guardian.sock"

_IN_HAND_MAX = 16  # requests worked on at once; the loop reads no further until one is done
_DRAIN_S = 60.0  # after the controller hung up: how long what was begun may take to end


class Copying(Protocol):
    """A stream that has begun: what is said first, its bytes, and, after the last one, what came of it.

    Iterating and `result` raise from `failover.errors`.
    """

    evidence: str
    facts: Facts

    def __iter__(self) -> Iterator[bytes]: ...

    def result(self) -> tuple[str, Facts]: ...


class Hands(Protocol):
    """One method a verb; each returns (evidence, facts) or raises from `failover.errors`. Called from several threads.

    Facts every implementation gives, and a controller checks:
      status      guardian: bool, closed: int (epoch, on disk), gate: "open" | "shut" | "none", processes: int (all of
                  the data directory), main_pid: int | null, vip: bool
      fence       closed, gate, processes; read back *after* the work
      vip-drop, vip-take   vip: bool; read back
      may-start   may_start: bool
    """

    def hello(self) -> tuple[str, Facts]: ...

    def status(self, cluster: str) -> tuple[str, Facts]: ...

    def fence(self, cluster: str, closes: int) -> tuple[str, Facts]: ...

    def vip_drop(self, cluster: str, closes: int) -> tuple[str, Facts]: ...

    def vip_take(self, cluster: str, epoch: int) -> tuple[str, Facts]: ...

    def checkpoint(self, cluster: str) -> tuple[str, Facts]: ...

    def may_start(self, cluster: str) -> tuple[str, Facts]: ...

    def backup(self, cluster: str) -> AbstractContextManager[Copying]: ...


def serve(
    stdin: BinaryIO, stdout: BinaryIO, hands: Hands, verbs: Mapping[str, Mapping[str, type]] = VERBS
) -> None:
    """Answer requests until `stdin` ends; returns when all that was begun has ended, or after a minute.

    Requests are worked on side by side: a `fence` does not wait behind a hung `status`; answers carry the request's id. A
    stream has its session to itself: no other answer comes before its end. `verbs` may be fewer, for a caller who fetches
    copies and orders nothing.
    """
    replies = _Replies(stdout)
    free = threading.Semaphore(_IN_HAND_MAX)
    begun: list[threading.Thread] = []

    def work(line: bytes | None) -> None:
        try:
            if (asked := _streams(line)) is not None:
                replies.stream(asked, lambda: getattr(hands, asked.verb)(**asked.fields))
            else:
                replies.send(answer_line(line, lambda verb, fields: perform(hands, verb, fields), verbs))
        finally:
            free.release()

    for line in LineReader(stdin):
        free.acquire()
        thread = threading.Thread(target=work, args=(line,), name="request", daemon=True)
        thread.start()
        begun = [*(one for one in begun if one.is_alive()), thread]
    until_s = boottime_s() + _DRAIN_S
    for thread in begun:
        thread.join(timeout=max(0.0, until_s - boottime_s()))


def perform(hands: Hands, verb: str, fields: Facts) -> tuple[str, Facts]:
    """The verb's method with its checked fields: `vip-drop` is `hands.vip_drop(cluster=..., closes=...)`."""
    method: Callable[..., tuple[str, Facts]] = getattr(hands, verb.replace("-", "_"))
    return method(**fields)


def _streams(line: bytes | None) -> Asked | None:
    """The request, if it is one for a stream."""
    try:
        return read_request(line or b"", STREAMS)
    except Garbage:
        return None


class _Replies:
    """Whole lines onto the one stream, from many threads. The work is done even if the controller went away."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def send(self, line: bytes) -> None:
        try:
            with self._lock:
                self._stream.write(line)
                self._stream.flush()
        except (OSError, ValueError) as error:  # ValueError: the stream was closed under us
            _log.info("the controller went away before its answer: %s", error)

    def stream(self, asked: Asked, begin: Callable[[], AbstractContextManager[Copying]]) -> None:
        """Answer, frames, answer. Whoever hangs up ends what gives the bytes."""
        with self._lock:
            begun = False
            try:
                with begin() as copying:
                    self._put(reply_line(asked.id, Reply(copying.evidence, copying.facts)))
                    begun = True
                    for data in copying:
                        for start in range(0, len(data), FRAME_MAX_BYTES):
                            self._put(frame(data[start : start + FRAME_MAX_BYTES]))
                    last = reply_line(asked.id, Reply(*copying.result()))
            except (OSError, ValueError) as error:
                _log.info("%s ends early: %s", asked.verb, error)
                return
            except FailoverError as error:
                last = failure_line(asked.id, error)
            except Exception as error:  # a bug must not leave the other side waiting
                _log.exception("%s failed", asked.verb)
                last = failure_line(asked.id, Unknown(f"{asked.verb} failed: {type(error).__name__}"))
            try:
                self._put((FRAMES_END if begun else b"") + last)
            except (OSError, ValueError) as error:
                _log.info("nobody hears what came of %s: %s", asked.verb, error)

    def _put(self, data: bytes) -> None:
        self._stream.write(data)
        self._stream.flush()


@contextmanager
def no_copies(cluster: str) -> Iterator[Copying]:
    """Where no engine gives copies."""
    raise Refused(f"no copy of {cluster} is given over SSH")
    yield  # a context manager is a generator


class GuardianHands:
    """Hands every verb to the cluster's guardian at `<run_dir>/<cluster>/guardian.sock`.

    `offline(cluster, closes)` fences a host whose guardian does not answer: closes the epoch on disk, flushes the gate,
    ends every database process, reads back, and returns (evidence, facts). A *hung* guardian gets it too: to disable
    twice is to disable once. A guardian's refusal (it proved a later epoch) is final. `may_start(folder, cluster)` judges
    the guardian's marker; by default its presence counts. `unguarded(verb, cluster, epoch)` does what is left to do where
    no guardian belongs, or gives None where one does. `copies(cluster)` begins a copy of the database for another member.
    """

    def __init__(
        self,
        run_dir: Path,
        offline: Callable[[str, int], tuple[str, Facts]],
        answer_s: float = 3.0,
        work_s: float = 20.0,
        may_start: Callable[[Path, str], bool] | None = None,
        unguarded: Callable[[str, str, int], tuple[str, Facts] | None] = lambda verb, cluster, epoch: None,
        copies: Callable[[str], AbstractContextManager[Copying]] = no_copies,
    ) -> None:
        self._run_dir = run_dir
        self._offline = offline
        self._answer_s = answer_s
        self._work_s = work_s
        self._may_start = may_start or _marked
        self._unguarded = unguarded
        self._copies = copies

    def hello(self) -> tuple[str, Facts]:
        clusters = sorted(found.parent.name for found in self._run_dir.glob(f"*/{SOCKET_NAME}"))
        host = socket.gethostname()
        return f"host agent {__version__} on {host}", {"version": __version__, "host": host, "clusters": clusters}

    def status(self, cluster: str) -> tuple[str, Facts]:
        try:
            return self._ask(cluster, "status", {}, self._answer_s)
        except Unreachable as error:
            return self._unguarded("status", cluster, 0) or (str(error), {"guardian": False})

    def fence(self, cluster: str, closes: int) -> tuple[str, Facts]:
        try:
            return self._ask(cluster, "fence", {"closes": closes}, self._answer_s)
        except (Unreachable, Unknown) as error:
            _log.warning("fencing %s without its guardian: %s", cluster, error)
            evidence, facts = self._offline(cluster, closes)
            return f"{evidence} (by the host agent: {error})", facts

    def vip_drop(self, cluster: str, closes: int) -> tuple[str, Facts]:
        try:
            return self._ask(cluster, "vip-drop", {"closes": closes}, self._answer_s)
        except Unreachable:
            done = self._unguarded("vip-drop", cluster, closes)
            if done is None:
                raise
            return done

    def vip_take(self, cluster: str, epoch: int) -> tuple[str, Facts]:
        try:
            return self._ask(cluster, "vip-take", {"epoch": epoch}, self._work_s)
        except Unreachable:
            done = self._unguarded("vip-take", cluster, epoch)
            if done is None:
                raise
            return done

    def checkpoint(self, cluster: str) -> tuple[str, Facts]:
        return self._ask(cluster, "checkpoint", {}, self._work_s)

    def may_start(self, cluster: str) -> tuple[str, Facts]:
        there = self._may_start(self._run_dir / cluster, cluster)
        says = "the guardian is starting" if there else "nobody but the guardian may start"
        return f"{says} the database of {cluster}", {"may_start": there}

    def backup(self, cluster: str) -> AbstractContextManager[Copying]:
        return self._copies(cluster)

    def _ask(self, cluster: str, verb: str, fields: Facts, deadline_s: float) -> Reply:
        client = GuardianClient(self._run_dir / cluster / SOCKET_NAME)
        return client.call(verb, {"cluster": cluster, **fields}, deadline_s)


def _marked(folder: Path, cluster: str) -> bool:
    """The guardian makes the marker just before it starts the database and removes it after."""
    return (folder / f"{cluster}.starting").exists()
