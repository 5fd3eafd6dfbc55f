"""Is the primary lost?

Votes may be wrong without harm: they only start the protocol, and nothing here is trusted by it (docs/guarantees.md).
A receipt needs no vote: the guardian beside the database has shut the gate and will not open under that epoch again.
Otherwise the primary counts as lost when a majority of the *configured* controllers says so, each of which can see past it,
and no standby has received a heartbeat row lately. The primary's own guardian failing to insert one for n intervals is a
vote that no replication progress can veto: the kept connections of a half-hung server go on replicating.

One thing still speaks for a silent primary whose own guardian cannot insert: its main process runs, or waits for its turn.
Starved, it gets 20 inserts, and after one that came through the time in which a standby would have heard of it; a frozen one
does neither, and a silent host has no guardian to say so.

**A voter judges its own network first.** Its witnesses are the other members that are up by their own guardian's word:
neither the suspect nor the member on the voter's own host, whose answers cross no network. At least half of them must have
answered the voter *since before* its latest failed probe of the suspect began, and still answer. With controllers on the
database hosts that is: db2 on db1 must see db3, and db3 must see db2; db1's own controller may see either. Why so:

- *Since before*: when a switch comes back after a while, some members answer a moment before others, and whoever answers
  first would confirm the loss of the rest. A probe that began inside such a blip proves nothing about its target.
- *Up by its guardian's word*: with db3 switched off for repair, db2 has nobody left to see, and a frozen db1 must still be
  noticed. If db3's guardian says it is up and db2 cannot see it, then it is db2 that has gone deaf.
- Without any such witness (two members, or the third one down) ZooKeeper is the witness: a vote is an ephemeral node that a
  majority of the ensemble stored, so its writer reaches at least one other host. It too must have been connected since
  before the failed probe. (An ensemble of one server proves nothing to a controller beside it; that is a trial set-up.)

A broken controller is therefore one vote less, never one more, and a blip of everything at once makes no votes at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from failover.core.model import ZOOKEEPER, Grant, MemberVote, Receipt, Role, Votes
from failover.core.observation import Observation
from failover.core.plan import Guard, Verdict
from failover.core.rules import Rules

STARVED_FAILS = 20  # heartbeats in a row, each a bound and an interval: 15 s in `lan`, 30 s in `default`


@dataclass(frozen=True)
class Finding:
    """`lost` with the one-sentence reason, and every guard with what it saw. All guards PASS if it is lost."""

    lost: bool
    why: str
    guards: tuple[Guard, ...]


@dataclass(frozen=True)
class Voter:
    """What one configured controller says of the suspect. `blind`: why its vote for a loss does not count."""

    name: str
    says: str
    lost: bool = False
    blind: str = ""
    remarkable: bool = True


def judge_primary(seen: Observation, rules: Rules, grant: Grant) -> Finding:
    """The verdict on the member that has the grant."""
    primary = grant.member
    assert primary is not None
    receipt = seen.receipts.get(primary)
    if receipt and receipt.value.closes >= grant.epoch:
        return _by_receipt(seen, rules, receipt.value, seen.now_s - receipt.seen_at_s)
    return _by_votes(seen, rules, primary, grant.epoch)


def _by_receipt(seen: Observation, rules: Rules, receipt: Receipt, age_s: float) -> Finding:
    facts = f"{receipt.member} closed epoch {receipt.closes}: {receipt.method}"
    status = seen.status(receipt.member, rules.gone_s)
    back = status is not None and status.streaming is False and status.role.value == "standby"
    wait_s = rules.on_clean_stop_wait_s if receipt.clean and not back else 0.0
    if age_s < wait_s:
        text = f"{facts}; a clean stop that nobody asked for, waiting {wait_s - age_s:.1f} s (on_clean_stop)"
        return Finding(False, text, (Guard("receipt", Verdict.BLOCK, text),))
    return Finding(True, facts, (Guard("receipt", Verdict.PASS, facts),))


def _by_votes(seen: Observation, rules: Rules, primary: str, epoch: int) -> Finding:
    voters = [_voter(seen, rules, name, primary) for name in rules.controllers]
    quorum = _quorum_guard(rules, primary, voters)
    needed = (
        quorum, _network_guard(rules, voters), _heartbeat_guard(seen, rules, primary), _starved_guard(seen, rules, primary),
    )  # fmt: skip
    refused = next((guard for guard in needed if guard.verdict is not Verdict.PASS), None)
    if refused is None:
        says = ", ".join(f"{v.name}: {v.says}" for v in voters if v.lost and not v.blind)
        return Finding(True, f"{primary} lost by {says}", needed)
    receipt = Guard("receipt", Verdict.UNKNOWN, f"none closes epoch {epoch}: {primary}'s guardian reports no end of it")
    why = _count(rules, primary, voters) + _named(voters) if refused is quorum else refused.facts
    return Finding(False, why, (*needed, receipt))


def _count(rules: Rules, primary: str, voters: list[Voter]) -> str:
    lost = sum(1 for voter in voters if voter.lost and not voter.blind)
    return f"{lost} of {len(voters)} lost {primary}, {rules.votes_needed} needed"


def _named(voters: list[Voter]) -> str:
    """Who says lost, for the log, which is written at every change; what each of them measured changes all the time."""
    says = ", ".join(f"{v.name}, not counted" if v.blind else v.name for v in voters if v.lost)
    return f" ({says})" if says else ""


def _voter(seen: Observation, rules: Rules, name: str, primary: str) -> Voter:
    stored = seen.votes.get(name)
    if stored is None:
        return Voter(name, "no vote: it does not run, or does not reach ZooKeeper")
    if seen.now_s - stored.seen_at_s > rules.gone_s:
        return Voter(name, "no fresh vote")
    vote = stored.value.of(primary)
    if vote is None:
        return Voter(name, "no finding")
    remarkable = vote.lost or vote.fresh != "alive" or vote.role in (Role.RECOVERING, Role.UNKNOWN)
    return Voter(name, vote.why, vote.lost, _blind(seen, rules, stored.value, vote, primary), remarkable)


def _blind(seen: Observation, rules: Rules, votes: Votes, vote: MemberVote, primary: str) -> str:
    """Why this voter may be the one whose network is broken, "" if it sees enough."""
    if not vote.lost:
        return ""
    others = [name for name in _up(seen, rules) if name not in (primary, votes.beside)]
    if not others:
        return "" if ZOOKEEPER in vote.sees else "nobody else to look at, and ZooKeeper was out of its reach as well"
    sees = [name for name in others if name in vote.sees]
    return "" if len(sees) * 2 >= len(others) else f"its own network is in doubt: sees {len(sees)} of {', '.join(others)}"


def _up(seen: Observation, rules: Rules) -> Iterator[str]:
    for member in rules.members:
        status = seen.status(member.name, rules.gone_s)
        if status is not None and status.role in (Role.PRIMARY, Role.STANDBY):
            yield member.name


def _quorum_guard(rules: Rules, primary: str, voters: list[Voter]) -> Guard:
    """Every voter's finding, unless all of them simply see the primary alive."""
    lost = [voter for voter in voters if voter.lost and not voter.blind]
    facts = _count(rules, primary, voters)
    if any(voter.remarkable for voter in voters):
        ordered = sorted(voters, key=lambda voter: voter not in lost)
        facts += " (" + "; ".join(f"{v.name}: {v.says}{', not counted' if v.blind else ''}" for v in ordered) + ")"
    return Guard("quorum of controllers", _verdict(len(lost) >= rules.votes_needed), facts)


