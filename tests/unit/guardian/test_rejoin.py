"""An old primary and a member without data come back: rewound or copied anew, what is given up saved first, step by step."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from failover.coordination.memory import MemoryEnsemble
from failover.core.model import Claim, Grant, Maintenance, MemberStatus, RejoinOrder, RejoinWay, Role, SyncSet
from failover.engines.base import Discarded, Work
from failover.engines.lsn import Lsn
from failover.errors import Refused, Unknown
from failover.guardian.rejoin import ATTEMPTS
from tests.support.fake_host import Authority, Clock, FakeHost

SYNC = (SyncSet(1, ("db2", "db3"), "1"),)
CLAIM = Grant(None, 4, ("db2", "db3"), SYNC, claim=Claim("db1", 3, 5, "op-1"))
TO_DB2 = Grant("db2", 5, ("db1", "db3"), SYNC, minimum_position="1@0/500")
DB2 = MemberStatus("db2", Role.PRIMARY, position="2@0/600 1:0/500", writable=True, epoch=5, rewind_ready=True)
DB3 = MemberStatus("db3", Role.STANDBY, streaming=True, follows="db2")
REWIND = RejoinOrder("db1", RejoinWay.REWIND, "ann", "req-1")
RESEED = RejoinOrder("db1", RejoinWay.RESEED, "ann", "req-2")


@pytest.fixture
def diverged(host: FakeHost, leader: Authority) -> FakeHost:
    """db1 was fenced with log that db2, the primary now, does not have. Nothing was done about it yet."""
    leader.grant(CLAIM)
    host.turn(2)
    host.database.at = Lsn(1, 0x540)
    leader.grant(TO_DB2)
    leader.status(replace(DB2, rewind_ready=False), "db2")
    host.turn(3)
    assert host.database.role is Role.STANDBY and host.database.upstream == ""
    return host


def diary(host: FakeHost, mark: int) -> list[str]:
    words = ("save", "stop", "rewind", "copy", "start", "follow", "isolate")
    return [event for event in host.since(mark) if event.startswith(words)]


# --- rewind ------------------------------------------------------------------------------------------------------------
def test_a_diverged_member_is_rewound_after_the_primarys_checkpoint_and_follows(diverged: FakeHost, leader: Authority) -> None:
    assert diverged.board.own.rejoin is not None and "db2 to finish its first checkpoint" in diverged.board.own.rejoin
    mark = len(diverged.events)
    leader.status(DB2, "db2")
    diverged.turn(4)
    assert diary(diverged, mark) == [
        "save log from 1@0/500 to 1@0/540", "stop fast", "rewind against db2", "isolate", "follow db2", "start",
    ]  # fmt: skip
    assert diverged.database.upstream == "10.0.0.2" and diverged.board.own.rejoin is None and not diverged.places.marker.exists()
    told = diverged.rejoined()
    assert told is not None and (told.state, told.way) == ("done", RejoinWay.REWIND)
    assert (told.diverged_at, told.end) == ("1@0/500", "1@0/540")
    assert (told.discarded_commits, told.tables) == (1, (("lab.writes", 2),)) and told.saved is not None
    (saved,) = diverged.places.saved.iterdir()
    assert str(saved) == told.saved and (saved / "commits.txt").exists()
    assert diverged.receipt().closes == 3 and diverged.memory.now.closed == 3, "our own stop was no death"


def test_log_in_which_nobody_misses_anything_is_not_kept(diverged: FakeHost, leader: Authority) -> None:
    diverged.rejoiner.found = Discarded()
    leader.status(DB2, "db2")
    diverged.turn(4)
    told = diverged.rejoined()
    assert told is not None and (told.state, told.saved) == ("done", None) and "nothing that anybody would miss" in told.says
    assert list(diverged.places.saved.iterdir()) == []


def test_without_automatic_rejoin_a_person_is_asked_and_one_word_is_one_rewind(diverged: FakeHost, leader: Authority) -> None:
    diverged.board.identity = replace(diverged.board.identity, rejoin_automatic=False)
    leader.status(DB2, "db2")
    diverged.turn(3)
    assert "rewind against db2" not in diverged.events
    assert diverged.board.own.rejoin is not None and "`failoverctl rejoin db1` saves and lists" in diverged.board.own.rejoin
    leader.policy(rejoin=(REWIND,))
    diverged.turn(4)
    assert diverged.events.count("rewind against db2") == 1 and diverged.memory.now.rejoined == "req-1"
    assert diverged.board.facts().rejoin.order is None, "the consent was used"


def test_people_at_work_and_operations_are_waited_for(diverged: FakeHost, leader: Authority) -> None:
    leader.status(DB2, "db2")
    for busy in ({"paused_for_s": 60.0}, {"maintenance": (Maintenance("db1", 60.0, "disk", "ann"),)}):
        leader.policy(**busy)
        diverged.turn(3)
        assert diverged.database.pid and "rewind against db2" not in diverged.events
    leader.policy()
    diverged.turn(3)
    assert "rewind against db2" in diverged.events


def test_a_half_rewound_database_is_never_started_and_is_rewound_again(
    diverged: FakeHost, leader: Authority, ensemble: MemoryEnsemble, clock: Clock
) -> None:
    leader.status(DB2, "db2")
    diverged.rejoiner.errors = [Unknown("the primary's host was restarted")]
    diverged.turn(2)
    assert diverged.places.marker.exists() and not diverged.database.pid
    mark = len(diverged.events)
    diverged.turn(3)
    assert diary(diverged, mark) == [], "not before its time, and not started meanwhile"
    leader.grant(replace(CLAIM, epoch=6, claim=Claim("db2", 5, 0, "op-2")))
    diverged.turn(2)
    clock.advance(3600.0)
    diverged.turn(2)
    assert diary(diverged, mark) == [], "not for a claim either"
    leader.grant(Grant("db3", 7, ("db1", "db2"), SYNC))
    leader.status(replace(DB2, member="db3", epoch=7, position="3@0/700 1:0/500 2:0/680"), "db3")
    diverged.rejoiner.becomes = Lsn(3, 0x700, ((1, 0x500), (2, 0x680)))
    diverged.turn(4)
    assert diary(diverged, mark) == ["rewind against db3", "isolate", "follow db3", "start"], "the log was saved once"


def test_after_three_failures_a_person_decides_and_the_old_data_is_kept(
    diverged: FakeHost, leader: Authority, clock: Clock
) -> None:
    leader.status(DB2, "db2")
    diverged.rejoiner.errors = [Unknown("could not read WAL record")] * ATTEMPTS
    for _ in range(2 * ATTEMPTS):
        clock.advance(60.0)
        diverged.turn(2)
        leader.status(DB2, "db2")
    told = diverged.rejoined()
    assert told is not None and (told.state, told.says) == ("failed", "could not read WAL record")
    assert diverged.events.count("rewind against db2") == ATTEMPTS and not diverged.database.pid
    assert diverged.board.own.rejoin is not None and "failoverctl rejoin db1 --reseed" in diverged.board.own.rejoin
    leader.policy(rejoin=(RESEED,))
    clock.advance(60.0)
    diverged.turn(4)
    assert diverged.database.upstream == "10.0.0.2" and diverged.memory.now.rejoined == "req-2"
    told = diverged.rejoined()
    assert told is not None and (told.state, told.way, told.discarded_commits) == ("done", RejoinWay.RESEED, 1)
    (kept,) = diverged.places.data_dir.parent.glob("main.before-*")
    assert str(kept) in told.says


def test_a_tail_too_large_to_save_is_not_given_up_silently(diverged: FakeHost, leader: Authority, clock: Clock) -> None:
    diverged.rejoiner.size_bytes = 17 << 30
    leader.status(DB2, "db2")
    diverged.turn(2)
    clock.advance(60.0)
    diverged.turn(3)
    assert diverged.database.pid and "rewind against db2" not in diverged.events
    assert diverged.board.own.rejoin is not None and "17 GiB of log would be given up" in diverged.board.own.rejoin


def test_a_grant_that_comes_while_the_log_is_saved_ends_the_rewind_before_anything_is_touched(
    diverged: FakeHost, leader: Authority
) -> None:
    save = diverged.rejoiner.save

    def granted_back(*args: object) -> object:
        leader.grant(Grant("db1", 6, ("db2", "db3"), SYNC))
        diverged.board.read(diverged.ledger.view(diverged.mirror))
        return save(*args)  # type: ignore[arg-type]  # passed on

    diverged.rejoiner.save = granted_back  # type: ignore[method-assign]  # in the very moment
    leader.status(DB2, "db2")
    diverged.ward()
    assert diverged.database.pid and "stop fast" not in diverged.events and not diverged.places.marker.exists()
    diverged.turn(3)
    assert diverged.database.role is Role.PRIMARY and diverged.gate.open()


def test_a_guardian_that_stops_ends_its_tool_and_the_next_goes_on(
    diverged: FakeHost, leader: Authority, ensemble: MemoryEnsemble, clock: Clock
) -> None:
    leader.status(DB2, "db2")
    at_work = threading.Event()

    def hang(work: Work) -> None:
        at_work.set()
        assert work.stop.wait(5.0)
        raise Unknown("stopped before its end")

    diverged.rejoiner.during = hang
    diverged.see()
    diverged.warden.step()
    assert at_work.wait(5.0)
    assert "rewinding against db2: 42 % of 3 MiB" in (diverged.board.own.rejoin or "")
    diverged.warden.stop()
    assert diverged.places.marker.exists()
    next_one = FakeHost(ensemble, "db1", clock)
    next_one.places.marker.write_text(diverged.places.marker.read_text())
    (next_one.places.data_dir / "PG_VERSION").unlink()
    (next_one.places.data_dir / "half").write_text("")
    next_one.disk.kept, next_one.memory._now = diverged.memory.now, diverged.memory.now
    next_one.turn(4)
    assert diary(next_one, 0) == ["rewind against db2", "isolate", "follow db2", "start"]
    next_one.close()


# --- a new copy -----------------------------------------------------------------------------------------------------------
def lose_data(host: FakeHost) -> None:
    host.database.end()
    for path in host.places.data_dir.iterdir():
        path.unlink()


def test_a_lost_data_directory_is_copied_anew_from_a_standby_that_serves(standby: FakeHost, leader: Authority) -> None:
    leader.status(replace(DB2, member="db1", epoch=3, position="1@0/600"), "db1")
    leader.status(replace(DB3, follows="db1"), "db3")
    standby.turn()
    lose_data(standby)
    standby.rejoiner.becomes = Lsn(1, 0x600)
    mark = len(standby.events)
    standby.turn(4)
    assert diary(standby, mark) == ["copy from db3", "isolate", "follow db1", "start"]
    told = standby.rejoined()
    assert told is not None and told.state == "done" and "lost: what only it had cannot be listed" in told.says
    assert not list(standby.places.data_dir.parent.glob("main.*"))


def test_a_copy_that_fails_is_made_again_from_the_primary(standby: FakeHost, leader: Authority, clock: Clock) -> None:
    leader.status(replace(DB2, member="db1", epoch=3, position="1@0/600"), "db1")
    leader.status(replace(DB3, follows="db1"), "db3")
    standby.turn()
    lose_data(standby)
    standby.rejoiner.errors, standby.rejoiner.becomes = [Unknown("the standby was promoted")], Lsn(1, 0x600)
    mark = len(standby.events)
    standby.turn(2)
    assert "the standby was promoted" in (standby.board.own.rejoin or "")
    clock.advance(60.0)
    standby.turn()
    leader.status(replace(DB2, member="db1", epoch=3, position="1@0/600"), "db1")
    standby.turn(3)
    assert diary(standby, mark)[:2] == ["copy from db3", "copy from db1"] and standby.database.upstream == "10.0.0.1"


def test_an_empty_directory_on_another_file_system_is_not_a_loss(standby: FakeHost, leader: Authority) -> None:
    leader.status(replace(DB2, member="db1", epoch=3, position="1@0/600"), "db1")
    standby.turn()
    standby.memory.change(home="another")
    lose_data(standby)
    mark = len(standby.events)
    standby.turn(3)
    assert diary(standby, mark) == [] and "not the file system that held the data" in (standby.board.own.rejoin or "")
    leader.policy(rejoin=(replace(RESEED, member="db2"),))
    standby.rejoiner.becomes = Lsn(1, 0x600)
    standby.turn(4)
    assert "copy from db1" in standby.since(mark) and standby.database.upstream == "10.0.0.1", "a person knows better"


def test_an_ordered_copy_keeps_the_old_data_once(standby: FakeHost, leader: Authority, clock: Clock) -> None:
    leader.status(replace(DB2, member="db1", epoch=3, position="1@0/600"), "db1")
    standby.rejoiner.becomes = Lsn(1, 0x600)
    leader.policy(rejoin=(replace(RESEED, member="db2"),))
    mark = len(standby.events)
    standby.turn(4)
    assert diary(standby, mark) == ["copy from db1", "stop fast", "isolate", "follow db1", "start"], "it served during the copy"
    (kept,) = standby.places.data_dir.parent.glob("main.before-*")
    assert (kept / "PG_VERSION").exists()
    leader.policy(rejoin=(replace(RESEED, member="db2", request="req-9"),))
    standby.turn(2)
    assert f"{kept} is still there" in (standby.board.own.rejoin or "") and standby.events.count("copy from db1") == 1
    (kept / "PG_VERSION").unlink()
    kept.rmdir()
    clock.advance(60.0)
    standby.turn(2)
    assert standby.events.count("copy from db1") == 2


def test_the_swap_goes_on_wherever_it_was_interrupted(standby: FakeHost) -> None:
    places = standby.places
    places.make_room()
    (places.new / "PG_VERSION").write_text("new")
    places.data_dir.rename(places.data_dir.with_name("main.before-1"))
    assert places.swap("1") == str(places.data_dir.with_name("main.before-1"))
    assert (places.data_dir / "PG_VERSION").read_text() == "new" and places.swap("1").endswith("before-1")
    (places.data_dir.with_name("main.before-1") / "PG_VERSION").unlink()
    places.data_dir.with_name("main.before-1").rmdir()


def test_a_tool_of_an_earlier_guardian_is_waited_for(standby: FakeHost) -> None:
    with standby.places.locked(), pytest.raises(Unknown, match="earlier guardian"), standby.places.locked():
        raise AssertionError("two at work")


def test_a_marker_that_cannot_be_read_starts_nothing_and_holds_up_no_fence(host: FakeHost, leader: Authority) -> None:
    host.places.marker.write_text("{torn")
    leader.grant(CLAIM)
    host.turn(3)
    assert host.receipt().closes == 3
    leader.grant(TO_DB2)
    leader.status(DB2, "db2")
    mark = len(host.events)
    host.turn(3)
    assert diary(host, mark) == [] and "does not say what is under way" in (host.board.own.rejoin or "")


def test_nobody_starts_or_promotes_a_database_that_is_being_taken_away(host: FakeHost) -> None:
    host.rejoin._take(RejoinWay.REWIND)
    with pytest.raises(Unknown, match="at work"), host.rejoin.hands_off():
        raise AssertionError("both at once")
    assert not host.rejoin.state.startable and host.rejoin.state.unfinished is RejoinWay.REWIND
    host.rejoin._let_go()
    with host.rejoin.hands_off():
        assert host.rejoin.state.startable


# --- fenced by hand ---------------------------------------------------------------------------------------------------------
def test_whom_a_person_fenced_is_stopped_and_stays_down_until_the_word(standby: FakeHost, leader: Authority) -> None:
    leader.status(replace(DB2, member="db1", epoch=3, position="1@0/600"), "db1")
    leader.policy(fenced=("db2",))
    standby.turn(3)
    assert not standby.database.pid and "fenced by hand" in (standby.board.own.rejoin or "")
    assert standby.receipt().closes == 2 and standby.events.count("stop fast") == 1
    leader.policy(rejoin=(replace(REWIND, member="db2"),))
    standby.turn(4)
    assert standby.database.upstream == "10.0.0.1" and standby.memory.now.rejoined == "req-1"


# --- the primary's half -----------------------------------------------------------------------------------------------------
def test_a_new_primary_says_when_others_may_be_rewound_against_it(standby: FakeHost, leader: Authority) -> None:
    leader.grant(CLAIM)
    standby.turn(2)
    leader.grant(TO_DB2)
    ready: list[bool] = []
    standby.engine.on_promote = lambda: ready.append(standby.reporter.status().rewind_ready)
    standby.turn(2)
    assert ready == [False]
    standby.turn(2)
    assert standby.database.checkpointed == 2 and standby.reporter.status().rewind_ready


def test_a_checkpoint_that_fails_is_made_again_later(standby: FakeHost, leader: Authority, clock: Clock) -> None:
    def refuse(budget_s: float) -> None:
        raise Refused("no space left on device")

    standby.engine.checkpoint = refuse  # type: ignore[method-assign]  # a full disk
    leader.grant(CLAIM)
    standby.turn(2)
    leader.grant(TO_DB2)
    standby.turn(4)
    assert standby.reporter.status().writable and not standby.reporter.status().rewind_ready
    del standby.engine.checkpoint
    clock.advance(2.0)
    standby.turn(6)
    clock.advance(2.0)
    standby.turn(2)
    clock.advance(2.0)
    standby.turn(2)
    assert standby.reporter.status().rewind_ready
