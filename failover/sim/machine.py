"""One host: a clock, a kernel, a disk, a database, and the product's processes on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from failover.core.model import RejoinWay
from failover.guardian.base import Durable
from failover.sim.kernel import Kernel
from failover.sim.scheduler import Clock, Process, Sim

if TYPE_CHECKING:
    from failover.sim.database import Database


class Disk:
    """What outlives every process and every crash: the guardian's state file, and the marker of a rejoin under way."""

    __slots__ = ("durable", "rejoin", "rejoined")

    def __init__(self) -> None:
        self.durable = Durable()
        self.rejoin: RejoinWay | None = None  # begun and not through: the data directory is neither old nor new
        self.rejoined = False  # through, and the database has not caught up since


class Machine:
    """`trouble`: what goes wrong with a hand, see kernel.Hand. `database` is put there by Database itself."""

    database: Database

    def __init__(self, sim: Sim, name: str, address: str, clock: Clock | None = None) -> None:
        self._sim, self.name, self.address = sim, name, address
        self.clock = clock or Clock(sim)
        self.kernel = Kernel(sim, address)
        self.disk = Disk()
        self.trouble: dict[str, str] = {}
        self.up = True
        self.guardian: Process | None = None
        self.controller: Process | None = None

    def power_off(self) -> None:
        """No process, no kernel, no farewell to anybody. What was flushed stays."""
        self.up = False
        for process in (self.guardian, self.controller):
            if process is not None:
                process.kill()
        self.guardian = self.controller = None
        self.database.vanish()
        self.kernel.unsent.clear()

    def boot(self) -> None:
        """A new kernel with nothing in it; nobody starts the database or the product by this."""
        self.kernel = Kernel(self._sim, self.address)
        self.up = True
