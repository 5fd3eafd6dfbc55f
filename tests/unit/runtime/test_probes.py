"""What probing turns into votes, and what it does not: our own faults and refused credentials say nothing of a database."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from failover.core.model import MemberVote, Role
from failover.engines.base import ProbeResult
from failover.errors import ConfigurationError
from failover.profiles import PROFILES
from failover.runtime.probes import ProbeBoard, ProbeLoop
from tests.support.builders import MEMBERS
from tests.support.fake_host import Clock

INTERVAL_S, BOUND_S = 0.25, 0.5
ALIVE = ProbeResult(True, Role.PRIMARY, "answers", 0.0)
SILENT = ProbeResult(False, Role.UNKNOWN, "no answer in time", BOUND_S)
CLOSED = ProbeResult(False, Role.UNKNOWN, "does not listen", 0.0, answered_by="host")
HANGS = ProbeResult(False, Role.UNKNOWN, "login hangs", BOUND_S, answered_by="server")
BROKEN = ProbeResult(None, Role.UNKNOWN, "password refused", 0.0)
REFUSED = ProbeResult(None, Role.UNKNOWN, "credentials refused", 0.0, answered_by="server")
RECOVERING = ProbeResult(True, Role.RECOVERING, "57P03", 0.0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def board(clock: Clock) -> ProbeBoard:
    """As on `lan`, beside db2: three probes, and 3 x (0.25 + 0.5) s of silence."""
    return ProbeBoard(lost_after=3, recovery_max_s=60.0, silence_s=2.25, beside="db2", bound_s=BOUND_S)


def of_db1(board: ProbeBoard) -> MemberVote:
    found = board.votes("c1", MEMBERS).of("db1")
    assert found is not None
    return found


def vote(board: ProbeBoard, *results: ProbeResult) -> MemberVote:
    for result in results:
        board.found("db1", "fresh", result)
    return of_db1(board)


def silence(board: ProbeBoard, clock: Clock, probes: int) -> MemberVote:
    """Probes that find nobody, as the loop makes them on `lan`."""
    for _ in range(probes):
        clock.advance(INTERVAL_S + BOUND_S)
        board.found("db1", "fresh", SILENT)
    return of_db1(board)


# --- silence ----------------------------------------------------------------------------------------------------------
def test_a_vote_takes_n_failures_and_the_whole_silence(board: ProbeBoard, clock: Clock) -> None:
    vote(board, ALIVE)
    assert not silence(board, clock, 3).lost, "the third began 1.75 s after the last answer"
    lost = silence(board, clock, 1)
    assert lost.lost and lost.fresh == "dead"
    assert lost.why == "4 fresh probes in a row failed, 2.5 s after the last answer: no answer in time"


def test_one_answer_starts_anew(board: ProbeBoard, clock: Clock) -> None:
    vote(board, ALIVE)
    silence(board, clock, 3)
    assert not vote(board, ALIVE).lost
    assert not silence(board, clock, 3).lost and silence(board, clock, 1).lost


@pytest.mark.parametrize("blip_s", [0.5, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("phase", [0.0, 0.07, 0.13, 0.2, 0.249])
def test_a_blip_of_up_to_the_bound_of_t4_never_makes_a_vote(board: ProbeBoard, clock: Clock, blip_s: float, phase: float) -> None:
    """Also when the last probe of the blip begins in it and fails long after its end."""
    vote(board, ALIVE)
    begins_s, ends_s = clock.now_s + phase, clock.now_s + phase + blip_s
    clock.advance(INTERVAL_S)
    while begins_s <= clock.now_s < ends_s:
        clock.advance(BOUND_S)
        assert not vote(board, SILENT).lost
        clock.advance(INTERVAL_S)
    assert not vote(board, ALIVE).lost


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_a_death_is_voted_within_the_time_that_the_profile_promises(clock: Clock, name: str) -> None:
    t = PROFILES[name]
    board = ProbeBoard(t.probes_lost, 60.0, t.silence_s)
    vote(board, ALIVE)
    died_s = clock.now_s
    while not of_db1(board).lost:
        clock.advance(t.probe_interval_s + t.probe_bound_s)
        board.found("db1", "fresh", ProbeResult(False, Role.UNKNOWN, "no answer in time", t.probe_bound_s))
    assert clock.now_s - died_s == pytest.approx(t.detection_s)


def test_a_primary_that_was_dead_before_we_looked_is_voted_lost_as_well(board: ProbeBoard, clock: Clock) -> None:
    assert not silence(board, clock, 3).lost
    assert silence(board, clock, 1).lost


def test_a_refused_connection_counts_like_silence_and_not_quicker(board: ProbeBoard, clock: Clock) -> None:
    """That is what every restart looks like; a guardian's receipt is quicker than any probe."""
    vote(board, ALIVE)
    for _ in range(8):
        clock.advance(INTERVAL_S)
        assert not vote(board, CLOSED).lost
    clock.advance(INTERVAL_S)
    assert vote(board, CLOSED).lost


