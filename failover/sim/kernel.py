"""One host's kernel, as far as the product uses it, and the guardian's hands on it: gate, seal, VIP.

A kernel lives from boot to crash. It alone judges whether a client's packet passes, at the very instant the packet does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from failover.errors import Refused, Unknown
from failover.guardian.base import GateState
from failover.sim import threads
from failover.sim.scheduler import Process, Sim

if TYPE_CHECKING:
    from failover.sim.machine import Machine

NETLINK_S = (0.0002, 0.001)
SOCKETS_S = (0.004, 0.006)
SLOW_S = (0.3, 1.5)
HANGS_MAX_S = 6.0  # what hangs longer than a fault lasts would only be a longer history
HANG_MAX_S = 3.0  # a history has no time for a budget of half a minute
RETRANSMIT_S, RETRANSMIT_MAX_S = 0.2, 7.0
_NO_TABLE = GateState(table=False, open=True, current=None, expires_in_s=None)


class Unsent:
    """An answer in a socket's buffer that the gate does not let out. TCP tries again, also after its process has died."""

    __slots__ = ("leave", "pause_s")

    def __init__(self, leave: Callable[[], None]) -> None:
        self.leave, self.pause_s = leave, RETRANSMIT_S


class Kernel:
    """`elements`: ticket -> when it ends, in true time; None: never. `current`: the ticket that is looked up, 0 for none."""

    def __init__(self, sim: Sim, address: str) -> None:
        self._sim, self.address = sim, address
        self.table = False
        self.current = 0
        self.elements: dict[int, float | None] = {}
        self.sealed_against = ""
        self.vip_until_s = 0.0
        self.unsent: dict[Unsent, None] = {}
        self.table_removed = threads.Event()

    def open_to_clients(self) -> bool:
        """Does a client's packet pass now, whichever way?"""
        if not self.table:
            return True
        if self.current not in self.elements:
            return False
        end_s = self.elements[self.current]
        return end_s is None or self._sim.now_s < end_s

    def passes(self, address: str) -> bool:
        """May the databases here and at `address` talk? The gate never stops peers, a seal does."""
        return address != self.sealed_against

    def answer(self, leave: Callable[[], None]) -> None:
        """A backend has written its answer. It leaves now, or when a retransmission finds the gate open, or never."""
        if self.open_to_clients():
            leave()
        else:
            answer = Unsent(leave)
            self.unsent[answer] = None
            self._sim.after(answer.pause_s, lambda: self._retransmit(answer))

    def _retransmit(self, answer: Unsent) -> None:
        if answer not in self.unsent:
            return
        answer.pause_s *= 2
        if self.open_to_clients() or answer.pause_s > RETRANSMIT_MAX_S:
            del self.unsent[answer]
            if self.open_to_clients():
                answer.leave()
        else:
            self._sim.after(answer.pause_s, lambda: self._retransmit(answer))

    def flush(self) -> None:
        """`nft flush ruleset` by a stranger: every table is gone, and whoever listens for that is told."""
        self.table, self.current, self.sealed_against = False, 0, ""
        self.elements.clear()
        self.table_removed.set()

    def shut(self) -> None:
        self.table, self.current = True, 0
        self.elements.clear()

    def holds_vip(self) -> bool:
        return self._sim.now_s < self.vip_until_s


class Hand:
    """What every hand of a guardian has: an effect boundary on both sides, a latency, and the trouble that is injected.

    `machine.trouble[label]` is "slow", "fails" (Unknown, nothing done), "hangs" (the same at the end of the budget, or after
    seconds), or a word that only this one verb knows, which `_begin` returns.
    """

    def __init__(self, machine: Machine, process: Process) -> None:
        self.machine, self.process = machine, process
        self._sim = process.sim

    def _begin(self, label: str, takes_s: tuple[float, float], budget_s: float = 2.0) -> str:
        """What comes after this call happens at one instant, unless it waits itself."""
        self.process.boundary(label)
        trouble = self.machine.trouble.get(label, "") if self.machine.trouble else ""
        odds, (least_s, most_s) = self._sim.random, takes_s
        delay_s = least_s + (most_s - least_s) * odds.random()
        if trouble == "slow":
            delay_s += odds.uniform(*SLOW_S)
        elif trouble == "hangs":
            delay_s = self.machine.clock.true_s(min(budget_s, HANG_MAX_S))
        if self._sim.current is not None:
            self._sim.sleep(delay_s)
        if trouble in ("fails", "hangs"):
            raise Unknown(f"{label} {trouble}")
        return trouble

    def _done(self, label: str) -> None:
        self.process.boundary(label + " done")


