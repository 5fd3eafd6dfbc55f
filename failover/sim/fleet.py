"""Pinned writers: an application that holds a connection to every member and never stops writing to all of them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count

from failover.sim.database import Network
from failover.sim.machine import Machine
from failover.sim.scheduler import Sim

HOST = "app"


class Clients:
    """Every `interval_s` one fresh write to every machine that is up, past any VIP, from the host `app` outside."""

    def __init__(self, sim: Sim, machines: Iterable[Machine], network: Network, interval_s: float) -> None:
        self._sim, self._machines, self._network, self._interval_s = sim, tuple(machines), network, interval_s
        self._ids = count(1)
        self._on = False
        self.submitted = self.accepted = self.acknowledged = 0

    def start(self) -> None:
        self._on = True
        self._sim.after(self._interval_s, self._write)

    def stop(self) -> None:
        self._on = False

    def _write(self) -> None:
        if not self._on:
            return
        for machine in self._machines:
            if machine.up:
                self._submit(machine, next(self._ids))
        self._sim.after(self._interval_s, self._write)

    def _submit(self, machine: Machine, write_id: int) -> None:
        self.submitted += 1
        arrived = False

        def answered() -> None:
            self.acknowledged += 1

        def arrive() -> None:
            nonlocal arrived
            if not arrived:  # TCP delivers once, whatever the network does with its packets
                arrived = True
                self.accepted += machine.database.submit(write_id, lambda: self._network.send(machine.name, HOST, answered))

        self._network.send(HOST, machine.name, arrive)
