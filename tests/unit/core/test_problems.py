"""Every problem that can be seen is told once, with the next thing to do; a healthy cluster has none."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from failover.core.model import (
    ControllerStatus,
    Grant,
    Maintenance,
    MemberStatus,
    MemberVote,
    Mode,
    Operation,
    OperationKind,
    Policy,
    Problem,
    Receipt,
    Replication,
    Role,
    SyncSet,
    Votes,
)  # fmt: skip
from failover.core.observation import Observation
from failover.core.problems import find_problems
from failover.core.rules import Rules
from tests.support.observations import NOW_S, RULES, healthy, primary, standby, stored


def codes(seen: Observation, rules: Rules = RULES, leader: str | None = "c1", **more: Any) -> list[str]:
    return [problem.code for problem in find_problems(seen, rules, leader, **more)]


def one(seen: Observation, rules: Rules = RULES, leader: str | None = "c1", **more: Any) -> Problem:
    (problem,) = find_problems(seen, rules, leader, **more)
    assert problem.hint, f"{problem.code} does not say what to do next"
    return problem


def test_a_healthy_cluster_has_none() -> None:
    assert codes(healthy(), digest="d" * 64) == []


# --- who decides --------------------------------------------------------------------------------------------------------
def test_nobody_leads() -> None:
    assert one(healthy(), leader=None).code == "no-leader"


def test_no_controller_has_ever_run() -> None:
    nothing = Observation(NOW_S, "ctl", None)
    assert codes(nothing, leader=None)[0] == "never-run"


def test_a_missing_controller_is_named() -> None:
    seen = healthy()
    there = {n: s for n, s in seen.controllers.items() if n != "c2"}
    problem = one(replace(seen, controllers=there))
    assert problem.code == "controllers-missing" and "c2" in problem.text and "needs the votes" not in problem.text
    alone = {"c1": seen.controllers["c1"]}
    assert "a loss needs the votes of 2" in one(replace(seen, controllers=alone)).text


def test_controllers_with_different_files_are_named() -> None:
    seen = healthy()
    other = {**seen.controllers, "c3": stored(ControllerStatus("c3", "e" * 64, "1"))}
    problem = one(replace(seen, controllers=other), digest="d" * 64)
    assert problem.code == "configuration-differs" and "c1, c2 (dddddddd) | c3 (eeeeeeee)" in problem.text


def test_our_own_file_may_be_the_odd_one() -> None:
    assert one(healthy(), digest="f" * 64).code == "own-configuration-differs"


def test_a_controller_that_the_file_does_not_know_is_named() -> None:
    seen = healthy()
    more = {**seen.controllers, "c9": stored(ControllerStatus("c9", "d" * 64, "1"))}
    assert one(replace(seen, controllers=more)).code == "controller-unknown"


def test_what_a_controller_complains_about_is_passed_on() -> None:
    seen = healthy()
    told = Problem("ssh-credentials", "db2 has another host key", "compare the keys of db2")
    more = {**seen.controllers, "c2": stored(ControllerStatus("c2", "d" * 64, "1", (told,)))}
    assert one(replace(seen, controllers=more)) == Problem(told.code, f"c2: {told.text}", told.hint)


# --- members ------------------------------------------------------------------------------------------------------------
def test_before_adoption_only_that_is_wrong() -> None:
    problem = one(replace(healthy(), grant=None))
    assert problem == Problem("not-adopted", problem.text, "failoverctl adopt")


def test_a_member_that_never_reported() -> None:
    seen = healthy()
    assert one(replace(seen, members={n: s for n, s in seen.members.items() if n != "db3"})).code == "member-unknown"


def test_a_silent_member() -> None:
    seen = healthy()
    problem = one(replace(seen, members={**seen.members, "db3": stored(standby("db3"), 60.0)}))
    assert problem.code == "member-silent" and "db3" in problem.hint


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (standby("db3", problems=("the gate does not obey",)), "member"),
        (standby("db3", rejoin="diverged: it needs a reseed"), "rejoin"),
        (standby("db3", gate="unknown (nft)"), "gate-unknown"),
        (standby("db3", gate="released"), "gate-released"),
        (standby("db3", system_identifier="8"), "system-identifier"),
        (standby("db3", paused_replay=True), "replay-paused"),
        (standby("db3", streaming=False), "not-streaming"),
        (standby("db3", replay_lag_bytes=17 * 1024**2), "lag"),
        (standby("db3", vip=True), "vip-wrong"),
        (standby("db3", writable=True, role=Role.PRIMARY), "second-writer"),
        (primary(gate="none"), "gate-none"),
        (primary(gate="released"), "gate-released"),
        (primary(gate="shut"), "gate-shut"),
        (primary(vip=False), "vip-nowhere"),
        (primary(writable=False, role=Role.STANDBY), "primary-not-writable"),
    ],
)
def test_what_a_guardian_reports(status: MemberStatus, code: str) -> None:
    problem = one(healthy(status))
    assert (problem.code == code and status.member in problem.text + problem.hint) or code == "vip-nowhere"


def test_without_a_vip_nobody_misses_it() -> None:
    assert codes(healthy(primary(vip=False)), replace(RULES, has_vip=False)) == []


def test_without_a_gate_in_observe_mode_only_the_mode_is_told() -> None:
    assert one(healthy(primary(gate="none"), policy=Policy(Mode.OBSERVE))).code == "observe"


# --- losses -------------------------------------------------------------------------------------------------------------
def votes(*names: str) -> dict[str, Any]:
    lost = (("db1", MemberVote(True, why="no answer", sees=("db2", "db3", "ZooKeeper"))),)
    return {name: stored(Votes(name, lost)) for name in names}


def test_a_loss_that_nobody_acts_on_is_told() -> None:
    assert one(healthy(votes=votes("c1", "c2"))).code == "primary-lost"
    receipt = {"db1": stored(Receipt("db1", 4, "the process died"))}
    assert "the process died" in one(healthy(receipts=receipt)).text


def test_a_majority_without_effect_because_heartbeats_arrive() -> None:
    problem = one(healthy(votes=votes("c1", "c2"), heartbeat_moved_s={"db2": NOW_S - 0.2}))
    assert problem.code == "votes-vetoed" and "received a heartbeat" in problem.text


def test_a_minority_is_no_news() -> None:
    assert codes(healthy(votes=votes("c1"))) == []


# --- what a commit rests on ---------------------------------------------------------------------------------------------
def test_strict_without_a_set_in_force() -> None:
    assert one(healthy(grant=Grant("db1", 4))).code == "sync-not-in-force"


def test_strict_with_nobody_streaming_blocks_writes() -> None:
    seen = healthy(standby("db2", streaming=False), standby("db3", streaming=False))
    assert "writes-block" in codes(seen) and codes(seen).count("not-streaming") == 2


def test_sync_that_degraded_says_so() -> None:
    assert one(healthy(grant=Grant("db1", 4)), replace(RULES, replication=Replication.SYNC)).code == "sync-degraded"


def test_async_promises_nothing() -> None:
    assert codes(healthy(grant=Grant("db1", 4)), replace(RULES, replication=Replication.ASYNC)) == []


def test_two_sets_at_once_are_pending() -> None:
    pairs = (SyncSet(1, ("db2", "db3"), "1"), SyncSet(1, ("db2",), "1"))
    assert one(healthy(grant=Grant("db1", 4, sync=pairs))).code == "sync-pending"


# --- what is under way or switched off ----------------------------------------------------------------------------------
def test_a_held_operation() -> None:
    doing = Operation("op-2", OperationKind.FAILOVER, "claimed", "db1", 4, "lost", "c1", held="no proof")
    problem = one(healthy(operation=stored(doing)))
    assert problem.text == "failover op-2 is held in phase claimed: no proof"
    assert problem.hint == (
        "failoverctl explain; playbooks/the-fence-is-not-confirmed.md; failoverctl confirm-fenced db1"
    )
    later = replace(doing, phase="granted", held="it does not take writes")
    assert one(healthy(operation=stored(later))).hint == "failoverctl timeline op-2"
    fencing = Operation("op-3", OperationKind.FENCE, "opened", "db2", 3, "noise", "ada", held="it is silent")
    assert one(healthy(operation=stored(fencing))).hint == "failoverctl explain; failoverctl cancel op-3 gives it up"


def test_a_fenced_member_is_told_with_the_way_back_and_not_as_one_that_fails_to_stream() -> None:
    seen = healthy(standby("db2", role=Role.DOWN, streaming=False), policy=Policy(Mode.AUTOMATIC, fenced=("db2",)))
    problem = one(seen)
    assert (problem.code, problem.hint) == ("fenced", "failoverctl rejoin db2")


def test_a_member_without_a_guardian_has_no_guardian_that_could_be_silent_and_no_gate() -> None:
    bare = replace(RULES, members=tuple(replace(m, guarded=m.name != "db1") for m in RULES.members))
    assert not find_problems(healthy(primary(gate="none")), bare, "c1")
    silent = healthy(members={n: stored(s) for n, s in (("db2", standby("db2")), ("db3", standby("db3")))})
    told = [p for p in find_problems(silent, bare, "c1") if "db1" in p.text]
    assert [p.code for p in told] == ["member-unseen"] and "sshd and failover-hostagent on db1" in told[0].hint


def test_a_running_operation_is_no_problem_nor_is_what_it_moves() -> None:
    doing = Operation("op-2", OperationKind.SWITCHOVER, "stopping", "db1", 4, "asked", "ada")
    seen = healthy(primary(gate="shut", vip=False, writable=False), standby("db3", streaming=False), operation=stored(doing))
    assert codes(seen) == []


def test_a_grant_for_nobody_without_an_operation() -> None:
    assert "no-primary" in codes(healthy(primary(writable=False, vip=False), grant=Grant(None, 5)))


def test_pause_and_maintenance_name_who_and_why() -> None:
    paused = one(healthy(policy=Policy(Mode.AUTOMATIC, 3600, "network", "ada@here")))
    assert paused.text.startswith("paused by ada@here: network") and paused.hint == "failoverctl resume"
    aside = one(healthy(policy=Policy(Mode.AUTOMATIC, maintenance=(Maintenance("db3", 60, "disk", "ada"),))))
    assert aside.code == "maintenance" and aside.hint == "failoverctl maintenance off db3"


def test_every_playbook_that_a_hint_names_is_there() -> None:
    """A hint read at three in the morning must not lead nowhere."""
    root = Path(__file__).parents[3]
    text = (root / "failover" / "core" / "problems.py").read_text()
    named = set(re.findall(r"playbooks/[\w-]+\.md", text))
    assert named and not [name for name in named if not (root / name).is_file()]


def test_a_record_that_cannot_be_read() -> None:
    assert one(healthy(), corrupt=("state/member/db3: not format 1",)).code == "corrupt"