def _network_guard(rules: Rules, voters: list[Voter]) -> Guard:
    """UNKNOWN when votes for a loss are missing because their writers could not see the others either."""
    blind = [voter for voter in voters if voter.blind]
    counted = sum(1 for voter in voters if voter.lost and not voter.blind)
    facts = "; ".join(f"{v.name} not counted: {v.blind}" for v in blind) or "nobody who voted is blind"
    missed = blind and counted < rules.votes_needed
    return Guard("voters see their other targets", Verdict.UNKNOWN if missed else Verdict.PASS, facts)


def _heartbeat_guard(seen: Observation, rules: Rules, primary: str) -> Guard:
    own = seen.status(primary, rules.gone_s)
    if own and own.heartbeat_fails >= rules.probes_lost:
        text = f"{primary}'s own guardian could not insert for {own.heartbeat_fails} intervals"
        return Guard("no heartbeat at any standby", Verdict.PASS, text)
    for member in rules.others(primary):
        moved = seen.heartbeat_moved_s.get(member.name)
        if moved is not None and seen.now_s - moved <= rules.silence_s:
            text = f"{member.name} received a heartbeat {seen.now_s - moved:.1f} s ago"
            return Guard("no heartbeat at any standby", Verdict.BLOCK, text)
    return Guard("no heartbeat at any standby", Verdict.PASS, f"none within {rules.silence_s:.1f} s")


def _starved_guard(seen: Observation, rules: Rules, primary: str) -> Guard:
    """A starved server is as silent as a frozen one, to probes and to its own guardian; but it moves. It gets a while.

    So it does when an insert has come through after all: a standby must have the time to receive it.
    """
    own, turned_s = seen.status(primary, rules.gone_s), seen.inserts_turned_s.get(primary)
    text = ""
    if own is not None and own.moving:
        if 0 < own.heartbeat_fails < STARVED_FAILS:
            fails = f"{own.heartbeat_fails} of {STARVED_FAILS} inserts failed"
            text = f"{primary}'s main process still runs: starved, not frozen ({fails})"
        elif not own.heartbeat_fails and turned_s is not None and seen.now_s - turned_s < rules.silence_s:
            text = f"{primary}'s own guardian could insert again {seen.now_s - turned_s:.1f} s ago"
    return Guard("not merely starved", _verdict(not text), text or "nothing speaks for it")


def _verdict(passed: bool) -> Verdict:
    return Verdict.PASS if passed else Verdict.BLOCK
