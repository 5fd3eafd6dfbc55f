"""The lab's clients against real servers on loopback, of every engine: what they record is what happened."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from failover.clock import boottime_s
from failover.lab.acts import control_run, ids_on
from failover.lab.commands import run
from failover.lab.configuration import VIP
from failover.lab.history import probes_in, writes_in
from failover.lab.lab import Lab, LabOptions
from failover.lab.traffic import Traffic
from failover.lab.verdict import (
    Window,
    dual_writer_ms,
    impossible_ids,
    lost_ids,
    outage_ms,
    reigns,
    resumed,
    vip_conflicts,
)
from tests.support.lone_server import LoneServer, free_port, lone_server

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it runs databases as their own accounts"),
    pytest.mark.timeout(90),
]
Pair = tuple[LoneServer, LoneServer]


@pytest.fixture(scope="module")
def servers(engine_name: str) -> Iterator[Pair]:
    """Two independent servers with the lab's tables, as if both were primaries."""
    root = Path(tempfile.mkdtemp(prefix="failover-traffic-"))
    root.chmod(0o755)
    pair: list[LoneServer] = []
    try:
        for name in ("db1", "db2"):
            (root / name).mkdir()
            pair.append(lone_server(engine_name, root / name))
        yield pair[0], pair[1]
    finally:
        for server in pair:
            server.stop()
        shutil.rmtree(root)


@pytest.fixture
def logins(servers: Pair, tmp_path: Path) -> Path:
    """Where the files are that writer and prober connect with; they name the first server. The tables are empty."""
    for server in servers:
        server.empty()
    for name, user in (("writer", "app"), ("prober", servers[0].prober)):
        (tmp_path / f"{name}.login").write_text(f"{servers[0].login(user)}\n")
    return tmp_path


@contextmanager
def client(module: str, logins: Path, out: Path, *args: str) -> Iterator[subprocess.Popen[str]]:
    """A client process of its own; ended in order, so that its last answer is on file."""
    login = str(logins / f"{module}.login")
    argv = [sys.executable, "-m", f"failover.lab.{module}", "--login-file", login, "--out", str(out), *args]
    with ended(subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)) as process:
        yield process


@contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise


def until(condition: Callable[[], bool], deadline_s: float = 10.0) -> None:
    end = boottime_s() + deadline_s
    while not condition():
        assert boottime_s() < end, "did not happen in time"
        time.sleep(0.02)


def acked(out: Path) -> int:
    return sum(w.outcome == "ok" for w in writes_in(out))


def test_every_acknowledged_write_is_in_the_table_and_the_pace_is_ten_milliseconds(
    servers: Pair, logins: Path, tmp_path: Path
) -> None:
    out = tmp_path / "writes"
    with client("writer", logins, out):
        until(lambda: acked(out) >= 150)
    history = writes_in(out)
    pace = (history[149].invoke - history[49].invoke) / 100
    assert 0.0099 < pace < 0.015
    assert lost_ids(history, servers[0].ids()) == [] and impossible_ids(history, servers[0].ids()) == []
    servers[0].sql("DELETE FROM lab.writes WHERE id = 77")
    assert lost_ids(history, servers[0].ids()) == [77]


def test_a_crashed_server_is_an_outage_of_the_length_it_had_and_the_writer_comes_back_by_itself(
    servers: Pair, logins: Path, tmp_path: Path
) -> None:
    out = tmp_path / "writes"
    with client("writer", logins, out):
        until(lambda: acked(out) >= 50)
        start = boottime_s()
        servers[0].stop()
        down = boottime_s()
        servers[0].start()
        up = boottime_s()
        before = acked(out)
        until(lambda: acked(out) >= before + 50)
    window = Window(start, start, boottime_s())
    history = writes_in(out)
    assert (up - down) * 0.5 < outage_ms(history, window) / 1000 < (up - start) + 0.4
    assert resumed(history, window)
    assert lost_ids(history, servers[0].ids()) == []


def test_a_frozen_server_is_given_up_after_300_ms_and_its_writes_are_unknown(
    servers: Pair, logins: Path, tmp_path: Path
) -> None:
    out = tmp_path / "writes"
    server = servers[0]
    with client("writer", logins, out):
        until(lambda: acked(out) >= 20)
        everyone = server.family()
        for pid in everyone:
            os.kill(pid, signal.SIGSTOP)
        try:
            frozen = boottime_s()
            until(lambda: len([w for w in writes_in(out) if w.invoke > frozen]) >= 3)
        finally:
            for pid in everyone:
                os.kill(pid, signal.SIGCONT)
        until(lambda: writes_in(out)[-1].outcome == "ok")
    history = writes_in(out)
    assert all(w.done - w.invoke < 0.7 for w in history)
    silent = [w for w in history if w.outcome == "info"]
    assert silent and silent[0].done - silent[0].invoke == pytest.approx(0.3, abs=0.1)
    assert lost_ids(history, server.ids()) == [] and impossible_ids(history, server.ids()) == []


