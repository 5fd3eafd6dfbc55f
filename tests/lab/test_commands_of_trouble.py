"""fence, rejoin and explain on real hosts: down with evidence, back as a standby, and the leader's judgement in words."""

from __future__ import annotations

import pytest

from failover.clock import boottime_s
from tests.support.lab_cluster import Cluster

pytestmark = pytest.mark.timeout(180)
DONE, REFUSED, PROBLEMS = 0, 5, 10


def sync_names(cluster: Cluster) -> set[str]:
    return {name for pair in cluster.status()["sync"] for name in pair["names"]}


def guards(cluster: Cluster) -> dict[str, str]:
    return {guard["name"]: guard["verdict"] for guard in cluster.answer("explain")["guards"]}


def test_a_fenced_standby_is_down_with_evidence_and_comes_back_on_a_word(calm_cluster: Cluster) -> None:
    """Writes go on throughout: another standby acknowledges them."""
    cluster = calm_cluster
    primary, standby = cluster.primary(), cluster.standbys()[-1]
    epoch = int(cluster.status()["epoch"])
    with cluster.traffic() as load:
        done = cluster.ctl("fence", standby, "--yes", "--reason", "a test", timeout_s=40.0)
        assert done.returncode == DONE, done.stderr
        assert f"{standby} is down: " in done.stdout and f"`failoverctl rejoin {standby}` brings it back" in done.stderr
        host = cluster.lab.host(standby)
        cluster.lab.wait(lambda: host.pid_of("database") is None, 5.0, "the end of its database")

        told = cluster.status()
        assert told["fenced"] == [standby] and "fenced" in [p["code"] for p in told["problems"]]
        assert cluster.ctl("switchover", "--to", standby, "--yes").returncode == REFUSED
        cluster.lab.wait(lambda: standby not in sync_names(cluster), 10.0, "a smaller sync set")
        assert host.pid_of("database") is None, "it stays down until a person says otherwise"

        back = cluster.ctl("rejoin", standby, "--yes", "--timeout", "60s", timeout_s=70.0)
        assert (back.returncode, back.stdout) == (DONE, f"{standby} streams from the primary again\n"), back.stderr
        cluster.lab.wait(lambda: not cluster.status()["fenced"], 5.0, "no fenced member")
        assert load.failed() == [] and load.lost() == [] and load.dual_writer_ms() == 0
    seen = cluster.status()
    assert (seen["primary"], int(seen["epoch"])) == (primary, epoch), "a fence of a standby moves nothing"
    newest = cluster.answer("history")["operations"][-1]
    assert (newest["kind"], newest["old"], newest["result"]) == ("fence", standby, "done")
    again = cluster.ctl("rejoin", standby, "--yes")
    assert again.returncode == REFUSED and "is in good standing" in again.stderr


def test_the_primary_is_not_fenced_and_nothing_can_be_sworn_or_given_up_in_calm(calm_cluster: Cluster) -> None:
    primary = calm_cluster.primary()
    fence = calm_cluster.ctl("fence", primary, "--yes")
    assert fence.returncode == REFUSED and "`failoverctl failover` fences it and promotes another" in fence.stderr
    sworn = calm_cluster.ctl("confirm-fenced", primary, "--typed", primary, "--yes", "--reason", "a test")
    assert sworn.returncode == REFUSED and "no operation is under way" in sworn.stderr
    assert calm_cluster.ctl("cancel", "--yes").returncode == REFUSED


def test_the_leader_explains_a_healthy_cluster(calm_cluster: Cluster) -> None:
    seen = guards(calm_cluster)
    assert seen.get("quorum of controllers") == "BLOCK", "nobody says that the primary is lost"
    assert calm_cluster.ctl("explain").returncode == DONE


def test_check_finds_a_missing_gate_where_no_guardian_runs_and_what_a_rewind_needs(calm_cluster: Cluster) -> None:
    standby = calm_cluster.standbys()[-1]
    host = calm_cluster.lab.host(standby)
    host.kill("guardian")
    try:
        host.run(["nft", "flush", "ruleset"])
        items = calm_cluster.answer("check", timeout_s=60.0)["items"]
        ssh = next(i for i in items if i["area"] == "ssh" and i["name"] == standby)
        assert ssh["verdict"] == "FAIL" and "NO GATE" in ssh["facts"] and "failover-guardian" in ssh["hint"]
        rewinds = [i for i in items if i["area"] == "rewind"]
        assert len(rewinds) == 3 and all(i["verdict"] == "PASS" for i in rewinds), rewinds
    finally:
        host.start("guardian")


def test_a_ruleset_flushed_under_a_running_guardian_is_put_back_at_once_and_alarmed(calm_cluster: Cluster) -> None:
    """`nft flush ruleset` is line one of Debian's nftables.conf: a firewall role runs it on the primary."""
    primary = calm_cluster.primary()
    host = calm_cluster.lab.host(primary)
    with calm_cluster.traffic() as load:
        began_s = boottime_s()
        host.run(["nft", "flush", "ruleset"])
        back_s = calm_cluster.lab.wait(
            lambda: "failover_gate" in host.run(["nft", "list", "tables"]).stdout, 2.0, "the gate in the kernel again"
        )
        load.flows(10.0, began_s, "writes through the gate that was put back")
        assert load.dual_writer_ms() == 0.0 and load.lost() == []
    calm_cluster.lab.wait(
        lambda: any("flushed" in problem["text"] for problem in calm_cluster.status()["problems"]), 5.0, "the alarm in `status`"
    )
    print(f"the table was back within {back_s * 1000:.0f} ms")
