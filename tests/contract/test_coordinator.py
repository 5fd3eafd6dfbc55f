"""What every Coordinator promises: the twin in memory, real ZooKeeper, and the guardian's pinned client over both."""

from __future__ import annotations

import itertools
import logging
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pytest
from kazoo.retry import ForceRetryError

from failover.clock import boottime_s
from failover.coordination.base import CheckOp, Coordinator, CreateOp, DeleteOp, Entry, LostRace, Mirror, SetOp
from failover.coordination.kazoo_client import RECONNECT_PAUSE_S, make_client
from failover.coordination.memory import MemoryCoordinator, MemoryEnsemble
from failover.coordination.pinned import PinnedCoordinator
from failover.coordination.records import SIZE_MAX_BYTES
from failover.coordination.zookeeper import ZooKeeperCoordinator
from failover.errors import Refused, Unknown, Unreachable, WrongCredentials
from tests.support import zookeeper_server
from tests.support.zookeeper_server import ZooKeeperServer, leader_of

SESSION_S = 1.0
SOON_S = 5.0  # longer than anything here takes on a busy machine; every wait ends as soon as its condition holds
DIGEST = ("failover", "s3cret")
_numbers = itertools.count(1)
_never = threading.Event()


def until(condition: Callable[[], object], within_s: float = SOON_S, what: str = "") -> float:
    """Wait for `condition`; how long it took, seconds."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < within_s, f"not within {within_s} s: {what}"
        _never.wait(0.002)
    return time.monotonic() - began


def zookeeper_client(
    server: ZooKeeperServer, name: str, digest: tuple[str, str] | None = DIGEST
) -> ZooKeeperCoordinator:
    return ZooKeeperCoordinator([server.address], session_s=SESSION_S, connect_timeout_s=0.3, digest=digest, name=name)


@dataclass
class World:
    """An ensemble that can be frozen and stopped, its clients, and a fresh place in the tree for each test."""

    server: ZooKeeperServer | None
    pinned: int
    root: str
    memory: MemoryEnsemble = field(default_factory=MemoryEnsemble)
    clients: list[Coordinator] = field(default_factory=list)
    links: list[MemoryCoordinator] = field(default_factory=list)

    def _one(self, name: str) -> Coordinator:
        if self.server:
            return zookeeper_client(self.server, name)
        link = self.memory.client(name, SESSION_S)
        self.links.append(link)
        return link

    def client(self, name: str = "a") -> Coordinator:
        client: Coordinator = self._one(name)
        if self.pinned:
            client = PinnedCoordinator([client, *(self._one(f"{name}{i}") for i in range(1, self.pinned))])
        client.start(SOON_S)
        self.clients.append(client)
        return client

    def at(self, name: str) -> str:
        return f"{self.root}/{name}"

    def freeze(self) -> None:
        if self.server:
            self.server.freeze()
        for link in self.links:
            link.freeze()

    def thaw(self) -> None:
        if self.server:
            self.server.thaw()
        for link in self.links:
            link.thaw()

    def stop(self) -> None:
        if self.server:
            self.server.stop()
        for link in self.links:
            link.cut()

    def start(self) -> None:
        if self.server:
            self.server.start()
            self.server.wait_serving()
        for link in self.links:
            link.heal()


@pytest.fixture(scope="module")
def standalone() -> Iterator[ZooKeeperServer]:
    if reason := zookeeper_server.missing():
        pytest.skip(reason)
    with zookeeper_server.ensemble(1) as servers:
        yield servers[0]


@pytest.fixture(params=["memory", "zookeeper", "pinned-memory", "pinned-zookeeper"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    kind: str = request.param
    server = request.getfixturevalue("standalone") if kind.endswith("zookeeper") else None
    world = World(server, 3 if kind.startswith("pinned") else 0, f"/failover/test{next(_numbers)}")
    try:
        world.client("maker").ensure(world.root, SOON_S)
        yield world
    finally:
        for client in world.clients:
            client.close()


# Commits.


def test_all_operations_of_a_commit_happen_and_their_versions_are_told(world: World) -> None:
    client = world.client()
    client.commit([CreateOp(world.at("grant"), b"1"), CreateOp(world.at("old"), b"x")], SOON_S)
    before = boottime_s()
    done = client.commit(
        [
            CheckOp(world.at("grant"), 0),
            SetOp(world.at("grant"), b"2", 0),
            CreateOp(world.at("lease"), b"l"),
            DeleteOp(world.at("old"), 0),
        ],
        SOON_S,
    )
    assert done.versions == (0, 1, 0, -1)
    assert before <= done.sent_at_s <= boottime_s()
    grant = client.get(world.at("grant"), SOON_S)
    assert grant is not None and (grant.data, grant.version) == (b"2", 1)
    assert client.children(world.root, SOON_S) == ("grant", "lease")
    assert client.get(world.at("old"), SOON_S) is None


@pytest.mark.parametrize(
    ("op", "why"),
    [
        (CheckOp("grant", 7), "version"),
        (SetOp("grant", b"", 7), "version"),
        (DeleteOp("grant", 7), "version"),
        (CheckOp("nothing", 0), "missing"),
        (SetOp("nothing", b"", -1), "missing"),
        (DeleteOp("nothing", -1), "missing"),
        (CreateOp("grant", b""), "exists"),
        (CreateOp("nothing/below", b""), "missing"),
        (DeleteOp("", -1), "exists"),
    ],
    ids=lambda value: repr(value) if not isinstance(value, str) else value,
)
def test_one_operation_that_does_not_hold_undoes_all_and_is_named(
    world: World, op: CheckOp | SetOp | DeleteOp | CreateOp, why: str
) -> None:
    client = world.client()
    client.commit([CreateOp(world.at("grant"), b"1")], SOON_S)
    placed = type(op)(**{**op.__dict__, "path": f"{world.root}/{op.path}".rstrip("/")})
    with pytest.raises(LostRace) as lost:
        client.commit([CreateOp(world.at("first"), b""), placed, CreateOp(world.at("last"), b"")], SOON_S)
    assert (lost.value.index, lost.value.path, lost.value.why) == (1, placed.path, why)
    assert client.children(world.root, SOON_S) == ("grant",)
    grant = client.get(world.at("grant"), SOON_S)
    assert grant is not None and grant.version == 0


def test_of_two_who_set_on_the_same_version_one_loses(world: World) -> None:
    one, two = world.client("one"), world.client("two")
    one.commit([CreateOp(world.at("term"), b"0")], SOON_S)
    two.commit([SetOp(world.at("term"), b"two", 0)], SOON_S)
    with pytest.raises(LostRace):
        one.commit([SetOp(world.at("term"), b"one", 0)], SOON_S)


def test_operations_of_one_commit_see_each_other(world: World) -> None:
    client = world.client()
    made = [CreateOp(world.at("a"), b""), CreateOp(world.at("a/b"), b""), SetOp(world.at("a/b"), b"2", 0)]
    assert client.commit(made, SOON_S).versions == (0, 0, 1)


def test_a_recreated_znode_starts_at_version_0_with_another_mzxid(world: World) -> None:
    client = world.client()
    path = world.at("x")
    client.commit([CreateOp(path, b"1")], SOON_S)
    first = client.get(path, SOON_S)
    client.commit([DeleteOp(path, 0)], SOON_S)
    client.commit([CreateOp(path, b"1")], SOON_S)
    second = client.get(path, SOON_S)
    assert first is not None and second is not None
    assert first.version == second.version == 0
    assert first.mzxid < second.mzxid


def test_too_much_data_is_refused_before_it_is_sent(world: World) -> None:
    client = world.client()
    with pytest.raises(Refused):
        client.commit([CreateOp(world.at("big"), b"x" * (SIZE_MAX_BYTES + 1))], SOON_S)
    with pytest.raises(Refused):
        client.commit([CreateOp(world.at(f"big{i}"), b"x" * SIZE_MAX_BYTES) for i in range(4)], SOON_S)
    assert client.commit([CreateOp(world.at(f"fits{i}"), b"x" * SIZE_MAX_BYTES) for i in range(3)], SOON_S)
    assert client.connected()


def test_ensure_makes_all_parents_and_may_be_repeated(world: World) -> None:
    client = world.client()
    for _ in range(2):
        client.ensure(world.at("state/lease"), SOON_S)
    assert client.children(world.at("state"), SOON_S) == ("lease",)
    assert client.children(world.at("nowhere"), SOON_S) == ()


# Sessions.


def test_an_ephemeral_belongs_to_its_session_and_goes_with_it(world: World) -> None:
    owner, other = world.client("owner"), world.client("other")
    path = world.at("leader")
    owner.commit([CreateOp(path, b"me", ephemeral=True)], SOON_S)
    seen = other.get(path, SOON_S)
    assert seen is not None and seen.owner_session == owner.session() != other.session()
    owner.close()
    owner.close()
    assert not owner.connected() and owner.session() is None
    until(lambda: other.get(path, SOON_S) is None, what="the ephemeral goes")
    with pytest.raises(Unreachable):
        owner.commit([SetOp(path, b"", -1)], SOON_S)


def test_a_permanent_znode_has_no_owner_and_stays(world: World) -> None:
    owner, other = world.client("owner"), world.client("other")
    owner.commit([CreateOp(world.at("x"), b"")], SOON_S)
    owner.close()
    seen = other.get(world.at("x"), SOON_S)
    assert seen is not None and seen.owner_session == 0


def test_the_negotiated_session_is_told(world: World) -> None:
    assert world.client().negotiated_session_s() == SESSION_S


def test_the_server_may_grant_another_session_than_asked(standalone: ZooKeeperServer) -> None:
    client = ZooKeeperCoordinator([standalone.address], session_s=60, connect_timeout_s=0.3, digest=None, name="greedy")
    try:
        client.start(SOON_S)
        assert client.negotiated_session_s() == 4.0  # 20 ticks of 200 ms is ZooKeeper's own maximum
    finally:
        client.close()


# Deadlines.


def test_with_the_server_frozen_every_call_ends_by_its_deadline(world: World) -> None:
    client = world.client()
    path = world.at("x")
    client.commit([CreateOp(path, b"")], SOON_S)
    world.freeze()
    try:
        began = time.monotonic()
        while time.monotonic() - began < 1.2:
            for call in (
                lambda: client.commit([SetOp(path, b"new", -1)], 0.2),
                lambda: client.get(path, 0.2),
                lambda: client.children(world.root, 0.2),
            ):
                called = time.monotonic()
                with pytest.raises((Unknown, Unreachable)) as said:
                    call()
                assert time.monotonic() - called < 0.4, said.value
            _never.wait(0.02)
    finally:
        world.thaw()
    until(client.connected, what="connected again")


def test_the_first_commit_to_a_frozen_server_is_unknown(world: World) -> None:
    client = world.client()
    client.commit([CreateOp(world.at("x"), b"")], SOON_S)
    world.freeze()
    try:
        with pytest.raises(Unknown):
            client.commit([SetOp(world.at("x"), b"new", 0)], 0.5)  # it must have left this process
    finally:
        world.thaw()
    until(lambda: _data(client, world.at("x")) == b"new", what="the unknown commit happened after all, here")


def _data(client: Coordinator, path: str) -> bytes | None:
    try:
        entry = client.get(path, SOON_S)
    except Unreachable:
        return None
    return entry.data if entry else None


def test_while_not_connected_every_call_is_refused_at_once_and_never_done_later(world: World) -> None:
    client = world.client()
    path = world.at("x")
    client.commit([CreateOp(path, b"")], SOON_S)
    world.stop()
    try:
        until(lambda: not client.connected(), what="the loss is noticed")
        began = time.monotonic()
        with pytest.raises(Unreachable):
            client.commit([SetOp(path, b"late", -1)], SOON_S)
        with pytest.raises(Unreachable):
            client.get(path, SOON_S)
        assert time.monotonic() - began < 0.2
        assert client.session() is None
    finally:
        world.start()
    until(client.connected, what="connected again")
    assert client.commit([SetOp(path, b"on time", 0)], SOON_S).versions == (1,)


def test_start_without_a_server_says_so_in_time_and_goes_on_trying(world: World) -> None:
    world.stop()
    try:
        client = PinnedCoordinator([world._one("late")]) if world.pinned else world._one("late")
        for link in world.links:
            link.cut()
        world.clients.append(client)
        began = time.monotonic()
        with pytest.raises(Unreachable):
            client.start(0.3)
        assert time.monotonic() - began < 0.6
    finally:
        world.start()
    until(client.connected, what="connected by itself")


# Mirrors.


def picture(mirror: Mirror) -> dict[str, tuple[bytes, int]]:
    return {path.rpartition("/")[2]: (e.data, e.version) for path, e in mirror.entries().items()}


def test_a_mirror_shows_what_there_is_and_what_comes_and_goes(world: World) -> None:
    writer, reader = world.client("writer"), world.client("reader")
    writer.commit([CreateOp(world.at("grant"), b"g"), CreateOp(world.at("lease"), b"")], SOON_S)
    writer.commit([CreateOp(world.at("lease/db1"), b"1")], SOON_S)
    mirror = reader.mirror([world.at("grant"), world.at("operation")], [world.at("lease"), world.at("votes")])
    until(mirror.ready, what="ready")
    assert picture(mirror) == {"grant": (b"g", 0), "db1": (b"1", 0)}
    writer.commit([SetOp(world.at("grant"), b"G", 0), CreateOp(world.at("operation"), b"o")], SOON_S)
    writer.commit([CreateOp(world.at("votes"), b""), CreateOp(world.at("votes/c1"), b"v")], SOON_S)
    writer.commit([CreateOp(world.at("lease/db2"), b"2"), SetOp(world.at("lease/db1"), b"11", 0)], SOON_S)
    want = {"grant": (b"G", 1), "operation": (b"o", 0), "c1": (b"v", 0), "db1": (b"11", 1), "db2": (b"2", 0)}
    until(lambda: picture(mirror) == want, what="changes and creations")
    writer.commit([DeleteOp(world.at("operation"), 0), DeleteOp(world.at("lease/db1"), -1)], SOON_S)
    writer.commit([DeleteOp(world.at("votes/c1"), 0), DeleteOp(world.at("votes"), -1)], SOON_S)
    until(lambda: picture(mirror) == {"grant": (b"G", 1), "db2": (b"2", 0)}, what="deletions")
    writer.commit([CreateOp(world.at("votes"), b""), CreateOp(world.at("votes/c1"), b"w")], SOON_S)
    writer.commit([CreateOp(world.at("operation"), b"p"), CreateOp(world.at("lease/db1"), b"3")], SOON_S)
    want = {"grant": (b"G", 1), "operation": (b"p", 0), "c1": (b"w", 0), "db1": (b"3", 0), "db2": (b"2", 0)}
    until(lambda: picture(mirror) == want, what="re-creations")


def test_a_mirror_tells_a_recreated_ephemeral_from_the_old_one(world: World) -> None:
    one, two, reader = world.client("one"), world.client("two"), world.client("reader")
    path = world.at("leader")
    mirror = reader.mirror([path])
    one.commit([CreateOp(path, b"same", ephemeral=True)], SOON_S)
    until(lambda: path in mirror.entries())
    old = mirror.entries()[path]
    one.commit([DeleteOp(path, 0)], SOON_S)
    two.commit([CreateOp(path, b"same", ephemeral=True)], SOON_S)
    until(lambda: mirror.entries().get(path, old).owner_session == two.session(), what="the new owner shows")
    new = mirror.entries()[path]
    assert (old.version, new.version) == (0, 0) and new.mzxid > old.mzxid and new.seen_at_s > old.seen_at_s


def test_first_sight_of_a_version_is_not_refreshed_by_reading_it_again(world: World) -> None:
    writer, reader = world.client("writer"), world.client("reader")
    path = world.at("lease")
    writer.commit([CreateOp(path, b"1")], SOON_S)
    mirror = reader.mirror([path])
    until(mirror.ready)
    first = mirror.entries()[path]
    assert writer.commit([SetOp(path, b"2", 0)], SOON_S).sent_at_s > first.seen_at_s
    until(lambda: mirror.entries()[path].version == 1)
    second = mirror.entries()[path]
    assert second.seen_at_s > first.seen_at_s
    world.stop()
    world.start()
    until(reader.connected)
    until(lambda: _moved(writer, path), what="the writer is back")
    until(lambda: mirror.entries()[path].version == 2, what="the mirror moves on")
    assert mirror.entries()[path].seen_at_s > second.seen_at_s


def test_a_version_seen_before_a_reconnect_keeps_its_first_sight(world: World) -> None:
    client = world.client()
    path, other = world.at("lease"), world.at("other")
    client.commit([CreateOp(path, b"1"), CreateOp(other, b"")], SOON_S)
    mirror = client.mirror([path, other])
    until(mirror.ready)
    first = mirror.entries()[path]
    world.stop()
    world.start()
    until(client.connected)
    until(lambda: _moved(client, other))
    until(lambda: mirror.entries()[other].version == 1, what="the mirror is fresh again")
    assert mirror.entries()[path] == first


def _moved(client: Coordinator, path: str) -> bool:
    try:
        client.commit([SetOp(path, b"moved", -1)], SOON_S)
    except (Unreachable, Unknown):
        return False
    return True


def test_a_mirror_survives_a_restart_of_the_server(world: World) -> None:
    writer, reader = world.client("writer"), world.client("reader")
    writer.commit([CreateOp(world.at("votes"), b""), CreateOp(world.at("x"), b"")], SOON_S)
    writer.commit([CreateOp(world.at("votes/keeps"), b""), CreateOp(world.at("votes/goes"), b"")], SOON_S)
    mirror = reader.mirror([world.at("x"), world.at("later")], [world.at("votes")])
    until(mirror.ready)
    mirror.changed.clear()
    world.stop()
    assert mirror.changed.wait(SOON_S), "a connection event wakes the owner"
    world.start()
    until(lambda: writer.connected() and reader.connected())
    writer.commit([DeleteOp(world.at("votes/goes"), 0), CreateOp(world.at("later"), b"")], SOON_S)
    writer.commit([SetOp(world.at("x"), b"1", 0), SetOp(world.at("votes/keeps"), b"2", 0)], SOON_S)
    want = {"x": (b"1", 1), "keeps": (b"2", 1), "later": (b"", 0)}
    until(lambda: picture(mirror) == want and mirror.ready(), what="everything again")


def test_a_mirror_made_before_the_connection_fills_itself(world: World) -> None:
    world.client().commit([CreateOp(world.at("x"), b"1")], SOON_S)
    late = world._one("late")
    world.clients.append(late)
    mirror = late.mirror([world.at("x")])
    assert not mirror.ready() and not mirror.entries()
    late.start(SOON_S)
    until(mirror.ready)
    assert picture(mirror) == {"x": (b"1", 0)}


def test_a_snapshot_cannot_be_changed_and_does_not_change(world: World) -> None:
    client = world.client()
    client.commit([CreateOp(world.at("x"), b"1")], SOON_S)
    mirror = client.mirror([world.at("x")])
    until(mirror.ready)
    snapshot = mirror.entries()
    client.commit([DeleteOp(world.at("x"), 0)], SOON_S)
    until(lambda: not mirror.entries())
    assert list(snapshot) == [world.at("x")]
    with pytest.raises(TypeError):
        snapshot["y"] = snapshot[world.at("x")]


def test_a_closed_mirror_stays_still(world: World) -> None:
    client = world.client()
    client.commit([CreateOp(world.at("x"), b"1"), CreateOp(world.at("y"), b"1")], SOON_S)
    closed, live = client.mirror([world.at("x")]), client.mirror([world.at("x")])
    until(lambda: closed.ready() and live.ready())
    closed.close()
    client.commit([SetOp(world.at("x"), b"2", 0)], SOON_S)
    client.commit([SetOp(world.at("x"), b"3", 1)], SOON_S)
    until(lambda: picture(live) == {"x": (b"3", 2)})
    assert picture(closed) != picture(live)


def test_many_changes_are_all_seen_in_the_end(world: World) -> None:
    writer, reader = world.client("writer"), world.client("reader")
    writer.commit([CreateOp(world.at("t"), b"")], SOON_S)
    mirror = reader.mirror([], [world.at("t")])
    for turn in range(40):
        ops = [CreateOp(world.at(f"t/{turn}"), b"0"), CreateOp(world.at(f"t/e{turn}"), b"", ephemeral=True)]
        writer.commit(ops, SOON_S)
        writer.commit([SetOp(world.at(f"t/{turn}"), b"1", 0), DeleteOp(world.at(f"t/e{turn}"), 0)], SOON_S)
        if turn % 2:
            writer.commit([DeleteOp(world.at(f"t/{turn}"), 1)], SOON_S)
            writer.commit([CreateOp(world.at(f"t/{turn}"), b"2")], SOON_S)
    want = {str(turn): ((b"2", 0) if turn % 2 else (b"1", 1)) for turn in range(40)}
    until(lambda: picture(mirror) == want, what="40 children after 160 commits")


def test_a_mirror_is_ready_only_when_every_child_was_read(world: World) -> None:
    writer = world.client("writer")
    writer.commit([CreateOp(world.at("t"), b""), *(CreateOp(world.at(f"t/{i}"), b"") for i in range(300))], SOON_S)
    mirror = world.client("reader").mirror([], [world.at("t")])
    while not mirror.ready():
        mirror.changed.wait(0.0005)
    assert len(mirror.entries()) == 300


# Session loss.


def test_a_lost_session_takes_ephemerals_along_and_the_mirror_reads_again(world: World) -> None:
    owner, witness = world.client("owner"), world.client("witness")
    path, gone = world.at("leader"), []
    owner.commit([CreateOp(path, b"", ephemeral=True), CreateOp(world.at("x"), b"")], SOON_S)
    mirror = owner.mirror([path, world.at("x")])
    until(mirror.ready)
    before = owner.session()
    _expire(world, owner, gone, mirror)
    until(lambda: owner.connected() and owner.session() not in (None, before), what="a new session")
    until(lambda: mirror.ready() and picture(mirror) == {"x": (b"", 0)}, what="the mirror without the ephemeral")
    assert witness.get(path, SOON_S) is None
    assert gone == [False], "not ready between the loss and the new reading"


def _expire(world: World, owner: Coordinator, gone: list[bool], mirror: Mirror) -> None:
    """End all sessions of `owner` as the ensemble does, and note whether its mirror said ready before it could read."""
    if world.server is None:
        mine = [link for link in world.links if link.name.startswith("owner")]
        for link in mine:
            link.cut()
            link.expire()
        gone.append(mirror.ready())
        for link in mine:
            link.heal()
        return
    lanes = [lane.client for lane in owner._lanes] if isinstance(owner, PinnedCoordinator) else [owner]
    mirrors = mirror._mirrors if isinstance(owner, PinnedCoordinator) else [mirror]
    for one in mirrors:
        one._read_soon = lambda: None  # hold the reading back, to look in between
    for lane in lanes:
        _close_session_behind_its_back(lane)
    until(lambda: all(one._losses for one in mirrors), what="the loss is noticed")
    gone.append(mirror.ready())
    for one in mirrors:
        del one._read_soon
        one._read_soon()


def _close_session_behind_its_back(client: ZooKeeperCoordinator) -> None:
    """What the ensemble does to a session that was silent for long: another connection takes it over and ends it."""
    from kazoo.client import KazooClient

    host, port = client._client.hosts[0]
    thief = KazooClient(f"{host}:{port}", client_id=client._client.client_id)
    thief.start(SOON_S)
    thief.stop()
    thief.close()


# The twin's own hands.


@pytest.mark.parametrize("done", [True, False])
def test_the_twin_can_lose_a_reply(done: bool) -> None:
    client = MemoryEnsemble().client()
    client.start(1)
    client.lose_reply(done)
    with pytest.raises(Unknown):
        client.commit([CreateOp("/x", b"")], 1)
    assert (client.get("/x", 1) is not None) == done
    assert client.commit([CreateOp("/y", b"")], 1)


def test_the_twin_expires_a_silent_session_by_the_ensembles_clock() -> None:
    now = [100.0]
    ensemble = MemoryEnsemble(lambda: now[0])
    silent, other = ensemble.client("silent", session_s=2.0), ensemble.client("other")
    silent.start(1)
    other.start(1)
    silent.commit([CreateOp("/leader", b"", ephemeral=True)], 1)
    silent.cut()
    now[0] += 1.9
    assert ensemble.expire_silent() == () and other.get("/leader", 1)
    now[0] += 0.1
    assert len(ensemble.expire_silent()) == 1 and other.get("/leader", 1) is None
    assert not silent.connected()
    silent.heal()
    assert silent.connected() and silent.get("/leader", 1) is None


def test_the_twin_stamps_with_the_clients_own_clock() -> None:
    ensemble = MemoryEnsemble(lambda: 5.0)
    client = ensemble.client(clock=lambda: 77.0)
    client.start(1)
    mirror = client.mirror(["/x"])
    assert client.commit([CreateOp("/x", b"")], 1).sent_at_s == 77.0
    assert mirror.entries()["/x"].seen_at_s == 77.0


# ZooKeeper alone: the ACL, secrets, cost.


def test_every_created_znode_is_closed_to_others(standalone: ZooKeeperServer) -> None:
    ours, stranger, open_to_all = (
        zookeeper_client(standalone, "ours"),
        zookeeper_client(standalone, "stranger", ("failover", "wrong")),
        zookeeper_client(standalone, "open", None),
    )
    root = f"/acl{next(_numbers)}"
    try:
        for client in (ours, stranger, open_to_all):
            client.start(SOON_S)
        ours.ensure(f"{root}/deep", SOON_S)
        ours.commit([CreateOp(f"{root}/x", b"s", ephemeral=True), CreateOp(f"{root}/y", b"s")], SOON_S)
        for client in (stranger, open_to_all):
            for path in (root, f"{root}/deep", f"{root}/x", f"{root}/y"):
                with pytest.raises(WrongCredentials):
                    client.get(path, SOON_S)
                with pytest.raises(WrongCredentials):
                    client.commit([SetOp(path, b"mine", -1)], SOON_S)
            with pytest.raises(WrongCredentials):
                client.commit([CreateOp(f"{root}/deep/z", b"")], SOON_S)
        acls, _ = ours._client.get_acls(f"{root}/x")
        assert [(acl.perms, acl.id.scheme, acl.id.id.split(":")[0]) for acl in acls] == [(31, "digest", "failover")]
        open_to_all.ensure(f"{root}-open", SOON_S)
        assert stranger.get(f"{root}-open", SOON_S) is not None
    finally:
        for client in (ours, stranger, open_to_all):
            client.close()


def test_the_password_is_in_no_log_line_at_any_level(
    standalone: ZooKeeperServer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(1):
        logging.getLogger("kazoo").setLevel(1)
        client = zookeeper_client(standalone, "secretive")
        client.start(SOON_S)
        client.get("/", SOON_S)
        client.close()
        logging.getLogger("kazoo").setLevel(logging.NOTSET)
    assert "secretive: connected" in caplog.text
    assert DIGEST[1] not in caplog.text


def test_a_commit_overtaken_by_the_loss_of_the_link_is_never_sent_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stock kazoo keeps it in a queue and sends it when a server answers again, whatever its caller did meanwhile."""
    if reason := zookeeper_server.missing():
        pytest.skip(reason)
    with zookeeper_server.ensemble(1) as (server,):
        client = zookeeper_client(server, "overtaken")
        client.start(SOON_S)
        client.commit([CreateOp("/x", b"")], SOON_S)
        server.stop()
        until(lambda: not client.connected())
        monkeypatch.setattr(client, "_require_connection", lambda: None)  # as if it was lost just after the look
        with pytest.raises(Unreachable):
            client.commit([SetOp("/x", b"late", -1)], 0.2)
        monkeypatch.undo()
        server.start()
        until(client.connected)
        assert client.commit([CheckOp("/x", 0)], SOON_S).versions == (0,)
        client.close()


