"""A member's server is not what the cluster needs: `failoverctl check` says which and why, and so does the daemon beside it.

The screens are printed: they are what an operator has at hand.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import pytest

from failover.lab.mariadb import MariaDb
from failover.lab.my import CONFIG, DATA
from tests.support import trouble
from tests.support.lab_cluster import Cluster

pytestmark = [pytest.mark.timeout(240), pytest.mark.engines("mariadb", "mysql")]
SAID_S = 25.0
Making = Callable[[Cluster, str], AbstractContextManager[None]]


@dataclass(frozen=True)
class Case:
    """What is wrong, with the words that `check` must say of it, and the problems of `status`; "" where these cannot know."""

    make: Making
    check: str
    status: str


@contextmanager
def one_setting(cluster: Cluster, member: str, wrong: str, right: str) -> Iterator[None]:
    cluster.sql(member, f"SET GLOBAL {wrong}")
    try:
        yield
    finally:
        cluster.sql(member, f"SET GLOBAL {right}")


def gtid_off(cluster: Cluster, member: str) -> AbstractContextManager[None]:
    """MySQL's needs a restart to be wholly off; this is as far as it goes in one that runs."""
    if cluster.options.engine == "mariadb":
        return one_setting(cluster, member, "gtid_strict_mode = OFF", "gtid_strict_mode = ON")
    return one_setting(cluster, member, "gtid_mode = ON_PERMISSIVE", "gtid_mode = ON")


@contextmanager
def one_number_for_two(cluster: Cluster, member: str) -> Iterator[None]:
    """It has been so since before it connected: MySQL and MariaDB refuse it then."""
    numbers = [cluster.sql(name, "SELECT @@server_id") for name in (cluster.primary(), member)]
    with one_setting(cluster, member, f"server_id = {numbers[0]}", f"server_id = {numbers[1]}"):
        cluster.hand.reconnect(member)
        yield
    cluster.hand.reconnect(member)


@contextmanager
def without(cluster: Cluster, account: str, rights: dict[str, str]) -> Iterator[None]:
    """An account travels with the log: it is so everywhere."""
    primary, missing = cluster.primary(), rights[cluster.options.engine]
    cluster.sql(primary, f"REVOKE {missing} ON *.* FROM {account}")
    try:
        yield
    finally:
        cluster.sql(primary, f"GRANT {missing} ON *.* TO {account}")


def operator_without_rights(cluster: Cluster, member: str) -> AbstractContextManager[None]:
    return without(cluster, "failover_operator@localhost", {"mariadb": "CONNECTION ADMIN", "mysql": "CONNECTION_ADMIN"})


def monitor_without_rights(cluster: Cluster, member: str) -> AbstractContextManager[None]:
    rights = {"mariadb": "SLAVE MONITOR, BINLOG MONITOR", "mysql": "REPLICATION CLIENT"}
    return without(cluster, "failover_monitor@'%'", rights)


def wrong_password(cluster: Cluster, member: str) -> AbstractContextManager[None]:
    return trouble.password_rotated(cluster.lab, cluster.primary())


NO_SUCH = "no mysql database in"
LACKS = "lacks privileges: GRANT CONNECTION"
CASES = {
    "GTIDs off": Case(gtid_off, "gtid_", "gtid_"),
    "one server_id for two members": Case(one_number_for_two, "server_id", "two members have the same server_id"),
    "the operator lacks a privilege": Case(operator_without_rights, LACKS, LACKS),
    "the monitor lacks a privilege": Case(monitor_without_rights, "lacks privileges: GRANT", ""),
    "a wrong password": Case(wrong_password, "Access denied", "Access denied"),
}


def assert_said(cluster: Cluster, member: str, check: str, status: str) -> None:
    def shown() -> bool:
        return any(status in text and member in text for text in cluster.seen().problems)

    if status:
        cluster.lab.wait(shown, SAID_S, lambda: f"{status!r} of {member}: {json.dumps(cluster.seen().problems, indent=1)}")
        print(cluster.ctl("status").stdout)
    done = cluster.ctl("check", timeout_s=60.0)
    print(done.stdout)
    lines = [line for line in done.stdout.splitlines() if member in line]
    assert done.returncode != 0 and any(check in line for line in lines), done.stdout
    assert cluster.lab.secrets.password("failover_monitor") not in done.stdout + done.stderr


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_with_a_server_is_said_by_name_with_its_remedy(calm_cluster: Cluster, case: str) -> None:
    cluster, (member, _) = calm_cluster, calm_cluster.standbys()
    before = cluster.status()["epoch"], cluster.primary()
    with CASES[case].make(cluster, member):
        assert_said(cluster, member, CASES[case].check, CASES[case].status)
    cluster.wait_whole(60.0, cooldown=False)
    assert (cluster.status()["epoch"], cluster.primary()) == before


@contextmanager
def another_flavour(cluster: Cluster, member: str) -> Iterator[None]:
    """Somebody has installed the other product in a member's place, with the account that we ask by. No guardian runs there."""
    host, other = cluster.lab.host(member), MariaDb()
    data, service = host.data_dir, host.services["database"]
    assert data is not None
    config = host.directory / "overlay" / CONFIG.lstrip("/")
    kept, text = data.with_name("kept"), config.read_text()
    host.stop("guardian")
    cluster.lab.databases.end(member)
    data.rename(kept)
    try:
        host.run(["install", "-d", "-o", other.os_user, "-m", "700", DATA])
        host.run(other.init_argv(DATA), 60.0, user=other.os_user)
        config.write_text(other.cnf(7))
        host.services["database"] = other.service()
        host.start("database")
        account = f"failover_monitor@'%' IDENTIFIED BY '{cluster.lab.secrets.password('failover_monitor')}'"
        shell = other.shell(None, None, None)
        host.run(shell.argv, 20.0, stdin=f"CREATE USER {account}; GRANT PROCESS ON *.* TO failover_monitor@'%';")
        yield
    finally:
        host.stop("guardian")
        cluster.lab.databases.end(member)
        host.run(["rm", "-rf", DATA])
        kept.rename(data)
        config.write_text(text)
        host.services["database"] = service
        host.start("guardian")


@pytest.mark.engines("mysql")
def test_mariadb_as_a_member_of_a_mysql_cluster_is_refused_by_name(calm_cluster: Cluster) -> None:
    """Seen from afar by its name, and by the guardian as data that is none of this cluster's: it is not started, not followed,
    not counted, and none of its data is touched."""
    cluster, (_, member) = calm_cluster, calm_cluster.standbys()
    before = cluster.status()["epoch"], cluster.primary()
    with another_flavour(cluster, member):
        assert_said(cluster, member, "MariaDB", "")
        cluster.lab.host(member).start("guardian")
        cluster.lab.wait(lambda: any(member in text and NO_SUCH in text for text in cluster.seen().problems), SAID_S, NO_SUCH)
        print(cluster.ctl("status").stdout)
        refused = cluster.ctl("switchover", "--to", member, "--yes")
        assert refused.returncode == 5, refused.stdout + refused.stderr
        assert cluster.lab.host(member).run(["ls", f"{DATA}/mysql"]).stdout
    cluster.wait_whole(90.0, cooldown=False)
    assert (cluster.status()["epoch"], cluster.primary()) == before
