"""Telling an application: one signed POST, bounded, no redirects. That it arrives at least once is the queue's work.

    Failover-Id: orders-7-3                  the idempotency key: the receiver drops what it has seen
    Failover-Timestamp: 1760000000           seconds since 1970, refused by the receiver when over 300 s off
    Failover-Signature: v1=<hex>             HMAC-SHA256 over "id.timestamp.body" with the shared secret

`verify` is what a receiver does, in full; the lab's receiver and the documentation use it.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import ipaddress
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from urllib.parse import SplitResult, urlsplit

from failover import __version__
from failover.clock import boottime_s
from failover.core.model import Notice
from failover.errors import FailoverError, Refused, Unknown, Unreachable, WrongCredentials

WINDOW_S = 300.0
BODY_MAX_BYTES = 65536
TOO_LATE = "no answer in time"
_KEY = re.compile(r"[A-Za-z0-9._:/-]{1,200}")


def sign(secret: str, key: str, timestamp: str, body: bytes) -> dict[str, str]:
    """The three headers of a signed message."""
    return {
        "Failover-Id": key,
        "Failover-Timestamp": timestamp,
        "Failover-Signature": f"v1={_digest(secret, key, timestamp, body)}",
    }


def verify(secrets: Iterable[str], headers: Mapping[str, str], body: bytes, now_s: float, window_s: float = WINDOW_S) -> bool:
    """True if one of `secrets` signed this message within `window_s` of `now_s` (wall clock). Two allow rotation.

    Header names are matched without case. The caller still drops an id that it has already seen.
    """
    said = {name.lower(): value for name, value in headers.items()}
    key, timestamp = said.get("failover-id", ""), said.get("failover-timestamp", "")
    if not re.fullmatch(r"[0-9]{1,12}", timestamp) or abs(now_s - int(timestamp)) > window_s:
        return False
    signature = said.get("failover-signature", "").encode()
    found = [hmac.compare_digest(f"v1={_digest(one, key, timestamp, body)}".encode(), signature) for one in secrets]
    return any(found)


def message(notice: Notice) -> bytes:
    """The body: what happened, as flat JSON without secrets."""
    said = {
        "id": notice.key,
        "event": notice.event,
        "cluster": notice.cluster,
        "epoch": notice.epoch,
        "operation": notice.operation,
        "old_primary": notice.old,
        "new_primary": notice.new,
        "address": notice.address,
        "at": notice.at_wall,
    }
    return json.dumps(said, separators=(",", ":")).encode()


def deliver(notice: Notice, secret: str | None, budget_s: float) -> None:
    """Returns when the receiver answered 2xx, within `budget_s` in all, name look-up included.

    Raises Unreachable (no connection), Unknown (sent, no good answer: send again, the id makes that harmless), Refused
    (the receiver or our own rules said no), WrongCredentials (401, 403). The caller allows only URLs it has configured.
    """
    url = _checked(notice)
    body = message(notice)
    if len(body) > BODY_MAX_BYTES:
        raise Refused(f"the notice {notice.key} has {len(body)} bytes, more than {BODY_MAX_BYTES}")
    timestamp = str(int(time.time()))
    headers = sign(secret, notice.key, timestamp, body) if secret else {"Failover-Id": notice.key}
    post = _Post(url, headers, body, boottime_s() + budget_s)
    _judge(post.run(budget_s), url.hostname or "")


class _Post:
    """One request in a thread of its own: neither the name look-up nor a dripping answer obeys a socket's time-out."""

    def __init__(self, url: SplitResult, headers: Mapping[str, str], body: bytes, until_s: float) -> None:
        self._url = url
        self._headers = {"Content-Type": "application/json", "User-Agent": f"failover/{__version__}", **headers}
        self._body = body
        self._until_s = until_s
        self._sent = False
        self._connection: http.client.HTTPConnection | None = None

    def run(self, budget_s: float) -> int:
        """The status code. Raises Unreachable, Unknown, Refused."""
        result: Future[int] = Future()
        threading.Thread(target=self._work, args=(result,), name="webhook", daemon=True).start()
        try:
            return result.result(timeout=budget_s)
        except TimeoutError as error:
            self._hang_up()
            raise self._failed(TOO_LATE) from error

    def _work(self, result: Future[int]) -> None:
        try:
            result.set_result(self._exchange())
        except ssl.SSLCertVerificationError as error:
            result.set_exception(Refused(f"{self._url.hostname}: its certificate is not valid: {error.verify_message}"))
        except TimeoutError:
            result.set_exception(self._failed(TOO_LATE))
        except (OSError, http.client.HTTPException) as error:
            result.set_exception(self._failed(getattr(error, "strerror", None) or type(error).__name__))
        except BaseException as error:  # the waiting caller must hear of anything else too, a refusal or a bug
            result.set_exception(error)
        finally:
            self._hang_up()

    def _exchange(self) -> int:
        connection = self._connect()
        path = self._url.path or "/"
        target = f"{path}?{self._url.query}" if self._url.query else path
        self._sent = True
        connection.request("POST", target, body=self._body, headers=self._headers)
        response = connection.getresponse()
        response.read(BODY_MAX_BYTES)  # a polite end; what it says is not used
        return response.status

    def _connect(self) -> http.client.HTTPConnection:
        left_s = max(0.01, self._until_s - boottime_s())
        host, port = self._url.hostname or "", self._url.port
        if self._url.scheme == "https":
            tls = ssl.create_default_context()
            self._connection = http.client.HTTPSConnection(host, port, timeout=left_s, context=tls)
        else:
            self._connection = http.client.HTTPConnection(host, port, timeout=left_s)
        self._connection.connect()
        peer = ipaddress.ip_address(self._connection.sock.getpeername()[0].partition("%")[0])
        if peer.is_link_local or peer.is_multicast or peer.is_unspecified:
            raise Refused(f"{host} is {peer}: notices never go to link-local addresses (cloud metadata)")
        return self._connection

    def _hang_up(self) -> None:
        connection = self._connection
        if connection is None:
            return
        sock: socket.socket | None = connection.sock
        try:
            if sock is not None:
                sock.shutdown(socket.SHUT_RDWR)  # wakes a thread that still reads; close alone would not
        except OSError:
            pass  # it was closed already
        connection.close()

    def _failed(self, why: str) -> FailoverError:
        if self._sent:
            return Unknown(f"{self._url.hostname}: the notice was sent, its receipt is unknown: {why}")
        return Unreachable(f"{self._url.hostname}: the notice could not be sent: {why}")