def test_what_cannot_be_told_neither_counts_nor_starts_anew(board: ProbeBoard, clock: Clock) -> None:
    for _ in range(20):
        clock.advance(INTERVAL_S)
        assert not vote(board, BROKEN).lost
    vote(board, ALIVE)
    silence(board, clock, 3)
    broken = vote(board, BROKEN)
    assert not broken.lost and broken.fresh == "unknown" and broken.why == "probe broken: password refused"
    assert silence(board, clock, 1).lost


def test_a_broken_probe_is_a_problem_for_a_person(board: ProbeBoard) -> None:
    vote(board, ALIVE)
    assert board.problems() == ()
    vote(board, BROKEN)
    (problem,) = board.problems()
    assert problem.code == "probe-broken" and "db1" in problem.text and "password refused" in problem.text


# --- two kinds of connection ------------------------------------------------------------------------------------------------
def test_a_kept_connection_that_breaks_is_a_fact_and_no_vote(board: ProbeBoard) -> None:
    board.found("db1", "fresh", ALIVE)
    for _ in range(5):
        board.found("db1", "kept", SILENT)
    found = of_db1(board)
    assert not found.lost and (found.fresh, found.kept) == ("alive", "dead")


def test_a_hung_postmaster_is_lost_although_the_kept_connection_answers(board: ProbeBoard, clock: Clock) -> None:
    vote(board, ALIVE)
    board.found("db1", "kept", ALIVE)
    lost = silence(board, clock, 4)
    assert lost.lost and lost.kept == "alive" and lost.why.endswith("its kept connection still answers (a hung postmaster?)")


def test_a_patient_probe_gives_a_starved_server_time_and_finds_a_hung_one_as_soon(board: ProbeBoard, clock: Clock) -> None:
    vote(board, ALIVE)
    board.found("db1", "kept", ALIVE)
    silence(board, clock, 1)
    assert board.of("db1").perhaps_hung
    clock.advance(INTERVAL_S + 4 * BOUND_S)
    lost = vote(board, replace(SILENT, took_s=4 * BOUND_S))
    assert lost.lost and "5 fresh probes in a row failed, 2.5 s after" in lost.why
    assert not vote(board, replace(ALIVE, took_s=1.7)).lost


def test_a_blip_in_the_middle_of_a_patient_probe_does_not_count_as_four(board: ProbeBoard, clock: Clock) -> None:
    vote(board, ALIVE)
    board.found("db1", "kept", SILENT)
    silence(board, clock, 1)
    clock.advance(INTERVAL_S + 4 * BOUND_S)
    assert not vote(board, replace(SILENT, took_s=4 * BOUND_S)).lost


def test_a_login_that_hangs_is_a_sign_of_life_while_the_kept_connection_is_served(board: ProbeBoard, clock: Clock) -> None:
    """A lock on the catalogs, a starved processor: nobody gets in, and nobody is dead."""
    board.found("db1", "kept", ALIVE)
    for _ in range(20):
        clock.advance(INTERVAL_S + BOUND_S)
        assert not vote(board, HANGS).lost
    assert "busy, not dead" in of_db1(board).why
    board.found("db1", "kept", SILENT)
    for _ in range(4):
        clock.advance(INTERVAL_S + BOUND_S)
        vote(board, HANGS)
    assert of_db1(board).lost, "nobody is served any more"


