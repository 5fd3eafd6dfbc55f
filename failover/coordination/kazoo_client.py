"""A KazooClient that keeps its word: nothing is sent late, silence is noticed, and what was sent is known.

What stock kazoo 2.11 does otherwise, each read in its source and each decisive here:

- A request made while the link is down waits in a queue and runs when the link is back, long after its caller gave up:
  `Once` is sent at most once and never after `give_up`.
- "Requests act as implicit pings": a client that sends often never pings, so it never notices a dead link.
  `Connection` counts how long an answer is owed.
- Connecting to one silent server may take the whole session time-out: `Threads` bounds it, and bounds the kernel's part,
  which no load delays, more tightly: a first packet that is lost is not sent again for a whole second.
- The negotiated session time-out is a local variable, the zxid of a reply is dropped: `Connection` keeps both.
- At level DEBUG it logs the password: the logger handed to it stays at ERROR whatever the root logger says.

The private names used (`_expand_client_hosts`, `_connect_attempt`, `_connect`, `_invoke`, `_send_request`,
`_read_socket`, `_read_response`, `_pending`, `_queue`) are exercised by tests/contract/test_coordinator.py against a
real server: a kazoo that changes them fails there.
"""

from __future__ import annotations

import logging
import math
import select
import threading
import time
from collections.abc import Sequence
from typing import Any

from kazoo.client import KazooClient
from kazoo.exceptions import ConnectionDropped, ConnectionLoss
from kazoo.handlers.threading import SequentialThreadingHandler
from kazoo.protocol.connection import ConnectionHandler
from kazoo.protocol.serialization import Connect, Transaction
from kazoo.protocol.states import KeeperState
from kazoo.retry import KazooRetry
from kazoo.security import OPEN_ACL_UNSAFE, make_digest_acl

RECONNECT_PAUSE_S = 0.1  # between two rounds over all servers
SILENCE_SHARE = 0.5  # of the session; the other half is left to find another server
TCP_CONNECT_S = 0.3  # at most this for the TCP handshake, where the session is as short as a LAN's ...
TCP_CONNECT_SHARE = 0.1  # ... and this share of a longer one
_quiet = logging.getLogger("failover.coordination.kazoo")
_quiet.setLevel(logging.ERROR)


def acl_for(digest: tuple[str, str] | None) -> list[Any]:
    """The ACL of every znode we create: all rights for the digest user and nobody else; without one, open."""
    return [make_digest_acl(*digest, all=True)] if digest else list(OPEN_ACL_UNSAFE)


def make_client(
    hosts: Sequence[str], session_s: float, connect_timeout_s: float, digest: tuple[str, str] | None,
    silence_s: float | None = None,
) -> tuple[KazooClient, Connection]:
    """A client that is not started yet, and its connection, which knows the negotiated session time-out.

    `silence_s`: a link that owes an answer for this long is opened anew; by default half of the session.
    """
    threads = Threads(connect_timeout_s, max(TCP_CONNECT_S, session_s * TCP_CONNECT_SHARE))
    # kazoo multiplies each pause with the last jitter: without a backoff it wanders down to nothing, and after some seconds
    # without a server the client spins. Doubled and capped it stays where it should.
    retry = KazooRetry(
        max_tries=-1, delay=RECONNECT_PAUSE_S, backoff=2, max_jitter=0.2, max_delay=RECONNECT_PAUSE_S,
        sleep_func=threads.sleep_func,
    )  # fmt: skip
    client = KazooClient(
        hosts=",".join(hosts), timeout=session_s, handler=threads, default_acl=acl_for(digest), logger=_quiet,
        auth_data=[("digest", ":".join(digest))] if digest else None, connection_retry=retry,
    )  # fmt: skip
    client._connection = connection = Connection(client, client._conn_retry.copy(), threads, connect_timeout_s, silence_s)
    return client, connection


# kazoo has no types, so each of its classes is Any to mypy: hence the three ignores below.


class Once(Transaction):  # type: ignore[misc]
    """A transaction that is sent at most once and never after its caller gave up. Both sides may ask at any time."""

    def __init__(self, operations: Sequence[object]) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._given_up = False
        self.sent = False

    def claim(self) -> bool:
        """For the connection thread, just before the first byte leaves: may it be sent?"""
        with self._lock:
            self.sent = not self._given_up
            return self.sent

    def give_up(self) -> bool:
        """True if it was never sent and never will be; False if it may have reached the server."""
        with self._lock:
            self._given_up = True
            return not self.sent


