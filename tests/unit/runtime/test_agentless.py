"""What the leading controller says of a member that has nobody to speak for it: what it sees, and never more."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace

import pytest

from failover.coordination.ledger import Ledger
from failover.coordination.memory import MemoryEnsemble
from failover.coordination.paths import Paths
from failover.core.model import Grant, Member, MemberStatus, Policy, Role
from failover.core.plan import Create, Key, Kind, Swap
from failover.engines.base import ProbeResult
from failover.engines.lsn import Lsn
from failover.errors import Unreachable
from failover.runtime.agentless import HOST_S, KNOWN_S, REFRESH_S, AgentlessWatch
from failover.runtime.leadership import Leadership
from failover.runtime.probes import ProbeBoard
from tests.support.fake_host import Clock

MEMBERS = (Member("db1", "10.0.0.1", guarded=False), Member("db2", "10.0.0.2"), Member("db3", "10.0.0.3", guarded=False))
PRIMARY = ProbeResult(True, Role.PRIMARY, "primary", 0.01, Lsn(1, 0x500), "7001", writable=True)
STANDBY = ProbeResult(True, Role.STANDBY, "standby", 0.01, Lsn(1, 0x400), "7001", follows="10.0.0.1", streaming=True)
SILENT = ProbeResult(False, Role.UNKNOWN, "no answer in time", 0.5)
WELL: Mapping[str, object] = {"guardian": False, "closed": 0, "fenced": False, "processes": 9, "vip": True}


class Leader:
    """A controller in memory that leads, its probes, and host agents that say `hosts`."""

    def __init__(self, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("failover.runtime.agentless.boottime_s", clock)
        self.ensemble = MemoryEnsemble()
        self.client = self.ensemble.client("c1")
        self.client.start(1.0)
        paths = Paths("main")
        self.ledger = Ledger(self.client, paths)
        self.ledger.bootstrap([m.name for m in MEMBERS], Policy(), 1.0)
        self.mirror = self.client.mirror(paths.singles(), paths.trees())
        self.leadership = Leadership("c1", self.ledger)
        self.leadership.campaign(self.ledger.view(self.mirror))
        self.probes = ProbeBoard(2, 60.0)
        self.hosts: dict[str, Mapping[str, object]] = {"db1": WELL, "db3": WELL}
        self.watch = AgentlessWatch(MEMBERS, self.ledger, self.mirror, self.probes, self._ask)

    def _ask(self, member: str, budget_s: float) -> Mapping[str, object]:
        if member not in self.hosts:
            raise Unreachable(f"{member}: no SSH line")
        return self.hosts[member]

    def found(self, member: str, result: ProbeResult) -> None:
        self.probes.found(member, "fresh", result)

    def granted(self, member: str, epoch: int) -> None:
        stored = self.ledger.read(Key(Kind.GRANT), 1.0)
        grant = Grant(member, epoch)
        self.ledger.commit([Create(Key(Kind.GRANT), grant) if stored is None else Swap(Key(Kind.GRANT), grant, None)], 1.0)

    def told(self, member: str) -> MemberStatus:
        stored = self.ledger.read(Key(Kind.MEMBER, member), 1.0)
        assert stored is not None
        status: MemberStatus = stored.value
        return status

    def step(self) -> Leader:
        self.watch.ask_hosts()
        self.watch.step()
        return self


@pytest.fixture
def leader(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Leader:
    one = Leader(clock, monkeypatch)
    one.found("db1", PRIMARY)
    one.found("db3", STANDBY)
    return one


def test_before_adoption_it_says_what_adoption_asks_for(leader: Leader) -> None:
    leader.step()
    assert leader.told("db1") == MemberStatus(
        "db1", Role.PRIMARY, "7001", "1@0/500", gate="agentless", vip=True, guardian="no guardian: watched from afar"
    )
    assert (leader.told("db3").follows, leader.told("db3").streaming) == ("db1", True)
    assert leader.ledger.read(Key(Kind.MEMBER, "db2"), 1.0) is None, "db2 has a guardian, who speaks for it"


def test_it_writes_when_it_is_the_granted_primary_and_is_one(leader: Leader) -> None:
    leader.granted("db1", 1)
    assert (leader.step().told("db1").writable, leader.told("db1").epoch) == (True, 1)
    leader.found("db1", replace(PRIMARY, writable=False))
    assert (leader.step().told("db1").writable, leader.told("db1").epoch) == (False, 0)


def test_a_primary_without_the_grant_is_a_problem_and_no_writer_of_ours(leader: Leader) -> None:
    leader.granted("db2", 3)
    said = leader.step().told("db1")
    assert (said.role, said.writable, said.epoch) == (Role.PRIMARY, False, 0)
    assert said.problems == ("is a primary without the grant: it may take writes",)
    assert leader.told("db3").streaming is False, "it streams from db1, who is nobody now"


def test_silence_is_unknown_and_down_needs_the_hosts_own_word(leader: Leader, clock: Clock) -> None:
    leader.found("db1", SILENT)
    said = leader.step().told("db1")
    assert (said.role, said.position, said.problems) == (Role.UNKNOWN, None, ("does not answer: no answer in time",))
    leader.hosts["db1"] = {**WELL, "processes": 0}
    assert leader.step().told("db1").role is Role.DOWN
    leader.hosts.clear()
    clock.advance(KNOWN_S)
    assert leader.step().told("db1").role is Role.UNKNOWN, "what the host said long ago is not known any more"


def test_refused_credentials_are_said_and_keep_it_from_being_adopted(leader: Leader) -> None:
    leader.found("db1", ProbeResult(None, Role.UNKNOWN, "password refused", 0.01))
    assert leader.step().told("db1").problems == ("cannot be probed: password refused",)


def test_a_fenced_one_says_how_it_comes_back(leader: Leader) -> None:
    leader.hosts["db1"] = {**WELL, "closed": 4, "fenced": True, "vip": False}
    said = leader.step().told("db1")
    assert said.rejoin is not None and "epoch 4" in said.rejoin and "failover-guardian release" in said.rejoin
    leader.hosts["db1"] = {**WELL, "closed": 4, "fenced": False}
    assert leader.step().told("db1").rejoin is None, "a person released it"


def test_a_host_that_does_not_answer_keeps_its_last_word_for_a_while(leader: Leader, clock: Clock) -> None:
    assert leader.step().told("db1").vip
    del leader.hosts["db1"]
    clock.advance(HOST_S)
    assert leader.step().told("db1").vip


@pytest.mark.parametrize("facts", [{"processes": "0", "vip": "yes", "fenced": "no"}, {"processes": False}, {}])
def test_facts_of_a_wrong_type_say_nothing(leader: Leader, facts: Mapping[str, object]) -> None:
    leader.found("db1", SILENT)
    leader.hosts["db1"] = facts
    said = leader.step().told("db1")
    assert (said.role, said.vip, said.rejoin) == (Role.UNKNOWN, False, None)


def test_it_is_said_again_every_second_and_not_oftener(leader: Leader, clock: Clock) -> None:
    def version() -> int:
        stored = leader.ledger.read(Key(Kind.MEMBER, "db1"), 1.0)
        assert stored is not None
        return stored.version

    first = leader.step() and version()
    assert leader.step() and version() == first
    clock.advance(REFRESH_S)
    assert leader.step() and version() == first + 1


def test_who_does_not_lead_says_nothing_and_asks_nobody(leader: Leader) -> None:
    asked: list[str] = []
    leader.watch._ask = lambda member, budget_s: asked.append(member) or WELL  # type: ignore[func-returns-value]  # counts
    stored = leader.ledger.read(Key(Kind.LEADER), 1.0)
    assert stored is not None
    leader.client.expire()
    leader.client.start(1.0)
    leader.step()
    assert leader.ledger.read(Key(Kind.MEMBER, "db1"), 1.0) is None and asked == []


def test_one_that_was_deposed_between_look_and_word_changes_nothing(leader: Leader) -> None:
    records = leader.ledger.view(leader.mirror)
    stored = records.one(Kind.TERM)
    assert stored is not None
    leader.ledger.commit([Swap(Key(Kind.TERM), stored.value + 1, stored.version)], 1.0)
    leader.watch._publish(records, MemberStatus("db1", Role.PRIMARY))
    assert leader.ledger.read(Key(Kind.MEMBER, "db1"), 1.0) is None


def test_where_every_member_has_a_guardian_no_thread_is_started(leader: Leader) -> None:
    guarded = tuple(replace(m, guarded=True) for m in MEMBERS)
    assert AgentlessWatch(guarded, leader.ledger, leader.mirror, leader.probes, leader._ask).start(threading.Event()) == []
