"""The gate on the real kernel, between small hosts of our own: who passes when, and what a busy client notices."""

from __future__ import annotations

import os
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from failover.clock import boottime_s
from failover.errors import ConfigurationError, Refused, Unknown
from failover.guardian.base import Guarded
from failover.guardian.gate import KernelGate
from failover.guardian.nft import Nft
from tests.support.echo_server import Client, EchoServer
from tests.support.small_lan import Lan, lan, why_not

pytestmark = [pytest.mark.lab, pytest.mark.skipif(bool(why_not()), reason=why_not() or "can run")]

PORT, POOLER = 5432, 6432
GUARDED = Guarded(ports=[PORT, POOLER], peers=[Lan.V4["peer"], Lan.V6["peer"]])


@pytest.fixture(scope="module")
def hosts() -> Iterator[Lan]:
    with lan() as made:
        made.sh("db", f"ip addr add {Lan.VIP4}/32 dev eth0")
        made.sh("db", f"ip addr add {Lan.VIP6}/128 dev eth0 nodad")
        yield made


@pytest.fixture
def nft(hosts: Lan) -> Iterator[Nft]:
    """Its worker is started on the database host and stays there."""
    made = Nft()
    with hosts.inside("db"):
        made.run("flush ruleset")
    yield made
    made.run("flush ruleset")
    made.close()


@pytest.fixture
def gate(nft: Nft) -> KernelGate:
    made = KernelGate("main", GUARDED, nft)
    made.install_shut()
    return made


@pytest.fixture
def database(hosts: Lan) -> Iterator[EchoServer]:
    """Dual-stack, as MySQL listens: IPv4 clients appear as ::ffff:a.b.c.d."""
    with hosts.inside("db"):
        server = EchoServer("::", PORT)
    yield server
    server.close()


@pytest.fixture
def call(hosts: Lan) -> Iterator[Callable[..., Client]]:
    """call("app", address): a new client connection from that host."""
    made: list[Client] = []

    def connect(host: str, address: str = Lan.V4["db"], port: int = PORT) -> Client:
        with hosts.inside(host):
            made.append(Client(address, port))
        return made[-1]

    yield connect
    for client in made:
        client.close()


def opened(gate: KernelGate, ticket: int, lifetime_s: float | None, epoch: int = 1) -> None:
    assert gate.arm(ticket, lifetime_s, epoch)
    gate.switch(ticket)


def test_a_ticket_is_inert_until_the_switch(
    gate: KernelGate, database: EchoServer, call: Callable[..., Client]
) -> None:
    assert gate.arm(1, 1.0, epoch=1)
    assert not gate.read_back().open
    with pytest.raises(ConnectionRefusedError):
        call("app")
    gate.switch(1)
    state = gate.read_back()
    assert state.open and state.current == 1 and state.expires_in_s is not None and 0.5 < state.expires_in_s <= 1.0
    assert call("app").ask() == "hello"


def test_a_busy_session_is_cut_at_the_end_of_its_ticket(
    gate: KernelGate, database: EchoServer, call: Callable[..., Client]
) -> None:
    began = boottime_s()
    opened(gate, 1, 0.5)
    client, last_answer_s = call("app"), 0.0
    with pytest.raises(OSError):
        while True:
            client.ask()
            last_answer_s = boottime_s() - began
    assert 0.4 < last_answer_s < 0.55
    state = gate.read_back()
    assert (state.open, state.current, state.expires_in_s, state.repaired) == (False, 1, 0.0, False)


def test_an_answer_to_a_statement_sent_in_time_does_not_get_out_after_the_end(
    gate: KernelGate, database: EchoServer, call: Callable[..., Client]
) -> None:
    opened(gate, 1, 0.3)
    client = call("app")
    client.socket.sendall(b"later 0.4\n")
    with pytest.raises(OSError):
        client.answer()
    assert database.answered == ["later 0.4"], "the server did answer, so only the gate held it back"


