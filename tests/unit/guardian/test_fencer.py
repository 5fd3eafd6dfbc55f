"""Fencing and its receipt: gate, sockets, processes, disk, in that order; and no receipt while one of them is unproved."""

from __future__ import annotations

import pytest

from failover.core.model import Role
from failover.errors import Unknown
from tests.support.fake_host import FakeHost


def test_the_gate_is_shut_first_and_the_receipt_comes_last(host: FakeHost) -> None:
    host.database.orphans, mark = 3, len(host.events)
    method = host.fencer.fence(3, "the grant was claimed")
    diary = [e for e in host.since(mark) if not e.startswith("disk")]  # the disk is written beside the killing
    assert diary == ["gate: shut 3", "gate: cut", "kill", "gate: cut", "vip dropped", "arm standby"]
    assert host.disk.kept.closed == 3 and host.instance.processes().all == () and not host.gate.open()
    receipt = host.fencer.owed()
    assert (receipt.member, receipt.closes, receipt.clean) == ("db1", 3, False)
    assert receipt.method == method
    assert method == (
        "the grant was claimed; gate shut, 2 client sockets reset, no process left, VIP was not here, epoch 3 closed on disk"
    )


def test_no_receipt_while_a_process_stays(host: FakeHost) -> None:
    host.database.unkillable = True
    with pytest.raises(Unknown, match="still there"):
        host.fencer.fence(3, "claimed")
    assert host.fencer.owed().closes == 0 and not host.gate.open(), "the port is shut, but nothing is promised"
    host.database.unkillable = False
    host.fencer.fence(3, "claimed")
    assert host.fencer.owed().closes == 3


def test_no_receipt_while_the_disk_does_not_answer_but_the_killing_does_not_wait_for_it(host: FakeHost) -> None:
    host.disk.broken, mark = True, len(host.events)
    with pytest.raises(Unknown, match="disk did not say so"):
        host.fencer.fence(3, "claimed")
    assert "kill" in host.since(mark) and host.database.pid == 0 and not host.gate.open()
    assert host.fencer.owed().closes == 0 and host.memory.now.closed == 0


def test_no_receipt_while_the_gate_reads_back_open(host: FakeHost) -> None:
    host.gate.sticks_open = True
    with pytest.raises(Unknown, match="reads back open"):
        host.fencer.fence(3, "claimed")
    assert host.fencer.owed().closes == 0


def test_a_vip_that_stays_is_said_and_does_not_hold_up_the_receipt(host: FakeHost) -> None:
    host.vip.stuck = True
    assert "VIP not proved gone" in host.fencer.fence(3, "claimed")
    assert host.fencer.owed().closes == 3


def test_after_it_the_epoch_cannot_be_armed_nor_opened_again(host: FakeHost) -> None:
    host.fencer.fence(3, "claimed")
    assert not host.gate.arm(1_000_000, 3.0, epoch=3)
    host.turn(3)
    assert not host.gate.open() and host.keeper.state.deadline_s is None and host.database.pid == 0


def test_fencing_twice_is_fencing_once_unless_something_runs_again(host: FakeHost) -> None:
    first, mark = host.fencer.fence(3, "claimed"), len(host.events)
    assert host.fencer.fence(3, "again") == first and "kill" not in host.since(mark)
    assert host.fencer.fence(2, "an older order") == first
    host.database.run(77, Role.PRIMARY)
    host.fencer.fence(3, "somebody started it by hand")
    assert host.database.pid == 0 and host.fencer.owed().method.startswith("somebody started it by hand")


def test_a_clean_stop_is_said_on_the_receipt_but_not_after_a_handover(host: FakeHost) -> None:
    host.database.end(clean=True)
    host.fencer.fence(3, "stopped")
    assert host.fencer.owed().clean
    host.database.end(clean=True)
    host.fencer.fence(4, "handed over", handed_over=True)
    assert not host.fencer.owed().clean


def test_a_soft_fence_promises_nothing_and_the_same_epoch_may_be_proved_again(host: FakeHost) -> None:
    mark = len(host.events)
    host.fencer.soft(0.5)
    assert host.since(mark) == ["gate: shut", "gate: cut", "stop fast", "gate: cut", "vip dropped"]
    assert host.fencer.owed().closes == 0 and host.memory.now.closed == 0
    assert host.gate.arm(1_000_000, 3.0, epoch=3)


def test_a_soft_fence_that_is_not_obeyed_becomes_hard(host: FakeHost) -> None:
    host.database.stubborn = True
    host.fencer.soft(0.5)
    assert host.database.pid == 0 and "kill" in host.events
