"""Pledges: what lets a healthy primary outlive ZooKeeper, as rules.

When a renewal is not acknowledged, the primary's guardian asks "I will not open for W" of every member of every promotable list
that it has sent a renewal under since, and including, its last acknowledged one. All given: its lease goes on for L from the
moment before the first request. One missing: the lease ends where it would have ended.

Why that is sound: the clock W confirms a fence only with a member that is sealed for the claim, quiet, and on the list of the
lease record that the claim checked. That record was written by one of those renewals, so this very member was asked. It refuses
once it is frozen for the claim, and it is quiet only when its last pledge has run out. All, not a majority: a majority of
members is not one of the ensemble.

Each rule is one function, so that each can be taken away alone to show what it is there for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from failover.core.model import Grant


@dataclass(frozen=True)
class PledgeAsk:
    """"Do you promise not to open for W?", by the guardian of `asker`, which holds a lease of `epoch`. `round` is used once."""

    cluster: str
    asker: str
    epoch: int
    round: str


@dataclass(frozen=True)
class PledgeWord:
    """One member's answer to one round. `why` is for people."""

    member: str
    epoch: int
    round: str
    given: bool
    why: str = ""


@dataclass(frozen=True)
class SentUnder:
    """The promotable lists that renewals were sent under since, and including, the last acknowledged one.

    Renewals have an order, that of their sending; for each list the latest is kept: (order, list). A list whose latest renewal is
    older than an acknowledged one is dropped, because nothing sent under it can become, or be, a lease record that a claim
    checks later, unless the same list was sent again: every renewal checks the version of the grant it was sent under. The
    acknowledgement proves that its version was the present one at its commit, and versions only go up. So a renewal sent before
    it was sent under the same version, which is the same list, or under a lower one, which can never be committed again; it
    cannot have been a higher one, which would have existed already.
    """

    lists: tuple[tuple[int, tuple[str, ...]], ...] = ()

    def sent(self, order: int, promotable: tuple[str, ...]) -> SentUnder:
        """Note it *before* the renewal leaves: whatever becomes of it, its list may be the one that a claim checks."""
        others = tuple(entry for entry in self.lists if entry[1] != promotable)
        latest = max([order, *(known for known, names in self.lists if names == promotable)])
        return SentUnder((*others, (latest, promotable)))

    def acknowledged(self, order: int) -> SentUnder:
        """The renewal `order` was committed: what was sent before it is over."""
        return SentUnder(tuple(entry for entry in self.lists if entry[0] >= order))

    def owed(self) -> tuple[str, ...]:
        """Whose pledges it takes, sorted. Empty: nobody was promotable, no clock is evidence, and none is needed."""
        return tuple(sorted({name for _, names in self.lists for name in names}))


# --- the asker -------------------------------------------------------------------------------------------------------------
def answers(ask: PledgeAsk, word: PledgeWord) -> bool:
    """Does this word belong to this very round? One of an earlier round may be older than anything."""
    return word.round == ask.round and word.epoch == ask.epoch


def given_by(ask: PledgeAsk, words: Iterable[PledgeWord], owed: Collection[str]) -> tuple[str, ...]:
    """Who of `owed` has pledged in this round, sorted."""
    return tuple(sorted({word.member for word in words if word.given and word.member in owed and answers(ask, word)}))


def complete(ask: PledgeAsk, words: Iterable[PledgeWord], owed: Collection[str]) -> bool:
    """All of them, not a majority. Nobody owed: nothing is missing."""
    return set(given_by(ask, words, owed)) >= set(owed)


def missing(ask: PledgeAsk, words: Iterable[PledgeWord], owed: Collection[str]) -> tuple[tuple[str, str], ...]:
    """(member, why) of each that did not pledge, for people."""
    said = tuple(words)
    gave = given_by(ask, said, owed)
    reasons = {word.member: word.why for word in said if answers(ask, word)}
    return tuple((name, reasons.get(name, "no answer")) for name in sorted(owed) if name not in gave)


# --- the giver -------------------------------------------------------------------------------------------------------------
def highest_known(highest: int, frozen: int, granted: Grant | None) -> int:
    """The greatest epoch that this member has seen or is frozen for: what its disk says, and the grant in view."""
    return max(highest, frozen, granted.epoch if granted else 0)


def judge(
    ask: PledgeAsk, me: str, members: Collection[str], highest: int, frozen: int, granted: Grant | None,
    released: bool = False, holding: bool = False,
) -> PledgeWord:  # fmt: skip
    """What `me` answers. `released`: its gate was opened by hand. `holding`: a lease of its own is running."""
    why = refusal(ask, me, members, highest, frozen, granted, released, holding)
    return PledgeWord(me, ask.epoch, ask.round, why is None, why or "")


def refusal(
    ask: PledgeAsk, me: str, members: Collection[str], highest: int, frozen: int, granted: Grant | None,
    released: bool, holding: bool,
) -> str | None:  # fmt: skip
    """Why not, or None. Every rule can only say no."""
    if not_from_another(ask, me, members):
        return f"{ask.asker} is not another member"
    if overtaken(ask, highest, frozen, granted):
        return f"epoch {ask.epoch} is over: {highest_known(highest, frozen, granted)} is known here"
    if granted_to_another(ask, granted):
        return f"epoch {ask.epoch} is not {ask.asker}'s"
    if released:
        return "released by hand: the port is open here, whoever asks"
    if holding:
        return "a lease of its own is running here"
    return None


def not_from_another(ask: PledgeAsk, me: str, members: Collection[str]) -> bool:
    return ask.asker == me or ask.asker not in members


def overtaken(ask: PledgeAsk, highest: int, frozen: int, granted: Grant | None) -> bool:
    """A claim or a later grant is known here: the asker's epoch is being ended, or has been."""
    return ask.epoch < highest_known(highest, frozen, granted)


def granted_to_another(ask: PledgeAsk, granted: Grant | None) -> bool:
    """The same epoch twice can only be a ZooKeeper that went back to an old copy: pledge to neither of the two."""
    return granted is not None and granted.epoch == ask.epoch and granted.member != ask.asker


def quiet(now_s: float, began_s: float, last_pledge_s: float | None, wait_s: float) -> bool:
    """W has passed since the last pledge, or since this guardian began: one that was restarted counts as having pledged then."""
    since_s = began_s if last_pledge_s is None else max(began_s, last_pledge_s)
    return now_s - since_s >= wait_s
