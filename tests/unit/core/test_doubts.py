"""A doubt has a symptom; a healthy cluster, whose guards block as well, has none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from failover.core.doubts import FAILED, LOST, ODD, doubt
from failover.core.model import MemberVote, Role, Votes
from tests.support.builders import Cluster, a_cluster, some_rules


def weight(cluster: Cluster) -> int:
    return doubt(cluster.build(), some_rules())


def test_plain_sailing_is_no_doubt() -> None:
    assert weight(a_cluster()) == 0
    assert weight(a_cluster().without("grant")) == 0


def test_each_vote_weighs_more_than_any_failed_probe() -> None:
    probe = a_cluster()
    stored = probe.tables["votes"]["c1"]
    failing = Votes("c1", (("db1", MemberVote(False, "dead", "dead", why="1 fresh probe failed")),))
    probe.tables["votes"]["c1"] = replace(stored, value=failing)
    assert weight(probe) == 2 * FAILED < weight(a_cluster().lost_by("c1")) == LOST < weight(a_cluster().lost_by("c1", "c2"))


def test_a_primary_whose_guardian_cannot_insert_is_one() -> None:
    assert weight(a_cluster().status("db1", heartbeat_fails=2)) == 2


def test_trouble_of_a_standby_and_old_votes_are_none() -> None:
    assert weight(a_cluster().lost_by("c1", member="db2")) == 0
    assert weight(a_cluster().vote("c1", "db1", ago_s=60.0)) == 0


def test_a_server_that_starts_up_or_lets_nobody_in_is_odd_and_one_not_probed_yet_is_nothing() -> None:
    def odd(**fields: Any) -> int:
        return weight(a_cluster().vote("c1", "db1", **{"lost": False, "fresh": "alive", "kept": "alive", **fields}))

    assert odd(role=Role.RECOVERING) == odd(role=Role.UNKNOWN) == ODD
    assert odd(fresh="unknown") == ODD and odd(role=Role.PRIMARY) == 0
    assert odd(fresh="unknown", kept="unknown") == 0
