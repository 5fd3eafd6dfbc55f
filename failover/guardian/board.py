"""What this guardian knows: one thread-safe place that every loop writes its findings to and reads frozen facts from.

Nothing is decided here. A finding carries when it was made; what is too old counts as not known.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from failover.clock import boottime_s
from failover.coordination.ledger import Records
from failover.core.duty import LocalFacts
from failover.core.lease import LeaseState, LeaseTimes
from failover.core.model import Grant, Member, MemberStatus, Operation, Policy, Position, Receipt, Role, Stored, SyncSet
from failover.core.plan import Kind
from failover.core.rejoin import Data, RejoinFacts
from failover.engines.base import LocalState
from failover.errors import Corrupt
from failover.guardian.base import Durable, RejoinState
from failover.guardian.pledges import PledgeBook

NOT_IN_VIEW = 2**62
HEARD_S = 3.0  # every guardian refreshes its record each second


@dataclass(frozen=True)
class Own:
    """What only this process can know about itself.

    `handover_position`: where the log ends of a primary that became a standby in place for `handover_operation`.
    `served`: the newest epoch under which it opened the port to writers. `sealed_for`: the claim it has reported for, and
    whether that report could say *quiet*.
    `fencing`: the epoch being closed right now, before the disk has it. `armed`: the next start is a standby's.
    `rewind_ready`: the history (`Position.history_id`) whose first checkpoint was seen on the disk: one epoch may see several.
    `rejoin`: why the member is not a standby in good standing, `failed`: the duty that does not succeed, both for people.
    """

    served: int = 0
    sealed_for: int = 0
    sealed_quiet: bool = False
    handover_operation: str | None = None
    handover_since_s: float | None = None
    handover_position: str | None = None
    stopping: bool = False
    fencing: int = 0
    vip_wanted: bool = False
    prepared: bool = False
    armed: bool = False
    applied_sync: SyncSet | None = None
    applied_at: str | None = None
    heartbeat_fails: int = 0
    diverged: bool = False  # when it was last compared with a granted member
    rejoin: str | None = None
    rewind_ready: str = ""
    failed: str | None = None
    says: str = "starting"


@dataclass(frozen=True)
class Life:
    """One run of the database's main process. `keeps`: what it had received before it began is certainly still there."""

    name: str = ""
    keeps: bool = True

    def unproven(self, durable: Durable) -> bool:
        """It may have lost log that it acknowledged in an earlier run, and has not caught up since."""
        return not self.keeps and self.name != durable.proven_life


@dataclass(frozen=True)
class Identity:
    """Who this guardian is and the times it lives by."""

    me: str
    members: tuple[Member, ...]
    times: LeaseTimes
    switchover_deadline_s: float
    fresh_s: float  # a finding older than this is not known any more
    wait_s: float = 0.0  # W: a guardian that started less than this ago counts as having pledged just before
    rejoin_automatic: bool = False


