"""The virtual address on real interfaces: it ends by itself, is prolonged, moves, and takes no other one with it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator

import pytest

from failover.clock import boottime_s
from failover.errors import ConfigurationError, Refused
from failover.guardian.vip import LocalVip
from tests.support.echo_server import Client, EchoServer
from tests.support.small_lan import Lan, lan, why_not

pytestmark = [pytest.mark.lab, pytest.mark.skipif(bool(why_not()), reason=why_not() or "can run")]

FAMILIES = pytest.mark.parametrize(("address", "prefix"), [(Lan.VIP4, 32), (Lan.VIP6, 128)])


@pytest.fixture
def hosts() -> Iterator[Lan]:
    with lan() as made:
        yield made


def wait_until(condition: Callable[[], bool], deadline_s: float = 4.0) -> None:
    end, pause = boottime_s() + deadline_s, threading.Event()
    while not condition():
        assert boottime_s() < end, "the condition did not come true in time"
        pause.wait(0.02)


@FAMILIES
def test_it_ends_by_itself_unless_it_is_prolonged(hosts: Lan, address: str, prefix: int) -> None:
    vip = LocalVip(address, prefix, "eth0")
    with hosts.inside("db"):
        assert not vip.held()
        began = boottime_s()
        vip.hold(0.4, announce=False)
        assert vip.held()
        threading.Event().wait(0.6)
        vip.hold(1.0, announce=False)
        wait_until(lambda: not vip.held())
        assert 1.5 < boottime_s() - began < 2.5


@FAMILIES
def test_dropping_it_is_read_back_and_leaves_the_hosts_own_addresses(hosts: Lan, address: str, prefix: int) -> None:
    vip = LocalVip(address, prefix, "eth0")
    with hosts.inside("db"):
        routes = hosts.sh("db", "ip route")
        assert not vip.drop(), "it was not there"
        vip.hold(5.0, announce=False)
        assert hosts.sh("db", "ip route") == routes, "no second route to the subnet"
        assert vip.drop()
        assert not vip.held()
        listing = hosts.sh("db", "ip addr show dev eth0")
    assert Lan.V4["db"] in listing and Lan.V6["db"] in listing


@FAMILIES
def test_a_permanent_one_becomes_timed_without_being_removed(hosts: Lan, address: str, prefix: int) -> None:
    hosts.sh("db", f"ip addr add {address}/{prefix} dev eth0 {'nodad' if prefix == 128 else ''}")
    with hosts.inside("db"):
        server = EchoServer(address, 5432)
    with hosts.inside("app"):
        client = Client(address, 5432)
    try:
        vip = LocalVip(address, prefix, "eth0")
        with hosts.inside("db"):
            vip.hold(5.0, announce=False)
        assert client.ask() == "hello", "the session over it goes on"
        entries = json.loads(hosts.sh("db", f"ip -json addr show dev eth0 to {address}"))[0]["addr_info"]
        assert [entry["valid_life_time"] <= 5 for entry in entries if entry] == [True]
    finally:
        client.close()
        server.close()


def test_one_that_was_there_for_good_under_another_prefix_is_given_an_end_in_place(hosts: Lan) -> None:
    """Adoption: neither removed, which clients would notice, nor added a second time."""
    hosts.sh("db", f"ip addr add {Lan.VIP4}/24 dev eth0")
    vip = LocalVip(Lan.VIP4, 32, "eth0")
    with hosts.inside("db"):
        vip.hold(5, announce=False)
        ((prefix, left_s),) = vip._look()
        assert prefix == 24 and left_s <= 5
        assert vip.drop() and not vip.held()



def test_holding_it_takes_a_few_milliseconds(hosts: Lan) -> None:
    vip = LocalVip(Lan.VIP4, 32, "eth0")
    with hosts.inside("db"):
        began = boottime_s()
        for _ in range(10):
            vip.hold(2.0, announce=True)
        taken_s = (boottime_s() - began) / 10
    print(f"hold with announcement: {taken_s * 1000:.1f} ms")
    assert taken_s < 0.05


def test_what_cannot_work_is_refused(hosts: Lan) -> None:
    with pytest.raises(ConfigurationError):
        LocalVip("db.example", 32, "eth0")
    with pytest.raises(ConfigurationError):
        LocalVip(Lan.VIP4, 64, "eth0")
    with hosts.inside("db"), pytest.raises(Refused, match="nosuch0"):
        LocalVip(Lan.VIP4, 32, "nosuch0").hold(2.0, announce=False)
