"""Ages are counted from this controller's own first sight, on its own clock; what cannot be parsed counts for nothing."""

from __future__ import annotations

from typing import Any

import pytest

from failover.coordination.ledger import Records
from failover.core.model import Grant, Maintenance, MemberStatus, Operation, OperationKind, Policy, Seal, Stored
from failover.core.observation import Observation
from failover.core.plan import Kind
from failover.engines.lsn import Lsn
from failover.runtime.observer import Observer
from tests.support.fake_host import Clock


class Eyes:
    """An observer and the records it is shown."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.observer = clock, Observer("c1", Lsn.parse)
        self.single: dict[Kind, Any] = {Kind.POLICY: Stored(Policy(), 1, 0.0)}
        self.many: dict[Kind, dict[str, Any]] = {}

    def look(self, after_s: float = 0.0) -> Observation:
        self.clock.advance(after_s)
        return self.observer.observe(Records(self.single, self.many))

    def member(self, name: str, **fields: Any) -> None:
        self.many.setdefault(Kind.MEMBER, {})[name] = Stored(MemberStatus(name, **fields), 1, self.clock.now_s)

    def operation(self, phase: str, name: str = "op-1", **fields: Any) -> None:
        record = Operation(name, OperationKind.FAILOVER, phase, "db1", 3, "why", "me", **fields)
        self.single[Kind.OPERATION] = Stored(record, 1, 0.0)

    def policy(self, **fields: Any) -> None:
        self.single[Kind.POLICY] = Stored(Policy(**fields), 1, 0.0)


@pytest.fixture
def eyes(monkeypatch: pytest.MonkeyPatch) -> Eyes:
    return Eyes(Clock(monkeypatch))


def test_a_phase_ages_from_its_first_sight_and_anew_for_the_next(eyes: Eyes) -> None:
    eyes.operation("opened")
    assert eyes.look().phase_age_s() == 0.0
    assert eyes.look(after_s=2.0).phase_age_s() == pytest.approx(2.0)
    eyes.operation("opened", held="no proof")
    assert eyes.look(after_s=1.0).phase_age_s() == pytest.approx(3.0), "being held is no new phase"
    eyes.operation("claimed")
    assert eyes.look(after_s=1.0).phase_age_s() == 0.0
    eyes.operation("claimed", name="op-2")
    assert eyes.look(after_s=1.0).phase_age_s() == 0.0, "the same phase of another operation is another one"


def test_a_new_leader_counts_the_whole_cool_down_and_the_whole_pause(eyes: Eyes) -> None:
    eyes.policy(last_failover="op-1", paused_for_s=60.0, paused_at_wall="then")
    first = eyes.look()
    assert first.last_failover_since_s == first.pause_since_s == first.now_s
    later = eyes.look(after_s=5.0)
    assert later.last_failover_since_s == first.now_s and later.pause_since_s == first.now_s
    eyes.policy(last_failover="op-1", paused_for_s=60.0, paused_at_wall="later")
    assert eyes.look().pause_since_s == later.now_s, "asked for again: it counts anew"


def test_each_maintenance_has_its_own_age(eyes: Eyes) -> None:
    eyes.policy(maintenance=(Maintenance("db2", 60, "disk", "ann"),))
    began_s = eyes.look().now_s
    eyes.policy(maintenance=(Maintenance("db2", 60, "disk", "ann"), Maintenance("db3", 60, "disk", "ann")))
    assert eyes.look(after_s=4.0).maintenance_since_s == {"db2": began_s, "db3": began_s + 4.0}


def test_a_heartbeat_moves_only_when_a_new_row_was_seen(eyes: Eyes) -> None:
    eyes.member("db2", heartbeat=(3, 7))
    assert eyes.look().heartbeat_moved_s == {}, "the first sight may be of an old row"
    assert eyes.look(after_s=1.0).heartbeat_moved_s == {}
    eyes.member("db2", heartbeat=(3, 8))
    moved = eyes.look(after_s=1.0)
    assert moved.heartbeat_moved_s == {"db2": moved.now_s}
    assert eyes.look(after_s=9.0).heartbeat_moved_s == {"db2": moved.now_s}


def test_inserts_turn_when_they_begin_to_fail_and_when_they_succeed_again(eyes: Eyes) -> None:
    eyes.member("db1", heartbeat_fails=0)
    assert eyes.look().inserts_turned_s == {}
    eyes.member("db1", heartbeat_fails=1)
    failing = eyes.look(after_s=1.0)
    eyes.member("db1", heartbeat_fails=2)
    assert eyes.look(after_s=1.0).inserts_turned_s == {"db1": failing.now_s}, "they fail on"
    eyes.member("db1", heartbeat_fails=0)
    again = eyes.look(after_s=1.0)
    assert eyes.look(after_s=1.0).inserts_turned_s == {"db1": again.now_s}


def test_a_member_streams_only_as_long_as_its_guardian_says_so(eyes: Eyes) -> None:
    eyes.member("db2", streaming=True)
    since_s = eyes.look().streaming_since_s["db2"]
    assert eyes.look(after_s=2.9).streaming_since_s["db2"] == since_s
    silent = eyes.look(after_s=0.2)
    assert silent.streaming_since_s["db2"] == silent.now_s, "3 s of silence: not streaming any more, as of now"


def test_every_position_in_the_records_is_parsed_and_nonsense_is_nowhere(eyes: Eyes) -> None:
    eyes.member("db1", position="1@0/500", applied_at="1@0/400")
    eyes.member("db2", position="nonsense")
    eyes.many[Kind.SEAL] = {"db3": Stored(Seal("db3", 4, "1@0/600"), 1, 0.0)}
    eyes.single[Kind.GRANT] = Stored(Grant("db1", 3, minimum_position="1@0/300"), 1, 0.0)
    seen = eyes.look()
    assert set(seen.positions) == {"1@0/500", "1@0/400", "1@0/600", "1@0/300"}
    assert seen.position_of("db1") == Lsn(1, 0x500) and seen.position_of("db2") is None