def test_an_answer_held_back_does_not_leave_when_the_port_opens_under_a_later_epoch(
    gate: KernelGate, database: EchoServer, call: Callable[..., Client], hosts: Lan
) -> None:
    """The killed server's socket stays behind in FIN-WAIT with the answer in it: cut_sessions must end that too."""
    opened(gate, 1, 0.2)
    client = call("app")
    client.socket.sendall(b"later 0.3\n")
    wait_until(lambda: bool(database.answered))
    gate.shut(closes=1)
    database.close()
    with hosts.inside("db"):
        gate.cut_sessions()
    opened(gate, 2, 5.0, epoch=2)
    with pytest.raises(OSError):
        client.answer()


@pytest.mark.parametrize("address", [Lan.V4["db"], Lan.V6["db"], Lan.VIP4, Lan.VIP6])
def test_every_address_of_the_host_is_gated(
    gate: KernelGate, database: EchoServer, call: Callable[..., Client], address: str
) -> None:
    with pytest.raises(ConnectionRefusedError):
        call("app", address)
    opened(gate, 1, 0.3)
    client = call("app", address)
    assert client.ask() == "hello"
    wait_until(lambda: not gate.read_back().open)
    with pytest.raises(OSError):
        client.ask()


def test_every_port_to_the_database_is_gated_and_no_other(
    gate: KernelGate, call: Callable[..., Client], hosts: Lan
) -> None:
    with hosts.inside("db"):
        servers = [EchoServer("::", POOLER), EchoServer("::", 9000)]
    try:
        with pytest.raises(ConnectionRefusedError):
            call("app", port=POOLER)
        assert call("app", port=9000).ask() == "hello"
        opened(gate, 1, 1.0)
        assert call("app", port=POOLER).ask() == "hello"
    finally:
        for server in servers:
            server.close()


def test_peers_and_loopback_pass_while_the_port_is_shut(
    gate: KernelGate, database: EchoServer, call: Callable[..., Client]
) -> None:
    clients = [call("peer"), call("peer", Lan.V6["db"]), call("db", "127.0.0.1"), call("db"), call("db", Lan.V6["db"])]
    gate.shut(closes=5)
    assert [client.ask() for client in clients] == ["hello"] * 5
    with pytest.raises(ConnectionRefusedError):
        call("app")


def test_a_late_switch_to_an_ended_ticket_leaves_the_port_shut(
    gate: KernelGate, database: EchoServer, call: Callable[..., Client]
) -> None:
    assert gate.arm(1, 0.05, epoch=1)
    wait_until(lambda: not elements_of(gate, 1))
    gate.read_back()
    gate.switch(1)
    with pytest.raises(ConnectionRefusedError):
        call("app")
    assert gate.arm(2, 5.0, epoch=1), "the ended one is in force, so it must not be swept"
    assert not gate.read_back().open
    gate.switch(2)
    assert call("app").ask() == "hello"


def test_a_switch_to_a_ticket_that_is_gone_shuts_the_port_and_says_so(gate: KernelGate) -> None:
    opened(gate, 1, 5.0)
    with pytest.raises(Refused, match="ticket 2 is not in the kernel"):
        gate.switch(2)
    assert not gate.read_back().open


def test_a_ticket_number_is_never_used_twice(gate: KernelGate) -> None:
    opened(gate, 7, 5.0)
    with pytest.raises(Refused, match="File exists"):
        gate.arm(7, 50.0, epoch=1)


def test_renewals_keep_a_busy_client_going_and_leave_nothing_behind(
    gate: KernelGate, database: EchoServer, call: Callable[..., Client], nft: Nft
) -> None:
    opened(gate, 1, 0.3)
    client, number = call("app"), 1
    end = boottime_s() + 1.2
    while boottime_s() < end:
        number += 1
        opened(gate, number, 0.3)
        assert gate.read_back().open
        assert client.ask() == "hello"
        threading.Event().wait(0.02)
    assert nft.run("list sets inet").count("ticket_") < 25, "ended tickets are swept"