def test_a_commit_that_waits_for_a_missing_standby_is_never_acknowledged_but_the_prober_sees_the_writer(
    servers: Pair, logins: Path, tmp_path: Path
) -> None:
    writes, probes = tmp_path / "writes", tmp_path / "probes"
    server = servers[0]
    server.wait_for_a_standby(True)
    try:
        target = f"db1=127.0.0.1:{server.port}"
        with client("writer", logins, writes), client("prober", logins, probes, target):
            until(lambda: len(writes_in(writes)) >= 5)
            until(lambda: sum(p.outcome == "ok" for p in probes_in(probes)) >= 20)
    finally:
        server.wait_for_a_standby(False)
    assert {w.outcome for w in writes_in(writes)} == {"info"}
    assert len(reigns(probes_in(probes), Window(0, 0, boottime_s()))) == 1


def test_the_prober_tells_one_writer_from_two(
    servers: Pair, logins: Path, tmp_path: Path
) -> None:
    out = tmp_path / "probes"
    first, second = servers
    second.read_only(True)
    targets = [f"db1=127.0.0.1:{first.port}", f"db2=127.0.0.1:{second.port}"]

    def successes(host: str, since: float) -> int:
        return sum(p.host == host and p.outcome == "ok" and p.invoke > since for p in probes_in(out))

    with client("prober", logins, out, *targets):
        start = boottime_s()
        until(lambda: successes("db1", start) >= 20)
        first.read_only(True)
        changed = boottime_s()
        second.read_only(False)
        until(lambda: successes("db2", changed) >= 20)
        one = Window(start, changed, boottime_s())
        first.read_only(False)
        until(lambda: successes("db1", one.end) >= 20 and successes("db2", one.end) >= 20)
    two = Window(one.end, one.end, boottime_s())
    history = probes_in(out)
    assert dual_writer_ms(history, one) == 0.0
    assert [r.host for r in reigns(history, one)] == ["db1", "db2"]
    assert dual_writer_ms(history, two) > 200


def test_a_silent_host_does_not_slow_the_probes_of_the_others(
    servers: Pair, logins: Path, tmp_path: Path
) -> None:
    out = tmp_path / "probes"
    with socket.socket() as deaf:  # accepts in the kernel, never answers
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(1)
        targets = [f"db1=127.0.0.1:{servers[0].port}", f"deaf=127.0.0.1:{deaf.getsockname()[1]}"]
        with client("prober", logins, out, *targets):
            until(lambda: sum(p.host == "db1" for p in probes_in(out)) >= 100)
    history = probes_in(out)
    good = [p for p in history if p.host == "db1"]
    assert (good[99].invoke - good[9].invoke) / 90 == pytest.approx(0.020, abs=0.004)
    assert {p.outcome for p in history if p.host == "deaf"} == {"no"}


@pytest.mark.engines("postgresql")
def test_a_backend_kept_busy_commits_and_acknowledges_after_its_postmaster_was_killed(
    servers: Pair, logins: Path, tmp_path: Path
) -> None:
    """The trap of the act "process kill": without a fence this orphan is a second writer, and the history must show
    it.
    """
    out = tmp_path / "probes"
    server = servers[0]
    with client("prober", logins, out, "--busy-s", "0.5", f"db1=127.0.0.1:{server.port}") as process:
        assert process.stdout and process.stdout.readline() == "running\n"
        children = server.family()[1:]
        os.kill(server.main_pid, signal.SIGKILL)
        killed = boottime_s()
        process.wait(timeout=5)
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))
    server.start()
    (orphan,) = probes_in(out)
    assert orphan.outcome == "ok" and orphan.done > killed
    assert server.sql("SELECT count(*) FROM lab.prober WHERE seq = -1").strip() == "1"


SECRET = "a secret of this test"


