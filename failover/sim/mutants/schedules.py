"""Histories written by hand, for mistakes that need a story: who is cut off from what, and when somebody asks.

The profile is `fast`: a lease lasts 1.2 s, W is 1.52 s, faults happen between 1.0 and 5.8 s. `LATE`: orders over SSH come too
late to settle it, so that the clock has to.
"""

from __future__ import annotations

from failover.sim.faults import Fault

Faults = tuple[Fault, ...]

SWITCHOVER, FAILOVER = 0.1, 0.5  # `part` of "operator asks"
BOTH, MUTE, DEAF = 0.2, 0.6, 0.9  # `part` of "cut from zookeeper"
INEFFECTIVE = 0.7  # `part` of "trouble": the receiver does not stop when it is told to
NO_ORPHANS = 0.9  # `part` of "kill database"

LATE = Fault(1.1, "late orders", (), 9.0, 1.0)
LATE_LONG = Fault(1.1, "late orders", (), 20.0, 1.0)


def cut_off(at_s: float, host: str, part: float = BOTH, for_s: float = 9.0) -> Fault:
    return Fault(at_s, "cut from zookeeper", (host,), for_s, part)


def asks(at_s: float, target: str, what: float = FAILOVER) -> Fault:
    return Fault(at_s, "operator asks", (target,), 0.0, what)


def slow(at_s: float, source: str, target: str, delay_s: float) -> Fault:
    return Fault(at_s, "slow link", (source, target), 9.0, 2 * delay_s)


# --- S1 ---------------------------------------------------------------------------------------------------------------
# db1 lives on pledges for two seconds, then somebody wants db2.
ON_PLEDGES: Faults = (LATE, cut_off(1.5, "db1"), asks(3.5, "db2"))
# db1 renews while db3 is set aside; then it is cut off, and db3 comes back on the list of the grant.
LIST_GROWS: Faults = (
    LATE, Fault(1.1, "maintenance", ("db3",), 0.6), cut_off(1.6, "db1"), asks(3.4, "db2"),
)  # fmt: skip
# db3 pledges on because it never hears of the claim.
ONE_IS_DEAF: Faults = (LATE, cut_off(1.5, "db1"), cut_off(1.5, "db3"), asks(2.2, "db2"))
# db1 reads of a shorter list but cannot renew under it; db2, which its lease names, is the one that is quiet.
LIST_SHRINKS: Faults = (
    LATE, cut_off(1.45, "db1", MUTE, 9.0), Fault(1.47, "maintenance", ("db2",), 0.6), cut_off(1.75, "db3"),
    cut_off(1.9, "db1"), asks(2.4, "db2"),
)  # fmt: skip
# Under `lan`: pledges are heard so late that a lease is counted from a round that nobody answered.
SLOW_WORDS: Faults = (LATE_LONG, Fault(1.4, "late words", (), 20.0, 1.2), cut_off(1.5, "db1", BOTH, 20.0), asks(6.0, "db2"))
PLEDGED_AND_RESTARTED: Faults = (
    LATE, cut_off(1.5, "db1"), Fault(3.3, "kill guardian", ("db2",), 0.02), asks(3.32, "db2"),
)  # fmt: skip
FROZEN_AND_RESTARTED: Faults = (
    LATE, cut_off(1.5, "db1"), asks(1.52, "db2"), cut_off(1.95, "db2", BOTH, 1.4), Fault(2.0, "kill guardian", ("db2",), 0.02),
)  # fmt: skip
# The leader stops just before it sends its claim; db1 renews meanwhile, and is gone when the claim arrives.
STOPPED_BEFORE_CLAIM: Faults = (
    Fault(1.0, "stop a zookeeper", ("db1",), 9.0), asks(2.0, "db2"),
    Fault(2.0, "stop at an effect", ("db3", "zookeeper.commit"), 0.85, 0.04), Fault(2.82, "isolate", ("db1",), 9.0),
)  # fmt: skip
# The leader's edit of the grant waits in a stopped server until another member has the grant.
LATE_EDIT: Faults = (
    LATE, Fault(1.2, "pause guardian", ("db1",), 2.85), Fault(2.0, "slow link", ("db1", "db3"), 1.2, 0.2),
    Fault(2.0, "slow link", ("db2", "db3"), 1.2, 0.2), Fault(2.6, "maintenance", ("db3",), 9.0),
    Fault(2.95, "pause a zookeeper", ("db3",), 0.95), asks(3.1, "db2"),
)  # fmt: skip
STOPPED_AFTER_THE_WORD: Faults = (
    LATE, Fault(1.5, "stop at an effect", ("db1", "zookeeper.renew done"), 2.5), asks(1.8, "db2"),
)  # fmt: skip
FENCED_BY_WORDS: Faults = (cut_off(1.5, "db1"), asks(1.7, "db2"))
DEAF_WHILE_HANDING_OVER: Faults = (
    LATE, Fault(1.0, "stop a zookeeper", ("db1",), 9.0), slow(1.4, "db2", "db1", 0.1), slow(1.4, "db3", "db1", 0.1),
    asks(1.7, "db2", SWITCHOVER), cut_off(2.24, "db1", DEAF),
)  # fmt: skip
# The leader's server is stopped, so its next answer is long in coming; db1 stops when it comes.
LONG_READ: Faults = (
    LATE, Fault(1.5, "pause a zookeeper", ("db2",), 9.0), Fault(2.8, "pause guardian", ("db1",), 9.0), asks(2.82, "db2"),
)  # fmt: skip
STARTED_AGAIN: Faults = (
    Fault(1.0, "stop a zookeeper", ("db1",), 9.0), slow(1.6, "db2", "db1", 0.2), slow(1.6, "db3", "db1", 0.2),
    Fault(2.5, "kill database", ("db1",), 0.0, 0.69),
)  # fmt: skip
LATE_SWITCH: Faults = (
    Fault(1.0, "stop a zookeeper", ("db1",), 9.0), slow(1.8, "db1", "db2", 0.1), slow(1.8, "db1", "db3", 0.1),
    Fault(2.8, "kill database", ("db1",), 0.0, NO_ORPHANS), Fault(2.93, "pause guardian", ("db1",), 9.0),
    Fault(2.94, "start as primary by hand", ("db1",)),
)  # fmt: skip