def test_close_ends_in_time_with_the_server_frozen(standalone: ZooKeeperServer) -> None:
    client = zookeeper_client(standalone, "leaving")
    client.start(SOON_S)
    assert client.get("/", SOON_S)
    standalone.freeze()
    try:
        began = time.monotonic()
        client.close()
        assert time.monotonic() - began < 2 * SESSION_S
    finally:
        standalone.thaw()


def test_a_busy_client_notices_a_silent_server_too(standalone: ZooKeeperServer) -> None:
    """Stock kazoo takes its own requests for pings and goes on for many seconds."""
    client = zookeeper_client(standalone, "busy")
    client.start(SOON_S)
    assert client.get("/", SOON_S)
    standalone.freeze()
    try:
        began = time.monotonic()
        while client.connected():
            with pytest.raises((Unknown, Unreachable)):
                client.commit([SetOp("/none", b"", -1)], 0.05)
            assert time.monotonic() - began < SESSION_S, "not within its session"
        print(f"a busy client noticed after {time.monotonic() - began:.2f} s of session {SESSION_S} s")
    finally:
        standalone.thaw()
        client.close()


def test_what_a_change_costs(standalone: ZooKeeperServer) -> None:
    writer, reader = zookeeper_client(standalone, "writer"), zookeeper_client(standalone, "reader")
    root = f"/cost{next(_numbers)}"
    try:
        writer.start(SOON_S)
        reader.start(SOON_S)
        writer.commit([CreateOp(root, b""), CreateOp(f"{root}/x", b"")], SOON_S)
        mirror = reader.mirror([], [root])
        until(mirror.ready)
        commits, sights = [], []
        for turn in range(200):
            sent = boottime_s()
            version = writer.commit([CheckOp(root, 0), SetOp(f"{root}/x", b"%d" % turn, -1)], SOON_S).versions[1]
            commits.append(boottime_s() - sent)
            until(lambda version=version: mirror.entries()[f"{root}/x"].version == version)
            sights.append(mirror.entries()[f"{root}/x"].seen_at_s - sent)
        cpu_s, began = time.process_time(), time.monotonic()
        for turn in range(300):
            writer.commit([SetOp(f"{root}/x", b"%d" % turn, -1)], SOON_S)
        cpu_ms = (time.process_time() - cpu_s) / 300 * 1000
        print(
            f"commit {_ms(commits)}; seen by another client's mirror {_ms(sights)} after sending; "
            f"commit + mirrored change {cpu_ms:.2f} ms of CPU, {300 / (time.monotonic() - began):.0f}/s"
        )
        assert statistics.median(sights) < 0.05
    finally:
        writer.close()
        reader.close()


