"""What is wrong beside the database shows in `status`, with names; the database serves on, and nothing is half done."""

from __future__ import annotations

import base64
import json
import secrets
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from failover.lab import Lab
from failover.lab.commands import LabError, run
from failover.lab.host import Host
from failover.lab.postgresql import PGDATA, accounts_sql, postgres_bin
from tests.support.lab_cluster import Cluster

pytestmark = pytest.mark.timeout(180)
HEALTHY, REFUSED, PROBLEMS = 0, 5, 10
SHOWS_S = 25.0  # the leader looks at VIP and DNS every ten seconds
GONE_S = 40.0
Found = list[dict[str, str]]


def problems(cluster: Cluster) -> Found:
    found: Found = cluster.status()["problems"]
    return found


def record(cluster: Cluster) -> tuple[int, str, int]:
    """Epoch, primary, number of operations: what no problem here may change."""
    seen = cluster.status()
    return int(seen["epoch"]), str(seen["primary"]), len(cluster.answer("history", "-n", "10000")["operations"])


def shown(cluster: Cluster, *words: str) -> dict[str, str]:
    """Wait for a problem that says all of `words`; while it is there `status` ends with 10 and every problem has a hint."""
    told: Found = []

    def there() -> bool:
        nonlocal told
        told = problems(cluster)
        return bool(_with(told, words))

    wanted = " and ".join(words)
    cluster.lab.wait(there, SHOWS_S, lambda: f"a problem that says {wanted}; there are: {json.dumps(told, indent=1)}")
    assert cluster.ctl("status").returncode == PROBLEMS
    assert all(one["hint"] for one in told)
    return _with(told, words)[0]


def gone(cluster: Cluster, *words: str) -> None:
    cluster.lab.wait(lambda: not _with(problems(cluster), words), GONE_S, f"the end of the problem {' and '.join(words)}")


def _with(told: Found, words: tuple[str, ...]) -> Found:
    return [one for one in told if all(word in one["text"] for word in words)]


@contextmanager
def harmless(cluster: Cluster) -> Iterator[None]:
    """The database serves as if nothing were: no failed write, no operation, the same grant."""
    before = record(cluster)
    with cluster.traffic() as load:
        yield
        assert load.failed() == []
        assert load.lost() == []
    assert record(cluster) == before
    assert cluster.status()["operation"] is None


@contextmanager
def replaced(files: list[Path], text: Callable[[Path], str]) -> Iterator[None]:
    """Other contents, in place (the hosts see the very file), until the end of the block."""
    kept = {file: file.read_text() for file in files}
    for file in files:
        file.write_text(text(file))
    try:
        yield
    finally:
        for file, content in kept.items():
            file.write_text(content)


def etc(cluster: Cluster, name: str) -> list[Path]:
    return [host.directory / "etc-failover" / name for host in cluster.lab.databases_hosts]


def new_sshd(host: Host) -> None:
    """End sshd and every session of it, and start it again: the warm lines must be opened anew."""

    def none_left() -> bool:
        host.kill("sshd", signal.SIGKILL)
        return not host.of_role("sshd")

    Lab.wait(none_left, 5.0, f"the end of sshd on {host.name}")
    host.start("sshd")


def test_a_wrong_tsig_key_is_told_while_dns_is_right_and_gone_once_it_is_repaired(calm_cluster: Cluster) -> None:
    """Found on a quiet day: DNS answers what it should, and nobody needs it changed yet."""
    wrong = base64.b64encode(secrets.token_bytes(32)).decode() + "\n"
    with harmless(calm_cluster):
        with replaced(etc(calm_cluster, "secrets/tsig"), lambda _: wrong):
            told = shown(calm_cluster, "DNS server 10.77.0.53", "does not agree with the key failover-orders", "secrets/tsig")
            assert wrong.strip() not in json.dumps(calm_cluster.status()) and told["code"] == "action-switchdns"
        gone(calm_cluster, "does not agree with the key")


