"""Looking at the file, and at everything live that a failover will need."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import pytest

from failover import bootstrap
from failover.cli import check, options
from failover.cli.check import FAIL, PASS, WARN, Item
from failover.cli.options import Scope
from failover.cli.reading import opened
from failover.config import load
from failover.core.plan import Kind
from tests.unit.cli.conftest import World


def test_a_sound_file_tells_the_longest_outage_it_permits(world: World) -> None:
    done = world.run("config", "check")
    assert done.exit_code == 0
    assert "no fault" in done.stdout and "database process killed" in done.stdout and "no end" in done.stdout


def test_every_fault_is_told_with_its_place(world: World) -> None:
    world.file.write_text(world.file.read_text().replace("strict", "strictt").replace("priority: 3", "prio: 3"))
    done = world.run("config", "check")
    assert done.exit_code == options.CONFIGURATION and done.stdout == ""
    assert "clusters.orders.replication" in done.stderr and "clusters.orders.members.db1.prio" in done.stderr
    assert done.stderr.count(f"{world.file}:") == 2


def test_the_file_may_be_named_and_the_answer_be_json(world: World) -> None:
    code, answer = world.json("config", "check", str(world.file))
    assert code == 0 and answer["clusters"][0]["name"] == "orders"
    faults = {row["fault"]: row["seconds"] for row in answer["clusters"][0]["worst_case_outage"]}
    assert faults["ZooKeeper without a majority"] is None and faults["database process killed"] > 0


def daemons(world: World) -> dict[tuple[str, str], Item]:
    with opened(Scope(world.file, None, False, 5.0, False)) as view:
        return {(item.area, item.name): item for item in check.daemons(view.watch(), view.rules)}


def test_living_daemons_pass(living: World) -> None:
    living.adopt()
    assert {item.verdict for item in daemons(living).values()} == {PASS}


def test_silent_and_ungated_members_and_missing_controllers_do_not(living: World) -> None:
    living.adopt()
    living.dead.update({"db2", "db3"})
    living.erase(Kind.CONTROLLER, "c3")
    grant = living.read(Kind.GRANT)
    found = daemons(living)
    assert found["guardian", "db2"].verdict == FAIL and found["guardian", "db2"].facts == "silent"
    assert found["controllers", "orders"].verdict == WARN and "c3" in found["controllers", "orders"].hint
    living.dead.add("db1")
    living.put(Kind.MEMBER, "db1", replace(living.status("db1", grant), gate="none"))
    with opened(Scope(living.file, None, False, 5.0, False)) as view:
        ungated = next(i for i in check.daemons(view.look(), view.rules) if i.name == "db1")
    assert ungated.verdict == FAIL and ungated.hint


def test_nobody_leading_fails(world: World) -> None:
    world.beat()
    assert daemons(world)["controllers", "orders"].verdict == FAIL


def test_a_webhook_is_only_knocked_at_and_its_path_is_not_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        there = check.webhook(f"http://127.0.0.1:{port}/hook/very-secret-token")
    gone = check.webhook(f"http://127.0.0.1:{port}/hook/very-secret-token")
    assert (there.verdict, gone.verdict) == (PASS, FAIL)
    assert "secret" not in there.name + there.facts + gone.name + gone.facts and gone.hint


def test_what_does_not_answer_is_a_finding_never_a_crash(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of this cluster exists but its records: every item fails, with a hint, in bounded time."""
    monkeypatch.setattr(check, "LOOK_S", 0.3)
    text = world.file.read_text().replace("10.9.0.", "127.9.0.").replace("port: 5432", "port: 1").replace("[5432]", "[1]")
    world.file.write_text(text.replace(":2181", ":1"))
    settings = load(world.file)
    code, answer = world.json("check")
    assert code == options.PROBLEMS
    verdicts = {(i["area"], i["name"]): i["verdict"] for i in answer["items"]}
    assert all(verdicts["zookeeper", host] == FAIL for host in settings.zookeeper.hosts)
    assert all(verdicts[area, name] == FAIL for area in ("ssh", "database") for name in ("db1", "db2", "db3"))
    assert all(item["hint"] for item in answer["items"] if item["verdict"] == FAIL)


