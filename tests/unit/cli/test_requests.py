"""Asking for something: it is done, refused, undone, held or withdrawn, and the exit code says which."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import click
import pytest

from failover.cli import asking, options, performing, reading
from failover.coordination.base import LostRace
from failover.coordination.memory import MemoryCoordinator
from failover.core.model import Answer, Handover, Maintenance, Mode, Operation, OperationKind, Policy, Request, RequestKind
from failover.core.plan import Create, Key, Kind
from failover.errors import Unknown
from tests.unit.cli.conftest import Decider, Loops, S, World


def test_adoption_waits_until_the_primary_is_proved(living: World) -> None:
    done = living.run("adopt", "--yes", "--timeout", "5s")
    assert done.exit_code == 0, done.output
    assert done.stdout == "adopted: db1 is primary under its own proof\n"
    assert living.read(Kind.GRANT).member == "db1"


def test_adoption_waits_for_guardians_that_were_just_started(world: World, loops: Loops) -> None:
    world.lead()
    loops.every(0.03, Decider(world).tick)
    loops.every(0.5, world.beat)
    done = world.run("adopt", "--yes", "--timeout", "6s")
    assert done.exit_code == 0, done.output
    assert "waiting for the first word of the guardian of db1, db2, db3" in done.stderr


def test_adoption_without_a_guardian_is_refused_after_the_wait(world: World, loops: Loops) -> None:
    world.lead()
    world.dead.add("db3")
    world.beat()
    loops.every(0.03, Decider(world).tick)
    done = world.run("adopt", "--yes", "--timeout", "1s")
    assert done.exit_code == options.REFUSED and "db3: no guardian reports from there" in done.stderr


def test_a_second_adoption_is_refused(living: World) -> None:
    living.adopt()
    done = living.run("adopt", "--yes")
    assert done.exit_code == options.REFUSED
    assert "already adopted: epoch 1" in done.stderr and done.stdout == ""


def test_a_switchover_is_followed_to_its_end(living: World) -> None:
    living.adopt()
    code, answer = living.json("switchover", "--to", "db2", "--yes", "--reason", "patches", "--timeout", "10s")
    assert code == 0
    assert (answer["result"], answer["old"], answer["new"], answer["reason"]) == ("done", "db1", "db2", "patches")
    assert living.read(Kind.GRANT).member == "db2"
    assert living.read(Kind.OPERATION) is None


def test_every_step_is_told_on_standard_error_only(living: World) -> None:
    living.adopt()
    done = living.run("switchover", "--yes", "--timeout", "10s")
    assert done.exit_code == 0, done.output
    assert len(done.stdout.splitlines()) == 1
    assert done.stdout.startswith("switchover op-1 done: db1 -> db2 in ")
    for step in ("prepare", "order", "claim", "confirm", "choose", "grant", "verify", "vip", "dns", "settle"):
        assert f"  {step}: " in done.stderr


def test_without_wait_only_the_answer_is_waited_for(living: World) -> None:
    living.adopt()
    done = living.run("switchover", "--yes", "--no-wait")
    assert (done.exit_code, done.stdout) == (0, "accepted: op-1; `failoverctl timeline op-1` shows it\n")


def test_an_undone_switchover_says_so_with_its_own_code(living: World) -> None:
    living.adopt()
    living.deaf.add("db1")

    def give_back() -> None:
        doing = living.read(Kind.OPERATION)
        if doing and doing.phase == "stopping":
            living.put(Kind.HANDOVER, "db1", Handover("db1", doing.id, "given back", None, "it took too long"))

    with _meanwhile(give_back):
        done = living.run("switchover", "--yes", "--timeout", "10s")
    assert done.exit_code == options.UNDONE, done.output
    assert "undone, db1 stays primary" in done.stdout and "it took too long" in done.stdout


def test_an_operation_that_outlasts_the_wait_goes_on_without_us(living: World) -> None:
    living.adopt()
    living.deaf.add("db1")
    done = living.run("switchover", "--yes", "--timeout", "1s")
    assert done.exit_code == options.LATE
    assert "still under way" in done.stdout and "timeline op-1" in done.stderr
    assert living.read(Kind.OPERATION) is not None


def test_a_held_operation_needs_a_human(world: World) -> None:
    """Nobody goes on with it and its reason is told at the end of the wait."""
    world.lead()
    world.adopt()
    held = Operation("op-9", OperationKind.FAILOVER, "claimed", "db1", 1, "lost", "c1", held="no proof that db1 is closed")

    def accept() -> None:
        for name in world.names(Kind.REQUEST):
            if world.read(Kind.ANSWER, name) is None:
                world.put(Kind.OPERATION, "", held)
                world.put(Kind.ANSWER, name, Answer(name, True, (), "op-9", "c1"))

    with _meanwhile(accept):
        done = world.run("failover", "--yes", "--timeout", "1s")
    assert done.exit_code == options.HUMAN, done.output
    assert "is held: no proof that db1 is closed" in done.stdout


def test_the_wrong_primary_is_a_conflict(living: World) -> None:
    living.adopt()
    done = living.run("switchover", "--yes", "--expect-primary", "db3")
    assert done.exit_code == options.CONFLICT
    assert "the primary is db1" in done.stderr


def test_a_second_operation_is_a_conflict(living: World) -> None:
    living.adopt()
    living.deaf.add("db1")
    assert living.run("switchover", "--yes", "--no-wait").exit_code == 0
    assert living.run("switchover", "--yes").exit_code == options.CONFLICT


def test_all_reasons_of_a_refusal_are_told(living: World) -> None:
    living.adopt()
    living.put(Kind.POLICY, "", Policy(Mode.AUTOMATIC, maintenance=(Maintenance("db2", 60, "", "me"),)))
    done = living.run("switchover", "--to", "db2", "--yes")
    assert done.exit_code == options.REFUSED
    assert "refused: db2: in maintenance" in done.stderr and "nothing was changed" in done.stderr


def test_a_refusal_in_json_is_one_document(living: World) -> None:
    living.adopt()
    code, answer = living.json("switchover", "--to", "db9", "--yes")
    assert code == options.REFUSED
    assert answer["accepted"] is False and answer["result"] == "refused" and "no member db9" in answer["reasons"][0]


def test_pause_and_resume(living: World) -> None:
    living.adopt()
    assert living.run("pause", "--for", "2h", "--reason", "network work", "--yes").exit_code == 0
    policy = living.read(Kind.POLICY)
    assert (policy.paused_for_s, policy.paused_reason) == (7200.0, "network work")
    assert living.run("resume", "--yes").exit_code == 0
    assert living.read(Kind.POLICY).paused is False


def test_maintenance_on_and_off(living: World) -> None:
    living.adopt()
    assert living.run("maintenance", "on", "db3", "--for", "30min", "--yes").exit_code == 0
    assert [(m.member, m.for_s) for m in living.read(Kind.POLICY).maintenance] == [("db3", 1800.0)]
    assert living.run("maintenance", "off", "db3", "--yes").exit_code == 0
    assert living.run("maintenance", "off", "db3", "--yes").exit_code == options.REFUSED


def test_who_asked_is_the_person_behind_sudo(living: World, monkeypatch: pytest.MonkeyPatch) -> None:
    living.adopt()
    monkeypatch.setenv("SUDO_USER", "ada")
    assert living.run("pause", "--yes").exit_code == 0
    assert living.read(Kind.POLICY).paused_by.startswith("ada@")


# --- nobody answers -----------------------------------------------------------------------------------------------------
def test_without_a_leader_it_is_said_at_once_and_withdrawn_in_time(world: World) -> None:
    world.adopt()
    done = world.run("pause", "--yes", "--timeout", "400ms")
    assert done.exit_code == options.NOBODY
    assert "no controller leads now" in done.stderr and "withdrawn and nothing was changed" in done.stderr
    assert world.names(Kind.REQUEST) == ()


def test_a_withdrawn_request_does_not_fire_when_a_leader_comes_later(world: World, loops: Loops) -> None:
    """Also not if that leader had it in view already: its own answer loses to the withdrawal."""
    world.adopt()
    assert world.run("pause", "--yes", "--timeout", "300ms").exit_code == options.NOBODY
    world.lead()
    decider = Decider(world)
    for _ in range(5):
        decider.tick()
    assert world.read(Kind.POLICY).paused is False
    (answered,) = world.names(Kind.ANSWER)
    with pytest.raises(LostRace):
        world.ledger.commit([Create(Key(Kind.ANSWER, answered), Answer(answered, True))], S)


def test_an_answer_that_comes_with_the_withdrawal_is_followed(world: World) -> None:
    """The leader was first: what it did is what is reported."""
    request = Request("20260101T000000-host-1-abc", RequestKind.PAUSE, "me@here")
    world.put(Kind.REQUEST, request.id, request)
    theirs = Answer(request.id, True, (), None, "c1")
    world.put(Kind.ANSWER, request.id, theirs)
    with _view(world) as view:
        assert asking._withdraw(view, request, click.echo) == theirs
    assert world.names(Kind.REQUEST) == (request.id,)


def test_a_withdrawal_whose_reply_was_lost_is_recognized_as_ours(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    client = world.ensemble.client("failoverctl")
    monkeypatch.setattr(reading, "client_of", lambda settings, cluster: client)
    request = Request("20260101T000000-host-1-abc", RequestKind.PAUSE, "me@here")
    world.put(Kind.REQUEST, request.id, request)
    with _view(world) as view:
        client.lose_reply(done=True)
        assert asking._withdraw(view, request, click.echo) is None
    assert world.names(Kind.REQUEST) == ()


def test_a_filing_whose_reply_was_lost_is_filed_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    client = world.ensemble.client("failoverctl")
    monkeypatch.setattr(reading, "client_of", lambda settings, cluster: client)
    request = Request("20260101T000000-host-1-abc", RequestKind.PAUSE, "me@here")
    with _view(world) as view:
        client.lose_reply(done=True)
        asking._file(view, request, asking.boottime_s() + 5)
        client.lose_reply(done=False)
        asking._file(view, replace(request, id="20260101T000000-host-1-abd"), asking.boottime_s() + 5)
    assert world.names(Kind.REQUEST) == ("20260101T000000-host-1-abc", "20260101T000000-host-1-abd")


def test_a_request_that_cannot_be_withdrawn_is_not_called_harmless(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    client = world.ensemble.client("failoverctl")
    monkeypatch.setattr(reading, "client_of", lambda settings, cluster: client)
    request = Request("20260101T000000-host-1-abc", RequestKind.PAUSE, "me@here")
    with _view(world) as view:
        asking._file(view, request, asking.boottime_s() + 5)
        client.cut()
        with pytest.raises(Unknown, match="may still be carried out"):
            asking._withdraw(view, request, click.echo)


def test_zookeeper_that_is_away_is_nobody(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_off(settings: object, cluster: object) -> MemoryCoordinator:
        client = world.ensemble.client("failoverctl")
        client.cut()
        return client

    monkeypatch.setattr(reading, "client_of", cut_off)
    done = world.run("switchover", "--yes", "--timeout", "300ms")
    assert done.exit_code == options.NOBODY
    assert "no ZooKeeper server answers" in done.stderr and "10.9.0.1:2181" in done.stderr


def test_a_cluster_that_never_had_a_controller_is_nobody(world: World) -> None:
    world.file.write_text(world.file.read_text().replace("  orders:", "  billing:"))
    done = world.run("pause", "--yes", "--timeout", "300ms")
    assert done.exit_code == options.NOBODY
    assert "no controller (failoverd) has ever run" in done.stderr


def test_ctrl_c_withdraws_what_nobody_answered(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(asking, "_await_answer", interrupted)
    done = world.run("pause", "--yes")
    assert done.exit_code == options.INTERRUPTED
    assert world.names(Kind.REQUEST) == ()


def test_ctrl_c_while_following_says_that_it_goes_on(living: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> Any:
        raise KeyboardInterrupt

    living.adopt()
    monkeypatch.setattr(asking, "follow", interrupted)
    done = living.run("switchover", "--yes")
    assert done.exit_code == options.INTERRUPTED and "op-1 goes on without you" in done.stderr


def test_a_filing_of_which_nothing_is_known_is_not_called_harmless(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reply was lost and then the link: it may be there, so "nobody to talk to" would be a lie."""
    client = world.ensemble.client("failoverctl")
    monkeypatch.setattr(reading, "client_of", lambda settings, cluster: client)
    request = Request("20260101T000000-host-1-abc", RequestKind.PAUSE, "me@here")
    with _view(world) as view:
        client.lose_reply(done=True)
        real = view.ledger.commit

        def commit(writes: Any, deadline_s: float) -> Any:
            try:
                return real(writes, deadline_s)
            finally:
                client.cut()

        monkeypatch.setattr(view.ledger, "commit", commit)
        with pytest.raises(Unknown, match="may still be carried out"):
            asking._file(view, request, asking.boottime_s() + 0.5)


