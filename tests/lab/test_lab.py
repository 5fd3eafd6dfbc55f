"""The lab itself: are these real, separate hosts, and does nothing of them stay behind?"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from failover.lab import Lab, LabError, LabOptions, leftovers
from failover.lab.commands import run, wait
from failover.lab.configuration import DNS, TSIG_NAME, VIP, ZONE
from failover.lab.network import namespaces_of
from failover.lab.processes import Process, is_stopped
from failover.lab.services import ROLES

REFUSED = {"postgresql": "pg_hba.conf", "mariadb": "Access denied", "mysql": "Access denied"}
BOOT_S = {"postgresql": 15.0, "mariadb": 15.0, "mysql": 25.0}
HOLDER = """
import signal, threading
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background inherits "ignore"
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from failover.lab import Lab, LabOptions
lab = Lab.boot(LabOptions(daemons=False, members=("db1",)))
print(lab.id, flush=True)
threading.Event().wait(60)
"""


def zookeeper_mode(lab: Lab, name: str) -> str:
    ask = "exec 3<>/dev/tcp/127.0.0.1/2181 && printf srvr >&3 && sed -n 's/^Mode: //p' <&3"
    return lab.host(name).run(["bash", "-c", ask], check=False).stdout.strip()


def streaming(lab: Lab) -> set[str]:
    return lab.databases.streaming("db1")


def reaches(lab: Lab, source: str, address: str) -> bool:
    ping = ["bash", "-c", f"timeout 0.5 bash -c '</dev/tcp/{address}/22'"]
    return lab.host(source).run(ping, check=False).returncode == 0


def processes_that_name(text: str) -> list[str]:
    return [line for line in run(["ps", "-eo", "pid,args"]).stdout.splitlines() if text in line]


# --- what adoption finds -------------------------------------------------------------------------------------------
def test_boots_in_time(lab: Lab) -> None:
    assert lab.timings["boot"] < BOOT_S[lab.options.engine], lab.timings


def test_one_primary_and_two_standbys_that_stream_from_it(lab: Lab) -> None:
    assert lab.primary() == "db1"
    assert streaming(lab) == {"db2", "db3"}
    assert lab.databases.waits("db1") and not lab.databases.is_standby("db1")
    assert lab.databases.is_standby("db2") and lab.databases.is_standby("db3")


def test_a_commit_on_the_primary_is_on_a_standby(lab: Lab) -> None:
    lab.host("db1").sql("CREATE TABLE seen (n int); INSERT INTO seen VALUES (7)", user="app", dbname="app")
    try:
        read = "SELECT n FROM seen"
        lab.wait(lambda: lab.host("db3").sql(read, "app", "app", timeout_s=5.0) == "7", 5.0, "the row on db3")
    finally:
        lab.host("db1").sql("DROP TABLE seen", user="app", dbname="app")


def test_the_application_logs_in_from_its_host_and_service_users_from_the_database_hosts(lab: Lab) -> None:
    """Never the other way round: what comes from a database host passes the gate."""
    address, refused = lab.host("db1").address, REFUSED[lab.options.engine]
    assert lab.app.sql("SELECT 1", "app", "app", address) == "1"
    assert lab.host("db2").sql("SELECT 1", "failover_replication", None, address) == "1"
    assert lab.host("db2").sql("SELECT 1", "failover_monitor", None, address) == "1"
    with pytest.raises(LabError, match=refused):
        lab.app.sql("SELECT 1", "failover_replication", None, address)
    with pytest.raises(LabError, match=refused):
        lab.host("db2").sql("SELECT 1", "app", "app", address)


def test_zookeeper_has_one_leader_and_two_followers(lab: Lab) -> None:
    assert sorted(zookeeper_mode(lab, name) for name in ("db1", "db2", "db3")) == ["follower", "follower", "leader"]


def test_the_configuration_is_one_that_the_product_accepts(lab: Lab) -> None:
    program = "from failover.config import load; s = load(); print(s.profile, s.cluster().names, s.zookeeper.user)"
    done = lab.host("db2").run([sys.executable, "-c", program], env={"PYTHONPATH": str(Path(__file__).parents[2])})
    assert done.stdout.split("\n")[0] == "lan ('db1', 'db2', 'db3') failover"


def test_ssh_admits_the_controllers_key_for_the_forced_command_only(lab: Lab) -> None:
    ssh = ["ssh", "-v", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", "ConnectTimeout=3",
           "-o", "UserKnownHostsFile=/etc/failover/known_hosts", "-i", lab.secrets.inside("ssh_key")]  # fmt: skip
    done = lab.host("db1").run([*ssh, "root@10.77.0.12", "echo shell-$((40+2))"], check=False)
    assert "Authenticated to 10.77.0.12" in done.stderr
    assert "shell-42" not in done.stdout


def test_the_forced_command_is_told_which_node_it_is(lab: Lab) -> None:
    keys = lab.host("db2").directory / "ssh/authorized_keys"
    text = keys.read_text()
    keys.write_text(re.sub('command="[^"]*"', 'command="/usr/bin/env"', text))
    ssh = ["ssh", "-o", "BatchMode=yes", "-o", "UserKnownHostsFile=/etc/failover/known_hosts",
           "-i", lab.secrets.inside("ssh_key"), "root@10.77.0.12", "anything"]  # fmt: skip
    try:
        told = lab.host("db1").run(ssh).stdout.splitlines()
    finally:
        keys.write_text(text)
    assert "FAILOVER_NODE=db2" in told and "FAILOVER_CONFIG=/etc/failover/failover.yml" in told


def test_an_unpinned_host_key_is_refused(lab: Lab) -> None:
    ssh = ["ssh", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", "UserKnownHostsFile=/dev/null",
           "-i", lab.secrets.inside("ssh_key"), "root@10.77.0.12"]  # fmt: skip
    done = lab.host("db1").run(ssh, check=False)
    assert "Host key verification failed" in done.stderr


def test_the_name_is_served_and_changed_only_with_the_key(lab: Lab) -> None:
    def ask() -> str:
        return lab.app.run(["dig", "+short", f"@{DNS}", f"orders.{ZONE}"]).stdout.strip()

    def update(address: str, key: str) -> int:
        name = f"orders.{ZONE}"
        lines = f"{key}server {DNS}\nzone {ZONE}\nupdate delete {name} A\nupdate add {name} 5 A {address}\nsend\n"
        return lab.app.run(["nsupdate"], check=False, stdin=lines).returncode

    key = f"key hmac-sha256:{TSIG_NAME} {lab.secrets.password('tsig')}\n"
    assert ask() == VIP
    assert update("10.77.0.12", "") != 0 and ask() == VIP
    assert update("10.77.0.12", key) == 0 and ask() == "10.77.0.12"
    assert update(VIP, key) == 0 and ask() == VIP


def test_the_application_resolves_the_service_name(lab: Lab) -> None:
    assert lab.app.run(["getent", "ahostsv4", f"orders.{ZONE}"]).stdout.split()[0] == VIP


# --- separate hosts ------------------------------------------------------------------------------------------------
def test_a_host_sees_only_its_own_processes_and_files(lab: Lab) -> None:
    db1, db2 = lab.host("db1"), lab.host("db2")
    assert db1.run(["pgrep", "-c", "-x", "java"]).stdout.strip() == "1"
    db1.run(["touch", "/var/lib/failover/mine", "/run/mine", "/etc/mine"])
    seen = db2.run(["ls", "/var/lib/failover/mine", "/run/mine", "/etc/mine"], check=False)
    db1.run(["rm", "/var/lib/failover/mine", "/run/mine", "/etc/mine"])
    assert seen.stdout == ""
    assert not Path("/etc/mine").exists() and not Path("/run/mine").exists()
    assert db1.run(["hostname"]).stdout.strip() == "db1"


def test_nobody_but_root_reads_the_secrets(lab: Lab) -> None:
    files = [p for p in lab.directory.rglob("*") if p.name in ("tsig", "ssh_key", "named.conf", "app", "zookeeper")]
    assert any(p.is_file() for p in files)
    nobody = ["setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups", "cat"]
    read = [p for p in files if p.is_file() and run([*nobody, str(p)], check=False).returncode == 0]
    assert read == []


def test_a_cut_cable_is_silence_until_it_is_healed(lab: Lab) -> None:
    assert reaches(lab, "app", "10.77.0.13")
    lab.cut("db3")
    try:
        assert not reaches(lab, "app", "10.77.0.13")
        assert lab.host("db3").sql("SELECT 1") == "1"
    finally:
        lab.heal("db3")
    lab.wait(lambda: reaches(lab, "app", "10.77.0.13"), 5.0, "db3 reachable again")
    lab.wait(lambda: "db3" in streaming(lab), 15.0, "db3 streaming again")


@pytest.fixture
def partitioned(lab: Lab) -> Iterator[Lab]:
    """The lab; whatever a test cuts is whole again afterwards."""
    yield lab
    lab.heal()
    assert reaches(lab, "db1", "10.77.0.12")


def test_a_cut_pair_hears_everybody_else(partitioned: Lab) -> None:
    partitioned.cut("db1", "db2", "dns")
    assert not reaches(partitioned, "db1", "10.77.0.12") and not reaches(partitioned, "db2", "10.77.0.11")
    assert reaches(partitioned, "db1", "10.77.0.13") and reaches(partitioned, "app", "10.77.0.11")
    partitioned.heal("db1", "db2")
    assert reaches(partitioned, "db2", "10.77.0.11")
    assert partitioned.switch.is_isolated("db1"), "dns is still cut off"


def test_one_direction_is_lost_and_the_other_arrives(partitioned: Lab) -> None:
    partitioned.cut("db1", "db2", one_way=True)
    count = "cat /sys/class/net/eth0/statistics/rx_packets"
    before = int(partitioned.host("db1").run(["sh", "-c", count]).stdout)
    assert not reaches(partitioned, "db2", "10.77.0.11")  # the answers are lost
    assert int(partitioned.host("db1").run(["sh", "-c", count]).stdout) > before
    with pytest.raises(LabError, match="both ways"):
        partitioned.cut("db1", one_way=True)


def test_a_cut_port_is_that_hosts_own_and_no_other(partitioned: Lab) -> None:
    partitioned.cut("db1", port=22)
    assert not reaches(partitioned, "db2", "10.77.0.11") and not reaches(partitioned, "app", "10.77.0.11")
    assert reaches(partitioned, "db1", "10.77.0.12")
    assert partitioned.app.sql("SELECT 1", "app", "app", "10.77.0.11") == "1"
    partitioned.heal("db1", port=22)
    assert reaches(partitioned, "db2", "10.77.0.11")


def test_a_partition_is_silence_on_an_established_connection_and_nothing_is_lost_when_it_is_healed(partitioned: Lab) -> None:
    partitioned.cut("db1", "db3")
    there = "SELECT count(*) FROM information_schema.tables WHERE table_name = 'beyond'"

    def has_it(name: str) -> bool:
        return partitioned.host(name).sql(there, dbname="app") == "1"

    partitioned.host("db1").sql("CREATE TABLE beyond (n int)", "app", "app")
    try:
        partitioned.wait(lambda: has_it("db2"), 5.0, "the table on db2")
        assert not has_it("db3"), "db3 hears nothing of it"
        partitioned.heal()
        partitioned.wait(lambda: "db3" in streaming(partitioned) and has_it("db3"), 15.0, "db3 has it all")
    finally:
        partitioned.host("db1").sql("DROP TABLE beyond", "app", "app")


def test_no_ruleset_of_a_host_is_touched_and_flushing_it_heals_nothing(partitioned: Lab) -> None:
    partitioned.cut("db1", "db2")
    assert partitioned.host("db1").run(["nft", "list", "ruleset"]).stdout == ""
    for name in ("db1", "db2"):
        partitioned.host(name).run(["nft", "flush", "ruleset"])
    assert not reaches(partitioned, "db1", "10.77.0.12")


def test_commands_go_to_a_host_that_is_neither_cut_off_nor_frozen(partitioned: Lab) -> None:
    db1 = partitioned.host("db1")
    said = partitioned.ctl("--help", on=None)
    assert said.returncode == 0
    partitioned.cut("db1", "db2", "db3")
    with pytest.raises(LabError, match="no database host"):
        partitioned.ctl("--help")
    partitioned.heal()
    db1.freeze("host")
    try:
        assert partitioned.ctl("--help").returncode == 0
    finally:
        db1.thaw("host")


def test_killing_a_database_spares_the_other_hosts_and_start_brings_it_back(lab: Lab) -> None:
    db2 = lab.host("db2")
    others = [lab.host(name).pid_of("database") for name in ("db1", "db3")]
    before = db2.pid_of("database")
    assert db2.kill("database") == [before]
    lab.wait(lambda: not db2.of_role("database_all"), 10.0, "no process left in db2's data directory")
    lab.databases.start("db2")
    after = db2.pid_of("database")
    assert after != before
    assert [lab.host(name).pid_of("database") for name in ("db1", "db3")] == others
    lab.wait(lambda: "db2" in streaming(lab), 10.0, "db2 streaming again")


def test_a_frozen_database_answers_nobody_and_the_question_ends_at_its_deadline(lab: Lab) -> None:
    db3 = lab.host("db3")
    assert db3.pid_of("database") in db3.freeze("database")
    try:
        with pytest.raises(LabError, match="no end after 1 s"):
            db3.sql("SELECT 1", timeout_s=1.0)
        assert not [p for p in db3.processes() if p.argv[0] == lab.dialect.shell(None, None, None).argv[0]]
    finally:
        db3.thaw("database")
    assert db3.sql("SELECT 1") == "1"


@pytest.mark.engines("postgresql")
def test_behind_a_frozen_postmaster_old_sessions_work_on_and_new_ones_hang(lab: Lab) -> None:
    db3 = lab.host("db3")
    session = db3.sql_session()
    assert session.stdin is not None and session.stdout is not None
    try:
        session.stdin.write("SELECT 41;\n")
        session.stdin.flush()
        assert session.stdout.readline() == "41\n"
        assert db3.freeze("main process") == [db3.pid_of("database")]
        session.stdin.write("SELECT 42;\n")
        session.stdin.flush()
        assert session.stdout.readline() == "42\n"
        with pytest.raises(LabError, match="no end after 1 s"):
            db3.sql("SELECT 1", timeout_s=1.0)
    finally:
        db3.thaw("database")
        db3.end(session)
    assert db3.sql("SELECT 1") == "1"


def test_a_frozen_host_stands_still_with_all_it_forks_and_runs_on_when_thawed(lab: Lab) -> None:
    """A process that forks all the time is the hard one: its youngest child must not be missed."""
    db3 = lab.host("db3")
    forker = db3.popen(["sh", "-c", "while :; do (sleep 0.01); done"])
    try:
        frozen = db3.freeze("host")
        assert db3.is_frozen and db3.pid_of("database") in frozen
        assert all(is_stopped(p.pid) for p in db3.processes())
        assert {p.pid for p in db3.processes()} == set(frozen)
        assert reaches(lab, "app", "10.77.0.13"), "the kernel still accepts connections"
    finally:
        db3.thaw("host")
        db3.end(forker)
    assert not db3.is_frozen and db3.sql("SELECT 1") == "1"
    wait(lambda: zookeeper_mode(lab, "db3") != "", 15.0, "db3's ZooKeeper in the ensemble")


def test_what_is_not_there_or_not_known_cannot_be_frozen(lab: Lab) -> None:
    with pytest.raises(LabError, match="there is no guardian to freeze on db3"):
        lab.host("db3").freeze("guardian")
    with pytest.raises(LabError, match="no 'kernel' to freeze; there are: database"):
        lab.host("db3").freeze("kernel")


def test_a_reseeded_member_streams_again(lab: Lab) -> None:
    marker = lab.host("db3").data_dir
    assert marker is not None
    (marker / "old").touch()
    lab.reseed("db3")
    assert not (marker / "old").exists()
    lab.wait(lambda: "db3" in streaming(lab), 10.0, "db3 streaming again")


def test_a_service_that_ends_at_once_is_reported_with_its_log(lab: Lab) -> None:
    db1 = lab.host("db1")
    db1.stop("sshd")
    config = db1.directory / "ssh/sshd_config"
    text = config.read_text()
    config.write_text("NoSuchOption yes\n")
    try:
        with pytest.raises(LabError, match="NoSuchOption"):
            db1.start("sshd")
    finally:
        config.write_text(text)
        db1.start("sshd")


@pytest.mark.parametrize(
    ("argv", "role"),
    [
        (("/x/bin/python3", "/x/bin/failover-guardian", "run", "--cluster", "orders"), "guardian"),
        (("/x/bin/python3", "/x/bin/failover-guardian", "release"), None),
        (("/x/bin/python3", "/x/bin/failoverd"), "controller"),
        (("/x/bin/python3", "/x/bin/failoverctl", "status"), None),
        (("tail", "-f", "-n", "5", "failoverd"), None),
    ],
)
def test_our_daemons_are_told_apart_from_their_tools(argv: tuple[str, ...], role: str | None) -> None:
    process = Process(1, 0, argv, "/usr/bin/python3", None)
    told = [name for name in ("guardian", "controller") if ROLES[name].matches(process, None)]
    assert told == ([role] if role else [])


# --- and nothing stays ---------------------------------------------------------------------------------------------
@pytest.fixture
def holder(machine: None) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another program with a lab of its own (one member), and that lab's id."""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()
            process.wait(10)
            leftovers.remove()