def test_recovering_is_a_sign_of_life_but_not_for_ever(board: ProbeBoard, clock: Clock) -> None:
    assert not vote(board, RECOVERING).lost
    clock.advance(60.0)
    recovering = vote(board, RECOVERING)
    assert not recovering.lost and recovering.why == "recovering for 60 s of at most 60: 57P03"
    clock.advance(0.1)
    stuck = vote(board, RECOVERING)
    assert stuck.lost and "crash_recovery_max" in stuck.why
    assert not vote(board, ALIVE).lost
    clock.advance(100.0)
    assert not vote(board, RECOVERING).lost, "a later recovery has its own time"


def test_a_member_never_probed_is_neither_lost_nor_seen(board: ProbeBoard) -> None:
    found = of_db1(board)
    assert not found.lost and found.why == "not probed yet" and found.sees == ()


# --- whom this controller sees ----------------------------------------------------------------------------------------------
def test_witnesses_are_the_other_hosts_and_zookeeper(board: ProbeBoard) -> None:
    assert board.votes("c1", MEMBERS).beside == "db2"
    for member in ("db1", "db2", "db3"):
        board.found(member, "fresh", ALIVE)
    board.zookeeper(True)
    assert of_db1(board).sees == ("db3", "ZooKeeper"), "neither the suspect nor the member on our own host"
    board.zookeeper(False)
    assert of_db1(board).sees == ("db3",)


@pytest.mark.parametrize("answer", [CLOSED, HANGS, REFUSED, RECOVERING], ids=lambda r: r.detail)
def test_whatever_comes_back_shows_that_the_way_there_works(board: ProbeBoard, answer: ProbeResult) -> None:
    board.found("db3", "fresh", answer)
    assert of_db1(board).sees == ("db3",)


@pytest.mark.parametrize("nothing", [SILENT, BROKEN], ids=lambda r: r.detail)
def test_silence_and_our_own_faults_show_nothing(board: ProbeBoard, nothing: ProbeResult) -> None:
    board.found("db3", "fresh", ALIVE)
    board.found("db3", "fresh", nothing)
    assert of_db1(board).sees == ()


def test_who_answers_only_since_the_failed_probe_began_is_no_witness(board: ProbeBoard, clock: Clock) -> None:
    """Everything was cut off, and everything comes back: the first to answer must not confirm the loss of the rest."""
    vote(board, ALIVE)
    board.found("db3", "fresh", ALIVE)
    board.zookeeper(True)
    silence(board, clock, 4)
    board.found("db3", "fresh", SILENT)
    board.zookeeper(False)
    silence(board, clock, 1)
    board.zookeeper(True)
    board.found("db3", "fresh", ALIVE)
    assert of_db1(board).lost and of_db1(board).sees == ()
    assert silence(board, clock, 1).sees == ("db3", "ZooKeeper"), "this one began when they were back"


# --- the loop ---------------------------------------------------------------------------------------------------------------
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


class Silent:
    """Nobody ever answers; ends the loop after so many probes."""

    def __init__(self, stop: threading.Event, probes: int, result: ProbeResult) -> None:
        self.stop, self.left, self.result = stop, probes, result

    def fresh(self, budget_s: float) -> ProbeResult:
        self.left -= 1
        if not self.left:
            self.stop.set()
        return self.result

    kept = fresh

    def close(self) -> None:
        pass


class Paused(threading.Event):
    """Notes every pause and makes none."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.pauses.append(round(timeout or 0.0, 3))
        return self.is_set()


@pytest.mark.parametrize("kind", ["fresh", "kept"])
def test_a_silent_member_is_probed_less_and_less(board: ProbeBoard, kind: str) -> None:
    """300 probes of a frozen server filled its listen queue."""
    stop = Paused()
    ProbeLoop("db1", kind, lambda: Silent(stop, 9, SILENT), board, 0.25, 0.5, patience=4).run(stop)
    assert stop.pauses == [0.25, 0.25, 0.25, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_a_closed_port_is_asked_as_often_as_ever(board: ProbeBoard) -> None:
    stop = Paused()
    ProbeLoop("db1", "fresh", lambda: Silent(stop, 9, CLOSED), board, 0.25, 0.5, patience=4).run(stop)
    assert set(stop.pauses) == {0.25}