# --- before anything is filed -------------------------------------------------------------------------------------------
def test_a_dry_run_changes_nothing_and_says_what_would_come(living: World) -> None:
    living.adopt()
    done = living.run("switchover", "--dry-run")
    assert (done.exit_code, done.stdout) == (0, "would be done: switchover: db1 -> db2\n")
    assert living.names(Kind.REQUEST) == ()


def test_a_dry_run_lists_every_reason_it_would_be_refused_for(living: World) -> None:
    living.adopt()
    living.dead.add("db2")
    code, answer = living.json("switchover", "--to", "db2", "--dry-run")
    assert code == options.REFUSED
    assert answer["dry_run"] is True and answer["reasons"] == ["db2: its guardian says nothing"]


def test_a_refused_dry_run_names_the_target_that_was_asked_for(living: World) -> None:
    living.adopt()
    assert living.run("switchover", "--to", "db9", "--dry-run").stdout.startswith("would be refused: switchover: db1 -> db9\n")


def test_a_silent_standby_is_not_taken_for_a_living_one(living: World) -> None:
    living.adopt()
    living.dead.add("db2")
    assert living.run("switchover", "--dry-run").stdout == "would be done: switchover: db1 -> db3\n"


def test_without_a_terminal_and_without_yes_it_is_wrong_usage(living: World) -> None:
    done = living.run("switchover")
    assert done.exit_code == options.USAGE
    assert "say --yes" in done.stderr and living.names(Kind.REQUEST) == ()


