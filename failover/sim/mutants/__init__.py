"""The product with one mistake at a time: what shows that the simulator's oracle has teeth."""

from __future__ import annotations

from dataclasses import replace

from failover.core.model import Replication
from failover.sim.mutants import clock, gate, schedules, sealing
from failover.sim.mutants.base import Mutant, caught, hunt, patched, replay, told, unmutated
from failover.sim.setting import Setting, of_profile

__all__ = ["MUTANTS", "Mutant", "caught", "hunt", "named", "patched", "replay", "told", "unmutated"]


def _async(setting: Setting) -> Setting:
    """S1 alone: nothing is counted, so the clock is what stands between two writers."""
    return replace(setting, replication=Replication.ASYNC)


def _two(setting: Setting) -> Setting:
    return replace(_async(setting), members=setting.members[:2])


def _drifting(setting: Setting) -> Setting:
    """Clocks that run wrong by a fifth, so that the error shows in one short lease."""
    return replace(_async(setting), timings=replace(setting.timings, clock_rate_error=0.2))


def _quick_handover(setting: Setting) -> Setting:
    return replace(setting, switchover_deadline_s=1.0)


def _long_sessions(setting: Setting) -> Setting:
    """A controller keeps a silent server for longer."""
    return replace(_async(setting), timings=replace(setting.timings, session_s=2.0))


def _long_leases(setting: Setting) -> Setting:
    """Faults go on for long enough to have the old primary granted back."""
    return of_profile("lan")


def _two_with_long_leases(setting: Setting) -> Setting:
    return _two(of_profile("lan"))


AWAY = ("isolate", "cut from zookeeper", "operator asks", "freeze database")
TWICE = ("operator asks", "cut from zookeeper", "pause guardian", "slow link", "kill database")

