"""The simulated kernel and the guardian's hands on it: what the real one was measured to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from failover.errors import Refused, Unknown
from failover.sim.kernel import SimGate, SimSealer, SimVip
from failover.sim.machine import Machine
from failover.sim.scheduler import Clock, Process, Sim
from failover.sim.threads import simulated


class Host:
    """One machine without a database, and a guardian process whose body is whatever the story says."""

    def __init__(self, rate: float = 1.0) -> None:
        self.sim = Sim(seed=1)
        self.machine = Machine(self.sim, "db1", "10.0.0.1", Clock(self.sim, rate))
        self.process = Process(self.sim, "guardian", self.machine.clock)
        self.gate = SimGate(self.machine, self.process)

    @property
    def open(self) -> bool:
        return self.machine.kernel.open_to_clients()

    def do(self, story: Callable[[], object], for_s: float = 1.0) -> None:
        def body() -> None:
            story()

        self.process.spawn("story", body)
        self.sim.run(self.sim.now_s + for_s)

    def opened(self, lifetime_s: float) -> float:
        """Through a ticket; the true time at which it was armed."""
        armed: list[float] = []

        def story() -> None:
            self.gate.install_shut()
            self.gate.arm(7, lifetime_s, 1)
            armed.append(self.machine.kernel.elements[7] or 0.0)
            self.gate.switch(7)

        self.do(story, 0.02)
        return armed[0]


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    with simulated(host.sim):
        yield host


def test_a_host_without_our_table_is_open_and_one_with_it_is_shut(host: Host) -> None:
    assert host.open
    host.do(host.gate.install_shut)
    assert not host.open


def test_a_ticket_is_inert_until_it_is_switched_into_force(host: Host) -> None:
    def story() -> None:
        host.gate.install_shut()
        assert host.gate.arm(7, 5.0, 1)

    host.do(story)
    assert 7 in host.machine.kernel.elements and not host.open
    host.do(lambda: host.gate.switch(7))
    assert host.open


def test_a_ticket_ends_by_itself_while_its_guardian_is_stopped(host: Host) -> None:
    ends_s = host.opened(2.0)
    host.process.pause()
    host.sim.run(ends_s - 1e-6)
    assert host.open
    host.sim.run(ends_s)
    assert not host.open


def test_a_slow_clock_holds_its_ticket_longer_in_true_time() -> None:
    host = Host(rate=0.5)
    with simulated(host.sim):
        ends_s = host.opened(2.0)
        host.sim.run(3.9)
        assert host.open and ends_s > 4.0
        host.sim.run(4.1)
        assert not host.open


def test_a_closed_epoch_is_never_armed_again_and_a_shut_gate_forgets_every_ticket(host: Host) -> None:
    host.opened(5.0)
    said: list[bool] = []

    def story() -> None:
        host.gate.shut(3)
        said.append(host.gate.arm(8, 5.0, 3))
        said.append(host.gate.arm(9, 5.0, 4))

    host.do(story)
    assert said == [False, True]
    assert not host.open and list(host.machine.kernel.elements) == [9]


def test_switching_to_a_ticket_that_was_flushed_leaves_the_port_shut(host: Host) -> None:
    said: list[str] = []

    def story() -> None:
        host.gate.install_shut()
        host.gate.arm(7, 5.0, 1)
        host.gate.shut(None)
        try:
            host.gate.switch(7)
        except Refused as error:
            said.append(str(error))

    host.do(story)
    assert said and not host.open


def test_a_flushed_table_is_an_open_port_until_it_is_read_back(host: Host) -> None:
    host.opened(5.0)
    host.machine.kernel.flush()
    assert host.open and host.machine.kernel.table_removed.is_set()
    repaired: list[bool] = []
    host.do(lambda: repaired.extend(host.gate.read_back().repaired for _ in range(2)))
    assert repaired == [True, False] and not host.open


def test_an_answer_that_the_gate_held_back_leaves_when_it_opens_unless_the_session_was_cut(host: Host) -> None:
    left: list[str] = []
    kernel = host.machine.kernel
    kernel.shut()
    kernel.answer(lambda: left.append("kept"))
    host.sim.run(0.3)
    assert not left
    kernel.table = False
    host.sim.run(1.0)
    assert left == ["kept"]
    kernel.shut()
    kernel.answer(lambda: left.append("cut"))
    kernel.unsent.clear()
    kernel.table = False
    host.sim.run(20.0)
    assert left == ["kept"]


def test_a_guardian_killed_at_the_boundary_has_changed_nothing_and_one_killed_after_it_has(host: Host) -> None:
    for label, changed in (("gate.install_shut", False), ("gate.install_shut done", True)):
        process = Process(host.sim, "another", host.machine.clock)
        gate = SimGate(host.machine, process)
        after: list[str] = []

        def die(who: Process, at: str, wanted: str = label) -> None:
            if at == wanted:
                who.kill()

        def story(gate: SimGate = gate, after: list[str] = after) -> None:
            gate.install_shut()
            after.append("went on")

        host.sim.on_boundary = die
        process.spawn("story", story)
        host.sim.run(host.sim.now_s + 1.0)
        assert (host.machine.kernel.table, after) == (changed, [])


@pytest.mark.parametrize("trouble", ["fails", "hangs"])
def test_injected_trouble_says_unknown_and_does_nothing(host: Host, trouble: str) -> None:
    host.machine.trouble["gate.install_shut"] = trouble
    said: list[str] = []

    def story() -> None:
        try:
            host.gate.install_shut()
        except Unknown as error:
            said.append(str(error))

    host.do(story, 3.0)
    assert said and not host.machine.kernel.table


def test_a_vip_is_kept_for_whole_seconds_and_goes_by_itself(host: Host) -> None:
    heard: list[str] = []
    vip = SimVip(host.machine, host.process, heard.append)
    host.do(lambda: vip.hold(1.2, announce=True), 1.9)
    assert host.machine.kernel.holds_vip() and heard == ["db1"]
    host.sim.run(2.1)
    assert not host.machine.kernel.holds_vip()


def test_a_boot_gives_a_kernel_that_knows_neither_gate_nor_seal(host: Host) -> None:
    class NoDatabase:
        class receiving:
            cut_off = staticmethod(lambda address: None)

        vanish = staticmethod(lambda: None)

    host.machine.database = NoDatabase  # type: ignore[assignment]  # only what a seal and a crash touch
    host.opened(5.0)
    sealer = SimSealer(host.machine, host.process)
    host.do(lambda: sealer.seal("10.0.0.2", 5432))
    assert not host.machine.kernel.passes("10.0.0.2") and host.machine.kernel.passes("10.0.0.3")
    host.machine.power_off()
    host.machine.boot()
    assert host.machine.kernel.passes("10.0.0.2") and host.open
