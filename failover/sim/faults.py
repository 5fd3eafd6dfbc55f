"""What may go wrong, one entry per kind, and the plan that a seed makes of it.

A plan is data: (when, which fault, what on, for how long). It is made before the history begins, from its own source of chance,
so one fault can be taken out and the rest stays what it was: that is how a failing history is made small.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from failover.core.model import Request, RequestKind
from failover.core.plan import Key, Kind
from failover.errors import FailoverError
from failover.sim.daemons import start_controller, start_guardian
from failover.sim.scheduler import Process
from failover.sim.setting import Setting
from failover.sim.world import Ambush, World

QUIET_S = 1.0  # the cluster settles before anything goes wrong


@dataclass(frozen=True)
class Fault:
    """`on` names what it is about, `for_s` how long it lasts (0: an instant); what `part` means is the kind's business."""

    at_s: float
    kind: str
    on: tuple[str, ...] = ()
    for_s: float = 0.0
    part: float = 0.0

    def __str__(self) -> str:
        lasts = f" for {self.for_s:.2f} s" if self.for_s else ""
        return f"{self.at_s:7.3f}  {self.kind} {' '.join(self.on)}{lasts}"


Begin = Callable[[World, Fault], None]


@dataclass(frozen=True)
class FaultKind:
    """`weight`: how likely against the others. `target`: draws what it is about. `lasts`: in leases. `end`: undoes it."""

    begin: Begin
    end: Begin
    target: Callable[[random.Random, Setting], tuple[str, ...]]
    lasts: tuple[float, float] = (0.2, 2.5)
    weight: float = 1.0


# --- what they are about --------------------------------------------------------------------------------------------------
def _member(odds: random.Random, setting: Setting) -> tuple[str, ...]:
    """The first primary three times out of five: that is where the story is."""
    names = [member.name for member in setting.members]
    return (names[0] if odds.random() < 0.6 else odds.choice(names),)


def _host(odds: random.Random, setting: Setting) -> tuple[str, ...]:
    return (setting.hosts[0] if odds.random() < 0.5 else odds.choice(setting.hosts),)


def _controller(odds: random.Random, setting: Setting) -> tuple[str, ...]:
    return (odds.choice(setting.controllers),)


def _pair(odds: random.Random, setting: Setting) -> tuple[str, ...]:
    return tuple(odds.sample(setting.hosts, 2))


def _server(odds: random.Random, setting: Setting) -> tuple[str, ...]:
    return (odds.choice((*setting.hosts, "leader")),)


def _nothing(odds: random.Random, setting: Setting) -> tuple[str, ...]:
    return ()


# --- what happens -----------------------------------------------------------------------------------------------------------
def no_end(world: World, fault: Fault) -> None:
    """It is over when it has happened."""


def _kill_database(world: World, fault: Fault) -> None:
    world.machines[fault.on[0]].database.crash(0.45 * fault.part if fault.part < 0.7 else 0.0)


def _freeze_database(world: World, fault: Fault) -> None:
    world.machines[fault.on[0]].database.freeze()


def _thaw_database(world: World, fault: Fault) -> None:
    world.machines[fault.on[0]].database.thaw()


def _start_by_hand(world: World, fault: Fault) -> None:
    machine = world.machines[fault.on[0]]
    if machine.up:
        machine.database.start_by_hand()


def _start_as_primary(world: World, fault: Fault) -> None:
    """Somebody removes standby.signal and starts it: behind a shut gate that is harmless."""
    machine = world.machines[fault.on[0]]
    if machine.up and not machine.database.children:
        machine.database.standby_signal = False
        machine.database.start_by_hand()


def _kill_and_start_by_hand(world: World, fault: Fault) -> None:
    """A crash, and a service manager that knows better."""
    _kill_database(world, fault)
    world.sim.after(0.01 + 0.4 * fault.part, lambda: _start_by_hand(world, fault))


def crash(world: World, fault: Fault) -> None:
    world.crash(fault.on[0])


def boot(world: World, fault: Fault) -> None:
    """Power is back: ZooKeeper and our daemons start; nothing but the guardian starts a database."""
    machine = world.machines[fault.on[0]]
    if not machine.up:
        machine.boot()
        world.network.rose(machine.name)
        world.ensemble.start(machine.name)
        start_daemons(world, machine.name)


def start_daemons(world: World, host: str) -> None:
    """As the service manager does, each after a moment."""
    machine, sim = world.machines[host], world.sim

    def guardian() -> None:
        alive = machine.guardian is not None and machine.guardian.alive
        if machine.up and not alive and any(member.name == host for member in world.setting.members):
            start_guardian(world, machine)

    def controller() -> None:
        alive = machine.controller is not None and machine.controller.alive
        if machine.up and not alive and host in world.setting.controllers:
            start_controller(world, machine)

    sim.after(sim.random.uniform(0.1, 0.4), guardian)
    sim.after(sim.random.uniform(0.1, 0.4), controller)


