"""What every actuator promises (base.py), asked of each one against the real server it drives: sshd or BIND."""

from __future__ import annotations

import base64
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from failover.actuators.base import Actuator
from failover.actuators.dns import Rfc2136Dns
from failover.actuators.fencing import SshFencing
from failover.actuators.vip import OLD_HOST_S, SshVip
from failover.clock import boottime_s
from failover.core.plan import Fence, MoveVip, SwitchDns
from failover.errors import Refused, Unknown, Unreachable, WrongCredentials
from failover.remote.ssh import Agents
from failover.settings import VipSettings
from tests.support.named_server import NAME, NAMED, Named
from tests.support.sshd_server import SSHD, Sshd, SshWorld, free_port

VIP = VipSettings("192.0.2.100", 24, "eth0")
MEMBERS = ("db1", "db2", "db3")
LONG_S = 30.0  # for what must come about, on a machine that may be busy
SLACK_S = 2.0  # how late a busy machine may notice a deadline


@dataclass
class Case:
    """One actuator, an action that is not there yet, and what can happen to the other side."""

    actuator: Actuator[Any]
    action: object
    state: Callable[[], object]
    stop: Callable[[], None]
    freeze: Callable[[], None]
    a_later_epoch_wins: Callable[[], None]
    spoil_credentials: Callable[[], None]


@contextmanager
def ssh_world(folder: Path) -> Iterator[tuple[SshWorld, Agents]]:
    if SSHD is None:
        pytest.skip("sshd is not installed")
    world = SshWorld(folder, MEMBERS)
    agents = Agents(world.settings, world.members)
    try:
        yield world, agents
    finally:
        agents.close()
        world.stop()


@contextmanager
def fencing(folder: Path) -> Iterator[Case]:
    with ssh_world(folder) as (world, agents):
        old = world.hosts["db1"]
        yield Case(
            SshFencing(agents, "orders"),
            Fence("db1", 4),
            old.host,
            old.stop,
            old.freeze,
            lambda: old.set_host(proved=5),
            lambda: _another_host_key(old, agents, "db1"),
        )


@contextmanager
def vip(folder: Path) -> Iterator[Case]:
    with ssh_world(folder) as (world, agents):
        world.hosts["db1"].set_host(vip=True, proved=4)
        new = world.hosts["db2"]
        new.set_host(proved=5)
        _warm(agents)
        yield Case(
            SshVip(agents, "orders", MEMBERS, VIP),
            MoveVip("db2", 5),
            lambda: [host.host() for host in world.hosts.values()],
            new.stop,
            new.freeze,
            lambda: new.set_host(proved=6),
            lambda: _another_host_key(new, agents, "db2"),
        )


@contextmanager
def dns(folder: Path) -> Iterator[Case]:
    if NAMED is None:
        pytest.skip("BIND (named) is not installed")
    named = Named(folder / "ns1", free_port(), base64.b64encode(os.urandom(32)).decode())
    other_key = folder / "other.key"
    other_key.write_text(named.key_file.read_text())
    actuator = Rfc2136Dns(named.settings(tsig_key_file=other_key))
    try:
        yield Case(
            actuator,
            SwitchDns("192.0.2.1", 4),
            lambda: (named.answers(), named.answers(f"_failover.{NAME}", "TXT")),
            named.stop,
            named.freeze,
            lambda: _discard(Rfc2136Dns(named.settings()).apply(SwitchDns("192.0.2.9", 9), 3)),
            lambda: _discard(other_key.write_text(base64.b64encode(os.urandom(32)).decode())),
        )
    finally:
        named.stop()


