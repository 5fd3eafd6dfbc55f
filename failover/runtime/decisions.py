"""The leader's latest judgement, kept in one record for `failoverctl explain`, with the latest doubt beside it.

It is written outside of the deciding transactions, when its *meaning* changed; texts with counting seconds alone are
refreshed once a second while there is doubt and rarely in calm. Nothing depends on it: a write that fails is forgotten.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, replace

from failover.coordination.base import LostRace
from failover.coordination.ledger import Ledger, Records
from failover.core.doubts import doubt
from failover.core.invariants import Violated
from failover.core.model import Decision
from failover.core.observation import Observation
from failover.core.plan import Check, Create, Guard, Key, Kind, Plan, Swap, Verdict, Write
from failover.core.rules import Rules
from failover.errors import FailoverError

log = logging.getLogger("failover.decisions")
WRITE_S = 0.5
AT_MOST_S = 0.2  # two verdicts that take turns must not become a write a tick
DOUBT_S = 1.0
CALM_S = 30.0
EPISODE_S = 10.0  # a doubt within this of the last one is the same trouble: its worst moment is kept
_NUMBER = re.compile(r"\d+(\.\d+)?")


@dataclass(frozen=True)
class _Written:
    term: int
    meaning: object
    at_s: float


class DecisionRecord:
    """One leader's. `offer` is called on ticks that have nothing else to write."""

    def __init__(self, me: str, rules: Rules, ledger: Ledger) -> None:
        self._me, self._rules, self._ledger = me, rules, ledger
        self._written: _Written | None = None
        self._doubt: Decision | None = None
        self._worst, self._doubted_s = 0, -EPISODE_S

    def note(self, seen: Observation, plan: Plan) -> None:
        """Remember the worst moment of the latest trouble, also on ticks that write something else."""
        weight, now_s = doubt(seen, self._rules), seen.now_s
        if not weight or not plan.guards or seen.term is None:
            return
        over = now_s - self._doubted_s > EPISODE_S
        self._doubted_s = now_s
        if over or weight >= self._worst:
            self._worst = weight
            self._doubt = Decision(self._me, seen.term.value, plan.says, plan.guards, seen.wall)

    def offer(self, records: Records, seen: Observation, plan: Plan) -> None:
        """Write it if that is due. Raises nothing."""
        if seen.term is None or not (plan.says or plan.guards):
            return
        stored = records.one(Kind.DECISION)
        now_s, meaning = seen.now_s, (_meaning(plan), self._worst)
        if not self._due(now_s, seen.term.value, meaning, in_doubt=doubt(seen, self._rules) > 0):
            return
        kept = self._doubt or (stored.value.doubt if stored else None)
        value = Decision(self._me, seen.term.value, plan.says, plan.guards, seen.wall, kept)
        key = Key(Kind.DECISION)
        write: Write = Create(key, value) if stored is None else Swap(key, value, None)
        self._written = _Written(seen.term.value, meaning, now_s)
        try:
            self._ledger.commit((Check(Key(Kind.TERM), seen.term.version), write), WRITE_S)
        except LostRace as lost:
            self._written = replace(self._written, meaning=None)  # nothing of ours is there: again soon
            log.debug("the decision record: %s", lost)
        except FailoverError as error:
            log.debug("the decision record was not written: %s", error)

    def _due(self, now_s: float, term: int, meaning: object, in_doubt: bool) -> bool:
        last = self._written
        if last is None or last.term != term:
            return True
        age_s = now_s - last.at_s
        if meaning != last.meaning:
            return age_s >= AT_MOST_S
        return age_s >= (DOUBT_S if in_doubt else CALM_S)


def violation(why: Violated) -> Plan:
    """What stopped the leader's hands, as a judgement to show."""
    return Plan(says=f"INVARIANT VIOLATED, hands off: {why}", guards=(Guard("invariants", Verdict.BLOCK, str(why)),))


def _meaning(plan: Plan) -> object:
    """What a person would call another judgement: verdicts; without guards the sentence, its numbers aside."""
    return tuple((g.name, g.verdict) for g in plan.guards) if plan.guards else _NUMBER.sub("#", plan.says)