def test_a_changed_ssh_host_key_is_told_with_host_and_file(calm_cluster: Cluster) -> None:
    member = calm_cluster.standbys()[1]
    host = calm_cluster.lab.host(member)
    pair = [host.directory / "ssh/host_key", host.directory / "ssh/host_key.pub"]
    other = calm_cluster.lab.directory / "another-key"
    for file in (other, other.with_name("another-key.pub")):
        file.unlink(missing_ok=True)
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)])
    texts = dict(zip(pair, (other.read_text(), other.with_name("another-key.pub").read_text()), strict=True))
    with harmless(calm_cluster):
        with replaced(pair, lambda file: texts[file]):
            new_sshd(host)
            shown(calm_cluster, member, f"the host key of {host.address} is not the one in /etc/failover/known_hosts")
        new_sshd(host)
        gone(calm_cluster, "host key")


def test_controllers_with_different_files_are_told_by_name(calm_cluster: Cluster) -> None:
    lab, leader = calm_cluster.lab, calm_cluster.seen().leader
    one = next(name for name in calm_cluster.options.members if name != leader)
    others = [name for name in calm_cluster.options.members if name != one]
    file = lab.host(one).directory / "etc-failover/failover.yml"
    with harmless(calm_cluster):
        with replaced([file], lambda own: own.read_text() + "# a line that only this host has\n"):
            lab.host(one).restart("controller")
            told = shown(calm_cluster, "controllers run with different configuration files", one, ", ".join(others))
            assert told["code"] == "configuration-differs"
            there = calm_cluster.ctl("status", on=one)
            assert there.returncode == PROBLEMS and one in there.stdout
        lab.host(one).restart("controller")
        gone(calm_cluster, "different configuration files")


def test_a_stopped_controller_is_told_by_name(calm_cluster: Cluster) -> None:
    """The leader, of all: the next one leads, and says who is missing."""
    leader = calm_cluster.seen().leader
    assert leader is not None
    with harmless(calm_cluster):
        calm_cluster.lab.stop(leader, "controller")
        calm_cluster.lab.wait(lambda: calm_cluster.seen().leader not in (None, leader), 20.0, "another leader")
        told = shown(calm_cluster, "2 of 3 controllers are there", f"missing: {leader}")
        assert told["hint"].endswith(leader)
        calm_cluster.start_everything()
        gone(calm_cluster, "controllers are there")


@pytest.mark.parametrize("whose", ["the primary's", "a standby's"])
def test_a_stopped_guardian_is_silent_and_the_database_goes_on(calm_cluster: Cluster, whose: str) -> None:
    """The primary's own is started again within the lease, which the kernel keeps for it."""
    primary, (_, standby) = calm_cluster.primary(), calm_cluster.standbys()
    member = primary if whose == "the primary's" else standby
    with harmless(calm_cluster):
        if member == primary:
            assert calm_cluster.ctl("pause", "--for", "2min", "--yes").returncode == HEALTHY  # its lease has no end now
        calm_cluster.lab.stop(member, "guardian")
        told = shown(calm_cluster, f"{member} is silent: its guardian does not report")
        assert told["code"] == "member-silent" and member in told["hint"]
        calm_cluster.start_everything()
        gone(calm_cluster, "is silent")
        if member == primary:
            assert calm_cluster.ctl("resume", "--yes").returncode == HEALTHY
            calm_cluster.wait_whole(30.0, cooldown=False)


# --- another database in a member's place: told by the system identifier, which only PostgreSQL has -----------------------
def take_away(host: Host) -> None:
    host.kill("database_all", signal.SIGKILL)
    Lab.wait(lambda: not host.of_role("database_all"), 10.0, f"the end of the database on {host.name}")


