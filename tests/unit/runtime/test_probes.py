"""What probing turns into votes, and what it does not: our own faults and refused credentials say nothing of a database."""

from __future__ import annotations

import threading

import pytest

from failover.core.model import MemberVote, Role
from failover.engines.base import ProbeResult
from failover.errors import ConfigurationError
from failover.runtime.probes import ProbeBoard, ProbeLoop
from tests.support.builders import MEMBERS
from tests.support.fake_host import Clock

ALIVE = ProbeResult(True, Role.PRIMARY, "answers", 0.01)
DEAD = ProbeResult(False, Role.UNKNOWN, "connection refused", 0.01)
BROKEN = ProbeResult(None, Role.UNKNOWN, "password refused", 0.01)
RECOVERING = ProbeResult(True, Role.RECOVERING, "57P03", 0.01)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def board(clock: Clock) -> ProbeBoard:
    return ProbeBoard(lost_after=3, recovery_max_s=60.0)


def vote(board: ProbeBoard, *results: ProbeResult) -> MemberVote:
    for result in results:
        board.found("db1", "fresh", result)
    found = board.votes("c1", MEMBERS).of("db1")
    assert found is not None
    return found


def test_n_failures_in_a_row_are_a_vote_and_one_answer_starts_anew(board: ProbeBoard) -> None:
    assert not vote(board, DEAD, DEAD).lost
    assert not vote(board, ALIVE, DEAD, DEAD).lost
    lost = vote(board, DEAD)
    assert lost.lost and lost.why == "3 fresh probes in a row failed: connection refused" and lost.fresh == "dead"


def test_what_cannot_be_told_neither_counts_nor_starts_anew(board: ProbeBoard) -> None:
    assert not vote(board, BROKEN, BROKEN, BROKEN, BROKEN).lost
    assert not vote(board, DEAD, DEAD, BROKEN).lost
    assert vote(board, DEAD).lost


def test_a_kept_connection_that_breaks_is_a_fact_and_no_vote(board: ProbeBoard) -> None:
    board.found("db1", "fresh", ALIVE)
    for _ in range(5):
        board.found("db1", "kept", DEAD)
    found = board.votes("c1", MEMBERS).of("db1")
    assert found is not None and not found.lost and (found.fresh, found.kept) == ("alive", "dead")


def test_recovering_is_a_sign_of_life_but_not_for_ever(board: ProbeBoard, clock: Clock) -> None:
    assert not vote(board, RECOVERING).lost
    clock.advance(60.0)
    assert not vote(board, RECOVERING).lost
    clock.advance(0.1)
    stuck = vote(board, RECOVERING)
    assert stuck.lost and "crash_recovery_max" in stuck.why
    assert not vote(board, ALIVE).lost
    clock.advance(100.0)
    assert not vote(board, RECOVERING).lost, "a later recovery has its own time"


def test_a_member_never_probed_is_neither_lost_nor_seen(board: ProbeBoard) -> None:
    votes = board.votes("c1", MEMBERS)
    found = votes.of("db1")
    assert found is not None and not found.lost and found.why == "not probed yet"
    assert (votes.sees, votes.targets) == (0, 3)
    board.found("db2", "fresh", ALIVE)
    board.found("db1", "fresh", DEAD)
    assert board.votes("c1", MEMBERS).sees == 1


class Prober:
    """Fails with our own fault once, then answers; says when it was closed."""

    def __init__(self, stop: threading.Event) -> None:
        self.stop, self.asked, self.closed = stop, 0, False

    def fresh(self, budget_s: float) -> ProbeResult:
        self.asked += 1
        if self.asked == 1:
            raise ConfigurationError(["the password file cannot be read"])
        self.stop.set()
        return ALIVE

    kept = fresh

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("kind", ["fresh", "kept"])
def test_the_loop_survives_our_own_faults_and_closes_its_prober(board: ProbeBoard, kind: str) -> None:
    stop = threading.Event()
    prober = Prober(stop)
    ProbeLoop("db1", kind, lambda: prober, board, interval_s=0.01, bound_s=0.5).run(stop)
    watched = board.of("db1")
    assert prober.closed and prober.asked == 2 and watched.fails == 0
    assert (watched.fresh if kind == "fresh" else watched.kept) == ALIVE