def left_of(lab_id: str) -> list[str]:
    directories = [str(p) for p in leftovers.ROOT.glob(f"{leftovers.PREFIX}{lab_id}")]
    return [*namespaces_of(lab_id), *directories, *processes_that_name(f"{leftovers.PREFIX}{lab_id}")]


def test_two_labs_use_the_same_addresses_and_never_meet(lab: Lab, holder: tuple[subprocess.Popen[str], str]) -> None:
    mine = "SELECT count(*) FROM information_schema.tables WHERE table_name = 'mine'"
    lab.app.sql("CREATE TABLE mine (n int)", "app", "app", "10.77.0.11")
    with Lab.boot(LabOptions(lab.options.engine, daemons=False, members=("db1",), replication="async")) as second:
        assert second.app.sql(mine, "app", "app", "10.77.0.11") == "0"
        assert left_of(holder[1]), "a boot must not touch a living lab"
        name = second.id
    assert left_of(name) == []
    assert lab.app.sql(mine, "app", "app", "10.77.0.11") == "1"
    lab.app.sql("DROP TABLE mine", "app", "app", "10.77.0.11")


def test_what_a_killed_holder_left_is_gone_after_the_next_boot(holder: tuple[subprocess.Popen[str], str]) -> None:
    process, lab_id = holder
    process.kill()
    process.wait(10)
    assert len(left_of(lab_id)) > 5, "the hosts outlive their holder, or this test shows nothing"
    assert lab_id in leftovers.remove()
    assert left_of(lab_id) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_lab_in_order(holder: tuple[subprocess.Popen[str], str], number: signal.Signals) -> None:
    process, lab_id = holder
    process.send_signal(number)
    process.wait(15)
    assert left_of(lab_id) == []


