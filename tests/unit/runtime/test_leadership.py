"""Who leads: ownership is the session, the term goes up with every election, and an unclear one is looked at again."""

from __future__ import annotations

import pytest

from failover.coordination.ledger import Ledger
from failover.coordination.memory import MemoryCoordinator, MemoryEnsemble
from failover.coordination.paths import Paths
from failover.core.model import Policy
from failover.core.plan import Key, Kind
from failover.runtime.leadership import Leadership


class Candidate:
    def __init__(self, ensemble: MemoryEnsemble, name: str) -> None:
        self.client: MemoryCoordinator = ensemble.client(name)
        self.client.start(1.0)
        self.ledger = Ledger(self.client, Paths("main"))
        self.ledger.bootstrap(["db1"], Policy(), 1.0)
        self.mirror = self.client.mirror(self.ledger.paths.singles(), self.ledger.paths.trees())
        self.leadership = Leadership(name, self.ledger)

    def leads(self) -> bool:
        return self.leadership.leads(self.ledger.view(self.mirror))

    def campaign(self) -> bool:
        return self.leadership.campaign(self.ledger.view(self.mirror))

    def term(self) -> int:
        stored = self.ledger.read(Key(Kind.TERM), 1.0)
        assert stored is not None
        return int(stored.value)


@pytest.fixture
def ensemble() -> MemoryEnsemble:
    return MemoryEnsemble()


def test_the_winner_raises_the_term_and_the_loser_waits(ensemble: MemoryEnsemble) -> None:
    one, two = Candidate(ensemble, "c1"), Candidate(ensemble, "c2")
    assert one.campaign() and one.leads() and one.term() == 1
    assert not two.campaign() and not two.leads() and two.term() == 1


def test_two_that_stand_at_once_have_one_winner(ensemble: MemoryEnsemble) -> None:
    one, two = Candidate(ensemble, "c1"), Candidate(ensemble, "c2")
    nobody = two.ledger.view(two.mirror)
    assert one.campaign()
    assert not two.leadership.campaign(nobody), "its picture was of before"
    assert one.term() == 1 and not two.leads()


def test_an_expired_leader_does_not_lead_and_the_next_term_is_higher(ensemble: MemoryEnsemble) -> None:
    one, two = Candidate(ensemble, "c1"), Candidate(ensemble, "c2")
    one.campaign()
    one.client.expire()
    assert not one.leads()
    assert two.campaign() and two.term() == 2


def test_a_restarted_process_of_the_same_name_owns_nothing_of_its_predecessor(ensemble: MemoryEnsemble) -> None:
    before = Candidate(ensemble, "c1")
    before.campaign()
    again = Candidate(ensemble, "c1")
    assert not again.leads() and not again.campaign()


def test_a_cut_off_leader_does_not_count_itself_as_leading(ensemble: MemoryEnsemble) -> None:
    one = Candidate(ensemble, "c1")
    one.campaign()
    one.client.cut()
    assert not one.leads()


@pytest.mark.parametrize("done", [True, False])
def test_an_unclear_election_is_decided_by_the_next_look(ensemble: MemoryEnsemble, done: bool) -> None:
    one = Candidate(ensemble, "c1")
    one.client.lose_reply(done)
    assert not one.campaign()
    assert one.leads() is done
    assert one.campaign() is not done
    assert one.leads() and one.term() == 1