def _ms(seconds: list[float]) -> str:
    return f"{statistics.median(seconds) * 1000:.2f} ms (max {max(seconds) * 1000:.2f})"


# The guardian's client over three servers.


@pytest.fixture(scope="module")
def three() -> Iterator[Sequence[ZooKeeperServer]]:
    if reason := zookeeper_server.missing():
        pytest.skip(reason)
    with zookeeper_server.ensemble(3) as servers:
        yield servers


@pytest.fixture
def pinned(three: Sequence[ZooKeeperServer]) -> Iterator[PinnedCoordinator]:
    """One client per server, all connected, to an ensemble that is whole; it is made whole again afterwards."""
    client = PinnedCoordinator([zookeeper_client(server, f"zk{server.number}") for server in three])
    try:
        client.start(SOON_S)
        until(lambda: all(session for session in client.sessions().values()), what="all three connected")
        yield client
    finally:
        client.close()
        for server in three:
            server.revive()
        for server in three:
            server.wait_serving()


def renewals(client: PinnedCoordinator, root: str, for_s: float, attempt_s: float = 0.25) -> tuple[float, list[str]]:
    """Renew every 0.1 s for a while. The longest time between two sent and acknowledged renewals, and what failed."""
    sent, failures, began = [boottime_s()], [], time.monotonic()
    while time.monotonic() - began < for_s:
        try:
            ops = [CheckOp(f"{root}/grant", 0), SetOp(f"{root}/lease", b"x", -1)]
            sent.append(client.commit_any(ops, attempt_s).sent_at_s)
            _never.wait(0.1)
        except (Unknown, Unreachable) as error:
            failures.append(type(error).__name__)
            _never.wait(0.02)
    sent.append(boottime_s())
    return max(later - earlier for earlier, later in itertools.pairwise(sent)), failures


