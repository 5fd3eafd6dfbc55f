"""The way from guardian to guardian: datagrams that may be lost, doubled or late, and a word of an old round among new ones."""

from __future__ import annotations

from collections.abc import Sequence

from failover.core.pledge import PledgeAsk, PledgeWord, answers
from failover.guardian.pledges import PledgeBook
from failover.sim.scheduler import Process, Task
from failover.sim.threads import give_way
from failover.sim.world import World

AGAIN_S = 0.04


class SimPledgers:
    """`guardian.base.Pledgers`. What arrives between two rounds waits in the socket."""

    def __init__(self, world: World, process: Process, me: str) -> None:
        self._world, self._process, self._me = world, process, me
        self._heard: list[PledgeWord] = []
        self._listening: Task | None = None

    def ask(self, ask: PledgeAsk, members: Sequence[str], budget_s: float) -> tuple[PledgeWord, ...]:
        process, sim = self._process, self._process.sim
        process.boundary("pledge.ask")
        until_s = sim.now_s + process.clock.true_s(budget_s)
        again_s = 0.0
        self._listening = sim.current
        while not self._all_spoke(ask, members) and sim.now_s < until_s:
            if sim.now_s >= again_s:
                again_s = sim.now_s + AGAIN_S
                for member in members:
                    self._send(ask, member)
            give_way(min(again_s, until_s) - sim.now_s)
        self._listening = None
        words, self._heard = tuple(self._heard), []
        process.boundary("pledge.ask done")
        return words

    def _all_spoke(self, ask: PledgeAsk, members: Sequence[str]) -> bool:
        spoke = {word.member for word in self._heard if answers(ask, word)}
        return all(member in spoke for member in members)

    def _send(self, ask: PledgeAsk, member: str) -> None:
        world, me = self._world, self._me

        def arrive() -> None:
            giver = world.machines[member].guardian
            book = world.books.get(giver) if giver is not None else None
            if giver is not None and book is not None and giver.alive:
                giver.spawn("pledge", lambda: self._give(giver, book, ask, member))

        world.network.send(me, member, arrive)

    def _give(self, giver: Process, book: PledgeBook, ask: PledgeAsk, member: str) -> None:
        giver.boundary("pledge.give")
        word = book.give(ask)
        giver.boundary("pledge.give done")
        world = self._world

        def hear() -> None:
            self._process.receive(lambda: self._hear(word))

        world.sim.after(world.late_words_s, lambda: world.network.send(member, self._me, hear))

    def _hear(self, word: PledgeWord) -> None:
        self._heard.append(word)
        if self._listening is not None:
            self._listening.wake()