def _checked(notice: Notice) -> SplitResult:
    """The URL in parts. Its path and query are never shown: some receivers carry a token there."""
    try:
        url = urlsplit(notice.url)
        port = url.port
    except ValueError as error:
        raise Refused("a notice with an URL that cannot be read") from error
    if url.scheme not in ("http", "https") or not url.hostname or url.username or port == 0:
        raise Refused(f"a notice goes to http:// or https:// without user and password, not to {url.scheme}://")
    if not _KEY.fullmatch(notice.key):
        raise Refused("a notice whose key is not 1 to 200 letters, digits or ._:/-")
    return url


def _judge(status: int, host: str) -> None:
    if 200 <= status < 300:
        return
    if 300 <= status < 400:
        raise Refused(f"{host} answered {status}: redirects are not followed, configure the final URL")
    if status in (401, 403):
        raise WrongCredentials(f"{host} answered {status}: it does not accept our signature")
    if status in (408, 425, 429) or status >= 500:
        raise Unknown(f"{host} answered {status}: it will be sent again")
    raise Refused(f"{host} answered {status}")


def _digest(secret: str, key: str, timestamp: str, body: bytes) -> str:
    return hmac.new(secret.encode(), f"{key}.{timestamp}.".encode() + body, hashlib.sha256).hexdigest()
