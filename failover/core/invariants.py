"""Asserted in production and in every test: what must never be seen, whatever happened before.

A violation is our own bug or a broken assumption (a ZooKeeper that forgot). It stops the leader's hands, loudly.
"""

from __future__ import annotations

from failover.core.observation import Observation


class Violated(AssertionError):
    """An invariant does not hold. The message names it and the facts."""


def check_observation(seen: Observation) -> None:
    """Raises Violated."""
    if seen.grant is None:
        return
    grant = seen.grant.value
    if grant.epoch < seen.highest_epoch:
        raise Violated(f"ZooKeeper has gone back: epoch {seen.highest_epoch} was seen, {grant.epoch} is there now")
    if (grant.member is None) != (grant.claim is not None):
        raise Violated(f"a grant names a member or holds a claim, never both or neither: {grant.member}, {grant.claim}")
    if grant.claim and grant.claim.old_epoch >= grant.epoch:
        raise Violated(f"a claim is later than what it ends: {grant.claim.old_epoch} >= {grant.epoch}")
    writable = [
        name for name, stored in seen.members.items()
        if stored.value.writable and stored.value.epoch == grant.epoch and name != grant.member
    ]  # fmt: skip
    if writable:
        raise Violated(f"{', '.join(writable)} says it is writable under epoch {grant.epoch}, which is not its grant")