def _process(world: World, fault: Fault) -> Process | None:
    machine = world.machines[fault.on[0]]
    return machine.guardian if "guardian" in fault.kind else machine.controller


def _pause(world: World, fault: Fault) -> None:
    process = _process(world, fault)
    if process is not None and process.alive:
        process.pause()


def _go_on(world: World, fault: Fault) -> None:
    process = _process(world, fault)
    if process is not None:
        process.go_on()


def _kill(world: World, fault: Fault) -> None:
    process = _process(world, fault)
    if process is not None:
        process.kill()


def _restart(world: World, fault: Fault) -> None:
    start_daemons(world, fault.on[0])


def _isolate(world: World, fault: Fault) -> None:
    world.network.isolate(fault.on[0])


def _heal_host(world: World, fault: Fault) -> None:
    world.network.reconnect(fault.on[0])


def _cut(world: World, fault: Fault) -> None:
    world.network.cut(*fault.on)


def _cut_both(world: World, fault: Fault) -> None:
    world.network.cut(*fault.on)
    world.network.cut(*reversed(fault.on))


def _mend(world: World, fault: Fault) -> None:
    source, target = fault.on
    world.network.mend(source, target)
    world.network.mend(target, source)


def _bar(world: World, fault: Fault) -> None:
    """Its clients lose ZooKeeper, both ways, or it does not hear them any more, or they do not hear it."""
    world.network.bar(fault.on[0], mute=fault.part < 0.75, deaf=fault.part < 0.5 or fault.part >= 0.75)


def _unbar(world: World, fault: Fault) -> None:
    world.network.unbar(fault.on[0])


def _lossy(world: World, fault: Fault) -> None:
    world.network.loss, world.network.twice = 0.3 * fault.part, 0.2 * fault.part


def _lossless(world: World, fault: Fault) -> None:
    world.network.loss = world.network.twice = 0.0


def _slow(world: World, fault: Fault) -> None:
    source, target = fault.on
    world.network.slow_s[(source, target)] = 0.5 * fault.part


def _quick(world: World, fault: Fault) -> None:
    source, target = fault.on
    world.network.slow_s.pop((source, target), None)


def _servers(world: World, fault: Fault) -> list[str]:
    if not fault.on:
        return list(world.ensemble.servers)
    name = world.ensemble.leader if fault.on[0] == "leader" else fault.on[0]
    return [name] if name is not None else []


def _stop_zookeeper(world: World, fault: Fault) -> None:
    for name in _servers(world, fault):
        world.ensemble.stop(name)


def start_zookeeper(world: World, fault: Fault) -> None:
    for name, server in world.ensemble.servers.items():
        if not server.up and world.machines[name].up:
            world.ensemble.start(name)


def _pause_zookeeper(world: World, fault: Fault) -> None:
    for name in _servers(world, fault):
        world.ensemble.pause(name)


def unpause_zookeeper(world: World, fault: Fault) -> None:
    for name, server in world.ensemble.servers.items():
        if server.paused:
            world.ensemble.go_on(name)


def _late_orders(world: World, fault: Fault) -> None:
    world.late_orders = fault.part


def _prompt_orders(world: World, fault: Fault) -> None:
    world.late_orders = 0.0


def _late_words(world: World, fault: Fault) -> None:
    """Datagrams between guardians linger on the way: a pledge is heard in a later round than it was asked for in."""
    world.late_words_s = fault.part


def _prompt_words(world: World, fault: Fault) -> None:
    world.late_words_s = 0.0


TROUBLES = (
    ("disk.store", "slow"), ("engine.promote", "hangs"), ("engine.promote", "fails"), ("engine.stop_receiving", "ineffective"),
    ("power", "lies"),
)  # fmt: skip


def _trouble(world: World, fault: Fault) -> None:
    what, how = TROUBLES[int(fault.part * len(TROUBLES))]
    world.machines[fault.on[0]].trouble[what] = how


def _no_trouble(world: World, fault: Fault) -> None:
    what, _ = TROUBLES[int(fault.part * len(TROUBLES))]
    world.machines[fault.on[0]].trouble.pop(what, None)


def _boundary(world: World, fault: Fault) -> None:
    """Some process of that host stops or dies at one of its next effects: the place where a half-done thing shows."""
    host, *label = fault.on
    world.ambushes.append(Ambush(host, label[0] if label else "", 1 + int(fault.part * 60), fault.kind, fault.for_s))


