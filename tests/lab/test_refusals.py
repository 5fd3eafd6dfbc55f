"""What is refused is refused whole: every reason at once, the documented exit code, and nothing changed."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from failover.clock import boottime_s
from tests.support.lab_cluster import Cluster

pytestmark = pytest.mark.timeout(180)
REFUSED, NOBODY, CONFLICT, DONE = 5, 4, 9, 0
Record = tuple[int, str, object, int]
RECORD_OLD_S = 3.0  # core/rules.py, gone_s



def record(cluster: Cluster) -> Record:
    """What a refusal must leave as it was: epoch, primary, sync set, and how many operations there ever were."""
    seen = cluster.status()
    return int(seen["epoch"]), str(seen["primary"]), seen["sync"], len(cluster.answer("history", "-n", "10000")["operations"])


@contextmanager
def unchanged(cluster: Cluster) -> Iterator[None]:
    before = record(cluster)
    yield
    assert record(cluster) == before
    assert cluster.status()["operation"] is None


def switchover(cluster: Cluster, *args: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
    return cluster.ctl("switchover", "--yes", *args, timeout_s=timeout_s)


def reasons(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line.removeprefix("refused: ") for line in done.stderr.splitlines() if line.startswith("refused: ")]


@pytest.mark.parametrize("verb", ["switchover", "failover"])
def test_an_unknown_member_and_the_primary_itself_are_no_targets(calm_cluster: Cluster, verb: str) -> None:
    primary = calm_cluster.primary()
    with unchanged(calm_cluster):
        unknown = calm_cluster.ctl(verb, "--to", "db9", "--yes")
        itself = calm_cluster.ctl(verb, "--to", primary, "--yes")
    assert (unknown.returncode, itself.returncode) == (REFUSED, REFUSED)
    assert reasons(unknown) == ["no member db9; there are: db1, db2, db3"]
    assert reasons(itself) == [f"{primary} is the primary already"]
    assert "nothing was changed" in unknown.stderr


def test_another_primary_than_expected_is_a_conflict(calm_cluster: Cluster) -> None:
    primary, standby = calm_cluster.primary(), calm_cluster.standbys()[0]
    with unchanged(calm_cluster):
        done = switchover(calm_cluster, "--expect-primary", standby)
    assert done.returncode == CONFLICT
    assert reasons(done) == [f"--expect-primary {standby}: the primary is {primary}"]


@pytest.mark.parametrize("verb", ["switchover", "failover", "pause"])
def test_a_dry_run_says_what_it_would_do_and_does_nothing(calm_cluster: Cluster, verb: str) -> None:
    with unchanged(calm_cluster):
        done = calm_cluster.ctl(verb, "--dry-run")
        assert done.returncode == DONE, done.stderr
        assert done.stdout.startswith(f"would be done: {verb}")
        assert calm_cluster.status()["paused"] is None


def test_a_second_adoption_is_refused(calm_cluster: Cluster) -> None:
    epoch, primary, *_ = record(calm_cluster)
    with unchanged(calm_cluster):
        done = calm_cluster.ctl("adopt", "--yes")
    assert done.returncode == REFUSED
    assert reasons(done) == [f"already adopted: epoch {epoch}, primary {primary}"]


def test_every_reason_against_a_standby_is_listed_at_once(calm_cluster: Cluster) -> None:
    standby = calm_cluster.standbys()[0]
    try:
        calm_cluster.hand.pause_replay(standby)
        assert calm_cluster.ctl("maintenance", "on", standby, "--yes", "--for", "2min").returncode == DONE
        said = f"{standby}: replay is paused"
        calm_cluster.lab.wait(lambda: said in calm_cluster.seen().problems, 10.0, "the paused replay in `status`")
        with unchanged(calm_cluster):
            done = switchover(calm_cluster, "--to", standby)
        assert done.returncode == REFUSED
        told = {f"{standby}: in maintenance", f"{standby}: its replay is paused"}
        kept_out = {f"{standby}: does not stream from the primary"}  # MySQL and MariaDB keep out who is in no sync set
        assert set(reasons(done)) in ([told] if calm_cluster.options.engine == "postgresql" else [told, told | kept_out])
    finally:
        calm_cluster.hand.resume_replay(standby)
        calm_cluster.ctl("maintenance", "off", standby, "--yes")


def test_a_failover_to_a_member_that_is_down_leaves_the_healthy_primary_alone(calm_cluster: Cluster) -> None:
    """The target could not take over: fencing the primary for it would be an outage for nothing."""
    primary, (_, down) = calm_cluster.primary(), calm_cluster.standbys()
    host = calm_cluster.lab.host(down)
    host.kill("guardian", signal.SIGKILL)
    host.kill("database_all", signal.SIGKILL)
    silent = f"{down} is silent: its guardian does not report"
    calm_cluster.lab.wait(lambda: silent in calm_cluster.seen().problems, 10.0, f"{down} silent in `status`")
    threading.Event().wait(RECORD_OLD_S)  # the leader counts by its own clock
    try:
        with calm_cluster.traffic() as load:
            since = boottime_s()
            for verb in ("switchover", "failover"):
                done = calm_cluster.ctl(verb, "--to", down, "--yes", timeout_s=60.0)
                assert done.returncode == REFUSED, f"{verb}: {done.stdout}{done.stderr}"
                assert any(down in reason for reason in reasons(done))
            assert load.failed(since) == []
    finally:
        calm_cluster.start_everything()
    assert calm_cluster.primary() == primary


def test_of_two_operators_at_once_one_is_obeyed_and_the_other_told_who_was(calm_cluster: Cluster) -> None:
    old, targets = calm_cluster.primary(), calm_cluster.standbys()
    operations = record(calm_cluster)[3]
    with calm_cluster.traffic() as load, ThreadPoolExecutor(2) as people:
        asked = [people.submit(switchover, calm_cluster, "--to", target, "--reason", f"for {target}") for target in targets]
        answers = [one.result(90.0) for one in asked]
        obeyed = [one for one in answers if one.returncode == DONE]
        (other,) = [one for one in answers if one.returncode != DONE]
        assert len(obeyed) == 1, [one.stderr for one in answers]
        assert other.returncode in (CONFLICT, REFUSED), other.stderr
        load.flows(20.0)
        new = calm_cluster.primary()
        assert new == targets[answers.index(obeyed[0])] != old
        assert any("is under way (asked for by root@db" in told for told in reasons(other)), other.stderr
        assert load.lost() == [] and load.dual_writer_ms() == 0
    assert record(calm_cluster)[3] == operations + 1


def test_with_nobody_to_decide_a_request_is_withdrawn_and_does_not_fire_later(calm_cluster: Cluster) -> None:
    hosts = calm_cluster.lab.databases_hosts
    before = record(calm_cluster)
    try:
        for host in hosts:
            host.kill("controller", signal.SIGKILL)
        calm_cluster.lab.wait(lambda: calm_cluster.seen().leader is None, 15.0, "no leader in the records")
        asked_at = boottime_s()
        done = switchover(calm_cluster, "--timeout", "3s")
        took_s = boottime_s() - asked_at
        assert done.returncode == NOBODY, done.stderr
        assert "no controller leads, so nobody answered within 3 s; the request was withdrawn" in done.stderr.replace("\n", " ")
        assert took_s < 12.0
    finally:
        calm_cluster.start_everything()
    calm_cluster.lab.wait(lambda: calm_cluster.seen().leader is not None, 20.0, "a leader again")
    threading.Event().wait(3.0)  # thirty ticks of the new leader: whatever it would obey it has obeyed
    assert record(calm_cluster) == before
    assert calm_cluster.ctl("switchover", "--dry-run").returncode == DONE
