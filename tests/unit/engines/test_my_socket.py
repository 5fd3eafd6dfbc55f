"""A connection that ends at its deadline whatever the server does. The servers here are a few bytes each."""

from __future__ import annotations

import datetime
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from failover.clock import boottime_s
from failover.engines.connecting import Closed, Full, LoginHangs
from failover.engines.my_connection import Login, Session
from failover.errors import FailoverError, Unknown, Unreachable, WrongCredentials

Serve = Callable[[socket.socket, threading.Event], None]

GREETING = (
    b"\x0a" + b"9.7.4\0" + (7).to_bytes(4, "little") + b"saltsalt\0" + b"\xff\xff" + b"\x21" + b"\x02\0" + b"\xff\xdf" + b"\x15"
    + bytes(10) + b"saltsaltsalt\0" + b"caching_sha2_password\0"
)  # fmt: skip


def packet(payload: bytes, number: int = 0) -> bytes:
    return len(payload).to_bytes(3, "little") + bytes([number]) + payload


def refusal(code: int, text: bytes, number: int = 0) -> bytes:
    return packet(b"\xff" + code.to_bytes(2, "little") + (b"#08004" if number else b"") + text, number)


@contextmanager
def server(serve: Serve) -> Iterator[Login]:
    """One that does `serve` with each connection until the test is over."""
    over = threading.Event()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def run() -> None:
            while not over.is_set():
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    try:
                        serve(connection, over)
                    except OSError:
                        pass  # the client has gone

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield Login("monitor", lambda: "secret-word", host="127.0.0.1", port=listener.getsockname()[1])
        over.set()
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def silent(connection: socket.socket, over: threading.Event) -> None:
    over.wait(5)


def dripping(connection: socket.socket, over: threading.Event) -> None:
    """A byte every 20 ms: never late by any single time-out."""
    for byte in packet(GREETING) * 20:
        connection.sendall(bytes([byte]))
        if over.wait(0.02):
            return


def greets_and_sleeps(connection: socket.socket, over: threading.Event) -> None:
    connection.sendall(packet(GREETING))
    over.wait(5)


def says(data: bytes) -> Serve:
    def serve(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(data)
        over.wait(0.2)

    return serve


def opened(login: Login, budget_s: float = 0.3) -> FailoverError:
    started_s = time.perf_counter()
    with pytest.raises(FailoverError) as raised:
        Session(login, boottime_s() + budget_s)
    assert time.perf_counter() - started_s < budget_s + 0.1
    assert "secret-word" not in str(raised.value)
    return raised.value


@pytest.mark.parametrize(
    ("serve", "error"), [(silent, Unknown), (dripping, LoginHangs), (greets_and_sleeps, LoginHangs)]
)  # fmt: skip
def test_whatever_it_does_a_login_ends_at_the_deadline(serve: Serve, error: type[FailoverError]) -> None:
    with server(serve) as login:
        found = opened(login)
    assert type(found) is error


@pytest.mark.parametrize(
    ("code", "error"),
    [(1040, Full), (1203, Full), (1226, Full), (3032, Full), (1045, WrongCredentials), (1130, WrongCredentials),
     (1129, WrongCredentials), (1251, WrongCredentials), (1275, WrongCredentials), (1698, WrongCredentials),
     (1044, WrongCredentials), (3118, WrongCredentials), (4151, WrongCredentials), (1043, Unreachable)],
)  # fmt: skip
@pytest.mark.parametrize("greeted", [False, True])
def test_what_the_numbers_of_a_refused_login_mean(code: int, error: type[FailoverError], greeted: bool) -> None:
    data = packet(GREETING) + refusal(code, b"no, secret-word", 2) if greeted else refusal(code, b"no")
    with server(says(data)) as login:
        from failover.logs import hide

        hide("secret-word")
        assert type(opened(login)) is error


@pytest.mark.parametrize("data", [b"SSH-2.0-OpenSSH_9.2\r\n", b"\0\0\0\0", packet(b""), packet(b"\x0a"), b""])
def test_what_is_no_such_server_cannot_be_reached(data: bytes) -> None:
    def serve(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        over.wait(0.2)

    with server(serve) as login:
        assert isinstance(opened(login), Unreachable | Unknown)


def test_a_server_that_wants_the_password_in_the_clear_does_not_get_it() -> None:
    heard: list[bytes] = []

    def serve(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(packet(GREETING))
        heard.append(connection.recv(4096))
        connection.sendall(packet(b"\xfemysql_clear_password\0", 2))
        connection.settimeout(1)
        heard.append(connection.recv(4096))

    with server(serve) as login:
        assert isinstance(opened(login), WrongCredentials)
    assert b"secret-word" not in b"".join(heard)


# --- TLS where it is demanded -----------------------------------------------------------------------------------------


OK = b"\0\0\0\x02\0\0\0"
WANTS_TLS = 36  # bytes of a packet that only announces it: header, and no name


@pytest.fixture
def certificate(tmp_path: Path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "db1")])
    now = datetime.datetime(2026, 1, 1)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(days=9999))
    (tmp_path / "key").write_bytes(key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ))  # fmt: skip
    (tmp_path / "certificate").write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate", tmp_path / "key")
    return context


def demanding(context: ssl.SSLContext, then: Serve) -> Serve:
    """It lets nobody in without TLS; with it `then` says how the story goes on."""

    def serve(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(packet(GREETING))
        if len(connection.recv(4096)) > WANTS_TLS:
            connection.sendall(refusal(3159, b"Connections using insecure transport are prohibited", 2))
            return
        with context.wrap_socket(connection, server_side=True) as inner:
            then(inner, over)

    return serve


def lets_in_and_sleeps(connection: socket.socket, over: threading.Event) -> None:
    connection.recv(4096)
    connection.sendall(packet(OK, 3))
    connection.recv(4096)  # SET NAMES
    connection.sendall(packet(OK, 1))
    over.wait(5)


def test_a_server_that_demands_tls_gets_it_and_the_deadline_holds(certificate: ssl.SSLContext) -> None:
    with server(demanding(certificate, lets_in_and_sleeps)) as login, Session(login, boottime_s() + 2) as session:
        started_s = time.perf_counter()
        session.deadline_s = boottime_s() + 0.3
        with pytest.raises(Unknown):
            session.run("SELECT 1")
        assert time.perf_counter() - started_s < 0.4


@pytest.mark.parametrize("then", [silent, says(packet(b"nonsense", 3))])
def test_whatever_comes_of_tls_a_refused_account_stays_a_refused_account(certificate: ssl.SSLContext, then: Serve) -> None:
    """The server has answered: it must not look dead."""
    with server(demanding(certificate, then)) as login:
        assert type(opened(login)) is WrongCredentials


def test_a_port_and_a_socket_file_where_nothing_listens_are_closed(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    assert type(opened(Login("a", lambda: None, host="127.0.0.1", port=port))) is Closed
    assert type(opened(Login("a", lambda: None, local=tmp_path / "none.sock"))) is Closed
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(tmp_path / "old.sock"))
    assert type(opened(Login("a", lambda: None, local=tmp_path / "old.sock"))) is Closed


def test_a_local_server_whose_queue_is_full_costs_the_deadline(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen(0)
        waiting = []
        for _ in range(2):
            waiting.append(socket.socket(socket.AF_UNIX))
            waiting[-1].setblocking(False)
            waiting[-1].connect_ex(str(tmp_path / "s"))
        assert type(opened(Login("a", lambda: None, local=tmp_path / "s"))) is Unknown
        for one in waiting:
            one.close()