ASKED = (RequestKind.SWITCHOVER, RequestKind.SWITCHOVER, RequestKind.FAILOVER, RequestKind.FENCE, RequestKind.CANCEL)


def _ask(world: World, fault: Fault) -> None:
    """An operator files a request."""
    kind = ASKED[int(fault.part * len(ASKED))]
    target = fault.on[0]
    file_request(world, Request(f"r{world.sim.events}", kind, "operator", "simulated", target=target, confirm=True))


def file_request(world: World, request: Request) -> None:
    world.put(Key(Kind.REQUEST, request.id), request)


def _order_unfreeze(world: World, fault: Fault) -> None:
    """A command that a frozen member must not obey (safety.md, FREEZE). The product does not even know it."""
    guardian = world.machines[fault.on[0]].guardian
    handle = world.handles.get(guardian) if guardian is not None else None
    if guardian is not None and handle is not None:
        guardian.spawn("order unfreeze", lambda: _refusable(lambda: handle("unfreeze", {})))


def _refusable(order: Callable[[], object]) -> None:
    with suppress(FailoverError):
        order()


def _maintenance(world: World, fault: Fault) -> None:
    lasts_s, number = fault.for_s + 1.0, f"m{world.sim.events}"
    file_request(world, Request(number, RequestKind.MAINTENANCE_ON, "operator", "simulated", fault.on[0], for_s=lasts_s))


def _end_maintenance(world: World, fault: Fault) -> None:
    file_request(world, Request(f"e{world.sim.events}", RequestKind.MAINTENANCE_OFF, "operator", "simulated", fault.on[0]))


def _pause_cluster(world: World, fault: Fault) -> None:
    file_request(world, Request(f"p{world.sim.events}", RequestKind.PAUSE, "operator", "simulated", for_s=fault.for_s + 0.5))


def resume_cluster(world: World, fault: Fault) -> None:
    file_request(world, Request(f"c{world.sim.events}", RequestKind.RESUME, "operator", "simulated"))


SHORT = (0.05, 1.0)
KINDS: dict[str, FaultKind] = {
    "kill database": FaultKind(_kill_database, no_end, _member, weight=2.0),
    "freeze database": FaultKind(_freeze_database, _thaw_database, _member),
    "kill database, started by hand": FaultKind(_kill_and_start_by_hand, no_end, _member),
    "start database by hand": FaultKind(_start_by_hand, no_end, _member, weight=0.5),
    "start as primary by hand": FaultKind(_start_as_primary, no_end, _member, weight=0.5),
    "crash host": FaultKind(crash, boot, _host, weight=2.0),
    "pause guardian": FaultKind(_pause, _go_on, _member),
    "kill guardian": FaultKind(_kill, _restart, _member, SHORT),
    "pause controller": FaultKind(_pause, _go_on, _controller, (0.5, 3.5)),
    "kill controller": FaultKind(_kill, _restart, _controller, SHORT),
    "isolate": FaultKind(_isolate, _heal_host, _host, (0.5, 4.0), 2.0),
    "cut one way": FaultKind(_cut, _mend, _pair),
    "cut": FaultKind(_cut_both, _mend, _pair),
    "cut from zookeeper": FaultKind(_bar, _unbar, _member, (0.5, 3.5), 1.5),
    "lossy network": FaultKind(_lossy, _lossless, _nothing),
    "slow link": FaultKind(_slow, _quick, _pair),
    "stop a zookeeper": FaultKind(_stop_zookeeper, start_zookeeper, _server),
    "stop all zookeepers": FaultKind(_stop_zookeeper, start_zookeeper, _nothing),
    "pause a zookeeper": FaultKind(_pause_zookeeper, unpause_zookeeper, _server),
    "late orders": FaultKind(_late_orders, _prompt_orders, _nothing),
    "late words": FaultKind(_late_words, _prompt_words, _nothing, weight=0.5),
    "trouble": FaultKind(_trouble, _no_trouble, _member),
    "stop at an effect": FaultKind(_boundary, no_end, _host, (0.2, 3.0), 2.0),
    "die at an effect": FaultKind(_boundary, no_end, _host, SHORT, 2.0),
    "operator asks": FaultKind(_ask, no_end, _member, weight=1.5),
    "order to unfreeze": FaultKind(_order_unfreeze, no_end, _member, weight=0.3),
    "maintenance": FaultKind(_maintenance, _end_maintenance, _member),
    "pause cluster": FaultKind(_pause_cluster, resume_cluster, _nothing, weight=0.5),
}
