"""SSH, as the product meets it: an order may be carried out late, or twice over, and its answer may never come.

Whoever runs on the other host belongs to no controller: an order that has arrived is finished there, whatever becomes of the
controller that sent it. Where the guardian does not answer, the host agent fences in its place, as the real one does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from failover.errors import FailoverError, Refused, Unknown
from failover.guardian.fencer import Fencer, Memory
from failover.remote.wire import Reply
from failover.sim.engine import SimDisk, SimEngine, SimInstance
from failover.sim.kernel import SimGate
from failover.sim.machine import Machine
from failover.sim.scheduler import Process
from failover.sim.threads import give_way
from failover.sim.world import World

GUARDIAN_S = 1.0  # how long the agent waits for the guardian before it fences in its place
LATE_S = (0.5, 8.0)


class Agents:
    """One controller's lines to the host agents: `actuators.fencing.Caller`."""

    def __init__(self, world: World, process: Process, host: str) -> None:
        self._world, self._process, self._host = world, process, host

    def is_warm(self, member: str) -> bool:
        return True

    def call(self, member: str, verb: str, fields: Mapping[str, object], deadline_s: float) -> Reply:
        process, machine, network = self._process, self._world.machines[member], self._world.network
        process.boundary(f"ssh.{verb}")
        task = process.sim.current
        assert task is not None
        wake = task.waker()
        answers: list[object] = []

        def answer(result: object) -> None:
            network.send(machine.name, self._host, lambda: process.receive(lambda: _hear(answers, result, wake)))

        def arrive() -> None:
            agent = Process(process.sim, f"agent {machine.name}", machine.clock)
            self._world.started(machine, agent)
            agent.spawn(verb, lambda: _obey(self._world, agent, machine, verb, dict(fields), answer))

        odds, late = process.sim.random, self._world.late_orders
        if late and odds.random() < late:
            process.sim.after(odds.uniform(*LATE_S), lambda: network.send(self._host, machine.name, arrive))
        else:
            network.send(self._host, machine.name, arrive)
        if not answers:
            give_way(deadline_s)
        process.boundary(f"ssh.{verb} done")
        if not answers:
            raise Unknown(f"{member}: {verb} was sent over SSH and not answered in time")
        result = answers[0]
        if isinstance(result, Exception):
            raise result
        assert isinstance(result, Reply)
        return result


def _hear(answers: list[object], result: object, wake: Callable[[], None]) -> None:
    answers.append(result)
    wake()


def _obey(
    world: World, agent: Process, machine: Machine, verb: str, fields: dict[str, object], answer: Callable[[object], None]
) -> None:
    """In the agent: hand it to the guardian; if that does not answer, do what needs none."""
    try:
        said = _by_guardian(world, agent, machine, verb, fields)
        if said is None:
            if verb != "fence":
                raise Unknown(f"no guardian answers on {machine.name}")
            said = _alone(agent, machine, int(str(fields["closes"])))
    except FailoverError as error:
        answer(error)
    else:
        answer(Reply(*said))


def _by_guardian(
    world: World, agent: Process, machine: Machine, verb: str, fields: dict[str, object]
) -> tuple[str, dict[str, object]] | None:
    guardian = machine.guardian
    handle = world.handles.get(guardian) if guardian is not None else None
    if guardian is None or handle is None or not guardian.alive:
        return None
    said: list[tuple[str, dict[str, object]] | FailoverError] = []
    waiting = agent.sim.current
    assert waiting is not None
    wake = waiting.waker()

    def work() -> None:
        try:
            said.append(handle(verb, fields))
        except FailoverError as error:
            said.append(error)
        wake()

    guardian.spawn(f"order {verb}", work)
    give_way(GUARDIAN_S)
    if not said:
        return None
    if isinstance(said[0], FailoverError):
        raise said[0]
    return said[0]


class _Shut:
    def __init__(self, gate: SimGate) -> None:
        self.suspend = gate.shut


def _alone(agent: Process, machine: Machine, closes: int) -> tuple[str, dict[str, object]]:
    """`failover.alone.fence_alone`: a guardian that hangs is ended first; a later epoch is not overruled."""
    if machine.disk.durable.wrote > closes:
        raise Refused(f"epoch {machine.disk.durable.wrote} was proved here; {closes} is over")
    if machine.guardian is not None:
        machine.guardian.kill()
    memory, instance = Memory(SimDisk(machine, agent)), SimInstance(machine, agent)
    gate = SimGate(machine, agent, memory.now.closed)
    gate.install_shut()
    fencer = Fencer(machine.name, gate, _Shut(gate), instance, SimEngine(machine, agent), memory, None)
    evidence = fencer.fence(closes, "no guardian answers here")
    state = gate.read_back()
    facts: dict[str, object] = {
        "guardian": False, "closed": memory.now.closed, "gate": "open" if state.open else "shut",
        "processes": len(instance.processes().all),
    }  # fmt: skip
    return evidence, facts