MUTANTS: tuple[Mutant, ...] = (
    Mutant("no seal", "S2", "a standby reports for a claim and goes on receiving", sealing.no_seal, kinds=(*TWICE, "cut"),
           faults=schedules.ACKNOWLEDGED_BY_DB3, seed=1),
    Mutant("seal by SQL only", "S2", "the receiver is told to stop, the kernel drops nothing", sealing.seal_by_sql_only,
           kinds=(*TWICE, "trouble", "trouble", "cut"),
           faults=schedules.STUBBORN_RECEIVER, seed=1),
    Mutant("W = L under drift", "S1", "W allows for no error of the clocks' rates", clock.w_is_l, _drifting, AWAY,
           faults=schedules.ISOLATED, seed=34),
    Mutant("W counted from the sending of the read", "S1", "the first sight of a lease is stamped before the answer came",
           clock.from_the_sending, _long_sessions, (*AWAY, "slow link", "pause a zookeeper", "pause controller"),
           faults=schedules.LONG_READ, seed=3),
    Mutant("W counted from an older version", "S1", "a renewal that says the same does not start the wait again",
           clock.from_an_older_version, _async, AWAY,
           faults=schedules.ISOLATED, seed=6),
    Mutant("no lease check at CLAIM", "S1", "CLAIM does not check the lease, and W is counted from what the leader had read",
           clock.no_lease_check, _async, (*AWAY, "stop at an effect", "pause controller", "pause guardian", "slow link"),
           faults=schedules.STOPPED_BEFORE_CLAIM, seed=1),
    Mutant("grant written unversioned", "S1", "the grant is written over whatever is there", clock.unversioned, _async,
           ("pause a zookeeper", "isolate", "maintenance", "maintenance", "cut from zookeeper", "operator asks"),
           faults=schedules.LATE_EDIT, seed=43),
    Mutant("promote before confirm", "S1", "the claim is taken for the proof", clock.before_confirm, kinds=AWAY,
           faults=schedules.ISOLATED, seed=1),
    Mutant("clock without a quiet member", "S1", "W alone confirms, whoever pledged", clock.without_a_quiet_member, _async,
           AWAY,
           faults=schedules.ON_PLEDGES, seed=1),
    Mutant("quiet by the current list", "S1", "the list of the grant counts, not that of the lease",
           clock.quiet_by_the_current_list, _async, (*AWAY, "maintenance", "maintenance", "cut from zookeeper"),
           faults=schedules.LIST_GROWS, seed=1),
    Mutant("one pledge enough", "S1", "one pledge keeps the lease", clock.one_is_enough, _async,
           (*AWAY, "cut from zookeeper"),
           faults=schedules.ONE_IS_DEAF, seed=1),
    Mutant("newest list only", "S1", "pledges are asked of the newest list", clock.newest_list_only, _async,
           (*AWAY, "maintenance", "maintenance", "cut from zookeeper"),
           faults=schedules.LIST_SHRINKS, seed=1),
    Mutant("an old round's replies", "S1", "a pledge of any round counts", clock.replies_of_any_round, _two_with_long_leases,
           (*AWAY, "slow link", "slow link", "cut from zookeeper", "pause guardian"),
           faults=schedules.SLOW_WORDS, seed=2),
    Mutant("restart forgets to wait", "S1", "a restarted guardian counts as quiet", clock.forgets_to_wait, _two,
           (*AWAY, "kill guardian", "cut from zookeeper", "stop all zookeepers"),
           faults=schedules.PLEDGED_AND_RESTARTED, seed=1),
    Mutant("restart forgets the frozen epoch", "S1", "a restarted guardian pledges for an epoch that it was frozen against",
           clock.forgets_the_frozen_epoch, _two, (*AWAY, "kill guardian", "cut from zookeeper"),
           faults=schedules.FROZEN_AND_RESTARTED, seed=1),
    Mutant("enable on a command's word", "S1", "the grant in view opens the port", gate.on_a_commands_word, kinds=AWAY,
           faults=schedules.ISOLATED, seed=1),
    Mutant("a dead process without the gate", "S1", "the death is the receipt", gate.dead_process_without_the_gate,
           kinds=("kill database", "kill database", "start as primary by hand", "kill database, started by hand"),
           faults=schedules.STARTED_AGAIN, seed=1),
    Mutant("map entry deleted but elements not flushed", "S1", "a switch that comes late opens again",
           gate.elements_not_flushed, kinds=("kill database", "start as primary by hand", "operator asks", "stop at an effect",
                                             "pause guardian", "slow link"),
           faults=schedules.LATE_SWITCH, seed=5),
    Mutant("arm after the acknowledgement", "S1", "the ticket is added when the word has come",
           gate.armed_after_the_acknowledgement, _async, (*AWAY, "stop at an effect", "pause guardian"),
           faults=schedules.STOPPED_AFTER_THE_WORD, seed=1),
    Mutant("read-only taken as evidence", "S1", "a read-only database counts as fenced", clock.read_only, _async,
           (*AWAY, "cut from zookeeper"),
           faults=schedules.FENCED_BY_WORDS, seed=1),
    Mutant("give-back on a timer", "S1", "writes come back when the time is over", gate.give_back_on_a_timer,
           _quick_handover, ("operator asks", "operator asks", "isolate", "cut from zookeeper", "stop at an effect"),
           faults=schedules.DEAF_WHILE_HANDING_OVER, seed=1),
    Mutant("newest sync pair only", "S2", "the pairs of before are not counted", sealing.newest_pair_only,
           kinds=("kill database", "kill database", "crash host", "slow link", "cut", "cut one way", "die at an effect"),
           faults=schedules.TWO_IN_A_ROW, seed=1),
    Mutant("no barrier", "S2", "the old pair is dropped when the new one is applied", sealing.no_barrier,
           kinds=("kill database", "kill database", "crash host", "slow link", "cut", "cut one way", "die at an effect"),
           faults=schedules.TWO_WITH_TIME_BETWEEN, seed=1),
    Mutant("outside S counted", "S2", "any sealed member counts", sealing.outside_counted,
           kinds=("kill database", "crash host", "pause guardian", "cut", "cut", "operator asks", "isolate"),
           faults=schedules.LEFT_THE_SET, seed=3),
    Mutant("not the most advanced", "S2", "the preferred one is chosen, not the most advanced", sealing.not_the_most_advanced,
           kinds=("kill database", "slow link", "cut", "operator asks"),
           faults=schedules.DB2_LAGS, seed=2),
    Mutant("stale seal reports", "S2", "a report for an earlier claim counts", sealing.stale_seal_reports, _long_leases,
           ("operator asks", "operator asks", "kill database", "cut", "slow link", "pause guardian"),
           faults=schedules.SECOND_CLAIM, seed=1),
    Mutant("unfreeze on command", "S2", "a frozen standby receives again because it was told to", sealing.unfreeze_on_command,
           kinds=("order to unfreeze", "order to unfreeze", "cut from zookeeper", "operator asks", "pause guardian"),
           faults=schedules.ORDERED_TO_RECEIVE, seed=1),
)  # fmt: skip


def named(name: str) -> Mutant:
    """Raises KeyError."""
    return {mutant.name: mutant for mutant in MUTANTS}[name]
