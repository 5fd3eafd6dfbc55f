"""A notice to an application over real HTTP: what is signed, what counts as received, and that nothing lasts longer."""

from __future__ import annotations

import json
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from failover.actuators.notify import deliver, sign, verify
from failover.clock import boottime_s
from failover.core.model import Notice
from failover.errors import FailoverError, Refused, Unknown, Unreachable, WrongCredentials
from tests.support.sshd_server import free_port

SECRET = "a shared secret"


class Receiver:
    """An application. `behave(handler)` answers; by default 204."""

    def __init__(self) -> None:
        self.seen: list[tuple[dict[str, str], bytes]] = []
        self.behave: Callable[[BaseHTTPRequestHandler], None] = lambda handler: _answer(handler, 204)
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.seen.append((dict(self.headers.items()), body))
                receiver.behave(self)

            def log_message(self, format: str, *args: object) -> None:
                """Silent."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/api/db-failover?token=hidden"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def _answer(handler: BaseHTTPRequestHandler, status: int, **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", "0")
    handler.end_headers()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


def notice(url: str) -> Notice:
    return Notice("orders-7-0", url, "primary-changed", "orders", 7, "op-7", "db1", "db2", "192.0.2.100", "2026-11-20")


def test_the_application_gets_a_message_it_can_prove_came_from_us(receiver: Receiver) -> None:
    deliver(notice(receiver.url), SECRET, 2)
    headers, body = receiver.seen[0]
    assert verify([SECRET], headers, body, time.time())
    assert headers["Failover-Id"] == "orders-7-0"
    assert json.loads(body)["new_primary"] == "db2" and json.loads(body)["epoch"] == 7


def test_without_a_secret_it_is_sent_unsigned(receiver: Receiver) -> None:
    deliver(notice(receiver.url), None, 2)
    headers, body = receiver.seen[0]
    assert "Failover-Signature" not in headers and not verify([SECRET, ""], headers, body, time.time())


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (500, Unknown),
        (503, Unknown),
        (429, Unknown),
        (404, Refused),
        (410, Refused),
        (401, WrongCredentials),
        (403, WrongCredentials),
        (301, Refused),
    ],
)
def test_anything_but_2xx_is_not_received(receiver: Receiver, status: int, error: type[FailoverError]) -> None:
    receiver.behave = lambda handler: _answer(handler, status, Location=receiver.url)
    with pytest.raises(error, match=str(status)) as caught:
        deliver(notice(receiver.url), SECRET, 2)
    assert len(receiver.seen) == 1, "a redirect must not be followed"
    assert "hidden" not in str(caught.value) and SECRET not in str(caught.value)


def hang(handler: BaseHTTPRequestHandler) -> None:
    threading.Event().wait(10)


def drip(handler: BaseHTTPRequestHandler) -> None:
    """One byte of header at a time: each obeys a socket time-out, all together never end."""
    try:
        for byte in b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1000:
            handler.wfile.write(bytes([byte]))
            threading.Event().wait(0.05)
    except OSError:
        pass  # the sender hung up, as it should


@pytest.mark.parametrize("behaviour", [hang, drip])
def test_a_receiver_that_hangs_or_drips_costs_its_budget_and_no_more(
    receiver: Receiver, behaviour: Callable[[BaseHTTPRequestHandler], None]
) -> None:
    receiver.behave = behaviour
    began_s = boottime_s()
    with pytest.raises(Unknown, match="no answer in time"):
        deliver(notice(receiver.url), SECRET, 0.4)
    assert 0.35 < boottime_s() - began_s < 0.4 + 2.0  # a busy machine is late


def test_a_receiver_that_hangs_up_is_unknown(receiver: Receiver) -> None:
    receiver.behave = lambda handler: handler.connection.close()
    with pytest.raises(Unknown):
        deliver(notice(receiver.url), SECRET, 2)


def test_nobody_listening_means_it_was_not_sent() -> None:
    with pytest.raises(Unreachable, match="could not be sent"):
        deliver(notice(f"http://127.0.0.1:{free_port()}/"), SECRET, 1)


def test_a_certificate_nobody_vouches_for_is_not_trusted(receiver: Receiver, tmp_path: Path) -> None:
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "certificate.pem")
    new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]
    subprocess.run(
        [*new, "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
        timeout=20,
    )
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    receiver.server.socket = tls.wrap_socket(receiver.server.socket, server_side=True)
    with pytest.raises(Refused, match="its certificate is not valid: self-signed"):
        deliver(notice(receiver.url.replace("http:", "https:")), SECRET, 2)
    assert receiver.seen == []


@pytest.mark.parametrize(
    "url", ["ftp://127.0.0.1/", "file:///etc/passwd", "http://user:pw@127.0.0.1/", "http://", "http://127.0.0.1:99999/"]
)
def test_what_is_no_plain_web_address_is_refused(url: str) -> None:
    with pytest.raises(Refused):
        deliver(notice(url), SECRET, 1)


def test_a_key_that_could_forge_a_header_is_refused(receiver: Receiver) -> None:
    with pytest.raises(Refused, match="key"):
        deliver(replace(notice(receiver.url), key="a\r\nX-Evil: 1"), SECRET, 1)
    assert receiver.seen == []


# What a receiver checks.

NOW_S = 1_800_000_000.0


def signed(secret: str = SECRET, body: bytes = b"{}", at_s: float = NOW_S) -> dict[str, str]:
    return sign(secret, "orders-7-0", str(int(at_s)), body)


def test_a_message_of_now_with_the_right_secret_is_genuine() -> None:
    assert verify([SECRET], signed(), b"{}", NOW_S)
    assert verify(["the next one", SECRET], signed(), b"{}", NOW_S), "two secrets during a rotation"
    assert verify([SECRET], {name.upper(): value for name, value in signed().items()}, b"{}", NOW_S)


@pytest.mark.parametrize("seconds", [-301, 301, 86400])
def test_a_replay_outside_the_window_is_not(seconds: int) -> None:
    assert not verify([SECRET], signed(at_s=NOW_S + seconds), b"{}", NOW_S)


def test_a_changed_body_id_time_or_secret_is_not() -> None:
    assert not verify([SECRET], signed(), b'{"epoch": 9}', NOW_S)
    assert not verify([SECRET], {**signed(), "Failover-Id": "orders-8-0"}, b"{}", NOW_S)
    assert not verify([SECRET], {**signed(), "Failover-Timestamp": str(int(NOW_S) + 1)}, b"{}", NOW_S)
    assert not verify(["wrong"], signed(), b"{}", NOW_S)
    assert not verify([], signed(), b"{}", NOW_S)


@pytest.mark.parametrize("name", ["Failover-Id", "Failover-Timestamp", "Failover-Signature"])
def test_a_missing_or_strange_header_is_no_crash(name: str) -> None:
    headers = signed()
    assert not verify([SECRET], {**headers, name: "\xff²"}, b"{}", NOW_S)
    del headers[name]
    assert not verify([SECRET], headers, b"{}", NOW_S)
