"""The simulated ensemble against the twin in memory, which passes the contract of real ZooKeeper; and what only the model has."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from failover.coordination.base import CheckOp, CreateOp, DeleteOp, LostRace, Op, SetOp
from failover.coordination.memory import MemoryEnsemble
from failover.sim.network import Network
from failover.sim.scheduler import Sim
from failover.sim.zookeeper import Ensemble, Node

HOSTS = ("db1", "db2", "db3")
PATHS = ("/a", "/b", "/c")
versions = st.integers(-1, 3)
paths = st.sampled_from(PATHS)
ops = st.one_of(
    st.builds(CreateOp, paths, st.just(b"x"), st.booleans()), st.builds(SetOp, paths, st.just(b"y"), versions),
    st.builds(DeleteOp, paths, versions), st.builds(CheckOp, paths, versions),
)  # fmt: skip


class Model:
    """An ensemble of three and its clock."""

    def __init__(self, seed: int = 1) -> None:
        self.sim = Sim(seed)
        self.network = Network(self.sim, HOSTS)
        self.ensemble = Ensemble(self.sim, self.network, HOSTS)
        self.leader = self.ensemble.leader
        assert self.leader is not None
        self.followers = [host for host in HOSTS if host != self.leader]

    def ask(self, host: str, session: int, *wanted: Op) -> list[object]:
        answers: list[object] = []
        self.ensemble.request(self.ensemble.servers[host], session, wanted, answers.append)
        return answers

    def run(self, seconds: float) -> None:
        self.sim.run(self.sim.now_s + seconds)


def _outcome(apply: object, session: int, wanted: Sequence[Op]) -> object:
    try:
        return apply(session, wanted)  # type: ignore[operator]  # two ensembles with one verb
    except LostRace as lost:
        return lost.index, lost.path, lost.why


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(ops, min_size=1, max_size=4), max_size=12))
def test_transactions_end_as_those_of_the_twin(transactions: list[list[Op]]) -> None:
    twin, model = MemoryEnsemble(clock=lambda: 0.0), Model()
    for wanted in transactions:
        assert _outcome(model.ensemble.transact, 7, wanted) == _outcome(twin.apply, 7, wanted)
        for path in PATHS:
            mine, theirs = model.ensemble.nodes.get(path), twin.node(path)
            assert (mine is None) == (theirs is None)
            if mine is not None and theirs is not None:
                assert (mine.value, mine.version, mine.owner) == (theirs.data, theirs.version, theirs.owner)


def test_a_follower_shows_a_change_later_than_the_leader_and_its_own_client_reads_its_own_write() -> None:
    model = Model()
    session = model.ensemble.open_session(1.0)
    follower = model.followers[0]
    model.ensemble.transact(0, [CreateOp("/a", b"1")])
    assert "/a" in model.ensemble.servers[model.leader or ""].view
    assert "/a" not in model.ensemble.servers[follower].view, "a read there is stale"
    answers = model.ask(follower, session.number, SetOp("/a", b"2", 0))
    model.run(0.1)
    assert answers == [(1,)] and model.ensemble.servers[follower].view["/a"] == Node(b"2", 1, 2, 0)


def test_a_write_that_waits_in_a_stopped_server_is_done_when_it_goes_on() -> None:
    model = Model()
    session = model.ensemble.open_session(5.0)
    follower = model.followers[0]
    model.ensemble.pause(follower)
    answers = model.ask(follower, session.number, CreateOp("/late", b""))
    model.run(0.5)
    assert not answers and "/late" not in model.ensemble.nodes
    model.ensemble.go_on(follower)
    model.run(0.1)
    assert "/late" in model.ensemble.nodes


def test_a_write_of_a_session_that_has_ended_is_never_done() -> None:
    model = Model()
    session = model.ensemble.open_session(1.0)
    model.ensemble.transact(session.number, [CreateOp("/mine", b"", ephemeral=True)])
    model.ensemble.heard(session, connected=False)
    model.run(1.5)
    assert not session.alive and "/mine" not in model.ensemble.nodes, "its ephemerals went with it"
    assert model.ask(model.leader or "", session.number, CreateOp("/late", b"")) == []
    model.run(0.5)
    assert "/late" not in model.ensemble.nodes


def test_a_leader_that_is_cut_off_commits_nothing_and_is_replaced() -> None:
    model = Model()
    session = model.ensemble.open_session(5.0)
    model.network.isolate(model.leader or "")
    answers = model.ask(model.leader or "", session.number, CreateOp("/lost", b""))
    model.run(0.9)
    assert model.ensemble.leader == model.leader, "it takes a while to see it"
    model.run(2.0)
    assert model.ensemble.leader in model.followers
    assert not answers and "/lost" not in model.ensemble.nodes
    model.ensemble.transact(0, [CreateOp("/new", b"")])
    model.network.reconnect(model.leader or "")
    model.run(1.0)
    assert "/new" in model.ensemble.servers[model.leader or ""].view, "and it catches up when it is back"


def test_without_a_majority_there_is_no_leader_and_no_session_ends() -> None:
    model = Model()
    session = model.ensemble.open_session(1.0)
    model.ensemble.heard(session, connected=False)
    for host in model.followers:
        model.ensemble.stop(host)
    model.run(10.0)
    assert model.ensemble.leader is None and session.alive
    for host in model.followers:
        model.ensemble.start(host)
    model.run(1.0)
    assert model.ensemble.leader is not None and session.alive, "a new leader gives everybody a whole session time"
    model.run(2.0)
    assert not session.alive