def prepared(client: PinnedCoordinator) -> str:
    root = f"/pinned{next(_numbers)}"
    client.ensure(root, SOON_S)
    client.commit([CreateOp(f"{root}/grant", b""), CreateOp(f"{root}/lease", b"")], SOON_S)
    return root


Fault = Callable[[Sequence[ZooKeeperServer]], None]


def _freeze_a_follower(servers: Sequence[ZooKeeperServer]) -> None:
    next(server for server in servers if server.mode() == "follower").freeze()


def _kill_a_follower(servers: Sequence[ZooKeeperServer]) -> None:
    next(server for server in servers if server.mode() == "follower").stop()


def _kill_the_leader(servers: Sequence[ZooKeeperServer]) -> None:
    leader_of(servers).stop()


def _freeze_the_leader(servers: Sequence[ZooKeeperServer]) -> None:
    leader_of(servers).freeze()


@pytest.mark.parametrize(
    ("fault", "bound_s"),
    [(_freeze_a_follower, 0.3), (_kill_a_follower, 0.3), (_kill_the_leader, 2.5), (_freeze_the_leader, 3.5)],
)
def test_renewals_go_on_when_a_server_fails(
    three: Sequence[ZooKeeperServer], pinned: PinnedCoordinator, fault: Fault, bound_s: float
) -> None:
    root = prepared(pinned)
    quiet_s, failures = renewals(pinned, root, 0.5)
    assert not failures
    fault(three)
    gap_s, failures = renewals(pinned, root, bound_s + 1.0)
    print(f"{fault.__name__[1:]}: longest gap {gap_s:.2f} s (before: {quiet_s:.2f} s), {len(failures)} failed attempts")
    assert gap_s < bound_s


