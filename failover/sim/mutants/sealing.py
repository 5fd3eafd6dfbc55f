"""Mistakes in sealing and counting: what S2 rests on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from failover.core import candidate, confirm, failover, replication
from failover.core.duty import LocalFacts
from failover.core.machine import Situation
from failover.core.model import Grant, Member, MemberStatus, Position, Seal
from failover.core.observation import Observation
from failover.core.plan import Key, Kind
from failover.core.rules import Rules
from failover.engines.base import Upstream
from failover.guardian.service import Guardian
from failover.guardian.warden import SQL_S, Warden
from failover.sim.mutants.base import Patch

Facts = tuple[str, dict[str, object]]


# --- sealing ----------------------------------------------------------------------------------------------------------
def no_seal() -> tuple[Patch, ...]:
    def _seal(self: Warden, facts: LocalFacts) -> None:
        position, quiet = self._hands.engine.state(SQL_S).position, self._board.pledges.quiet()
        self._put(Key(Kind.SEAL, self._me), Seal(self._me, facts.epoch, position.text(), quiet))
        self._board.note(sealed_for=facts.epoch, sealed_quiet=quiet)

    return ((Warden, "_seal", _seal),)


def seal_by_sql_only() -> tuple[Patch, ...]:
    def _seal(self: Warden, facts: LocalFacts) -> None:
        assert facts.grant is not None and facts.grant.value.claim is not None
        address = self._board.address_of(facts.grant.value.claim.old)
        self._hands.memory.change(
            frozen=facts.epoch, frozen_against=address, highest=max(self._hands.memory.now.highest, facts.epoch)
        )
        self._hands.engine.stop_receiving(SQL_S)
        position, quiet = self._hands.engine.state(SQL_S).position, self._board.pledges.quiet()
        self._put(Key(Kind.SEAL, self._me), Seal(self._me, facts.epoch, position.text(), quiet))
        self._board.note(sealed_for=facts.epoch, sealed_quiet=quiet)

    return ((Warden, "_seal", _seal),)


def unfreeze_on_command() -> tuple[Patch, ...]:
    obeyed = Guardian.handle

    def handle(self: Guardian, verb: str, fields: dict[str, object]) -> Facts:
        if verb != "unfreeze":
            return obeyed(self, verb, fields)
        memory, warden = self._parts.memory, self._parts.warden
        against = memory.now.frozen_against
        self._parts.sealer.unseal()
        memory.change(frozen=0, frozen_against="")
        old = next((m for m in self._parts.board.identity.members if m.address == against), None)
        if old is not None:
            warden._hands.engine.follow(_upstream(old, self._parts.port), SQL_S)
        return "receiving again", {}

    return ((Guardian, "handle", handle),)


def _upstream(member: Member, port: int) -> Upstream:
    return Upstream(member.name, member.address, port, True)


def stale_seal_reports() -> tuple[Patch, ...]:
    def sealed_positions(at: Situation) -> dict[str, Position]:
        found: dict[str, Position] = {}
        for name, stored in at.seen.seals.items():
            position = at.seen.position(stored.value.position)
            if position is not None and at.rules.member(name):
                found[name] = position
        return found

    return ((confirm, "sealed_positions", sealed_positions), (failover, "sealed_positions", sealed_positions))


# --- counting and choosing ----------------------------------------------------------------------------------------------
def newest_pair_only() -> tuple[Patch, ...]:
    counted = candidate.count_shortfall

    def count_shortfall(rules: Rules, grant: Grant, sealed: Mapping[str, Position]) -> str | None:
        return counted(rules, replace(grant, sync=grant.sync[-1:]), sealed)

    return ((candidate, "count_shortfall", count_shortfall), (failover, "count_shortfall", count_shortfall))


def outside_counted() -> tuple[Patch, ...]:
    def count_shortfall(rules: Rules, grant: Grant, sealed: Mapping[str, Position]) -> str | None:
        for pair in grant.sync:
            if len(sealed) + pair.w <= len(pair.names):
                return f"only {len(sealed)} are sealed"
        return None

    return ((candidate, "count_shortfall", count_shortfall), (failover, "count_shortfall", count_shortfall))


def not_the_most_advanced() -> tuple[Patch, ...]:
    def _not_behind_any(
        eligible: list[Member], sealed: Mapping[str, Position], rejected: dict[str, str]
    ) -> list[Member]:
        return eligible

    return ((candidate, "_not_behind_any", _not_behind_any),)


def no_barrier() -> tuple[Patch, ...]:
    def _drop_old(seen: Observation, grant: Grant, status: MemberStatus, rules: Rules) -> tuple[Grant, str] | None:
        new = grant.sync[-1]
        if status.applied_sync is None or set(status.applied_sync.names) != set(new.names):
            return None
        return replace(grant, sync=(new,)), "the new set is applied"

    return ((replication, "_drop_old", _drop_old),)
