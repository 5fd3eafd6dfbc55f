"""What looks like a dead primary and is none: no operation is opened, writes go on afterwards, and `explain` says why not.

The leader is free to fail over all the time (no cool-down, no pause). With FAILOVER_SOAK=1 the long variants run as well:
a recovery of 60 s, an idle primary for 5 minutes, more blips.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from failover.clock import boottime_s
from failover.lab.commands import LabError
from failover.profiles import PROFILES
from tests.support import cpu, trouble
from tests.support.lab_cluster import Cluster

SOAK = os.environ.get("FAILOVER_SOAK") == "1"
LAN = PROFILES["lan"]
HELD_S = 2 * LAN.detection_s  # twice what it takes to vote a dead primary lost
DEMOTED = "the lease cannot be renewed: ending sessions"
UNHARMED_S = 1.0  # a longer blip of the primary's own host may cost its lease: a demotion by its guardian, no operation
pytestmark = pytest.mark.timeout(600)


@dataclass
class Account:
    """What `explain` said while something was wrong."""

    said: list[dict[str, Any]] = field(default_factory=list)

    def facts(self, guard: str) -> str:
        return "\n".join(str(g["facts"]) for one in self.said for g in one["guards"] if g["name"] == guard)

    def says(self, guard: str, pattern: str) -> None:
        assert re.search(pattern, self.facts(guard)), f"{guard}: no {pattern!r} in\n{self.facts(guard)}"


@contextmanager
def nothing_happens(cluster: Cluster, demotion_allowed: bool = False) -> Iterator[Account]:
    """Around a stimulus under light traffic: the operations, the grant and the primary are what they were, nothing is lost,
    and writes flow again. `explain` is asked all the while. A demotion restarts the server, and where that takes longer than a
    vote (MySQL's InnoDB is slow to start) another is promoted meanwhile."""
    before, member = _record(cluster), cluster.primary()
    promotions, said = _promotions(cluster, member), cluster.log_of(member, "guardian")
    account, over, asked_on = Account(), threading.Event(), cluster.standbys()[-1]
    with cluster.traffic() as load:
        asker = threading.Thread(target=_ask, args=(cluster, asked_on, account, over), name="explain")
        asker.start()
        began_s = boottime_s()
        try:
            yield account
        finally:
            ended_s = boottime_s()
            over.set()
            asker.join()
        flowing_s = load.flows(30.0, since=ended_s)
        cluster.wait_whole(60.0, cooldown=False)
        gap_ms = load.acknowledged_gap(began_s)
        print(f"lasted {ended_s - began_s:.1f} s, writes {flowing_s:.2f} s after its end, longest gap {gap_ms:.0f} ms")
        assert load.lost() == [] and load.dual_writer_ms() == 0
    demoted = _promotions(cluster, member) != promotions
    if demotion_allowed and cluster.options.engine != "postgresql" and _record(cluster) != before:
        assert DEMOTED in cluster.log_of(member, "guardian")[len(said) :], "failed over, and its guardian had not demoted it"
        (epoch, _, operations), now = before, _record(cluster)
        assert (now[0], now[2]) == (epoch + 2, operations + 1), "more than this one failover"
        return
    assert _record(cluster) == before, "the same primary, the same epoch, no operation"
    print(f"demoted and promoted again by its own guardian: {demoted}")
    assert demotion_allowed or not demoted
    assert account.said, "explain answered at least once"
    assert all(one["operation"] is None for one in account.said)


def _ask(cluster: Cluster, on: str, account: Account, over: threading.Event) -> None:
    while not over.wait(0.5):  # each question costs a process
        try:
            account.said.append(json.loads(cluster.ctl("explain", "-o", "json", timeout_s=20.0, on=on).stdout))
        except (LabError, ValueError):  # the host that we ask is the one in trouble
            continue


def _record(cluster: Cluster) -> tuple[int, str, int]:
    seen = cluster.status()
    return int(seen["epoch"]), str(seen["primary"]), len(cluster.answer("history", "-n", "10000")["operations"])


def _promotions(cluster: Cluster, member: str) -> int:
    """How often its guardian has made it primary: once more if it was demoted meanwhile."""
    return len(re.findall(r'"event": ?"promoted', cluster.log_of(member, "guardian")))


def wait(seconds: float) -> None:
    threading.Event().wait(seconds)


# --- the network ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("blip_s", [0.5, 2.0, *([1.0, 1.5, 1.9, 2.0] if SOAK else [])])
def test_a_blip_of_the_primarys_host(cluster: Cluster, blip_s: float) -> None:
    primary = cluster.primary()
    with nothing_happens(cluster, demotion_allowed=blip_s > UNHARMED_S) as account, trouble.blip(cluster.lab, primary, blip_s):
        wait(blip_s + 1.0)
    if blip_s >= 2.0:
        account.says("quorum of controllers", r"\d fresh probes in a row failed")


@pytest.mark.parametrize("blip_s", [2.0])
def test_a_blip_of_the_leaders_host(cluster: Cluster, blip_s: float) -> None:
    """The leader is another one afterwards, perhaps; and whoever leads had seen nothing lost."""
    leader = next(str(one["name"]) for one in cluster.status()["controllers"] if one["leader"])
    with nothing_happens(cluster, demotion_allowed=leader == cluster.primary()), trouble.blip(cluster.lab, leader, blip_s):
        wait(blip_s + 1.0)


def test_a_blip_of_everything(cluster: Cluster) -> None:
    """A switch that restarts, for longer than any vote takes: who was cut off from all proves the loss of nobody."""
    names = [name for name, _ in cluster.lab.members]
    with nothing_happens(cluster, demotion_allowed=True):
        for name in names:
            cluster.lab.cut(name)
        wait(LAN.detection_s + 1.0)
        for name in names:
            cluster.lab.heal(name)
        wait(2.0)


def test_a_controller_whose_own_network_is_broken(cluster: Cluster) -> None:
    deaf = cluster.standbys()[0]
    with nothing_happens(cluster) as account, trouble.deaf(cluster.lab, deaf):
        wait(HELD_S)
    account.says("voters see their other targets", f"{deaf} not counted: its own network is in doubt: sees 0 of")
    account.says("quorum of controllers", rf"0 of 3 lost .*{deaf}: \d+ fresh probes in a row failed.*, not counted")


# --- the database ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("everything", [False, True], ids=["tables", "everything"])
def test_a_lock_storm(cluster: Cluster, everything: bool) -> None:
    """On PostgreSQL not even a login gets through; MySQL and MariaDB let people in, and no statement that writes."""
    with nothing_happens(cluster) as account, cluster.hand.lock_storm(cluster.primary(), everything):
        wait(HELD_S)
    account.says("no heartbeat at any standby", "own guardian could not insert")
    account.says("quorum of controllers", "0 of 3 lost")
    if everything and cluster.options.engine == "postgresql":
        account.says("quorum of controllers", "the login did not finish in time; the kept connection is served: busy, not dead")


def test_no_connection_is_left(cluster: Cluster) -> None:
    with nothing_happens(cluster) as account, trouble.full(cluster.lab):
        wait(HELD_S)
    account.says("quorum of controllers", "0 of 3 lost .*(has no connection left|lets nobody else in|busy, not dead)")


def test_a_processor_of_which_five_percent_are_left(cluster: Cluster) -> None:
    if (reason := cpu.missing()) is not None:
        pytest.skip(reason)
    with nothing_happens(cluster) as account, trouble.starved(cluster.lab.host(cluster.primary())):
        wait(HELD_S)
    account.says("quorum of controllers", "0 of 3 lost|1 of 3 lost")


@pytest.mark.engines("postgresql")
def test_a_long_crash_recovery(cluster: Cluster) -> None:
    """Nobody can write, nothing can be inserted, and yet it is alive: it says so itself (57P03).

    It comes up as a standby, as everything does, and its own guardian promotes it again under the same epoch. The other
    engines have one process: where it is killed, nobody is left to say anything.
    """
    with nothing_happens(cluster, demotion_allowed=True) as account, trouble.recovering(cluster.lab.host(cluster.primary())):
        wait(60.0 if SOAK else HELD_S)
    account.says("quorum of controllers", "0 of 3 lost .*recovering for .+ s of at most 300: .*recovery mode")
    account.says("no heartbeat at any standby", "own guardian could not insert")


def test_a_rotated_monitoring_password(cluster: Cluster) -> None:
    with nothing_happens(cluster) as account, trouble.password_rotated(cluster.lab, cluster.primary()):
        wait(HELD_S)
        problems = [p["text"] for p in cluster.status()["problems"] if p["code"] == "probe-broken"]
    account.says("quorum of controllers", f"0 of 3 lost .*probe broken: credentials refused: .*{cluster.hand.refuses_password}")
    assert any("cannot be probed" in text for text in problems)


def test_an_idle_primary(cluster: Cluster) -> None:
    """No client at all: heartbeat rows go on, and `explain` can say how old the last one is."""
    before, account = _record(cluster), Account()
    end_s = boottime_s() + (300.0 if SOAK else 20.0)
    while boottime_s() < end_s:
        account.said.append(cluster.answer("explain"))
        wait(2.0)
    assert _record(cluster) == before
    account.says("no heartbeat at any standby", r"received a heartbeat 0\.\d s ago")
    assert "none within" not in account.facts("no heartbeat at any standby")