@pytest.fixture(params=[fencing, vip, dns], ids=["fencing", "vip", "dns"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    with request.param(tmp_path) as made:
        yield made


def test_looking_finds_it_missing_and_changes_nothing(case: Case) -> None:
    before = case.state()
    seen = case.actuator.inspect(case.action, LONG_S)
    assert not seen.there and seen.evidence
    assert case.state() == before


def test_after_applying_it_is_there_and_the_evidence_says_what_was_read_back(case: Case) -> None:
    evidence = case.actuator.apply(case.action, LONG_S)
    assert case.actuator.inspect(case.action, LONG_S).there
    assert evidence and "\n" not in evidence


def test_twice_is_once(case: Case) -> None:
    case.actuator.apply(case.action, LONG_S)
    once = case.state()
    case.actuator.apply(case.action, LONG_S)
    assert case.state() == once


def test_a_later_epoch_is_not_overruled(case: Case) -> None:
    case.a_later_epoch_wins()
    with pytest.raises(Refused):
        case.actuator.apply(case.action, LONG_S)
    assert not case.actuator.inspect(case.action, LONG_S).there


def test_nobody_there_means_it_did_not_happen(case: Case) -> None:
    case.stop()
    with pytest.raises(Unreachable):
        case.actuator.apply(case.action, 2)


def test_silence_is_never_not_done_and_ends_with_the_budget(case: Case) -> None:
    case.actuator.inspect(case.action, LONG_S)  # a warm line, as in a controller
    case.freeze()
    began_s = boottime_s()
    with pytest.raises((Unknown, Unreachable)) as caught:
        case.actuator.apply(case.action, 0.8)
    assert boottime_s() - began_s < 0.8 + SLACK_S
    # Over SSH the request was sent; the DNS server was frozen before anything but a question could be.
    assert isinstance(caught.value, Unreachable if isinstance(case.action, SwitchDns) else Unknown)


def test_a_wrong_key_on_either_side_is_no_evidence_of_death(case: Case) -> None:
    case.spoil_credentials()
    with pytest.raises(WrongCredentials) as caught:
        case.actuator.apply(case.action, LONG_S)
    assert "\n" not in str(caught.value)


# What only one of them promises.


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[tuple[SshWorld, Agents]]:
    with ssh_world(tmp_path) as pair:
        yield pair


def test_the_fence_names_its_three_proofs(hosts: tuple[SshWorld, Agents]) -> None:
    _, agents = hosts
    evidence = SshFencing(agents, "orders").apply(Fence("db1", 4), LONG_S)
    assert evidence == ("db1: epoch 4 closed on disk (wanted 4), gate shut, tickets flushed, no database process left [fenced]")


@pytest.mark.parametrize(
    "lacking",
    [{"closed": 3}, {"gate": "open"}, {"gate": "none"}, {"processes": 1}, {"closed": None}, {"processes": False}],
)
def test_an_agent_that_says_ok_without_all_three_proves_nothing(
    hosts: tuple[SshWorld, Agents], lacking: dict[str, object]
) -> None:
    world, agents = hosts
    fenced: dict[str, object] = {"closed": 4, "gate": "shut", "processes": 0}
    world.hosts["db1"].set_host(**{**fenced, **lacking, "inert": True})
    with pytest.raises(Unknown, match="fencing is not proved"):
        SshFencing(agents, "orders").apply(Fence("db1", 4), LONG_S)
    assert not SshFencing(agents, "orders").inspect(Fence("db1", 4), LONG_S).there


def test_the_vip_leaves_every_other_host_before_the_new_one_takes_it(hosts: tuple[SshWorld, Agents]) -> None:
    world, agents = hosts
    world.hosts["db1"].set_host(vip=True, proved=4)
    world.hosts["db3"].set_host(vip=True)
    world.hosts["db2"].set_host(proved=5)
    _warm(agents)
    evidence = SshVip(agents, "orders", MEMBERS, VIP).apply(MoveVip("db2", 5), LONG_S)
    assert evidence == "db1: VIP off; db3: VIP off; db2: holds 192.0.2.100 under epoch 5"
    assert [host.host()["vip"] for host in world.hosts.values()] == [False, True, False]


@pytest.mark.parametrize("how", ["stopped", "frozen"])
def test_a_dead_old_host_is_reported_and_hardly_waited_for(hosts: tuple[SshWorld, Agents], how: str) -> None:
    world, agents = hosts
    world.hosts["db2"].set_host(proved=5)
    _warm(agents)
    world.hosts["db1"].stop() if how == "stopped" else world.hosts["db1"].freeze()
    began_s = boottime_s()
    evidence = SshVip(agents, "orders", MEMBERS, VIP).apply(MoveVip("db2", 5), LONG_S)
    assert boottime_s() - began_s < OLD_HOST_S + SLACK_S
    assert "db1: did not answer, its VIP ends by itself" in evidence and "db2: holds" in evidence


def test_an_old_host_without_an_open_line_drops_the_vip_a_moment_later(hosts: tuple[SshWorld, Agents]) -> None:
    world, agents = hosts
    world.hosts["db1"].set_host(vip=True, proved=4)
    world.hosts["db2"].set_host(proved=5)
    evidence = SshVip(agents, "orders", MEMBERS, VIP).apply(MoveVip("db2", 5), LONG_S)
    assert "db1: did not answer, its VIP ends by itself (asked, no answer yet)" in evidence
    until_s = boottime_s() + LONG_S
    while world.hosts["db1"].host()["vip"]:
        assert boottime_s() < until_s, "the order to drop was not carried through"
        threading.Event().wait(0.02)


def test_an_old_host_that_keeps_the_vip_blocks_the_taking(hosts: tuple[SshWorld, Agents]) -> None:
    world, agents = hosts
    world.hosts["db2"].set_host(proved=5)
    actuator = SshVip(agents, "orders", MEMBERS, VIP)
    _warm(agents)
    world.hosts["db1"].set_host(vip=True, inert=True)
    with pytest.raises(Unknown, match="db1 answered but does not confirm that the VIP is off"):
        actuator.apply(MoveVip("db2", 5), LONG_S)
    world.hosts["db1"].set_host(vip=True, proved=9)
    with pytest.raises(Refused, match="db1 keeps the VIP: epoch 9 is proved here"):
        actuator.apply(MoveVip("db2", 5), LONG_S)
    assert world.hosts["db2"].host()["vip"] is False


def test_an_old_host_without_a_guardian_blocks_nothing(hosts: tuple[SshWorld, Agents]) -> None:
    world, agents = hosts
    world.hosts["db1"].set_host(guardian=False)
    world.hosts["db2"].set_host(proved=5)
    _warm(agents)
    assert "no guardian answers" in SshVip(agents, "orders", MEMBERS, VIP).apply(MoveVip("db2", 5), LONG_S)


def test_a_host_that_did_not_take_the_vip_does_not_count(hosts: tuple[SshWorld, Agents]) -> None:
    world, agents = hosts
    world.hosts["db2"].set_host(proved=5, inert=True)
    with pytest.raises(Unknown, match="db2 answered but does not confirm"):
        SshVip(agents, "orders", MEMBERS, VIP).apply(MoveVip("db2", 5), LONG_S)


def test_two_holders_are_not_a_moved_vip(hosts: tuple[SshWorld, Agents]) -> None:
    world, agents = hosts
    world.hosts["db1"].set_host(vip=True)
    world.hosts["db2"].set_host(vip=True)
    seen = SshVip(agents, "orders", MEMBERS, VIP).inspect(MoveVip("db2", 5), LONG_S)
    assert not seen.there and "db1: holds it" in seen.evidence


def _warm(agents: Agents) -> None:
    for name in MEMBERS:
        agents.call(name, "hello", {}, LONG_S)


def _another_host_key(host: Sshd, agents: Agents, name: str) -> None:
    host.restart(new_host_key=True)
    until_s = boottime_s() + LONG_S
    while agents.is_warm(name):  # until the loss of the old line was noticed
        assert boottime_s() < until_s
        threading.Event().wait(0.01)


def _discard(result: object) -> None:
    """For a lambda that is called for its effect."""
