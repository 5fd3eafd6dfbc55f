"""Fencing over SSH: the host agent closes the epoch, flushes the gate, stops the database, and reads all three back.

All three facts, read in one session, are the evidence. "Read-only" or "the process died" alone are none: an orphaned
backend has acknowledged commits 0.4 s after its postmaster's death.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from failover.actuators.base import Seen
from failover.core.plan import Fence
from failover.errors import Unknown
from failover.remote.wire import Reply


class Caller(Protocol):
    """Who carries a verb to a member's host agent: `remote.ssh.Agents`. Raises as base.py says."""

    def call(self, member: str, verb: str, fields: Mapping[str, object], deadline_s: float) -> Reply: ...

    def is_warm(self, member: str) -> bool: ...


class SshFencing:
    def __init__(self, agents: Caller, cluster: str) -> None:
        self._agents = agents
        self._cluster = cluster

    def inspect(self, action: Fence, budget_s: float) -> Seen:
        """Is every epoch <= `closes` closed there for good? Looks only. Raises as base.py says."""
        reply = self._agents.call(action.member, "status", {"cluster": self._cluster}, budget_s)
        proved, evidence = _proof(action, reply)
        return Seen(proved, evidence)

    def apply(self, action: Fence, budget_s: float) -> str:
        """Raises Unknown also when the agent answers but what it read back is no proof."""
        fields = {"cluster": self._cluster, "closes": action.closes}
        reply = self._agents.call(action.member, "fence", fields, budget_s)
        proved, evidence = _proof(action, reply)
        if not proved:
            raise Unknown(f"fencing is not proved: {evidence}")
        return evidence


def _proof(action: Fence, reply: Reply) -> tuple[bool, str]:
    """Whether the facts prove the fence, and the facts in words. A fact missing or of a wrong type proves nothing."""
    facts = reply.facts
    if facts.get("guardian") is False and "closed" not in facts:
        return False, f"{action.member}: {reply.evidence}"
    closed, gate, processes = facts.get("closed"), facts.get("gate"), facts.get("processes")
    checks = {
        f"epoch {closed} closed on disk (wanted {action.closes})": type(closed) is int and closed >= action.closes,
        f"gate {gate}" + (", tickets flushed" if gate == "shut" else ""): gate == "shut",
        "no database process left" if processes == 0 else f"{processes} database processes": (
            type(processes) is int and processes == 0
        ),
    }
    said = f" [{reply.evidence}]" if reply.evidence else ""
    return all(checks.values()), f"{action.member}: {', '.join(checks)}{said}"