def test_reads_commits_and_the_mirror_pass_over_a_frozen_follower(
    three: Sequence[ZooKeeperServer], pinned: PinnedCoordinator
) -> None:
    root = prepared(pinned)
    made = [CreateOp(f"{root}/t", b""), CreateOp(f"{root}/t/old", b""), CreateOp(f"{root}/t/both", b"1")]
    pinned.commit(made, SOON_S)
    mirror = pinned.mirror([f"{root}/grant"], [f"{root}/t"])
    until(lambda: all(one.ready() for one in mirror._mirrors))
    _freeze_a_follower(three)
    pinned.commit_any([CheckOp(f"{root}/grant", 0)], 0.5)
    ops = [DeleteOp(f"{root}/t/old", 0), SetOp(f"{root}/t/both", b"2", 0), CreateOp(f"{root}/t/new", b"")]
    until(lambda: _did(pinned, ops), what="a commit through another client")
    took_s = until(lambda: picture(mirror) == {"grant": (b"", 0), "both": (b"2", 1), "new": (b"", 0)})
    assert took_s < 0.5
    assert _data(pinned, f"{root}/t/both") == b"2"


def _did(client: Coordinator, ops: list[DeleteOp | SetOp | CreateOp]) -> bool:
    try:
        client.commit(ops, 1.0)
    except Unreachable:
        return False
    except Unknown:
        return client.get(ops[-1].path, SOON_S) is not None
    except LostRace:
        return True
    return True


