"""The line to a host agent through a real sshd: what a controller may conclude from each way it can fail."""

from __future__ import annotations

import statistics
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from failover.clock import boottime_s
from failover.errors import Refused, Unknown, Unreachable, WrongCredentials
from failover.remote.ssh import Agents
from tests.support.sshd_server import SSHD, SshWorld

pytestmark = pytest.mark.skipif(SSHD is None, reason="sshd is not installed")

ORDERS = {"cluster": "orders"}
LONG_S = 30.0  # for calls whose duration is not the point, on a machine that may be busy
SLACK_S = 2.0  # how late a busy machine may notice a deadline
WARM_CALL_S = 0.005


@pytest.fixture
def world(tmp_path: Path) -> Iterator[SshWorld]:
    world = SshWorld(tmp_path, ("db1", "db2"))
    yield world
    world.stop()


@pytest.fixture
def agents(world: SshWorld) -> Iterator[Agents]:
    agents = Agents(world.settings, world.members)
    yield agents
    agents.close()


def eventually(condition: Callable[[], bool], within_s: float = 40.0) -> None:
    until_s = boottime_s() + within_s
    while not condition():
        assert boottime_s() < until_s, "it did not come about in time"
        threading.Event().wait(0.02)


def test_a_verb_reaches_the_host_it_names_and_its_facts_come_back(world: SshWorld, agents: Agents) -> None:
    reply = agents.call("db2", "fence", {**ORDERS, "closes": 4}, LONG_S)
    assert reply.evidence == "fenced" and reply.facts["closed"] == 4
    assert world.hosts["db2"].host()["gate"] == "shut"
    assert world.hosts["db1"].host()["gate"] == "open"


def test_a_warm_call_costs_milliseconds(agents: Agents) -> None:
    agents.call("db1", "hello", {}, LONG_S)
    took_s = []
    for _ in range(200):
        began_s = boottime_s()
        agents.call("db1", "status", ORDERS, LONG_S)
        took_s.append(boottime_s() - began_s)
    median_s = statistics.median(took_s)
    print(f"\nwarm call: median {median_s * 1000:.2f} ms, slowest of 200 {max(took_s) * 1000:.2f} ms")
    assert median_s < WARM_CALL_S


def test_lines_are_opened_beforehand(agents: Agents) -> None:
    assert not agents.is_warm("db1")
    agents.warm()
    eventually(lambda: agents.is_warm("db1") and agents.is_warm("db2"))
    assert agents.problems() == ()


def test_calls_go_side_by_side_on_one_line(world: SshWorld, agents: Agents) -> None:
    (world.hosts["db1"].host_dir / "stuck").touch()
    failures: list[Exception] = []

    def hung_status() -> None:
        try:
            agents.call("db1", "status", ORDERS, LONG_S)
        except Unknown as error:
            failures.append(error)

    agents.call("db1", "hello", {}, LONG_S)
    slow = threading.Thread(target=hung_status)
    slow.start()
    assert agents.call("db1", "hello", {}, LONG_S).evidence == "a host agent in a test"
    (world.hosts["db1"].host_dir / "stuck").unlink()
    slow.join(timeout=LONG_S)
    assert not slow.is_alive() and failures == []


def test_a_refusal_arrives_with_its_reason_and_keeps_the_line(world: SshWorld, agents: Agents) -> None:
    world.hosts["db1"].set_host(proved=9)
    with pytest.raises(Refused, match="epoch 9 is proved here"):
        agents.call("db1", "fence", {**ORDERS, "closes": 4}, LONG_S)
    assert agents.is_warm("db1")


def test_a_frozen_host_is_unknown_within_the_deadline_and_the_line_comes_back(world: SshWorld, agents: Agents) -> None:
    agents.warm()
    eventually(lambda: agents.is_warm("db1"))
    world.hosts["db1"].freeze()
    began_s = boottime_s()
    with pytest.raises(Unknown, match="not answered in time"):
        agents.call("db1", "fence", {**ORDERS, "closes": 4}, 0.5)
    assert 0.45 < boottime_s() - began_s < 0.5 + SLACK_S
    # The next one has no line to send on: nothing happened, and that is said within its deadline too.
    began_s = boottime_s()
    with pytest.raises(Unreachable):
        agents.call("db1", "fence", {**ORDERS, "closes": 4}, 0.5)
    assert boottime_s() - began_s < 0.5 + SLACK_S
    world.hosts["db1"].thaw()
    eventually(lambda: agents.is_warm("db1"))
    # R5, seen with the eyes: the fence that nobody answered was carried out after all.
    eventually(lambda: world.hosts["db1"].host()["closed"] == 4)


