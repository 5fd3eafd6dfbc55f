"""Was that a moment of trouble? What makes a judgement worth keeping for a person, although nothing was done.

A healthy cluster's guards block too (nobody says that the primary is lost), so a blocked guard alone is no doubt. A doubt has
a symptom: a vote that says lost, a probe that failed or found something odd, or a primary whose guardian cannot insert.
"""

from __future__ import annotations

from failover.core.model import MemberVote, Role
from failover.core.observation import Observation
from failover.core.rules import Rules

LOST, FAILED, ODD = 100, 10, 5


def doubt(seen: Observation, rules: Rules) -> int:
    """How much speaks against the primary now: 0 is plain sailing. A vote counts more than any failed probe."""
    primary = seen.grant.value.member if seen.grant else None
    if primary is None:
        return 0
    weight = 0
    for name in rules.controllers:
        stored = seen.votes.get(name)
        vote = stored.value.of(primary) if stored and seen.now_s - stored.seen_at_s <= rules.gone_s else None
        if vote is not None:
            weight += LOST if vote.lost else FAILED * (vote.fresh == "dead") + FAILED * (vote.kept == "dead") + _odd(vote)
    status = seen.status(primary, rules.gone_s)
    return weight + (min(status.heartbeat_fails, FAILED) if status else 0)


def _odd(vote: MemberVote) -> int:
    """Alive, but starting up or letting nobody in; or known only by a connection of before (a password was changed)."""
    starting = vote.role is Role.RECOVERING or (vote.fresh == "alive" and vote.role is Role.UNKNOWN)
    return ODD if starting or (vote.fresh == "unknown" and vote.kept != "unknown") else 0