# commit_any over the twin, where every order of events can be had.


def twins(count: int) -> tuple[PinnedCoordinator, list[MemoryCoordinator]]:
    ensemble = MemoryEnsemble()
    links = [ensemble.client(f"m{i}") for i in range(count)]
    client = PinnedCoordinator(list(links))
    client.start(SOON_S)
    until(lambda: all(link.connected() for link in links))
    links[0].commit([CreateOp("/grant", b""), CreateOp("/lease", b"")], SOON_S)
    return client, links


RENEWAL = (CheckOp("/grant", 0), SetOp("/lease", b"x", -1))


def test_the_first_acknowledgement_counts_and_slow_clients_do_not_pile_up() -> None:
    client, (slow, dead, good) = twins(3)
    slow.freeze()
    dead.cut()
    began = time.monotonic()
    for turn in range(20):
        done = client.commit_any(RENEWAL, 5.0)
        assert done.versions == (0, turn + 1)
    assert time.monotonic() - began < 0.5
    slow.thaw()
    until(lambda: _version(good, "/lease") == 21, what="exactly one copy was waiting in the frozen server")
    client.close()


def _version(client: Coordinator, path: str) -> int:
    entry = client.get(path, SOON_S)
    assert entry is not None
    return entry.version


def test_a_lost_race_is_believed_at_once() -> None:
    client, (slow, good, _) = twins(3)
    good.commit([SetOp("/grant", b"claimed", 0)], SOON_S)
    slow.freeze()
    began = time.monotonic()
    with pytest.raises(LostRace) as lost:
        client.commit_any(RENEWAL, 5.0)
    assert (lost.value.index, lost.value.why) == (0, "version")
    assert time.monotonic() - began < 1.0
    client.close()