def test_a_lost_session_in_the_middle_of_a_call_is_unknown_at_once(world: SshWorld, agents: Agents) -> None:
    agents.call("db1", "hello", {}, LONG_S)
    (world.hosts["db1"].host_dir / "stuck").touch()
    began_s = boottime_s()
    threading.Timer(0.2, world.hosts["db1"].cut_sessions).start()
    with pytest.raises(Unknown, match="lost before the answer"):
        agents.call("db1", "fence", {**ORDERS, "closes": 4}, LONG_S)
    assert boottime_s() - began_s < LONG_S / 3


def test_a_line_lost_while_nobody_called_is_opened_again_in_the_background(world: SshWorld, agents: Agents) -> None:
    agents.warm()
    eventually(lambda: agents.is_warm("db1"))
    world.hosts["db1"].cut_sessions()
    eventually(lambda: not agents.is_warm("db1"))
    eventually(lambda: agents.is_warm("db1"))
    assert agents.call("db1", "hello", {}, LONG_S)


def test_no_sshd_means_nothing_was_sent(world: SshWorld, agents: Agents) -> None:
    world.hosts["db1"].stop()
    with pytest.raises(Unreachable, match="db1: no connection"):
        agents.call("db1", "fence", {**ORDERS, "closes": 4}, 1)
    assert [problem.code for problem in agents.problems()] == ["ssh-unreachable"]


def test_another_host_key_than_the_pinned_one_is_wrong_credentials(world: SshWorld, agents: Agents) -> None:
    world.hosts["db1"].restart(new_host_key=True)
    with pytest.raises(WrongCredentials, match=r"db1: the host key of 127\.0\.0\.2 is not the one in .*known_hosts"):
        agents.call("db1", "hello", {}, LONG_S)
    assert [problem.code for problem in agents.problems()] == ["ssh-credentials"]
    assert agents.call("db2", "hello", {}, LONG_S)


def test_a_host_that_is_not_pinned_is_never_trusted(world: SshWorld, agents: Agents) -> None:
    world.settings.known_hosts_file.write_text(world.hosts["db2"].known_hosts_line)
    with pytest.raises(WrongCredentials, match=r"db1: no host key for .* is in .*known_hosts"):
        agents.call("db1", "hello", {}, LONG_S)


def test_a_key_that_sshd_does_not_know_is_wrong_credentials(world: SshWorld, agents: Agents) -> None:
    (world.hosts["db1"].folder / "authorized").write_text("")
    with pytest.raises(WrongCredentials, match="db1: sshd refuses user"):
        agents.call("db1", "hello", {}, LONG_S)


def test_the_key_opens_nothing_but_the_agent(world: SshWorld, tmp_path: Path) -> None:
    """Whatever the client asks sshd to run, the forced command runs instead, and a shell's words are garbage to it."""
    host, key = world.hosts["db1"], world.settings.key_file
    ssh = ["ssh", "-F", "none", "-p", str(host.port), "-i", str(key), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"]
    known = ["-o", f"UserKnownHostsFile={world.settings.known_hosts_file}", f"{world.settings.user}@{host.address}"]
    words = subprocess.run([*ssh, *known, f"touch {tmp_path}/pwned"], input=b"id\n", capture_output=True, timeout=60)
    assert b"refused" in words.stdout
    assert not (tmp_path / "pwned").exists()


def test_a_host_without_the_agent_is_said_in_its_own_words(tmp_path: Path) -> None:
    world = SshWorld(tmp_path, ("db1",), command="echo failover-hostagent: not found >&2; exit 127")
    agents = Agents(world.settings, world.members)
    try:
        with pytest.raises(Unreachable, match=r"SSH works but the host agent does not answer: .*not found"):
            agents.call("db1", "hello", {}, LONG_S)
    finally:
        agents.close()
        world.stop()


def test_a_member_that_is_not_configured_is_refused(agents: Agents) -> None:
    with pytest.raises(Refused, match="db9"):
        agents.call("db9", "hello", {}, 1)
