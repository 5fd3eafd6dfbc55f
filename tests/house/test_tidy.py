"""House rules that no linter knows: sizes, sleeping, printing, wall clocks, excuses, and traces of a machine."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRODUCT = sorted((ROOT / "failover").rglob("*.py"))

FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 60

# Who may call what, and why. A trailing slash names a folder.
MAY_PRINT = ("cli/", "lab/", "__main__.py")  # they speak to a person
MAY_SLEEP: tuple[str, ...] = ()  # daemons wait on an Event, everything else for a condition with a deadline
MAY_READ_WALL_CLOCK = (
    "clock.py",  # text for people
    "actuators/notify.py",  # the receiver judges the age of a signed message by it
    "actuators/dns.py",  # TSIG signs the time
    "lab/",  # correlates the clients' records
)

# written with brackets so that this file does not find itself
MACHINE_PATH = re.compile(r"(?<![\w.$}-])/(w[o]rk|f[a]rm|r[o]ot)/")
REGISTRY = re.compile(r"(p[y]pi\.org|p[y]thonhosted\.org|d[e]b\.debian\.org|extra-[i]ndex-url|r[e]gistry\.npmjs)")
UNFINISHED = re.compile(r"\b(T[O]DO|F[I]XME|X[X]X|NotImplemented[E]rror)\b")


@cache
def committed() -> tuple[Path, ...]:
    """What git would commit: tracked files and new ones that are not ignored."""
    if not shutil.which("git"):
        pytest.skip("git is not installed, so nobody can say which files are the project's")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        timeout=30,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout, so nobody can say which files are the project's")
    names = listed.stdout.decode().split("\0")
    return tuple(ROOT / name for name in names if name and (ROOT / name).is_file())


def lines_with(pattern: re.Pattern[str], paths: tuple[Path, ...] | list[Path]) -> list[str]:
    found = []
    for path in paths:
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    return found


def calls() -> Iterator[tuple[Path, int, str]]:
    """Every call in the product as (file, line, dotted name)."""
    for path in PRODUCT:
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            if isinstance(node, ast.Call):
                yield path, node.lineno, ast.unparse(node.func)


def callers_of(names: set[str], allowed: tuple[str, ...]) -> list[str]:
    found = []
    for path, line, name in calls():
        here = path.relative_to(ROOT / "failover").as_posix()
        permitted = any(here == entry or (entry.endswith("/") and here.startswith(entry)) for entry in allowed)
        if name in names and not permitted:
            found.append(f"{here}:{line} calls {name}")
    return found


def test_nobody_prints_but_who_speaks_to_a_person() -> None:
    assert not callers_of({"print", "input", "breakpoint"}, MAY_PRINT)


def test_nobody_sleeps_for_luck() -> None:
    assert not callers_of({"time.sleep", "sleep"}, MAY_SLEEP)


def test_wall_clocks_decide_nothing() -> None:
    wall = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.datetime.now", "date.today"}
    assert not callers_of(wall, MAY_READ_WALL_CLOCK)


def test_files_stay_readable() -> None:
    long = {
        str(path.relative_to(ROOT)): count
        for path in PRODUCT
        if (count := path.read_text().count("\n")) > FILE_LINES_MAX
    }
    assert not long


def test_functions_stay_readable() -> None:
    long = []
    for path in PRODUCT:
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                size = (node.end_lineno or node.lineno) - node.lineno + 1
                if size > FUNCTION_LINES_MAX:
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name} has {size} lines")
    assert not long


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in PRODUCT
        if path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert not silent


def test_a_broad_except_gives_its_reason() -> None:
    """On its line or the next: `except Exception:  # a listener must never kill kazoo's thread`. Or it raises again."""
    bare = []
    for path in PRODUCT:
        text = path.read_text()
        lines = text.splitlines()
        for node in ast.walk(ast.parse(text, str(path))):
            if not isinstance(node, ast.ExceptHandler) or (
                isinstance(node.body[-1], ast.Raise) and not node.body[-1].exc
            ):
                continue
            caught = ast.unparse(node.type) if node.type else "BaseException"
            if re.search(r"\b(Base)?Exception\b", caught) and "#" not in "".join(
                lines[node.lineno - 1 : node.lineno + 1]
            ):
                bare.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not bare


def test_nothing_unfinished_is_left() -> None:
    assert not lines_with(UNFINISHED, PRODUCT)


def test_no_trace_of_a_machine() -> None:
    assert not lines_with(MACHINE_PATH, list(committed()))


def test_no_package_registry_is_named() -> None:
    assert not lines_with(REGISTRY, list(committed()))


def test_programs_can_be_started() -> None:
    """A script with `#!` that is meant to be run by name has its execute bit."""
    wrong = [
        str(path.relative_to(ROOT))
        for path in committed()
        if path.suffix in ("", ".sh") and path.read_bytes()[:2] == b"#!" and not path.stat().st_mode & 0o111
    ]
    assert not wrong


def test_the_patterns_of_this_file_can_find_something() -> None:
    assert MACHINE_PATH.search("see /" + "root/.ssh/config")
    assert REGISTRY.search("https://" + "py" + "pi.org/simple")
    assert UNFINISHED.search("# TO" + "DO: later")
    assert not MACHINE_PATH.search("from ./network/" + "work/x")
