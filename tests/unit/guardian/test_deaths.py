"""It knows at once: what the end of the main process means, and when it means nothing."""

from __future__ import annotations

from failover.core.model import Maintenance
from tests.support.fake_host import Authority, FakeHost


def test_the_end_of_a_primary_closes_its_epoch_before_anybody_is_asked(host: FakeHost) -> None:
    mark = len(host.events)
    host.die(orphans=2)
    assert host.since(mark)[:2] == ["gate: shut 3", "gate: cut"] and host.instance.processes().all == ()
    assert host.receipt().closes == 3 and "the main process (pid 11) ended" in host.receipt().method
    assert not host.gate.open() and host.board.own.served == 0


def test_nothing_to_watch_is_said_and_a_living_one_is_left_alone(host: FakeHost) -> None:
    mark = len(host.events)
    assert host.deaths.step(0.0) and host.since(mark) == []
    living, host.database.pid = host.database.pid, 0
    host.deaths._watch = None  # as if it had never run
    assert not host.deaths.step(0.0)
    host.database.pid = living


def test_the_same_epoch_is_not_started_again_after_it(host: FakeHost) -> None:
    host.die().turn(5)
    assert host.database.pid == 0 and "start" not in host.events and host.keeper.state.deadline_s is None


def test_a_stop_that_we_ordered_is_no_death(host: FakeHost) -> None:
    host.board.note(stopping=True)
    host.die()
    assert host.receipt().closes == 0 and host.memory.now.closed == 0


def test_a_standbys_end_closes_nothing_and_it_is_started_again(standby: FakeHost) -> None:
    standby.die()
    assert standby.receipt().closes == 0 and standby.memory.now.closed == 0
    standby.turn()
    assert "start" in standby.events


def test_a_death_while_a_person_is_at_work_is_noted_only(host: FakeHost, leader: Authority) -> None:
    leader.policy(paused_for_s=60.0)
    host.turn(2)
    host.die()
    assert host.receipt().closes == 0 and "kill" not in host.events


def test_a_death_in_maintenance_is_noted_only(host: FakeHost, leader: Authority) -> None:
    leader.policy(maintenance=(Maintenance("db1", 60.0, "disk", "ann"),))
    host.turn(2)
    host.die()
    assert host.receipt().closes == 0


def test_a_death_whose_fence_cannot_be_proved_is_finished_by_the_duty_table(host: FakeHost) -> None:
    host.disk.broken = True
    host.die()
    assert host.receipt().closes == 0 and not host.gate.open()
    host.ward()
    assert host.receipt().closes == 0
    host.disk.broken = False
    host.ward()
    assert host.receipt().closes == 3


def test_without_zookeeper_it_fences_all_the_same_and_the_receipt_follows(host: FakeHost) -> None:
    host.client.cut()
    host.die()
    assert not host.gate.open() and host.memory.now.closed == 3
    host.client.heal()
    host.ward()
    assert host.receipt().closes == 3


def test_a_death_between_two_looks_is_noticed_too(host: FakeHost) -> None:
    host.deaths.step(0.0)
    host.database.end()  # nobody waits right now, and there is no main process to open a watch on any more
    assert host.deaths.step(0.0)
    assert host.fencer.owed().closes > 0