def test_a_closed_epoch_is_never_armed_again_but_a_later_one_is(gate: KernelGate) -> None:
    opened(gate, 1, 5.0, epoch=4)
    gate.shut(closes=4)
    assert not gate.read_back().open
    assert not gate.arm(2, 5.0, epoch=4) and not gate.arm(2, 5.0, epoch=3)
    gate.shut(closes=2)
    assert not gate.arm(2, 5.0, epoch=4), "closing an earlier epoch opens no later one"
    assert gate.arm(2, 5.0, epoch=5)


def test_what_an_earlier_guardian_closed_stays_closed(nft: Nft) -> None:
    gate = KernelGate("main", GUARDED, nft, closed=9)
    gate.install_shut()
    assert not gate.arm(1, 5.0, epoch=9) and gate.arm(1, 5.0, epoch=10)


def test_shutting_gets_through_when_the_connection_to_nftables_hangs(gate: KernelGate, nft: Nft, hosts: Lan) -> None:
    opened(gate, 1, None, epoch=4)
    assert nft._process is not None
    os.kill(nft._process.pid, signal.SIGSTOP)
    with hosts.inside("db"):
        began = boottime_s()
        gate.shut(closes=4)
        assert boottime_s() - began < 1.0
        assert not gate.read_back().open and not gate.arm(2, 5.0, epoch=4)


def test_a_renewal_without_an_answer_is_unknown_and_stays_without_effect(
    gate: KernelGate, nft: Nft, hosts: Lan
) -> None:
    opened(gate, 1, 5.0)
    assert nft._process is not None
    os.kill(nft._process.pid, signal.SIGSTOP)
    with hosts.inside("db"):
        with pytest.raises(Unknown):
            gate.arm(2, 5.0, epoch=1)
        state = gate.read_back()
        assert state.open and state.current == 1 and not state.repaired
        opened(gate, 3, 5.0)
        assert gate.read_back().current == 3


def test_a_soft_fence_closes_no_epoch(gate: KernelGate) -> None:
    opened(gate, 1, 5.0, epoch=4)
    gate.shut(closes=None)
    assert not gate.read_back().open
    opened(gate, 2, 5.0, epoch=4)
    assert gate.read_back().open


def test_shutting_takes_the_armed_tickets_with_it(gate: KernelGate) -> None:
    assert gate.arm(1, 5.0, epoch=4)
    gate.shut(closes=None)
    with pytest.raises(Refused):
        gate.switch(1)
    assert not gate.read_back().open


def test_arming_and_closing_an_epoch_exclude_each_other(gate: KernelGate, nft: Nft) -> None:
    """Renewals race with a fence from another thread: whoever wins, no ticket of the closed epoch is left."""

    def renew(first: int) -> None:
        for number in range(first, first + 50):
            try:
                if gate.arm(number, None, epoch=3):
                    gate.switch(number)
            except Refused:
                pass  # the fence came between arming and switching

    threads = [threading.Thread(target=renew, args=(n * 1000,)) for n in range(3)]
    for thread in threads:
        thread.start()
    gate.shut(closes=3)
    for thread in threads:
        thread.join(10.0)
    assert "ticket_" not in nft.run("list table inet failover_gate_main")
    assert not gate.read_back().open


def test_a_shut_port_lets_no_packet_through_while_it_is_shut_again_and_again(
    gate: KernelGate, database: EchoServer, call: Callable[..., Client]
) -> None:
    """Shutting writes the whole table anew: that must leave no moment without a rule."""
    stop = threading.Event()
    writer = threading.Thread(target=lambda: [gate.shut(None) for _ in iter(stop.is_set, True)])
    writer.start()
    try:
        for _ in range(300):
            with pytest.raises(ConnectionRefusedError):
                call("app")
    finally:
        stop.set()
        writer.join(5.0)


def test_an_untimed_ticket_holds_until_it_is_replaced(gate: KernelGate, nft: Nft) -> None:
    opened(gate, 1, None)
    state = gate.read_back()
    assert state.open and state.expires_in_s is None
    opened(gate, 2, 5.0)
    gate.read_back()
    assert gate.arm(3, 5.0, epoch=1)
    assert "ticket_1 " not in nft.run("list sets inet"), "an untimed ticket never ends by itself: it is swept"


