"""A primary without a guardian: watched, adopted, never taken over from without proof. No lease, no gate: silence proves nothing.

One lab and one story, in the order of the tests; with FAILOVER_SOAK=1 each silence lasts 10 minutes. The three hosts have a
STONITH command that says what a file tells it to.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from failover.clock import boottime_s
from failover.lab import Lab, LabOptions
from failover.lab.commands import LabError
from failover.lab.observed import Seen, parse
from failover.lab.services import entry_point, missing_programs
from failover.lab.traffic import DATABASE
from tests.support.lab_cluster import Cluster

pytestmark = pytest.mark.timeout(1200 if os.environ.get("FAILOVER_SOAK") == "1" else 400)
REFUSED = 5
OLD, CONTROLLERS = "db1", ("db2", "db3")
FENCE = """\
#!/bin/sh
echo "$1 $2 $3 $FAILOVER_CLUSTER" >> /etc/failover/power.log
[ "$1" = off ] || cat /etc/failover/power
"""
SOAK = os.environ.get("FAILOVER_SOAK") == "1"
HELD_S = 600.0 if SOAK else 10.0  # twice: what nothing may happen in, longer than every clock of the profile (W is 6.6 s)
RETRY_S = 10.0
ASK_S = 60.0  # one command, on a machine that is busy with other labs


@pytest.fixture(scope="module")
def cluster(shared_cluster: Cluster) -> Iterator[Cluster]:
    """db1 is primary and has no guardian; replication is async; the command says that every host is on."""
    shared_cluster.close()  # one lab at a time, or each measures the other
    faults = missing_programs()
    if faults:
        pytest.skip("; ".join(faults))
    command = "{order: [guardian, ssh, command], command: [/etc/failover/fence]}"
    engine = shared_cluster.options.engine
    mine = Cluster(LabOptions(engine, "async", "default", agentless=(OLD,), fencing=command, daemons=False))
    try:
        for host in mine.lab.databases_hosts:
            program = host.directory / "etc-failover/fence"
            program.write_text(FENCE)
            program.chmod(0o755)
        power(mine.lab, "on")
        mine.lab.start_daemons()
        yield mine
    finally:
        mine.close()


@pytest.fixture(autouse=True)
def last_words(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[None]:
    """What the lab says when a test of this story fails."""
    failed = request.session.testsfailed
    yield
    if request.session.testsfailed > failed:
        print(cluster.save_logs(Path("build/lab-logs") / request.node.name))


def power(lab: Lab, word: str) -> None:
    """What the command will say of every host."""
    for name in (*CONTROLLERS, OLD):
        (lab.host(name).directory / "etc-failover/power").write_text(word + "\n")


def switched_off(lab: Lab) -> int:
    """How many times some controller has run `off`."""
    logs = [lab.host(name).directory / "etc-failover/power.log" for name in CONTROLLERS]
    return sum(log.read_text().count(f"off {OLD} 10.77.0.11 orders\n") for log in logs if log.exists())


def asked(cluster: Cluster) -> Seen:
    """What `status` says on db2, the one host that nothing is ever cut from."""
    done = cluster.ctl("status", "-o", "json", timeout_s=ASK_S, on="db2")
    if not done.stdout:
        raise LabError(f"status: exit {done.returncode}: {done.stderr}")
    return parse(done.stdout)


def seen_where(cluster: Cluster, holds: Callable[[Seen], bool], says: str, deadline_s: float = ASK_S) -> Seen:
    """Ask `status` on db2 until it shows what is waited for."""
    last: Seen | str = "nothing"

    def there() -> bool:
        nonlocal last
        try:
            last = asked(cluster)
        except LabError as error:
            last = str(error)
        return isinstance(last, Seen) and holds(last)

    cluster.lab.wait(there, deadline_s, lambda: f"{says}; last seen: {last}")
    assert isinstance(last, Seen)
    return last


def nothing_promoted_for(cluster: Cluster, seconds: float, why: str) -> None:
    """Both standbys stay standbys, the grant names nobody, and the operation says in `status` that it is held, and `why`."""
    end_s, pause = boottime_s() + seconds, threading.Event()
    while boottime_s() < end_s:
        assert all(cluster.lab.databases.is_standby(name) for name in CONTROLLERS)
        pause.wait(0.5)
    seen = asked(cluster)
    assert seen.primary is None and seen.operation is not None and seen.held is not None
    assert why in seen.held and "Nothing is promoted" in seen.held


def test_a_primary_without_a_guardian_is_adopted_and_watched_from_afar(cluster: Cluster) -> None:
    adopt = ("adopt", "--yes", "--wait")
    cluster.lab.wait(lambda: cluster.ctl(*adopt, timeout_s=ASK_S).returncode == 0, 2 * ASK_S, "adoption")
    cluster.lab.wait(cluster.lab.host(OLD).has_vip, 60.0, "the VIP on db1")
    assert seen_where(cluster, lambda seen: seen.settled, "a settled cluster").primary == OLD

    def as_the_leader_sees_it() -> tuple[str, str, bool, bool]:
        """It looks at a member without a guardian once a second, so the VIP shows a moment after it is there."""
        member = next(m for m in cluster.answer("status", timeout_s=ASK_S)["members"] if m["name"] == OLD)
        return member["role"], member["gate"], member["writable"], member["vip"]

    cluster.lab.wait(lambda: as_the_leader_sees_it() == ("primary", "agentless", True, True), 10.0, "db1 whole in `status`")
    plan = cluster.answer("plan", "--if-dies", OLD, timeout_s=ASK_S)
    assert plan["verdict"] == "failover" and "db1 has no guardian" in json.dumps(plan)


def test_what_needs_a_guardian_is_refused_with_the_reason(cluster: Cluster) -> None:
    guardian = cluster.lab.host(OLD).run([entry_point("failover-guardian"), "run"], ASK_S, check=False)
    assert guardian.returncode == REFUSED and "guardian: false" in guardian.stderr
    switchover = cluster.ctl("switchover", "--to", "db2", "--yes", "--wait", timeout_s=ASK_S)
    assert switchover.returncode == REFUSED and "db1 has no guardian" in switchover.stderr + switchover.stdout
    told = cluster.lab.host("db2").run([entry_point("failoverctl"), "config", "check"], ASK_S).stdout
    assert "db1 has no guardian: no lease, no gate: the clock is no evidence" in told


def test_silence_is_no_proof_however_long(cluster: Cluster) -> None:
    """Database and SSH of db1 cannot be reached, its host lives and takes writes from whoever is beside it."""
    cluster.lab.host(OLD).stop("controller")
    cluster.lab.cut(OLD, port=22)
    cluster.lab.cut(OLD, port=cluster.lab.dialect.port)
    seen_where(cluster, lambda seen: seen.held is not None, "a held operation")
    nothing_promoted_for(cluster, HELD_S, "db1 has no guardian")
    written = "CREATE TABLE still_written (n int); DROP TABLE still_written; SELECT 1"
    assert cluster.sql(OLD, written, dbname=DATABASE) == "1"


def test_a_command_that_says_off_while_the_host_lives_does_not_count(cluster: Cluster) -> None:
    """sshd is stopped, so the host agent cannot fence; but its kernel still shakes hands, and that gives the command away."""
    cluster.lab.host(OLD).kill("sshd", signal.SIGSTOP)
    cluster.lab.heal(OLD, port=22)
    before, began_s = switched_off(cluster.lab), boottime_s()
    power(cluster.lab, "off")
    patience_s = 2 * RETRY_S + ASK_S
    held = seen_where(cluster, lambda seen: "but db1 answers" in (seen.held or ""), "the lie in `status`", patience_s).held
    assert held is not None and "the command says off, but db1 answers: port 22 takes connections" in held
    nothing_promoted_for(cluster, HELD_S, "STONITH")
    assert 1 <= switched_off(cluster.lab) - before <= (boottime_s() - began_s) / RETRY_S + 1, "a power switch is not hammered"


def test_off_read_back_and_a_silent_host_are_proof(cluster: Cluster) -> None:
    power(cluster.lab, "off")
    cluster.lab.cut(OLD)
    patience_s = RETRY_S + 2 * ASK_S
    seen = seen_where(cluster, lambda now: now.primary in CONTROLLERS and now.operation is None, "a new primary", patience_s)
    assert seen.primary is not None
    assert cluster.lab.databases.is_primary(seen.primary)
    story = cluster.ctl("timeline", timeout_s=ASK_S, on="db2").stdout
    assert "reads back off" in story and "nothing at its host answers" in story


def test_a_former_primary_that_comes_back_as_one_is_fenced_and_start_disabled(cluster: Cluster) -> None:
    """Its host was never off. Nobody beside the database knows better, so the leader ends it as soon as it is reached."""
    old = cluster.lab.host(OLD)
    cluster.lab.heal()
    old.kill("sshd", signal.SIGCONT)
    cluster.lab.wait(lambda: not old.of_role("database_all"), ASK_S, "db1's database ended over SSH")
    cluster.lab.wait(lambda: not old.has_vip(), 5.0, "the VIP gone from db1")
    may_start = old.run([entry_point("failover-hostagent"), "may-start"], ASK_S, check=False)
    assert may_start.returncode == REFUSED and "failover-guardian release" in may_start.stderr
    seen_where(cluster, lambda seen: any(m.name == OLD and m.rejoin for m in seen.members), "what db1 needs, in `status`")
    assert old.run([entry_point("failover-guardian"), "release"], ASK_S).returncode == 0
    assert old.run([entry_point("failover-hostagent"), "may-start"], ASK_S, check=False).returncode == 0


def test_a_hung_guardian_is_ended_by_the_host_agent_that_fences_in_its_place(cluster: Cluster) -> None:
    """On a standby that has one: it is stopped, so it answers nobody and holds its state file. A later epoch is not overruled."""
    standby = next(name for name in CONTROLLERS if name != cluster.primary())
    host, epoch = cluster.lab.host(standby), asked(cluster).epoch
    host.freeze("guardian")
    hung = host.pid_of("guardian")
    order = json.dumps({"id": 1, "verb": "fence", "cluster": "orders", "closes": epoch})
    answer = json.loads(host.run([entry_point("failover-hostagent")], ASK_S, stdin=order + "\n").stdout)
    assert answer["ok"] and "did not answer fence" in answer["evidence"]
    facts = answer["facts"]
    assert (facts["guardian"], facts["closed"], facts["gate"], facts["processes"]) == (False, epoch, "shut", 0)
    assert hung is not None and host.pid_of("guardian") is None
    again = cluster.lab.host(cluster.primary())
    late = json.dumps({"id": 2, "verb": "fence", "cluster": "orders", "closes": epoch - 1})
    again.freeze("guardian")
    refused = json.loads(again.run([entry_point("failover-hostagent")], ASK_S, stdin=late + "\n").stdout)
    assert not refused["ok"] and f"epoch {epoch} was proved here" in refused["refused"][0]
    assert again.pid_of("guardian") is not None, "and nobody was killed for it"