def test_unknown_if_any_copy_may_have_happened_else_unreachable() -> None:
    client, (one, two, three_) = twins(3)
    for link, done in ((one, True), (two, False)):
        link.lose_reply(done)
    three_.cut()
    with pytest.raises(Unknown):
        client.commit_any(RENEWAL, 1.0)
    for link in (one, two):
        link.cut()
    began = time.monotonic()
    with pytest.raises(Unreachable):
        client.commit_any(RENEWAL, 1.0)
    assert time.monotonic() - began < 0.2
    client.close()


def test_with_all_servers_frozen_commit_any_ends_by_its_deadline() -> None:
    client, links = twins(3)
    for link in links:
        link.freeze()
    began = time.monotonic()
    with pytest.raises(Unknown):
        client.commit_any(RENEWAL, 0.2)
    assert 0.15 < time.monotonic() - began < 0.4
    for link in links:
        link.thaw()
    client.close()


def test_commit_is_never_repeated_after_an_unknown_outcome() -> None:
    client, (one, _, _) = twins(3)
    one.lose_reply(True)
    with pytest.raises(Unknown):
        client.commit([SetOp("/lease", b"y", 0)], 1.0)
    assert _version(client, "/lease") == 1
    one.cut()
    assert client.commit([SetOp("/lease", b"z", 1)], 1.0).versions == (2,)
    client.close()


