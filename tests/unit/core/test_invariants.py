"""What must never be seen. A violation stops the leader's hands, loudly."""

from __future__ import annotations

from dataclasses import replace

import pytest

from failover.core.decide import decide
from failover.core.invariants import Violated, check_observation
from failover.core.model import Claim
from tests.support.builders import Cluster, a_cluster, some_rules

CLAIM = Claim("db1", 3, 5, "op-1")


def check(cluster: Cluster) -> None:
    check_observation(cluster.build())


def test_the_usual_worlds_are_fine() -> None:
    check(a_cluster())
    check(a_cluster().without("grant"))
    check(a_cluster().claimed("db1", closes=3).silent("db1"))


def test_a_grant_names_a_member_or_holds_a_claim_never_both_or_neither() -> None:
    for broken in (a_cluster().with_grant("db1", 4, claim=CLAIM), a_cluster().with_grant(None, 4)):
        with pytest.raises(Violated, match="never both or neither"):
            check(broken)


def test_a_claim_is_later_than_what_it_ends() -> None:
    with pytest.raises(Violated, match="later than what it ends"):
        check(a_cluster().with_grant(None, 3, claim=CLAIM))


def test_two_writers_under_one_epoch_are_never_seen() -> None:
    with pytest.raises(Violated, match="db2 says it is writable under epoch 3"):
        check(a_cluster().primary("db2", 3))


def test_a_late_word_of_an_old_primary_under_its_old_epoch_is_no_violation() -> None:
    check(a_cluster().with_grant("db2", 5).primary("db1", 3))


def test_the_leaders_hands_stop_at_a_violation() -> None:
    with pytest.raises(Violated):
        decide(a_cluster().primary("db2", 3).receipt("db1", 3).build(), some_rules())


def test_a_zookeeper_that_goes_back_stops_the_leaders_hands() -> None:
    seen = a_cluster().build()
    check_observation(replace(seen, highest_epoch=3))
    with pytest.raises(Violated, match="gone back: epoch 5 was seen, 3 is there now"):
        check_observation(replace(seen, highest_epoch=5))