def test_an_unreadable_secret_is_that_items_finding(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "LOOK_S", 0.3)
    text = world.file.read_text().replace("{name: monitor}", "{name: monitor, password_file: /nowhere/secret}")
    world.file.write_text(text.replace("10.9.0.", "127.9.0.").replace("port: 5432", "port: 1").replace("[5432]", "[1]"))
    code, answer = world.json("check")
    found = next(i for i in answer["items"] if (i["area"], i["name"]) == ("database", "db1"))
    assert code == options.PROBLEMS and found["verdict"] != PASS and "/nowhere/secret" in found["facts"]


def test_the_page_counts_what_is_not_well(capsys: pytest.CaptureFixture[str]) -> None:
    check._show([Item("ssh", "db1", PASS, "fine"), Item("dns", "orders", WARN, "old", "look at it")], False)
    page = capsys.readouterr().out
    assert "next: look at it" in page and "2 looked at, 1 not well" in page


def test_a_gate_that_is_gone_under_a_stopped_guardian_is_a_failure_with_its_remedy() -> None:
    """The kernel keeps the gate of a dead guardian; `nft flush ruleset` takes it, and nobody else would notice."""
    gone = check._unguarded("db1", "host agent 1 on db1", "no guardian answers; the gate is none", "none")
    assert gone.verdict == FAIL and "NO GATE" in gone.facts and "makes the gate, shut" in gone.hint
    kept = check._unguarded("db1", "host agent 1 on db1", "no guardian answers; the gate is shut", "shut")
    assert kept.verdict == WARN and "the gate is shut" in kept.facts


@pytest.mark.parametrize(("faults", "verdict"), [((), "PASS"), (("full_page_writes is off", "no role"), "WARN")])
def test_what_stands_in_a_rewinds_way_is_told_before_it_is_needed(
    world: World, monkeypatch: pytest.MonkeyPatch, faults: tuple[str, ...], verdict: str
) -> None:
    monkeypatch.setattr(bootstrap, "rewind_faults", lambda cluster, member, budget_s: faults)
    item = check.rewind(load(world.file).cluster(), "db2")
    assert item.verdict == verdict and all(fault in item.facts for fault in faults)
    assert bool(item.hint) == bool(faults)


# --- pledges ------------------------------------------------------------------------------------------------------------
def pledged(world: World, key: Path) -> World:
    world.file.write_text(world.file.read_text() + f"    pledges: {{key_file: {key}}}\n")
    return world


def test_a_key_that_cannot_be_used_is_found_on_a_members_host(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = load(pledged(world, tmp_path / "pledge.key").file).cluster()
    monkeypatch.setenv("FAILOVER_NODE", "elsewhere")
    assert check.key_of_pledges(cluster) == [], "a controller alone does not need it"
    monkeypatch.setenv("FAILOVER_NODE", "db1")
    (item,) = check.key_of_pledges(cluster)
    assert item.verdict == FAIL and "cannot be read" in item.facts and item.hint
    (tmp_path / "pledge.key").touch(mode=0o600)
    (tmp_path / "pledge.key").write_text("short\n")
    (item,) = check.key_of_pledges(cluster)
    assert item.verdict == FAIL and "too short" in item.facts
    (tmp_path / "pledge.key").write_text("k" * 44)
    (item,) = check.key_of_pledges(cluster)
    assert item.verdict == PASS


def test_a_way_that_is_shut_is_told_before_it_is_needed(living: World, tmp_path: Path) -> None:
    living.adopt()
    cluster = load(pledged(living, tmp_path / "pledge.key").file).cluster()
    grant = living.read(Kind.GRANT)
    with opened(Scope(living.file, None, False, 5.0, False)) as view:
        look = view.look()
        status = replace(living.status("db1", grant), problems=("no pledge path to db2: it does not answer",))
        stored = replace(look.seen.members["db1"], value=status)
        seen = replace(look.seen, members={**look.seen.members, "db1": stored})
        found = {item.name: item for item in check.ways(replace(look, seen=seen), cluster)}
    assert found["db1"].verdict == WARN and "no pledge path to db2" in found["db1"].facts and "7433" in found["db1"].hint
    assert found["db2"].verdict == found["db3"].verdict == PASS


def test_the_file_alone_says_what_keeps_the_primary_without_zookeeper(world: World, tmp_path: Path) -> None:
    assert "no pledges: T3 must hold by itself" in world.run("config", "check").stdout
    assert "bridge a ZooKeeper that is away" in pledged(world, tmp_path / "pledge.key").run("config", "check").stdout
    code, answer = world.json("config", "check")
    assert code == 0 and answer["clusters"][0]["pledges"] == {"port": 7433}