class SimGate(Hand):
    """The Gate of one guardian process. What it knows besides the kernel ends with that process."""

    def __init__(self, machine: Machine, process: Process, closed: int = 0) -> None:
        super().__init__(machine, process)
        self._closed = closed
        self._lock = threads.RLock()
        self._known = self._released = self._repaired = False
        self._armed: set[int] = set()
        self._stale: tuple[int, ...] = ()

    # --- taking over and installing --------------------------------------------------------------------------------
    def adopt(self) -> GateState:
        with self._lock:
            self._begin("gate.adopt", NETLINK_S)
            state = self._look(self._inspect()) if self.machine.kernel.table or self._known else _NO_TABLE
            self._done("gate.adopt")
            return state

    def install_open(self, ticket: int, lifetime_s: float | None) -> None:
        with self._lock:
            self._begin("gate.install_open", NETLINK_S)
            kernel = self.machine.kernel
            kernel.table, kernel.current, self._known = True, ticket, True
            kernel.elements[ticket] = self._end(lifetime_s)
            self._done("gate.install_open")

    def install_shut(self) -> None:
        with self._lock:
            self._begin("gate.install_shut", NETLINK_S)
            self._known = True
            if not self.machine.kernel.table:
                self.machine.kernel.shut()
            self._done("gate.install_shut")

    def release(self) -> None:
        with self._lock:
            self._released, self._known = True, False
            self._begin("gate.release", NETLINK_S)
            kernel = self.machine.kernel
            kernel.table, kernel.current = False, 0
            kernel.elements.clear()
            self._done("gate.release")

    # --- a renewal -----------------------------------------------------------------------------------------------------
    def arm(self, ticket: int, lifetime_s: float | None, epoch: int) -> bool:
        with self._lock:
            if epoch <= self._closed:
                return False
            if self._released:
                raise Refused("the gate was released: nothing is armed until it is installed again")
            self._begin("gate.arm", NETLINK_S)
            kernel = self._inspect()
            for old in self._stale:
                kernel.elements.pop(old, None)
            self._stale = ()
            if ticket in kernel.elements:
                raise Refused(f"ticket {ticket} is there already")
            kernel.elements[ticket] = self._end(lifetime_s)
            self._armed.add(ticket)
            self._done("gate.arm")
            return True

    def switch(self, ticket: int) -> None:
        with self._lock:
            self._begin("gate.switch", NETLINK_S)
            self._armed.discard(ticket)
            self._stale = tuple(old for old in self._stale if old != ticket)
            kernel = self._inspect()
            if ticket not in kernel.elements:
                self._shut(kernel)
                raise Refused(f"ticket {ticket} is not in the kernel any more: the port is shut")
            kernel.current = ticket
            self._done("gate.switch")

    def shut(self, closes: int | None) -> None:
        with self._lock:
            self._closed = max(self._closed, closes or 0)
            self._begin("gate.shut", NETLINK_S)
            self._shut(self.machine.kernel)
            self._done("gate.shut")

    def cut_sessions(self) -> int:
        """Every client connection is reset, and what their sockets still held is gone."""
        self._begin("gate.cut_sessions", SOCKETS_S)
        self.machine.kernel.unsent.clear()
        count = self.machine.database.cut_clients()
        self._done("gate.cut_sessions")
        return count

    def read_back(self) -> GateState:
        with self._lock:
            self._begin("gate.read_back", NETLINK_S)
            if self._released and not self.machine.kernel.table:
                return _NO_TABLE
            kernel = self._inspect()
            self._stale = tuple(n for n in kernel.elements if n != kernel.current and n not in self._armed)
            state = self._look(kernel)
            self._repaired = False
            self._done("gate.read_back")
            return state

    # --- inside --------------------------------------------------------------------------------------------------------
    def _inspect(self) -> Kernel:
        """The kernel, with a table in it: one that is gone is put back, shut, and `read_back` reports that once."""
        kernel = self.machine.kernel
        self._known = True
        if not kernel.table:
            self._shut(kernel)
            self._repaired = True
        return kernel

    def _shut(self, kernel: Kernel) -> None:
        self._armed.clear()
        self._stale = ()
        self._known = True
        kernel.shut()

    def _look(self, kernel: Kernel) -> GateState:
        end_s = kernel.elements.get(kernel.current)
        left_s = None if end_s is None else max(0.0, end_s - self._sim.now_s) * self.machine.clock.rate
        return GateState(True, kernel.open_to_clients(), kernel.current or None, left_s, self._repaired)

    def _end(self, lifetime_s: float | None) -> float | None:
        """The kernel's timer runs at the host's own rate."""
        return None if lifetime_s is None else self._sim.now_s + self.machine.clock.true_s(lifetime_s)


class SimSealer(Hand):
    def seal(self, address: str, port: int) -> None:
        self._begin("seal.seal", NETLINK_S)
        self.machine.kernel.sealed_against = address
        self.machine.database.receiving.cut_off(address)
        self._done("seal.seal")

    def unseal(self) -> None:
        self._begin("seal.unseal", NETLINK_S)
        self.machine.kernel.sealed_against = ""
        self._done("seal.unseal")

    def sealed(self) -> str | None:
        self.process.boundary("seal.sealed")  # asked at every turn of every standby: no wait of its own
        return self.machine.kernel.sealed_against or None


class SimVip(Hand):
    """`announce` hears the host's name whenever it sends gratuitous ARP frames."""

    def __init__(self, machine: Machine, process: Process, announce: Callable[[str], None] = lambda name: None) -> None:
        super().__init__(machine, process)
        self._announce = announce

    def hold(self, lifetime_s: float | None, announce: bool) -> None:
        self._begin("vip.hold", SOCKETS_S)
        lasts_s = math.inf if lifetime_s is None else self.machine.clock.true_s(math.ceil(lifetime_s))
        self.machine.kernel.vip_until_s = self._sim.now_s + lasts_s
        if announce:
            self._announce(self.machine.name)
        self._done("vip.hold")

    def drop(self) -> bool:
        self._begin("vip.drop", SOCKETS_S)
        there = self.machine.kernel.holds_vip()
        self.machine.kernel.vip_until_s = 0.0
        self._done("vip.drop")
        return there

    def held(self) -> bool:
        self._begin("vip.held", NETLINK_S)
        return self.machine.kernel.holds_vip()