# db1 hears nobody and nobody hears it; somebody wants db2 when W has nearly passed.
ISOLATED: Faults = (Fault(1.0, "stop a zookeeper", ("db1",), 9.0), Fault(2.0, "isolate", ("db1",), 9.0), asks(2.1, "db2"))

# --- S2 ---------------------------------------------------------------------------------------------------------------
# db1 goes on after the claim, and only db3 hears it.
DB2_LAGS: Faults = (
    Fault(1.0, "stop a zookeeper", ("db1",), 9.0), slow(1.7, "db1", "db2", 0.4),
    Fault(2.2, "kill database", ("db1",), 0.0, NO_ORPHANS),
)  # fmt: skip
ACKNOWLEDGED_BY_DB3: Faults = (
    LATE, Fault(2.95, "pause guardian", ("db1",), 9.0), asks(3.0, "db2"), Fault(3.02, "cut", ("db1", "db2"), 9.0),
)  # fmt: skip
STUBBORN_RECEIVER: Faults = (Fault(1.2, "trouble", ("db3",), 9.0, INEFFECTIVE), *ACKNOWLEDGED_BY_DB3)
ORDERED_TO_RECEIVE: Faults = (*ACKNOWLEDGED_BY_DB3, Fault(3.2, "order to unfreeze", ("db3",)))
# db2 has what db3 does not, leads, and dies before it could pass it on.
TWO_IN_A_ROW: Faults = (
    Fault(1.0, "stop a zookeeper", ("db1",), 9.0), slow(1.2, "db1", "db3", 0.5),
    Fault(2.0, "kill database", ("db1",), 0.0, NO_ORPHANS), Fault(2.12, "pause guardian", ("db1",), 9.0),
    Fault(2.08, "pause guardian", ("db3",), 1.2), Fault(2.8, "kill database", ("db2",), 0.0, NO_ORPHANS),
)  # fmt: skip
TWO_WITH_TIME_BETWEEN: Faults = (
    Fault(1.0, "stop a zookeeper", ("db1",), 9.0), slow(1.2, "db1", "db3", 0.5),
    Fault(2.0, "kill database", ("db1",), 0.0, NO_ORPHANS), Fault(2.12, "pause guardian", ("db1",), 9.0),
    Fault(2.08, "pause guardian", ("db3",), 2.3), Fault(4.2, "kill database", ("db2",), 0.0, NO_ORPHANS),
)  # fmt: skip
LEFT_THE_SET: Faults = (
    slow(1.0, "db1", "db3", 0.5), Fault(1.1, "freeze database", ("db3",), 2.6), Fault(3.65, "pause guardian", ("db2",), 9.0),
    Fault(3.72, "kill database", ("db1",), 0.0, NO_ORPHANS),
)  # fmt: skip
SECOND_CLAIM: Faults = (
    asks(1.5, "db2"), Fault(1.515, "maintenance", ("db2",), 3.6), Fault(1.515, "maintenance", ("db3",), 3.6),
    Fault(4.6, "cut", ("db1", "db2"), 9.0), Fault(5.45, "pause guardian", ("db3",), 9.0),
    Fault(5.5, "kill database", ("db1",), 0.0, NO_ORPHANS),
)  # fmt: skip