def test_a_cut_follower_neither_hides_what_is_new_nor_keeps_what_is_gone() -> None:
    client, (cut, good, other) = twins(3)
    good.commit([CreateOp("/t", b""), CreateOp("/t/goes", b""), CreateOp("/t/changes", b"1")], SOON_S)
    mirror = client.mirror(["/grant"], ["/t"])
    first = mirror.entries()["/t/changes"]
    cut.cut()
    other.cut()
    good.commit([DeleteOp("/t/goes", 0), SetOp("/t/changes", b"2", 0), CreateOp("/t/new", b"")], SOON_S)
    assert picture(mirror) == {"grant": (b"", 0), "changes": (b"2", 1), "new": (b"", 0)}
    other.heal()
    good.cut()
    good.heal()
    assert picture(mirror) == {"grant": (b"", 0), "changes": (b"2", 1), "new": (b"", 0)}
    assert mirror.entries()["/t/changes"].seen_at_s > first.seen_at_s
    assert mirror.absent_zxid("/t/goes") > first.mzxid and mirror.absent_zxid("/t/new") == 0
    client.close()


def test_the_merged_mirror_keeps_the_earliest_sight_of_the_newest_version() -> None:
    times = {"early": 10.0, "late": 20.0}
    ensemble = MemoryEnsemble()
    early, late = (ensemble.client(name, clock=lambda name=name: times[name]) for name in times)
    client = PinnedCoordinator([late, early])
    client.start(SOON_S)
    until(lambda: early.connected() and late.connected())
    mirror = client.mirror(["/x"])
    early.commit([CreateOp("/x", b"")], SOON_S)
    assert mirror.entries()["/x"].seen_at_s == 10.0
    early.cut()
    times["late"] = 30.0
    late.commit([SetOp("/x", b"", 0)], SOON_S)
    assert mirror.entries()["/x"] == Entry("/x", b"", 1, 0, 30.0, mirror.entries()["/x"].mzxid)
    client.close()


def test_a_client_that_finds_no_server_for_long_does_not_begin_to_spin() -> None:
    """Ten minutes without ZooKeeper are 6,000 pauses. kazoo's own jitter made them shorter and shorter."""
    client, _ = make_client(["127.0.0.1:1"], 1.0, 0.3, None)
    pauses_s: list[float] = []
    retry = client._conn_retry.copy()
    retry.sleep_func, retry.interrupt = pauses_s.append, None

    def connect() -> None:
        if len(pauses_s) < 6000:
            raise ForceRetryError("nobody there")

    retry(connect)
    assert len(pauses_s) == 6000 and min(pauses_s) > RECONNECT_PAUSE_S / 2 and max(pauses_s) < 2 * RECONNECT_PAUSE_S