def test_a_boot_that_fails_leaves_nothing(machine: None) -> None:
    said: list[str] = []

    def stop_in_the_middle(line: str) -> None:
        said.append(line)
        if "switch" in line:
            raise LabError("enough")

    before = set(leftovers.ROOT.glob(f"{leftovers.PREFIX}*"))
    with pytest.raises(LabError, match="enough"):
        Lab.boot(LabOptions(daemons=False, members=("db1",)), stop_in_the_middle)
    assert set(leftovers.ROOT.glob(f"{leftovers.PREFIX}*")) == before


def how_it_ends(lab: Lab, end: Callable[[str], None]) -> str:
    """What a connection from the application's host to db3 hears while `end("db3")` is done: "reset" or "silence"."""
    where = f"('10.77.0.13', {lab.dialect.port})"
    listener = f"import socket; s = socket.create_connection({where}); s.settimeout(1.5); print('open', flush=True)\n"
    listener += "try:\n  while s.recv(99): pass\n  print('closed')\n"
    listener += "except ConnectionResetError: print('reset')\nexcept TimeoutError: print('silence')"
    client = lab.app.popen([sys.executable, "-c", listener])
    assert client.stdout is not None
    try:
        assert client.stdout.readline() == "open\n"
        end("db3")
        return client.stdout.readline().strip()
    finally:
        lab.app.end(client)


@pytest.mark.parametrize(("verb", "heard"), [("crash", {"reset", "closed"}), ("power_off", {"silence"})])
def test_a_dead_host_comes_back_with_its_data_and_without_its_virtual_address(lab: Lab, verb: str, heard: set[str]) -> None:
    """A crash is heard, a loss of power is not. Either way the kernel is gone: its addresses answer nobody."""
    db3 = lab.host("db3")
    db3.run(["ip", "addr", "add", f"{VIP}/32", "dev", "eth0"])
    assert db3.has_vip()
    assert how_it_ends(lab, getattr(lab, verb)) in heard
    assert not db3.is_up and not db3.has_vip() and not reaches(lab, "app", "10.77.0.13")
    lab.boot_host("db3")
    assert db3.addresses() == ("10.77.0.13",)
    (db3.data_dir or Path()).joinpath("postmaster.pid").unlink(missing_ok=True)
    lab.databases.start("db3")
    lab.wait(lambda: "db3" in streaming(lab), 15.0, "db3 streaming again")
    wait(lambda: lab.zookeeper_leader() is not None and zookeeper_mode(lab, "db3") != "", 15.0, "db3's ZooKeeper is back")
