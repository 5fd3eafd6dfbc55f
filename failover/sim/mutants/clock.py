"""Mistakes in what the clock proves, and in the records that it is read from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace

from failover.actuators import fencing
from failover.coordination.ledger import Records
from failover.core import confirm
from failover.core import pledge as pledges
from failover.core.machine import Situation
from failover.core.model import Grant, Lease, Stored
from failover.core.observation import Observation
from failover.core.plan import Check, Fence, Guard, Kind, Outcome, Plan, Swap, Verdict, Write
from failover.core.pledge import PledgeAsk, PledgeWord, SentUnder
from failover.core.rules import Rules
from failover.guardian import pledges as guardian_pledges
from failover.guardian.base import StateFile
from failover.guardian.fencer import Memory
from failover.guardian.service import Guardian
from failover.remote.wire import Reply
from failover.runtime import node
from failover.runtime.observer import Observer, Since
from failover.settings import Timings
from failover.sim import pledges as simulated_pledges
from failover.sim.mirror import SimMirror
from failover.sim.mutants.base import Patch
from failover.sim.zookeeper import Changes


# --- W itself -----------------------------------------------------------------------------------------------------------
def w_is_l() -> tuple[Patch, ...]:
    return ((Timings, "wait_s", property(lambda self: self.lease_s)),)


def from_the_sending() -> tuple[Patch, ...]:
    """A watch is a read that was sent when the previous answer came; that moment is taken."""
    learn, show = SimMirror._learn, SimMirror._show
    sent_at_s: dict[SimMirror, float] = {}

    def _learn(self: SimMirror, changes: Changes, zxid: int) -> None:
        learn(self, changes, zxid)
        sent_at_s[self] = self._process.clock.now_s()

    def _show(self: SimMirror, kind: Kind, path: str, node: object, now_s: float) -> None:
        show(self, kind, path, node, sent_at_s.get(self, now_s) if kind is Kind.LEASE else now_s)  # type: ignore[arg-type]

    return ((SimMirror, "_learn", _learn), (SimMirror, "_show", _show))


def from_an_older_version() -> tuple[Patch, ...]:
    """The stamp is kept for as long as the record says the same: every renewal says the same."""
    observe = Observer.observe

    def first_sight(self: Observer, records: Records, outcomes: tuple[Outcome, ...] = ()) -> Observation:
        seen = observe(self, records, outcomes)
        since: Since = self._since
        leases: dict[str, Stored[Lease]] = {
            name: replace(stored, seen_at_s=since.of(f"lease {name}", stored.value, stored.seen_at_s))
            for name, stored in seen.leases.items()
        }
        return replace(seen, leases=leases)

    return ((Observer, "observe", first_sight),)


def no_lease_check() -> tuple[Patch, ...]:
    """CLAIM does not check it, so W is counted from whatever version the leader had in view when it decided to claim."""
    observe = Observer.observe
    sights: dict[Observer, dict[tuple[str, int], float]] = {}

    def without(write: Write) -> tuple[Write, ...]:
        return () if isinstance(write, Check) and write.key.kind is Kind.LEASE else (write,)

    def first_sight(self: Observer, records: Records, outcomes: tuple[Outcome, ...] = ()) -> Observation:
        seen = observe(self, records, outcomes)
        mine = sights.setdefault(self, {})
        for name, stored in seen.leases.items():
            mine.setdefault((name, stored.version), stored.seen_at_s)
        claim = seen.grant.value.claim if seen.grant else None
        at_s = mine.get((claim.old, claim.lease_version)) if claim else None
        if claim is None or at_s is None:
            return seen
        as_claimed = replace(seen.leases[claim.old], version=claim.lease_version, seen_at_s=at_s)
        return replace(seen, leases={**seen.leases, claim.old: as_claimed})

    return (*_every_write(without), (Observer, "observe", first_sight))


def unversioned() -> tuple[Patch, ...]:
    def anyhow(write: Write) -> tuple[Write, ...]:
        is_grant = isinstance(write, Swap) and write.key.kind is Kind.GRANT
        return (replace(write, version=None),) if is_grant and isinstance(write, Swap) else (write,)

    return _every_write(anyhow)


def _every_write(changed: Callable[[Write], tuple[Write, ...]]) -> tuple[Patch, ...]:
    """What the leader commits, one write at a time."""
    decided: Callable[[Observation, Rules], Plan] = vars(node)["decide"]

    def decide(seen: Observation, rules: Rules) -> Plan:
        plan = decided(seen, rules)
        return replace(plan, writes=tuple(kept for write in plan.writes for kept in changed(write)))

    return ((node, "decide", decide),)


# --- what is taken as evidence ------------------------------------------------------------------------------------------
def before_confirm() -> tuple[Patch, ...]:
    def in_good_faith(at: Situation) -> Guard:
        return Guard("the claim", Verdict.PASS, f"{at.operation.old} was told")

    return ((confirm, "EVIDENCE", (in_good_faith,)),)


def _clock(named: Callable[[Situation, Lease], Collection[str] | None]) -> tuple[Patch, ...]:
    """The evidence of the clock, with another opinion on who has to be sealed and quiet; None: nobody."""
    sound = confirm.by_clock

    def by_clock(at: Situation) -> Guard:
        found, lease = sound(at), at.seen.leases.get(at.operation.old)
        if found.verdict is not Verdict.BLOCK or lease is None:
            return found
        left_s = at.rules.wait_s - (at.seen.now_s - lease.seen_at_s)
        if confirm._clock_is_useless(at, lease) or left_s > 0:
            return found
        names = named(at, lease.value)
        sealed = confirm.sealed_positions(at)
        if names is None or any(name in sealed and at.seen.seals[name].value.quiet for name in names):
            return Guard("clock", Verdict.PASS, "W has passed")
        return found

    return ((confirm, "EVIDENCE", tuple(by_clock if known is sound else known for known in confirm.EVIDENCE)),)


def without_a_quiet_member() -> tuple[Patch, ...]:
    return _clock(lambda at, lease: None)


def quiet_by_the_current_list() -> tuple[Patch, ...]:
    return _clock(lambda at, lease: at.seen.grant.value.promotable if at.seen.grant else ())


def read_only() -> tuple[Patch, ...]:
    """The order over SSH makes the database read-only, and that is believed. It binds no session that is there."""

    def _fence(self: Guardian, closes: int) -> tuple[str, dict[str, object]]:
        return "default_transaction_read_only is on", {"read_only": True}

    def _proof(action: Fence, reply: Reply) -> tuple[bool, str]:
        return reply.facts.get("read_only") is True or sound(action, reply)[0], f"{action.member}: {reply.evidence}"

    sound = fencing._proof
    return ((Guardian, "_fence", _fence), (fencing, "_proof", _proof))


# --- pledges --------------------------------------------------------------------------------------------------------------
def one_is_enough() -> tuple[Patch, ...]:
    def complete(ask: PledgeAsk, words: Iterable[PledgeWord], owed: Collection[str]) -> bool:
        return not owed or bool(pledges.given_by(ask, words, owed))

    return ((guardian_pledges, "complete", complete),)


def newest_list_only() -> tuple[Patch, ...]:
    def owed(self: SentUnder) -> tuple[str, ...]:
        return tuple(sorted(max(self.lists)[1])) if self.lists else ()

    return ((SentUnder, "owed", owed),)


def replies_of_any_round() -> tuple[Patch, ...]:
    def answers(ask: PledgeAsk, word: PledgeWord) -> bool:
        return word.epoch == ask.epoch

    return ((pledges, "answers", answers), (simulated_pledges, "answers", answers))


def forgets_to_wait() -> tuple[Patch, ...]:
    def quiet(now_s: float, began_s: float, last_pledge_s: float | None, wait_s: float) -> bool:
        return last_pledge_s is None or now_s - last_pledge_s >= wait_s

    return ((guardian_pledges, "quiet", quiet),)


def forgets_the_frozen_epoch() -> tuple[Patch, ...]:
    """Its freeze and the epochs it has seen were in memory only."""
    load = Memory.__init__

    def __init__(self: Memory, file: StateFile) -> None:
        load(self, file)
        self._now = replace(self._now, frozen=0, frozen_against="")

    def highest_known(highest: int, frozen: int, granted: Grant | None) -> int:
        return max(frozen, granted.epoch if granted else 0)

    return ((Memory, "__init__", __init__), (pledges, "highest_known", highest_known))