def deliver(port: int, body: bytes, *, key: str = "orders-1", secret: str = SECRET, age_s: int = 0) -> int:
    """POST a notice signed as documented, written out here again: the two sides share no code in this test."""
    timestamp = str(int(time.time()) - age_s)
    signature = hmac.new(secret.encode(), f"{key}.{timestamp}.".encode() + body, hashlib.sha256).hexdigest()
    headers = {"Failover-Id": key, "Failover-Timestamp": timestamp, "Failover-Signature": f"v1={signature}"}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("POST", "/api/db-failover", body, headers)
        return connection.getresponse().status
    finally:
        connection.close()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_the_receiver_takes_genuine_notices_once_and_refuses_forged_and_old_ones(tmp_path: Path) -> None:
    out, secret, port = tmp_path / "deliveries", tmp_path / "secret", free_port()
    secret.write_text(SECRET + "\n")
    body = json.dumps({"new_primary": "db2"}).encode()
    argv = [sys.executable, "-m", "failover.lab.receiver", "--secret-file", str(secret), "--out", str(out)]
    with ended(subprocess.Popen([*argv, "--port", str(port), "--fail-first", "1"], stdin=subprocess.PIPE, text=True)):
        until(lambda: listens(port))
        assert deliver(port, body, secret="a guess of somebody") == 401
        assert deliver(port, body, age_s=600) == 401
        assert deliver(port, body) == 500  # asked for: the sender must try again
        assert deliver(port, body) == 200
        assert deliver(port, body) == 200
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(line["status"], line["repeated"]) for line in lines] == [
        (401, False), (401, False), (500, False), (200, False), (200, True),
    ]  # fmt: skip
    assert lines[3]["body"] == {"new_primary": "db2"}


def test_a_client_ends_by_itself_when_its_parent_is_gone(logins: Path, tmp_path: Path) -> None:
    out = tmp_path / "writes"
    with client("writer", logins, out) as process:
        until(lambda: acked(out) >= 5)
        assert process.stdin
        process.stdin.close()
        assert process.wait(timeout=3) == 0
        process.stdin = None


@pytest.fixture(scope="module")
def lab(machine: None, engine_name: str) -> Iterator[Lab]:
    """Real hosts without our daemons: nothing fences. The VIP is where an administrator put it."""
    with Lab.boot(LabOptions(engine=engine_name, daemons=False)) as booted:
        move_vip(booted, None, "db1")
        yield booted


@pytest.fixture
def traffic(lab: Lab, tmp_path: Path) -> Iterator[Traffic]:
    clients = Traffic(lab, tmp_path / "traffic")
    try:
        clients.start()
        yield clients
    finally:
        clients.close()


def move_vip(lab: Lab, old: str | None, new: str) -> None:
    """In order, and with the application's neighbour table cleared in place of a gratuitous ARP."""
    if old:
        run(["ip", "-n", lab.host(old).namespace, "addr", "del", f"{VIP}/24", "dev", "eth0"])
    run(["ip", "-n", lab.host(new).namespace, "addr", "add", f"{VIP}/24", "dev", "eth0"])
    run(["ip", "-n", lab.app.namespace, "neigh", "flush", "dev", "eth0"])


@pytest.mark.lab
@pytest.mark.engines("postgresql")
def test_a_failover_without_a_fence_is_condemned_for_the_orphan_that_still_commits(lab: Lab, traffic: Traffic) -> None:
    """What the act "process kill" does, done as a careless script would: promote first, and let the orphan live."""
    start = boottime_s()
    orphan = traffic.busy("db1", 1.5)
    lab.host("db1").kill("database")
    fault = boottime_s()
    lab.databases.make_primary("db2")
    lab.databases.wait_for_nobody("db2")
    move_vip(lab, "db1", "db2")
    lab.wait(lambda: traffic.flowing(fault), 10.0, "writes through the VIP on db2")
    orphan.wait(timeout=10)
    window = Window(start, fault, boottime_s())
    assert dual_writer_ms(traffic.probes(), window) > 100
    assert {r.host for r in reigns(traffic.probes(), window)} == {"db1", "db2"}
    assert vip_conflicts(traffic.vip_samples(), window) == []
    assert traffic.vip_holders() == {"db2"}
    run(["ip", "-n", lab.host("db3").namespace, "addr", "add", f"{VIP}/24", "dev", "eth0"])
    until(lambda: traffic.vip_holders() == {"db2", "db3"})
    run(["ip", "-n", lab.host("db3").namespace, "addr", "del", f"{VIP}/24", "dev", "eth0"])
    until(lambda: traffic.vip_holders() == {"db2"})
    assert vip_conflicts(traffic.vip_samples(), Window(start, fault, boottime_s())) == [
        "db3 got the VIP while db2 had it"
    ]
    present = ids_on(lab.host("db2"))
    assert impossible_ids(traffic.writes(), present) == []
    assert resumed(traffic.writes(), window)


@pytest.mark.lab
def test_the_control_run_shows_two_writers_so_the_measurement_can_fail(lab: Lab, traffic: Traffic) -> None:
    assert control_run(lab, traffic) > 500