def put_another(cluster: Cluster, host: Host) -> str:
    """A freshly made server with the cluster's own files and accounts where the member's was; its system identifier."""
    data = host.data_dir
    assert data is not None
    kept = {name: (data / name).read_text() for name in ("postgresql.conf", "pg_hba.conf")}
    host.run(["sh", "-c", f"rm -rf {PGDATA}/* {PGDATA}/.[!.]*"])
    argv = [str(postgres_bin() / "initdb"), "-D", PGDATA, "--data-checksums", "--no-sync", "--locale=C.UTF-8",
            "--auth-local=peer", "--auth-host=scram-sha-256", "--encoding=UTF8", "--no-instructions"]  # fmt: skip
    host.run(argv, 60.0, user="postgres")
    for name, text in kept.items():
        (data / name).write_text(text)
    told = host.run([str(postgres_bin() / "pg_controldata"), "-D", PGDATA], user="postgres").stdout
    return next(line.split()[-1] for line in told.splitlines() if line.startswith("Database system identifier"))


@pytest.mark.engines("postgresql")
def test_another_database_in_a_standbys_place_is_not_let_in(calm_cluster: Cluster) -> None:
    """Its guardian does not start it, or it is told by its identifier; in no case does it count as a standby."""
    lab, member = calm_cluster.lab, calm_cluster.standbys()[1]
    host = lab.host(member)
    with harmless(calm_cluster):
        host.stop("guardian")
        take_away(host)
        identifier = put_another(calm_cluster, host)
        host.start("guardian")
        shown(calm_cluster, member, identifier)
        seen = next(one for one in calm_cluster.seen().members if one.name == member)
        assert not seen.streaming
        refused = calm_cluster.ctl("switchover", "--to", member, "--yes")
        assert refused.returncode == REFUSED
        calm_cluster.lab.wait(lambda: not seated(calm_cluster, member), 20.0, f"{member} out of the sync set")
        lab.reseed(member)
        calm_cluster.wait_whole(60.0, cooldown=False)


def seated(cluster: Cluster, member: str) -> bool:
    """Does a commit count on this member?"""
    return any(member in pair["names"] for pair in cluster.status()["sync"])


@pytest.mark.engines("postgresql")
def test_an_adoption_with_a_stranger_among_the_members_is_refused_with_every_reason(shared_cluster: Cluster) -> None:
    """A fresh server was started where a standby should be. Nothing of the product takes hold before that is repaired."""
    shared_cluster.close()
    lab = shared_cluster.lab
    host = lab.host("db3")
    take_away(host)
    identifier = put_another(shared_cluster, host)
    host.start("database")
    socket = ["psql", "-XAtqw", "-v", "ON_ERROR_STOP=1", "-h", "/run/postgresql", "-d", "postgres"]
    host.run(socket, 20.0, user="postgres", stdin=accounts_sql(lab.secrets.password))
    lab.wait(lambda: _role(shared_cluster, "db3") == "primary", 20.0, "the stranger's guardian reports it")
    refused = shared_cluster.ctl("adopt", "--yes", timeout_s=60.0)
    assert refused.returncode == REFUSED, refused.stderr
    assert "refused: exactly one primary is needed, found db1, db3" in refused.stderr
    assert "refused: wrong system identifier: db1 has " in refused.stderr and f"db3 has {identifier}" in refused.stderr
    assert "nothing was changed" in refused.stderr
    seen = shared_cluster.status()
    assert (seen["epoch"], seen["primary"], seen["operation"]) == (0, None, None)
    for one in lab.databases_hosts:
        assert "failover" not in run(["ip", "netns", "exec", one.namespace, "nft", "list", "tables"]).stdout
    take_away(host)
    lab.databases.copy("db1", "db3")
    host.start("database")
    shared_cluster.adopt()
    shared_cluster.wait_whole(60.0)


def _role(cluster: Cluster, member: str) -> str:
    try:
        return next(one.role for one in cluster.seen().members if one.name == member)
    except LabError:  # no controller has led yet
        return ""