def test_adoption_under_a_running_client_goes_unnoticed(
    nft: Nft, database: EchoServer, call: Callable[..., Client]
) -> None:
    """From no table at all to a ticket in force: no reset and no pause."""
    gate = KernelGate("main", GUARDED, nft)
    assert gate.adopt().table is False
    with busy(call("app")) as pauses:
        gate.install_open(1, 5.0)
        for number in range(2, 12):
            opened(gate, number, 5.0)
    assert gate.read_back().open
    assert max(pauses) < 0.15, "a lost packet would cost a retransmission of 200 ms"


def test_a_second_guardian_adopts_a_running_ticket_without_changing_its_end(
    gate: KernelGate, nft: Nft, database: EchoServer, call: Callable[..., Client]
) -> None:
    opened(gate, 1, 0.8)
    began = boottime_s()
    wider = Guarded(ports=[PORT, 7000], peers=[*GUARDED.peers, Lan.V4["db"]])
    with busy(call("app")) as pauses:
        state = KernelGate("main", wider, nft).adopt()
    assert max(pauses) < 0.15
    assert state.table and state.open and state.current == 1 and not state.repaired
    assert state.expires_in_s is not None and state.expires_in_s <= 0.8
    listing = nft.run("list table inet failover_gate_main")
    assert "7000" in listing and "6432" not in listing and Lan.V4["db"] in listing
    wait_until(lambda: "expires" not in nft.run("list table inet failover_gate_main"))
    assert 0.7 < boottime_s() - began < 0.95


def test_a_flushed_ruleset_is_noticed_and_put_back_shut(
    gate: KernelGate, nft: Nft, database: EchoServer, call: Callable[..., Client]
) -> None:
    opened(gate, 1, 5.0)
    nft.run("flush ruleset")
    assert call("app").ask() == "hello", "a missing table is an open port"
    state = gate.read_back()
    assert state.repaired and state.table and not state.open
    with pytest.raises(ConnectionRefusedError):
        call("app")
    opened(gate, 2, 5.0)
    state = gate.read_back()
    assert state.open and not state.repaired, "said once"


def test_adopting_again_never_calls_a_table_that_was_taken_away_unknown(gate: KernelGate, nft: Nft) -> None:
    """Only a fresh guardian may find no table and install it open: here that would open a fenced port."""
    gate.shut(closes=3)
    nft.run("flush ruleset")
    state = gate.adopt()
    assert state.table and not state.open and state.repaired
    assert gate.read_back().repaired and not gate.read_back().repaired, "read_back reports it, once"


def test_a_flush_between_arming_and_switching_is_reported_too(gate: KernelGate, nft: Nft) -> None:
    nft.run("flush ruleset")
    assert gate.arm(1, 5.0, epoch=1)
    gate.switch(1)
    assert gate.read_back().repaired
    nft.run("flush ruleset")
    with pytest.raises(Refused):
        gate.switch(1)
    state = gate.read_back()
    assert state.repaired and not state.open


@pytest.mark.parametrize(
    "meddling",
    [
        "flush chain inet failover_gate_main answers",
        "insert rule inet failover_gate_main input accept",
        "add element inet failover_gate_main peers4 { 10.77.0.2 }",
        "add rule inet failover_gate_main in_force accept",
        "flush table inet failover_gate_main",
    ],
)
def test_a_table_somebody_changed_is_put_back_shut(gate: KernelGate, nft: Nft, meddling: str) -> None:
    opened(gate, 1, 5.0)
    nft.run(meddling)
    state = gate.read_back()
    assert state.repaired and not state.open


def test_an_adopted_table_with_a_rule_that_opens_it_is_shut(gate: KernelGate, nft: Nft) -> None:
    nft.run("add rule inet failover_gate_main in_force accept")
    state = KernelGate("main", GUARDED, nft).adopt()
    assert state.repaired and not state.open


