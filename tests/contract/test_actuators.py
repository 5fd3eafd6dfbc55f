"""What every actuator promises (base.py), asked of each one against the real server it drives: sshd or BIND."""

from __future__ import annotations

import base64
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from failover.actuators.base import Actuator
from failover.actuators.dns import Rfc2136Dns
from failover.actuators.fencing import SshFencing
from failover.actuators.stonith import Answers, CommandStonith, first_answer
from failover.actuators.vip import OLD_HOST_S, SshVip
from failover.clock import boottime_s
from failover.core.plan import Fence, MoveVip, Stonith, SwitchDns
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


# --- STONITH: the operator's own command, real scripts ---------------------------------------------------------------------
OFF = Stonith("db1", "op-1")
ADDRESSES = {"db1": "192.0.2.11", "db2": "192.0.2.12"}


def silent(member: str, budget_s: float) -> str | None:
    """Nothing answers at any host."""
    return None


def command(folder: Path, script: str, answers: Answers = silent, *words: str) -> CommandStonith:
    """A power switch that does what `script` says; its calls and environment are in `folder`/calls and /env."""
    program = folder / "fence"
    program.write_text(f'#!/bin/sh\nfolder={folder}\necho "$@" >> $folder/calls\nenv > $folder/env\n{script}\n')
    program.chmod(0o755)
    return CommandStonith((str(program), *words), "orders", ADDRESSES, answers)


def living() -> Iterator[int]:
    """Pids that are more than a zombie."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (folder / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                yield int(folder.name)


def group_of(pid: int) -> int | None:
    with suppress(OSError):
        return os.getpgid(pid)
    return None


def test_off_counts_when_it_is_read_back_and_nothing_answers(tmp_path: Path) -> None:
    asked: list[str] = []

    def nothing(member: str, budget_s: float) -> str | None:
        asked.append(member)
        return None

    script = 'case "$2" in off) touch $folder/is_off;; status) [ -e $folder/is_off ] && echo OFF;; esac'
    switch = command(tmp_path, script, nothing, "--port")
    evidence = switch.apply(OFF, 10.0)
    assert (tmp_path / "calls").read_text() == "--port off db1 192.0.2.11\n--port status db1 192.0.2.11\n"
    assert evidence == "db1: off exit 0, says no state; read back: exit 0, says off; nothing at its host answers"
    assert asked == ["db1"]
    assert switch.inspect(OFF, 10.0).there


def test_the_command_gets_three_facts_and_nothing_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAILOVER_SECRET_OF_OURS", "x")
    command(tmp_path, "echo off").apply(OFF, 10.0)
    env = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines())
    assert {k: v for k, v in env.items() if k.startswith("FAILOVER")} == {
        "FAILOVER_CLUSTER": "orders", "FAILOVER_MEMBER": "db1", "FAILOVER_ADDRESS": "192.0.2.11",
    }  # fmt: skip
    assert set(env) - {"PWD", "SHLVL", "_"} <= {"PATH", "LANG", "FAILOVER_CLUSTER", "FAILOVER_MEMBER", "FAILOVER_ADDRESS"}


@pytest.mark.parametrize(
    ("says", "words"),
    [
        ("echo on", "exit 0, says on"),
        ("echo unknown", "exit 0, says unknown"),
        ("true", "exit 0, says no state"),
        ("echo off; exit 1", "exit 1, says off"),
        ("echo 'is off'", "exit 0, says no state"),
        ("echo off; echo on", "exit 0, says no state"),
        ("echo offline", "exit 0, says no state"),
        ("printf 'off\\0'", "exit 0, says no state"),
        ("printf '\\377\\376off'", "exit 0, says no state"),
        ("echo off; head -c 3000000 /dev/zero", "more than 4096 bytes"),
        ("echo password=hunter2", "exit 0, says no state"),
        ("kill -9 $$", "exit -9"),
    ],
)
def test_whatever_else_is_read_back_is_no_proof_and_is_not_repeated(tmp_path: Path, says: str, words: str) -> None:
    with pytest.raises(Unknown, match="no proof that db1 is off") as caught:
        command(tmp_path, f'[ "$1" = off ] || {{ {says}; }}').apply(OFF, 10.0)
    assert words in str(caught.value) and "hunter2" not in str(caught.value) and len(str(caught.value)) < 200


def test_a_failing_off_is_proof_all_the_same_when_off_is_read_back(tmp_path: Path) -> None:
    """What it says it did is nothing, in both directions: the switch is asked."""
    assert "off exit 1" in command(tmp_path, '[ "$1" = status ] && echo off || exit 1').apply(OFF, 10.0)


@pytest.mark.parametrize("alive", ["port 22 takes connections", "port 5432 refuses, so a kernel is alive there"])
def test_a_command_that_lies_is_given_away_by_its_host(tmp_path: Path, alive: str) -> None:
    switch = command(tmp_path, "echo off", lambda member, budget_s: alive)
    with pytest.raises(Unknown, match=f"the command says off, but db1 answers: {alive}"):
        switch.apply(OFF, 10.0)
    assert not switch.inspect(OFF, 10.0).there


@pytest.mark.parametrize("script", ["sleep 60", "trap '' TERM INT; sleep 60 & wait", "while :; do echo off; done"])
def test_one_that_hangs_is_killed_with_all_its_children_at_the_deadline(tmp_path: Path, script: str) -> None:
    began_s = boottime_s()
    with pytest.raises(Unknown, match="off ended at its deadline"):
        command(tmp_path, f"echo $$ >> $folder/pids; {script}").apply(OFF, 2.0)
    assert boottime_s() - began_s < 2.0 + SLACK_S
    groups = {int(pid) for pid in (tmp_path / "pids").read_text().split()}
    assert len(groups) == 2, "off, and status all the same"
    assert not groups & {group_of(pid) for pid in living()}


def test_a_child_that_keeps_the_pipe_open_holds_nothing_up(tmp_path: Path) -> None:
    began_s = boottime_s()
    try:
        command(tmp_path, "sleep 30 & echo $! >> $folder/sleepers; echo off").apply(OFF, 20.0)
        assert boottime_s() - began_s < 5.0
    finally:
        for pid in (tmp_path / "sleepers").read_text().split():
            os.kill(int(pid), 9)


def test_its_complaint_is_logged_in_one_short_line_without_secrets(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    script = r'printf "login password=hunter2 failed \033[31m\nsecond line\n" >&2; echo "token abc" ; exit 3'
    with caplog.at_level("INFO", logger="failover.stonith"), pytest.raises(Unknown) as caught:
        command(tmp_path, script).apply(OFF, 10.0)
    assert "login password=... failed ?[31m" in caplog.text
    for secret in ("hunter2", "second line", "abc"):
        assert secret not in caplog.text + str(caught.value)


def test_a_command_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="cannot be run: No such file"):
        CommandStonith((str(tmp_path / "nowhere"),), "orders", ADDRESSES, silent).apply(OFF, 5.0)


def test_a_member_that_is_not_configured_is_never_switched_off(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no member 'db9'"):
        command(tmp_path, "echo off").apply(Stonith("db9", "op-1"), 5.0)
    assert not (tmp_path / "calls").exists()


def test_a_handshake_a_refusal_and_silence_are_told_apart() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert first_answer("127.0.0.1", (port,), 1.0) == f"port {port} takes connections"
    assert first_answer("127.0.0.1", (port,), 1.0) == f"port {port} refuses, so a kernel is alive there"
    assert first_answer("255.255.255.255", (port,), 0.2) is None, "no connection can be tried at all: nothing answered"
