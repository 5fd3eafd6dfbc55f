"""The simulated database: commits, streaming, deaths and forks, as PostgreSQL does them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count

import pytest

from failover.core.model import Role, SyncSet
from failover.engines.base import Upstream
from failover.errors import FailoverError
from failover.sim.database import Database
from failover.sim.engine import SimEngine, SimInstance
from failover.sim.fleet import Clients
from failover.sim.kernel import SimSealer
from failover.sim.machine import Machine
from failover.sim.network import Network
from failover.sim.scheduler import Process, Sim
from failover.sim.threads import simulated

NAMES = ("db1", "db2", "db3")
ANY_ONE = SyncSet(1, ("db2", "db3"))


class Lab:
    """Three databases, the first one primary, the others streaming from it; and whoever hears what was acknowledged."""

    def __init__(self, sync: SyncSet | None) -> None:
        self.sim = Sim(seed=5)
        self.network = Network(self.sim, (*NAMES, "app"))
        self.acked: list[tuple[str, int]] = []
        self.machines = {name: Machine(self.sim, name, f"10.0.0.{n}") for n, name in enumerate(NAMES, start=1)}
        peers: dict[str, Database] = {}
        timelines = count(2)
        for machine in self.machines.values():
            Database(self.sim, machine, self.network, self, peers, lambda: next(timelines))
        self.db1, self.db2, self.db3 = (machine.database for machine in self.machines.values())
        self.db1.run_now(Role.PRIMARY)
        self.db1.sync = sync
        for standby in (self.db2, self.db3):
            standby.run_now(Role.STANDBY, self.db1.address)
        self.run(0.3)

    def acknowledged(self, member: str, write_id: int, offset: int, sync: SyncSet | None, /) -> None:
        self.acked.append((member, write_id))

    def promoted(self, member: str, /) -> None:
        """Nobody asks here."""

    def run(self, for_s: float) -> None:
        self.sim.run(self.sim.now_s + for_s)

    def hands(self, name: str) -> tuple[SimEngine, SimInstance, SimSealer, Process]:
        machine = self.machines[name]
        process = Process(self.sim, f"guardian {name}", machine.clock)
        return SimEngine(machine, process), SimInstance(machine, process), SimSealer(machine, process), process

    def do(self, process: Process, story: Callable[[], object], for_s: float = 1.0) -> list[object]:
        """What the story returned, or the error it ended with."""
        said: list[object] = []

        def body() -> None:
            try:
                said.append(story())
            except FailoverError as error:
                said.append(error)

        process.spawn("story", body)
        self.run(for_s)
        return said


@pytest.fixture
def lab() -> Iterator[Lab]:
    yield from _lab(ANY_ONE)


@pytest.fixture
def alone() -> Iterator[Lab]:
    yield from _lab(None)


def _lab(sync: SyncSet | None) -> Iterator[Lab]:
    lab = Lab(sync)
    with simulated(lab.sim):
        yield lab


def test_a_strict_commit_is_answered_when_one_standby_has_it(lab: Lab) -> None:
    assert lab.db1.submit(1)
    lab.run(0.6)
    assert lab.acked == [("db1", 1)]
    assert lab.db2.contains(1) and lab.db3.contains(1)
    assert lab.db2.wal.position == lab.db1.wal.position


def test_a_strict_commit_waits_for_ever_without_standbys_and_goes_on_when_the_set_is_changed(lab: Lab) -> None:
    lab.network.isolate("db1")
    lab.db1.submit(1)
    lab.run(3.0)
    assert lab.acked == [] and lab.db1.contains(1) and lab.db1.state().waiting_for_sync == 1
    lab.db1.apply_sync(None)
    assert lab.acked == [("db1", 1)]


def test_a_strict_commit_waits_when_every_standby_has_gone(lab: Lab) -> None:
    lab.db2.kill_all()
    lab.db3.kill_all()
    lab.run(0.1)
    lab.db1.submit(1)
    lab.run(1.0)
    assert lab.acked == [] and lab.db1.state().attached == ()


def test_what_is_in_the_receivers_socket_at_the_seal_is_stored_and_never_acknowledged(lab: Lab) -> None:
    lab.network.isolate("db3")
    lab.db1.submit(1)
    kernel, position = lab.machines["db2"].kernel, lab.db2.wal.position
    arrive = lab.db2.receiving.arrive

    def arrive_and_seal(*segment: object) -> None:
        arrive(*segment)  # type: ignore[arg-type]  # handed on as it came
        kernel.sealed_against = lab.db1.address
        assert lab.db2.wal.position == position, "nothing is stored yet"

    lab.db2.receiving.arrive = arrive_and_seal  # type: ignore[assignment,method-assign]  # the instant between arrival and disk
    lab.run(1.0)
    assert lab.db2.contains(1) and lab.acked == []


def test_a_lost_segment_is_sent_again_and_arrives_once(lab: Lab) -> None:
    lab.network.loss, lab.network.twice = 0.4, 0.4
    for write in range(1, 21):
        lab.db1.submit(write)
        lab.run(0.05)
    lab.network.heal()
    lab.run(8.0)
    assert sorted(write for _, write in lab.acked) == list(range(1, 21))
    assert lab.db2.wal.entries == lab.db1.wal.entries == lab.db3.wal.entries


def test_nothing_happens_between_idle_members_but_a_keepalive(lab: Lab) -> None:
    lab.run(5.0)
    before = lab.sim.events
    lab.run(10.0)
    assert lab.sim.events - before <= 2 * 11


def test_a_sealed_standby_acknowledges_nothing_and_its_receiver_ends_within_milliseconds(lab: Lab) -> None:
    lab.network.isolate("db3")
    _, _, sealer, process = lab.hands("db2")
    lab.do(process, lambda: sealer.seal(lab.db1.address, 5432), 0.01)
    lab.db1.submit(1)
    lab.run(3.0)
    assert not lab.db2.state().streaming and not lab.db2.contains(1) and lab.acked == []
    lab.do(process, sealer.unseal, 0.5)
    lab.run(3.0)
    assert lab.acked == [("db1", 1)]


def test_a_seal_by_sql_alone_can_go_on_acknowledging(lab: Lab) -> None:
    lab.network.isolate("db3")
    lab.machines["db2"].trouble["engine.stop_receiving"] = "ineffective"
    engine, _, _, process = lab.hands("db2")
    lab.do(process, lambda: engine.stop_receiving(1.0), 0.02)
    lab.db1.submit(1)
    lab.run(0.4)
    assert lab.db2.state().configured_upstream == "" and lab.acked == [("db1", 1)]
    lab.run(3.0)
    lab.db1.submit(2)
    lab.run(1.0)
    assert lab.acked == [("db1", 1)]


def test_an_answer_does_not_leave_through_a_shut_gate_although_the_commit_is_there(lab: Lab) -> None:
    lab.db1.submit(1)
    lab.machines["db1"].kernel.shut()
    lab.run(0.6)
    assert lab.db1.contains(1) and lab.acked == []
    assert not lab.db1.submit(2)


def test_an_orphan_commits_and_answers_after_its_main_process_has_died(alone: Lab) -> None:
    alone.db1.submit(1)
    alone.db1.crash(orphans_s=10.0)
    alone.run(0.6)
    assert alone.acked == [("db1", 1)] and alone.db1.main == 0 and alone.db1.children
    assert not alone.db1.submit(2)


def test_killing_every_process_ends_what_was_under_way(alone: Lab) -> None:
    alone.db1.submit(1)
    alone.db1.crash(orphans_s=10.0)
    _, instance, _, _ = alone.hands("db1")
    alone.db1.kill_all()
    alone.run(0.6)
    assert alone.acked == [] and not instance.processes().all


def test_a_stopped_server_is_silent_and_does_the_rest_when_it_goes_on(alone: Lab) -> None:
    engine, _, _, process = alone.hands("db1")
    alone.db1.submit(1)
    alone.db1.freeze()
    said = alone.do(process, lambda: engine.state(0.5), 0.8)
    assert alone.db1.probe() is None and type(said[0]).__name__ == "Unknown" and alone.acked == []
    alone.db1.thaw()
    alone.run(0.6)
    assert alone.acked == [("db1", 1)]


def test_two_forks_are_incomparable_and_the_old_one_cannot_simply_follow(alone: Lab) -> None:
    alone.network.isolate("db1")
    alone.db1.submit(1)
    engine, _, _, process = alone.hands("db2")
    alone.do(process, lambda: engine.promote(None, (), 5.0))
    alone.db2.submit(2)
    alone.run(0.6)
    old, new = alone.db1.wal.position, alone.db2.wal.position
    assert not old.covers(new) and not new.covers(old) and old.fork(new) is not None
    alone.db1.kill_all()
    alone.db1.standby_signal, alone.db1.receiving.upstream = True, alone.db2.address
    alone.network.heal()
    alone.db1.start_by_hand()
    alone.run(2.0)
    assert alone.db1.accepts and not alone.db1.state().streaming and not alone.db1.contains(2)


def test_a_follower_that_is_part_of_the_new_history_follows_it(lab: Lab) -> None:
    lab.network.isolate("db1")
    engine, _, _, process = lab.hands("db2")
    third, _, _, other = lab.hands("db3")
    lab.do(process, lambda: engine.promote(SyncSet(1, ("db3",)), (), 5.0), 0.1)
    lab.do(other, lambda: third.follow(Upstream("db2", lab.db2.address, 5432), 1.0), 0.1)
    lab.db2.submit(7)
    lab.run(0.6)
    assert lab.acked == [("db2", 7)] and lab.db3.wal.position.timeline == lab.db2.wal.position.timeline == 2


def test_an_orderly_stop_leaves_its_last_record_on_the_standbys(lab: Lab) -> None:
    engine, instance, _, process = lab.hands("db1")
    assert lab.do(process, lambda: instance.stop("fast", 3.0)) == [True]
    control = lab.do(process, engine.control_state)[0]
    assert control.clean and control.position == lab.db2.wal.position == lab.db3.wal.position  # type: ignore[attr-defined]
    lab.run(6.0)
    assert not lab.db2.state().streaming


def test_a_stop_that_hangs_is_said_to_and_takes_no_writes(lab: Lab) -> None:
    lab.machines["db1"].trouble["instance.stop"] = "hangs"
    _, instance, _, process = lab.hands("db1")
    assert lab.do(process, lambda: instance.stop("fast", 0.5)) == [False]
    assert not lab.db1.submit(1) and lab.db1.main
    assert lab.do(process, lambda: instance.stop("immediate", 0.5)) == [True]
    assert not lab.db1.clean


def test_a_former_primary_started_by_hand_is_a_primary_and_an_armed_one_a_standby(lab: Lab) -> None:
    for armed, role in ((False, Role.PRIMARY), (True, Role.STANDBY)):
        lab.db1.kill_all()
        lab.db1.standby_signal = armed
        assert lab.db1.start_by_hand()
        lab.run(0.5)
        assert lab.db1.accepts and lab.db1.role is role


def test_a_start_outlives_the_guardian_that_asked_for_it(lab: Lab) -> None:
    lab.db2.kill_all()
    _, instance, _, process = lab.hands("db2")
    process.spawn("start", lambda: print(instance.start_standby(5.0)))
    lab.run(0.02)
    process.kill()
    lab.run(2.0)
    assert lab.db2.accepts and lab.db2.state().streaming


def test_a_standby_notices_a_host_without_power_and_comes_back_to_it(lab: Lab) -> None:
    lab.network.fell("db1")
    lab.machines["db1"].power_off()
    lab.run(2.0)
    assert lab.db2.state().streaming, "nobody told it"
    lab.run(4.0)
    assert not lab.db2.state().streaming
    lab.network.rose("db1")
    lab.machines["db1"].boot()
    lab.db1.start_by_hand()
    lab.run(2.0)
    assert lab.db2.state().streaming


def test_a_watch_hears_of_the_death_it_was_opened_for(lab: Lab) -> None:
    _, instance, _, process = lab.hands("db1")

    def story() -> tuple[bool, bool]:
        watch = instance.watch()
        assert watch is not None
        return watch.wait(0.5), watch.wait(0.5)

    lab.sim.after(0.7, lambda: lab.db1.crash())
    assert lab.do(process, story, 2.0) == [(False, True)]


def test_pinned_writers_count_what_they_were_told(lab: Lab) -> None:
    clients = Clients(lab.sim, lab.machines.values(), lab.network, 0.05)
    clients.start()
    lab.run(2.0)
    clients.stop()
    lab.run(1.0)
    assert clients.submitted == 3 * clients.accepted and clients.acknowledged == clients.accepted == len(lab.acked) > 30