class Threads(SequentialThreadingHandler):  # type: ignore[misc]
    """kazoo's threads and sockets, with our bounds on every wait. `select` costs a third of kazoo's own."""

    def __init__(self, connect_timeout_s: float, tcp_connect_s: float) -> None:
        super().__init__()
        self._tcp_connect_s = min(connect_timeout_s, tcp_connect_s)
        self.idle_s = connect_timeout_s  # set anew at each connect

    def create_connection(self, *args: Any, **options: Any) -> Any:
        options["timeout"] = min(options.get("timeout") or self._tcp_connect_s, self._tcp_connect_s)
        return super().create_connection(*args, **options)

    def select(self, reads: Any, writes: Any, errors: Any, timeout: float | None = None) -> tuple[list[Any], ...]:
        poller = select.poll()
        for sock in reads:
            poller.register(sock, select.POLLIN)
        for sock in writes:
            poller.register(sock, select.POLLOUT)
        # The loop waits on two sockets, for a time that kazoo draws by lot: ours is fixed, so that an answer to a ping
        # has as long every time. Every other wait is for one socket in the middle of a message.
        wait_s = self.idle_s if len(reads) == 2 or timeout is None else timeout
        ready = {fileno for fileno, _ in poller.poll(math.ceil(wait_s * 1000))}
        return [s for s in reads if s.fileno() in ready], [s for s in writes if s.fileno() in ready], []


class Connection(ConnectionHandler):  # type: ignore[misc]
    """kazoo's connection loop with a sense of time. Everything here runs on the connection thread."""

    def __init__(
        self, client: KazooClient, retry: KazooRetry, threads: Threads, connect_timeout_s: float, silence_s: float | None
    ) -> None:
        super().__init__(client, retry, logger=_quiet)
        self._threads, self._silence_s = threads, silence_s or math.inf
        self._connect_timeout_s = connect_timeout_s
        self._owed_since_s = 0.0  # since when the server owes an answer and says nothing
        self._last_tried: tuple[str, str, int] | None = None
        self.negotiated_session_s: float | None = None

    def _expand_client_hosts(self) -> list[tuple[str, str, int]]:
        """The server that just failed us comes last: it may be frozen and cost a whole connect time-out again."""
        found: list[tuple[str, str, int]] = super()._expand_client_hosts()
        return sorted(found, key=lambda one: one == self._last_tried)

    def _connect_attempt(self, host: str, hostip: str, port: int, retry: KazooRetry) -> Any:
        self._last_tried = (host, hostip, port)
        try:
            return super()._connect_attempt(host, hostip, port, retry)
        except Exception:  # kazoo logged it; a server's garbled answer must not end the client for good
            self.client._session_callback(KeeperState.CONNECTING)
            return None

    def _connect(self, host: str, hostip: str, port: int) -> tuple[float, float]:
        read_ms, connect_ms = super()._connect(host, hostip, port)  # two thirds of the session; we take half
        self._owed_since_s = time.monotonic()
        silence_ms = min(read_ms, (self.negotiated_session_s or math.inf) * SILENCE_SHARE * 1000, self._silence_s * 1000)
        # Two waits in a row without a word end the link (the ping, then its answer): both together are the silence.
        self._threads.idle_s = silence_ms / 2000
        return silence_ms, min(connect_ms, self._connect_timeout_s * 1000)

    def _invoke(self, timeout: float, request: Any, xid: int | None = None) -> Any:
        answer = super()._invoke(min(timeout, self._connect_timeout_s), request, xid)
        if isinstance(request, Connect) and answer[0].time_out > 0:
            self.negotiated_session_s = answer[0].time_out / 1000
        return answer

    def _send_request(self, read_timeout: float, connect_timeout: float) -> None:
        client, now_s = self.client, time.monotonic()
        if not client._pending:
            self._owed_since_s = now_s
        elif now_s - self._owed_since_s > read_timeout:
            raise ConnectionDropped(f"no answer for {read_timeout:.2f} s")
        if client._queue:
            request, result = client._queue[0]
            if isinstance(request, Once) and not request.claim():
                client._queue.popleft()
                self._read_sock.recv(1)
                result.set_exception(ConnectionLoss())
                return
        super()._send_request(read_timeout, connect_timeout)

    def _read_socket(self, read_timeout: float) -> Any:
        answer = super()._read_socket(read_timeout)
        self._owed_since_s = time.monotonic()
        return answer

    def _read_response(self, header: Any, buffer: Any, offset: int) -> Any:
        if self.client._pending and self.client._pending[0][1] is not None:
            self.client._pending[0][1].zxid = header.zxid
        return super()._read_response(header, buffer, offset)
