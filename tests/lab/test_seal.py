"""The seal on the real kernel: a standby (`app` here, connecting as a client) and the old primary (`db`)."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from failover.errors import Corrupt, Refused
from failover.guardian.nft import Nft
from failover.guardian.seal import KernelSealer
from tests.support.echo_server import Client, EchoServer
from tests.support.small_lan import Lan, lan, why_not

pytestmark = [pytest.mark.lab, pytest.mark.skipif(bool(why_not()), reason=why_not() or "can run")]

PORT = 5432
UID = os.geteuid()  # the tests are the database here


@pytest.fixture(scope="module")
def hosts() -> Iterator[Lan]:
    with lan() as made:
        yield made


@pytest.fixture
def primary(hosts: Lan) -> Iterator[EchoServer]:
    with hosts.inside("db"):
        server = EchoServer("::", PORT)
    yield server
    server.close()


@pytest.fixture
def nft(hosts: Lan) -> Iterator[Nft]:
    made = Nft()
    with hosts.inside("app"):
        made.run("flush ruleset")
    yield made
    made.run("flush ruleset")
    made.close()


def connect(hosts: Lan, host: str, address: str, port: int = PORT) -> Client:
    with hosts.inside(host):
        return Client(address, port, timeout_s=0.4)


@pytest.mark.parametrize("address", [Lan.V4["db"], Lan.V6["db"]])
def test_no_acknowledgement_leaves_a_sealed_standby(hosts: Lan, primary: EchoServer, nft: Nft, address: str) -> None:
    streaming = connect(hosts, "app", address)
    assert streaming.ask("ack 1") == "ack 1"
    sealer = KernelSealer("main", nft, UID)
    sealer.seal(address, PORT)
    assert sealer.sealed() == address
    with pytest.raises(OSError):
        streaming.ask("ack 2")
    assert "ack 2" not in primary.answered, "nothing arrived at the old primary"
    with pytest.raises(ConnectionRefusedError):  # at once: a receiver that waits for its connection cannot be stopped
        connect(hosts, "app", address)
    streaming.close()


def test_a_probe_from_a_sealed_host_finds_silence(hosts: Lan, primary: EchoServer, nft: Nft) -> None:
    """Whoever is not the database there: the reset of its own kernel would be taken for a sign of life of the old host."""
    KernelSealer("main", nft, UID + 1).seal(Lan.V4["db"], PORT)
    with pytest.raises(TimeoutError):
        connect(hosts, "app", Lan.V4["db"])


def test_nothing_the_old_primary_still_sends_comes_in(hosts: Lan, primary: EchoServer, nft: Nft) -> None:
    streaming = connect(hosts, "app", Lan.V4["db"])
    streaming.socket.sendall(b"later 0.1\n")
    KernelSealer("main", nft, UID).seal(Lan.V4["db"], PORT)
    with pytest.raises(TimeoutError):
        streaming.answer()
    streaming.close()


def test_a_seal_cuts_one_host_and_port_and_nothing_else(hosts: Lan, primary: EchoServer, nft: Nft) -> None:
    with hosts.inside("db"):
        other_port = EchoServer("::", 9000)
    with hosts.inside("peer"):
        other_host = EchoServer("::", PORT)
    try:
        KernelSealer("main", nft, UID).seal(Lan.V4["db"], PORT)
        assert connect(hosts, "app", Lan.V4["db"], 9000).ask() == "hello"
        assert connect(hosts, "app", Lan.V4["peer"]).ask() == "hello"
    finally:
        other_port.close()
        other_host.close()


def test_sealing_again_is_the_same_and_against_another_replaces_it(hosts: Lan, primary: EchoServer, nft: Nft) -> None:
    sealer = KernelSealer("main", nft, UID)
    sealer.seal(Lan.V4["db"], PORT)
    sealer.seal(Lan.V4["db"], PORT)
    assert sealer.sealed() == Lan.V4["db"]
    sealer.seal(Lan.V4["peer"], PORT)
    assert KernelSealer("main", nft, UID).sealed() == Lan.V4["peer"], "a restarted guardian reads it from the kernel"
    assert connect(hosts, "app", Lan.V4["db"]).ask() == "hello"


def test_unsealing_lets_a_connection_go_on_and_may_be_repeated(hosts: Lan, primary: EchoServer, nft: Nft) -> None:
    sealer = KernelSealer("main", nft, UID)
    sealer.unseal()
    sealer.seal(Lan.V4["db"], PORT)
    sealer.unseal()
    sealer.unseal()
    assert sealer.sealed() is None
    assert connect(hosts, "app", Lan.V4["db"]).ask() == "hello"


def test_a_seal_somebody_changed_is_not_called_a_seal(nft: Nft) -> None:
    sealer = KernelSealer("main", nft, UID)
    sealer.seal(Lan.V4["db"], PORT)
    nft.run("flush chain inet failover_seal_main output")
    with pytest.raises(Corrupt):
        sealer.sealed()
    sealer.seal(Lan.V4["db"], PORT)
    assert sealer.sealed() == Lan.V4["db"]


def test_a_seal_needs_a_literal_address_and_a_port(nft: Nft) -> None:
    sealer = KernelSealer("main", nft, UID)
    with pytest.raises(Refused, match="literal"):
        sealer.seal("db1; flush ruleset", PORT)
    with pytest.raises(Refused, match="port"):
        sealer.seal(Lan.V4["db"], 0)
    assert sealer.sealed() is None