class Board:
    """The guardian's shared picture. `wake` is set whenever something changed that a duty may depend on.

    `pledges`: the book of what this member has promised to others, made with the board, before anybody can ask.
    """

    def __init__(self, identity: Identity, parse: Callable[[str], Position]) -> None:
        self.identity = identity
        self.wake = threading.Event()
        self._parse = parse
        self._lock = threading.Lock()
        self._own = Own()
        self._records = Records()
        self._local: tuple[LocalState | None, float, bool] = (None, 0.0, False)
        self._life = Life()
        self._lease: Callable[[], LeaseState] = LeaseState
        self._durable: Callable[[], Durable] = Durable
        self._rejoin: Callable[[], RejoinState] = RejoinState
        names = [member.name for member in identity.members]
        self.pledges = PledgeBook(
            identity.me, names, identity.wait_s, lambda: self._durable(), self.grant, lambda: self._lease()
        )

    def bind(
        self, lease: Callable[[], LeaseState], durable: Callable[[], Durable], rejoin: Callable[[], RejoinState] = RejoinState
    ) -> None:
        """Where the lease state, what is remembered across restarts and what is on the disk are read from."""
        self._lease, self._durable, self._rejoin = lease, durable, rejoin

    def found(self, local: LocalState | None, running: bool, life: Life | None = None) -> None:
        """The database answered (or did not, None) and its main process runs or does not; which run of it that is."""
        with self._lock:
            before = self._local
            self._local = (local, boottime_s(), running)
            self._life = life or Life()
        changed = before[2] != running or (before[0] and before[0].role) != (local and local.role)
        if changed or (local and before[0] and local.configured_upstream != before[0].configured_upstream):
            self.wake.set()

    def read(self, records: Records) -> None:
        """A new picture of ZooKeeper."""
        with self._lock:
            self._records = records
        self.wake.set()

    def note(self, **changes: object) -> Own:
        """Change what only we know."""
        with self._lock:
            self._own = replace(self._own, **changes)  # type: ignore[arg-type]  # field names are checked by replace itself
            return self._own

    @property
    def own(self) -> Own:
        with self._lock:
            return self._own

    @property
    def records(self) -> Records:
        with self._lock:
            return self._records

    @property
    def local(self) -> LocalState | None:
        """What the database said, if it said so lately."""
        with self._lock:
            state, at_s, _ = self._local
        return state if state and boottime_s() - at_s <= self.identity.fresh_s else None

    @property
    def life(self) -> Life:
        """The present run of the database."""
        with self._lock:
            return self._life

    @property
    def handed_over_in_place(self) -> bool:
        """The database was handed over as it runs, and is a standby by its own word: no fence needs to end it."""
        local = self.local
        return self.own.handover_position is not None and local is not None and local.role is Role.STANDBY

    @property
    def foreign(self) -> str | None:
        """What is wrong if the database that runs here is not of this cluster: then nothing is done with it."""
        local, grant = self.local, self.grant()
        if local is None or grant is None or not grant.value.system_identifier:
            return None
        if local.system_identifier == grant.value.system_identifier:
            return None
        return f"wrong system identifier: {local.system_identifier} here, the cluster's is {grant.value.system_identifier}"

    @property
    def running(self) -> bool:
        with self._lock:
            return self._local[2]

    def grant(self) -> Stored[Grant] | None:
        return self.records.one(Kind.GRANT)

    def member_at(self, address: str) -> str | None:
        """The member that lives at `address`, or None."""
        return next((m.name for m in self.identity.members if m.address == address), None)

    def address_of(self, member: str) -> str:
        address = next((m.address for m in self.identity.members if m.name == member), None)
        if address is None:
            raise Corrupt(f"{member} is not a member in this host's configuration")
        return address

    def hears(self, member: str) -> bool:
        """Has the guardian of `member` said something in ZooKeeper lately?"""
        stored: Stored[MemberStatus] | None = self.records.all(Kind.MEMBER).get(member)
        return stored is not None and boottime_s() - stored.seen_at_s <= HEARD_S

    def is_guarded(self, member: str) -> bool:
        """Is a guardian configured beside this member?"""
        return any(m.name == member and m.guarded for m in self.identity.members)

    def facts(self) -> LocalFacts:
        """Everything a duty is judged on, frozen now."""
        local, own, records, identity = self.local, self.own, self.records, self.identity
        durable = self._durable()
        grant: Stored[Grant] | None = records.one(Kind.GRANT)
        if self.foreign:
            local = None
        operation: Stored[Operation] | None = records.one(Kind.OPERATION)
        policy: Stored[Policy] | None = records.one(Kind.POLICY)
        return LocalFacts(
            boottime_s(), identity.me, identity.times, identity.switchover_deadline_s, grant, operation, policy,
            self.running, local.role if local else (Role.UNKNOWN if self.running else Role.DOWN),
            self.member_at(local.configured_upstream) if local else None, local.position if local else None,
            self._granted_position(records, grant), self._lease(),
            max(durable.closed, own.fencing), self._receipted(records), durable.frozen, durable.followed, durable.wrote,
            own.sealed_for,
            own.served, durable.released,
            own.handover_since_s, own.handover_operation,
            quiet=self.pledges.quiet(), sealed_quiet=own.sealed_quiet, highest=durable.highest,
            rejoin=self._rejoin_facts(records, grant, policy, durable), diverged=own.diverged,
        )  # fmt: skip

    def _rejoin_facts(
        self, records: Records, grant: Stored[Grant] | None, policy: Stored[Policy] | None, durable: Durable
    ) -> RejoinFacts:
        me, state = self.identity.me, self._rejoin()
        orders = policy.value.rejoin if policy else ()
        order = next((o.way for o in orders if o.member == me and o.request != durable.rejoined), None)
        primary = records.all(Kind.MEMBER).get(grant.value.member) if grant and grant.value.member else None
        writable = primary is not None and grant is not None and _serves(primary.value, grant.value)
        return RejoinFacts(
            self.identity.rejoin_automatic, order, writable and primary is not None and primary.value.rewind_ready, writable,
            state.data, state.doubt, state.unfinished, state.startable, state.failed, state.obstacle,
            returning=state.ready or state.unfinished is not None or state.data is not Data.HERE
            or (self.running and self.life.unproven(durable)),
        )  # fmt: skip

    def _receipted(self, records: Records) -> int:
        """What our receipt in ZooKeeper closes; everything, while it is not in view: absence of a record is no order."""
        stored: Stored[Receipt] | None = records.all(Kind.RECEIPT).get(self.identity.me)
        return stored.value.closes if stored else NOT_IN_VIEW

    def _granted_position(self, records: Records, grant: Stored[Grant] | None) -> Position | None:
        if grant is None or grant.value.member is None:
            return None
        stored: Stored[MemberStatus] | None = records.all(Kind.MEMBER).get(grant.value.member)
        status = stored.value if stored else None
        wrote = status is not None and _serves(status, grant.value)
        text = status.position if wrote and status else grant.value.minimum_position
        try:
            return self._parse(text) if text else None
        except Corrupt:
            return None


def _serves(status: MemberStatus, grant: Grant) -> bool:
    """It takes writes under this grant or a later one, by its own word."""
    return status.writable and status.epoch >= grant.epoch
