"""The documentation cannot drift: tables are the code's, links lead somewhere, every command and option exists, figures agree."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from ruamel.yaml import YAML

from failover import __main__ as daemons
from failover.cli.main import main as failoverctl
from failover.cli.options import EXIT_CODES
from failover.core.duty import TABLE as DUTIES
from failover.core.tables import TABLES
from failover.lab import diagrams
from failover.lab.postgresql import accounts_sql
from failover.profiles import PROFILES

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "playbooks").glob("*.md")])
PROGRAMS: dict[str, click.Command] = {
    "failoverctl": failoverctl,
    "failoverd": daemons.controller,
    "failover-guardian": daemons.guardian,
    "failover-hostagent": daemons.hostagent,
}

# A call in a page: the program and the words after it, one blank between them (two begin a description), up to what ends
# a command in a shell or in prose.
NAMES = "failoverctl|failoverd|failover-guardian|failover-hostagent"
CALL = re.compile(rf"(?<![\w-])(?:[\w./]*/)?({NAMES})((?: (?:[^\s`|;&#>\")']+|'[^']*'))*)")
NO_CALL = re.compile(r"^ *(ln|Description=)|(-u|status|start|restart|stop|--now) +$")  # a file or a unit of that name
CODE = re.compile(r"^ *```[a-z]*\n(.*?)^ *```|`([^`\n]+)`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
UNDONE = re.compile(r"\b(T[O]DO|T[B]D|F[I]XME|coming soon)\b", re.IGNORECASE)


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def commands(text: str) -> Iterator[list[str]]:
    """Every call of a program of ours in code blocks and code spans, as its words. A line is a command, as in a shell."""
    for block, span in CODE.findall(text):
        for line in (block or span).splitlines():
            for found in CALL.finditer(line):
                if not NO_CALL.search(line[: found.start()]):
                    yield [found[1], *shlex.split(found[2])]


def why_not(words: list[str]) -> str | None:
    """Why this call would be refused as wrong usage, or None."""
    command, rest = PROGRAMS[words[0]], words[1:]
    context = click.Context(command, info_name=words[0])
    while isinstance(command, click.Group) and rest:
        if rest[0].startswith("-"):
            break
        found = command.get_command(context, rest[0])
        if found is None:
            return f"{' '.join(words)}: no command {rest[0]!r}"
        command, rest = found, rest[1:]
        context = click.Context(command, info_name=words[0], parent=context)
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)} | {"--help", "-h"}
    known |= {"--version"} if command is failoverctl else set()
    unknown = [word for word in rest if word.startswith("-") and word.partition("=")[0] not in known]
    if unknown:
        return f"{' '.join(words)}: no option {', '.join(unknown)}"
    taken = sum(1 for parameter in command.params if isinstance(parameter, click.Argument))
    superfluous = not isinstance(command, click.Group) and len(_arguments(command, rest)) > taken
    return f"{' '.join(words)}: too many words" if superfluous else None


def _arguments(command: click.Command, words: list[str]) -> list[str]:
    """The words that are neither options nor their values."""
    valued = {o for p in command.params if isinstance(p, click.Option) and not p.is_flag for o in p.opts}
    left, after = [], ""
    for word in words:
        if not word.startswith("-") and after not in valued:
            left.append(word)
        after = word
    return left


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_every_command_in_the_pages_exists(page: Path) -> None:
    wrong = [fault for words in commands(page.read_text()) if (fault := why_not(words))]
    assert not wrong, "\n" + "\n".join(wrong)


def test_a_wrong_command_would_be_found() -> None:
    text = "`failoverctl restart db1` and `failoverctl switchover --onto db2` and `failover-hostagent may-start orders`"
    assert [why_not(words) is not None for words in commands(text)] == [True, True, True]
    text = "`failoverctl maintenance on db3 --for 1h` and `/usr/bin/failover-hostagent may-start --cluster orders`"
    assert [why_not(words) for words in commands(text)] == [None, None]


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_lead_somewhere(page: Path) -> None:
    targets = [target for target in LINK.findall(page.read_text()) if "://" not in target]
    assert not [target for target in targets if not (page.parent / target).exists()]


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_nothing_is_left_to_write(page: Path) -> None:
    assert not UNDONE.findall(page.read_text())


def test_hints_of_the_product_name_playbooks_that_exist() -> None:
    """`status` sends a person there at night."""
    named = {
        name for path in (ROOT / "failover").rglob("*.py") for name in re.findall(r"playbooks/[a-z-]+\.md", path.read_text())
    }
    assert named and not [name for name in sorted(named) if not (ROOT / name).exists()]


def test_pages_that_the_code_points_to_exist() -> None:
    named = {
        name
        for path in [*(ROOT / "failover").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
        for name in re.findall(r"docs/[a-z/-]+\.(?:md|yml)", path.read_text())
    }
    assert named and not [name for name in sorted(named) if not (ROOT / name).exists()]


# --- the tables -----------------------------------------------------------------------------------------------------------
def test_the_tables_are_those_of_the_code() -> None:
    printed = diagrams.between_markers(diagrams.DOCUMENT.read_text())
    assert printed == diagrams.text(), "python -m failover.lab.diagrams --write"


def test_the_printed_tables_have_every_row() -> None:
    text = diagrams.text()
    rows = [row for table in TABLES.values() for row in table]
    assert not [row.phase for row in rows if f"| `{row.phase}` | **{row.step}** | `{row.target}` | {row.says} |" not in text]
    assert not [row.says for row in DUTIES if f"**{row.duty.value}** | {row.says} |" not in text]


def test_a_page_whose_tables_differ_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "architecture.md"
    page.write_text(diagrams.DOCUMENT.read_text().replace("the old primary is proved unable to write", "it looks dead"))
    monkeypatch.setattr(diagrams, "DOCUMENT", page)
    assert diagrams.main(["--check"]) == 1
    assert diagrams.main(["--write"]) == 0
    assert diagrams.main(["--check"]) == 0


# --- figures and statements -----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class ProfileRow:
    """The numbers of one row of the profile table, in the order of its columns."""

    name: str
    numbers: list[float]


def profile_rows() -> list[ProfileRow]:
    text = (ROOT / "docs/guarantees.md").read_text()
    rows = [line.strip("| \n").split("|") for line in text.splitlines() if re.match(r"\| `\w+` \|", line)]
    return [
        ProfileRow(cells[0].strip(" `"), [_seconds(found) for found in re.findall(r"[\d.]+(?: ms)?", "|".join(cells[1:]))])
        for cells in rows
        if cells[0].strip(" `") in PROFILES
    ]


def _seconds(text: str) -> float:
    return float(text.removesuffix(" ms")) / (1000 if text.endswith(" ms") else 1)


def test_the_profile_table_says_what_the_profiles_are() -> None:
    rows = {row.name: row.numbers for row in profile_rows()}
    assert rows.keys() == PROFILES.keys()
    for name, t in PROFILES.items():
        wanted = [
            t.lease_s, t.renew_s, t.attempt_s, t.attempts, t.soft_fence_s, t.margin_s, round(t.wait_s, 2), t.session_s,
            t.zookeeper_tick_s, t.zookeeper_sync_limit, t.coordinator_outage_s, t.probe_interval_s, t.probe_bound_s,
            t.probes_lost, t.cooldown_s,
        ]  # fmt: skip
        assert rows[name] == pytest.approx(wanted), name


def test_the_ticks_to_configure_are_those_of_the_profiles() -> None:
    text = (ROOT / "docs/install.md").read_text()
    told = {
        name: (int(tick), int(limit))
        for names, tick, limit in re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| (\d+) \| (\d+) \|$", text, re.MULTILINE)
        for name in re.findall(r"\w+", names)
    }
    assert told == {name: (round(t.zookeeper_tick_s * 1000), t.zookeeper_sync_limit) for name, t in PROFILES.items()}


def test_the_grants_to_type_are_those_the_lab_runs_with() -> None:
    text = (ROOT / "docs/install.md").read_text()
    wanted = [line for line in accounts_sql(lambda name: "x").splitlines() if line.startswith("GRANT")]
    assert wanted and not [line for line in wanted if line not in text]


def test_exit_codes_in_the_playbooks_are_documented_ones() -> None:
    text = (ROOT / "playbooks/planned-switchover.md").read_text()
    codes = [int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)]
    assert codes and set(codes) <= EXIT_CODES.keys()


# --- shape ----------------------------------------------------------------------------------------------------------------
def test_every_playbook_is_in_the_index_and_fits_on_a_screen() -> None:
    folder = ROOT / "playbooks"
    index = (folder / "README.md").read_text()
    pages = [page for page in folder.glob("*.md") if page.name != "README.md"]
    assert pages and not [page.name for page in pages if f"]({page.name})" not in index]
    assert not [page.name for page in pages if page.read_text().count("\n") > 60]


def test_every_decision_is_in_the_index_and_has_its_parts() -> None:
    folder = ROOT / "docs/adr"
    index = (folder / "README.md").read_text()
    pages = sorted(folder.glob("[0-9]*.md"))
    assert pages and not [page.name for page in pages if f"]({page.name})" not in index]
    parts = ("**Context.**", "**Decision.**", "**Rejected.**", "**Consequences.**", "**Revisit when**")
    assert not [(page.name, part) for page in pages for part in parts if part not in page.read_text()]


def test_the_compose_file_starts_the_demo_as_it_can_be_started() -> None:
    services = YAML(typ="safe").load((ROOT / "docker-compose.yml").read_text())["services"]
    script = services["demo"]["command"][-1]
    flags = re.search(r"\./demo((?: --[a-z]+)+)", script)
    assert flags and not [flag for flag in flags[1].split() if flag not in (ROOT / "demo").read_text()]
