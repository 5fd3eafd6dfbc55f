"""Fencing this member, and the receipt that says so.

Order (G8): gate shut in the kernel, client sockets reset, every process of the data directory killed and waited for, the VIP
off; the epoch is closed on disk beside it, and only when all of that is *read back* is a receipt owed. The proof is the shut
gate, not the death: an orphaned backend was measured to commit and acknowledge 435 ms after its postmaster had died.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from typing import Protocol

from failover.clock import wall_text
from failover.core.model import Receipt
from failover.engines.base import LocalEngine
from failover.errors import FailoverError, Unknown
from failover.guardian.base import Durable, Gate, Instance, StateFile, Vip

log = logging.getLogger("failover.guardian.fencer")
KILL_S = 5.0


class Memory:
    """The durable state, cached: one writer at a time, and what was stored is what is read."""

    def __init__(self, file: StateFile) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._now = file.load()

    @property
    def now(self) -> Durable:
        with self._lock:
            return self._now

    def change(self, **fields: object) -> Durable:
        """Durable when it returns. Raises Unknown when the disk did not say so."""
        with self._lock:
            wanted = replace(self._now, **fields)  # type: ignore[arg-type]  # replace checks the names
            if wanted != self._now:
                self._file.store(wanted)
                self._now = wanted
            return wanted

    def close_epochs(self, closes: int) -> None:
        self.change(closed=max(self.now.closed, closes), highest=max(self.now.highest, closes))


class Shutter(Protocol):
    """Who shuts the port: the keeper, which drops its lease with it, or the bare gate where no guardian runs."""

    def suspend(self, closes: int | None) -> None: ...


class Fencer:
    """Idempotent; callable from any thread; only one fencing runs at a time."""

    def __init__(
        self, me: str, gate: Gate, keeper: Shutter, instance: Instance, engine: LocalEngine, memory: Memory, vip: Vip | None
    ) -> None:
        self._me, self._gate, self._keeper = me, gate, keeper
        self._instance, self._engine, self._memory, self._vip = instance, engine, memory, vip
        self._lock = threading.Lock()
        self._proved = 0
        self._receipt = Receipt(me, 0, "never had a grant")

    def owed(self) -> Receipt:
        """The receipt that ZooKeeper must hold. `closes` 0: none is owed."""
        return self._receipt

    def fence(self, closes: int, why: str, handed_over: bool = False, spare: bool = False) -> str:
        """Close every epoch <= `closes` here for good; returns what was read back. Raises Unknown if it cannot be proved yet.

        `spare`: the database was handed over and is a standby by its own word; it goes on behind the shut gate.
        """
        self._keeper.suspend(closes)  # before any lock of ours: the port is shut now, whoever is busy
        with self._lock:
            if closes <= self._proved and (spare or not self._instance.processes().all):
                return self._receipt.method
            clients = self._cut()
            stored = _Storing(self._memory, closes)
            if not spare and not self._instance.kill_all(KILL_S):
                raise Unknown(f"{self._me}: processes of the data directory are still there after {KILL_S:.0f} s")
            self._cut()  # a killed backend leaves sockets that still hold its answer; a later opening would let it out
            vip = self._drop_vip()
            clean = self._clean_and_armed()
            stored.wait()
            if self._gate.read_back().open:
                raise Unknown(f"{self._me}: the gate reads back open")
            self._proved = closes
            left = "the database takes no writes" if spare else "no process left"
            method = f"{why}; gate shut, {clients}, {left}, {vip}, epoch {closes} closed on disk"
            self._receipt = Receipt(self._me, closes, method, clean and not handed_over, wall_text())
            log.warning("fenced: %s", method)
            return method

    def soft(self, budget_s: float) -> None:
        """The lease runs out: end everything in good order, then hard. The same epoch may be proved again; no receipt (G4)."""
        self._keeper.suspend(None)
        with self._lock:
            self._cut()
            if not self._instance.stop("fast", budget_s):
                self._instance.kill_all(KILL_S)
            self._cut()
            self._drop_vip()

    def quiesce(self) -> None:
        """Handover: the gate is shut already; reset what is left of clients and leave the VIP. Nothing is closed for good."""
        self._cut()
        self._drop_vip()

    def _cut(self) -> str:
        try:
            return f"{self._gate.cut_sessions()} client sockets reset"
        except FailoverError as error:  # a kernel without INET_DIAG_DESTROY, a hung ss: the shut gate alone is the proof
            return str(error)

    def _drop_vip(self) -> str:
        if self._vip is None:
            return "no VIP here"
        try:
            return "VIP removed" if self._vip.drop() else "VIP was not here"
        except Unknown as error:  # not part of S1: it ends by itself with valid_lft
            return f"VIP not proved gone: {error}"

    def _clean_and_armed(self) -> bool:
        """The next start, by whomever, is a standby's; and was the last shutdown in order?"""
        try:
            self._engine.arm_standby()
            return self._engine.control_state().clean
        except (FailoverError, OSError) as error:
            log.error("the data directory does not answer: %s", error)
            return False


class _Storing:
    """The state file is written beside the killing, not before it: fencing never waits for a disk, a receipt does."""

    def __init__(self, memory: Memory, closes: int) -> None:
        self._error: FailoverError | None = None
        self._thread = threading.Thread(target=self._store, args=(memory, closes), name="close-epoch", daemon=True)
        self._thread.start()

    def _store(self, memory: Memory, closes: int) -> None:
        try:
            memory.close_epochs(closes)
        except FailoverError as error:
            self._error = error

    def wait(self) -> None:
        self._thread.join(KILL_S)
        if self._thread.is_alive():
            raise Unknown("the state file is not written yet: no receipt until it is")
        if self._error is not None:
            raise self._error
