"""What an actuator can do: look, and bring about. Applying twice equals applying once.

`apply` returns evidence that a person can read in the journal. `Unreachable`: it did not happen. `Unknown`: it may have
happened (a time-out is never "not done"). `Refused`: the other side's own rule said no. `WrongCredentials`: key, host key
or TSIG.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

A = TypeVar("A", contravariant=True)


@dataclass(frozen=True)
class Seen:
    """What an inspection found: is the wanted state there, and the evidence in words."""

    there: bool
    evidence: str


class Actuator(Protocol, Generic[A]):
    def inspect(self, action: A, budget_s: float) -> Seen: ...

    def apply(self, action: A, budget_s: float) -> str:
        """Bring it about and read it back; returns the evidence. Raises what the module says."""
        ...