def test_a_person_is_asked_once_and_may_say_no(living: World, monkeypatch: pytest.MonkeyPatch) -> None:
    living.adopt()
    monkeypatch.setattr(performing, "is_terminal", lambda: True)
    done = living.run("switchover", input="n\n")
    assert done.exit_code == options.REFUSED
    assert "switchover: db1 -> db2" in done.stderr and "nothing was done" in done.stderr
    assert living.names(Kind.REQUEST) == ()
    assert living.run("switchover", input="y\n").exit_code == 0


def test_a_duration_needs_its_unit(living: World) -> None:
    done = living.run("pause", "--for", "2", "--yes")
    assert done.exit_code == options.USAGE and "unit" in done.stderr


def test_ids_sort_by_time_and_are_nobody_elses() -> None:
    made = [asking.new_request(RequestKind.RESUME).id for _ in range(50)]
    assert len(set(made)) == 50
    assert [name[:18] for name in made] == sorted(name[:18] for name in made)


def test_a_real_ctrl_c_ends_with_130(world: World) -> None:
    """The whole process: the exit code is the shell's for an interrupt."""
    code = (
        "import os, signal, threading\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell starts background jobs with it ignored
        "from failover.cli import status\n"
        "from failover.cli.main import main\n"
        "from failover.cli import reading\n"
        "def hang(scope):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    threading.Event().wait(10)\n"
        "reading.opened = hang\n"
        "main(['status'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=30, check=False, env={**os.environ})
    assert done.returncode == options.INTERRUPTED, done.stderr
    assert b"Traceback" not in done.stderr


class _meanwhile:
    """Do this again and again in the background."""

    def __init__(self, work: Any) -> None:
        self._loops = Loops()
        self._work = work

    def __enter__(self) -> None:
        self._loops.every(0.02, self._work)

    def __exit__(self, *_: object) -> None:
        self._loops.end()


def _view(world: World) -> Any:
    return reading.opened(options.Scope(world.file, None, False, 5.0, False))