def test_release_opens_the_port_for_good(gate: KernelGate, database: EchoServer, call: Callable[..., Client]) -> None:
    gate.release()
    gate.release()
    state = gate.read_back()
    assert state.open and not state.table and not state.repaired, "looking must not shut it again"
    assert call("app").ask() == "hello"
    with pytest.raises(Refused, match="released"):
        gate.arm(1, 5.0, epoch=1)
    gate.install_shut()
    opened(gate, 1, 5.0)
    assert gate.read_back().open


def test_two_clusters_live_side_by_side_on_one_host(gate: KernelGate, nft: Nft) -> None:
    other = KernelGate("other-1", Guarded(ports=[3306], peers=[]), nft)
    other.install_shut()
    opened(gate, 1, 5.0)
    opened(other, 1, 5.0)
    other.shut(closes=1)
    assert gate.read_back().open and not other.read_back().open
    other.release()
    assert gate.read_back().open


def test_cut_sessions_resets_clients_at_once_and_spares_peers_and_loopback(
    gate: KernelGate, database: EchoServer, call: Callable[..., Client], hosts: Lan
) -> None:
    opened(gate, 1, 5.0)
    cut = [call("app"), call("app", Lan.V6["db"]), call("app", Lan.VIP4)]
    kept = [call("peer"), call("peer", Lan.V6["db"]), call("db", "127.0.0.1"), call("db", "::1")]
    for client in cut + kept:
        client.ask()
    with hosts.inside("db"):
        began = boottime_s()
        assert gate.cut_sessions() == 3
        assert boottime_s() - began < 0.2
    for client in cut:
        with pytest.raises(ConnectionResetError):
            client.answer()
    assert [client.ask() for client in kept] == ["hello"] * 4


def test_nothing_is_installed_for_a_guarded_that_makes_no_sense(nft: Nft) -> None:
    with pytest.raises(ConfigurationError, match="db1"):
        KernelGate("main", Guarded(ports=[PORT], peers=["db1"]), nft)
    with pytest.raises(ConfigurationError, match="ports"):
        KernelGate("main", Guarded(ports=[], peers=[]), nft)


def test_a_renewal_costs_little(gate: KernelGate) -> None:
    taken_ms = []
    for number in range(1, 101):
        began = time.perf_counter()
        opened(gate, number, 0.05)
        gate.read_back()
        taken_ms.append((time.perf_counter() - began) * 1000)
    print(f"arm + switch + read_back: median {statistics.median(taken_ms):.2f} ms, max {max(taken_ms):.2f} ms")
    assert statistics.median(taken_ms) < 5.0


def wait_until(condition: Callable[[], bool], deadline_s: float = 3.0) -> None:
    end, pause = boottime_s() + deadline_s, threading.Event()
    while not condition():
        assert boottime_s() < end, "the condition did not come true in time"
        pause.wait(0.005)


def elements_of(gate: KernelGate, ticket: int) -> bool:
    """Whether the kernel still holds the element of a ticket that is not in force."""
    return "elements" in gate._nft.run(f"list set {gate._table} ticket_{ticket}")


class busy:
    """A client asking without a break meanwhile: the pauses between its answers, in seconds. Fails if it is cut."""

    def __init__(self, client: Client) -> None:
        self._client, self._stop, self.pauses = client, threading.Event(), [0.0]
        self._failure: OSError | None = None
        self._thread = threading.Thread(target=self._ask)

    def _ask(self) -> None:
        try:
            while not self._stop.is_set():
                began = boottime_s()
                self._client.ask()
                self.pauses.append(boottime_s() - began)
        except OSError as error:
            self._failure = error

    def __enter__(self) -> list[float]:
        self._client.ask()
        self._thread.start()
        return self.pauses

    def __exit__(self, *_: object) -> None:
        self._stop.wait(0.1)
        self._stop.set()
        self._thread.join(5.0)
        assert self._failure is None, self._failure
        assert len(self.pauses) > 20
