"""The arrows of the architecture, read from the imports themselves.

A room may import the rooms that its line names, and itself. What every room may use: clock, errors, settings, the
configuration's own modules, logs, profiles, and the nouns in core.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

LEAVES = {
    "", "clock", "errors", "settings", "secrets", "logs", "profiles",
    "config", "config_rules", "config_schema", "config_shape", "config_yaml",
}  # fmt: skip
COMMON = LEAVES | {"core"}

# room -> the rooms it may import (itself always)
ARROWS: dict[str, set[str]] = {
    "core": set(),
    "": set(), "clock": set(), "errors": set(), "logs": set(),
    "secrets": {"errors", "logs"}, "settings": {"core", "errors", "secrets"},
    "profiles": {"settings"},
    "config_yaml": set(), "config_schema": set(),
    "config_shape": {"config_schema", "config_yaml"},
    "config_rules": {"config_schema", "config_yaml", "profiles", "settings"},
    "config": LEAVES | {"core"},
    "remote": COMMON,
    "engines": COMMON | {"remote"},
    "actuators": COMMON | {"remote"},
    "coordination": COMMON | {"remote"},
    "guardian": COMMON | {"remote", "engines", "actuators", "coordination"},
    "runtime": COMMON | {"remote", "engines", "actuators", "coordination"},
    "bootstrap": COMMON | {"remote", "engines", "actuators", "coordination", "guardian", "runtime", "alone"},
    "alone": COMMON | {"remote", "engines", "guardian"},
    "api": COMMON | {"coordination", "runtime", "bootstrap"},
    "cli": COMMON | {"remote", "coordination", "runtime", "bootstrap"},
    "__main__": COMMON | {"remote", "guardian", "runtime", "bootstrap", "cli", "alone"},
    "lab": COMMON,
    "sim": COMMON | {"remote", "coordination", "runtime", "guardian", "engines", "actuators"},
}  # fmt: skip

# guardian and runtime see a package only through its front: what needs no driver and names no concrete one
FRONTS = {
    "engines": {"base"},
    "actuators": {"base"},
    "coordination": {"base", "ledger", "paths", "records", "pinned"},
}

# nothing but tests imports the lab and the simulator, except the verbs that show them to a user
SHOWS_THE_LAB = {"failover.cli.demo", "failover.cli.drill", "failover.cli.prove", "failover.cli.simulate"}

DRIVERS = {
    "kazoo": "coordination",
    "psycopg2": "engines",
    "pymysql": "engines",
    "paramiko": "remote",
    "dns": "actuators",
}

# the application's half of a signed notification is part of what the product gives to its users
AS_A_USER = {("failover.lab.receiver", "failover.actuators.notify")}

# the lab's clients judge the product, so they share no code with it and speak to the database themselves
LAB_MAY = {"psycopg2", "pymysql", "dns"}

PURE = {
    "__future__", "abc", "bisect", "collections", "dataclasses", "enum", "functools", "heapq", "itertools", "math",
    "operator", "re", "types", "typing",
}  # fmt: skip


@dataclass(frozen=True)
class Import:
    """One import: who, what, and where it stands."""

    module: str
    target: str
    line: int

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.target}"


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(module: str) -> str:
    """`failover.core.plan` -> `core`; the package itself -> the empty name."""
    return module.split(".")[1] if "." in module else ""


@cache
def modules() -> frozenset[str]:
    return frozenset(module_name(path) for path in (ROOT / "failover").rglob("*.py"))


def imports_of(path: Path) -> Iterator[Import]:
    """Every import in a file, also those inside functions. `from package import module` counts as the module."""
    module = module_name(path)
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from (Import(module, alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno} imports relatively; write the full name"
            base = node.module or ""
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield Import(module, inner if inner in modules() else base, node.lineno)


@cache
def every_import() -> tuple[Import, ...]:
    return tuple(found for path in sorted((ROOT / "failover").rglob("*.py")) for found in imports_of(path))


def ours() -> list[Import]:
    return [found for found in every_import() if found.target.split(".")[0] == "failover"]


def named(wrong: list[Import]) -> str:
    return "\n" + "\n".join(map(str, wrong))


def test_every_room_has_a_line_in_the_table() -> None:
    unknown = {room(module) for module in modules()} - set(ARROWS)
    assert not unknown, f"say what {unknown} may import"


def test_imports_follow_the_arrows() -> None:
    wrong = [
        found
        for found in ours()
        if room(found.target) not in ARROWS.get(room(found.module), set()) | {room(found.module), ""}
        and not (room(found.target) in ("lab", "sim") and found.module in SHOWS_THE_LAB)
        and (found.module, found.target) not in AS_A_USER
    ]
    assert not wrong, named(wrong)


def test_guardian_and_runtime_see_other_packages_through_their_front() -> None:
    wrong = [
        found
        for found in ours()
        if room(found.module) in ("guardian", "runtime")
        and room(found.target) in FRONTS
        and found.target.split(".")[2:3] not in [[front] for front in FRONTS[room(found.target)]]
    ]
    assert not wrong, named(wrong)


def test_a_front_imports_no_driver() -> None:
    fronts = {f"failover.{package}.{name}" for package, names in FRONTS.items() for name in names}
    wrong = [found for found in every_import() if found.module in fronts and found.target.split(".")[0] in DRIVERS]
    assert not wrong, named(wrong)


@pytest.mark.parametrize("driver", sorted(DRIVERS))
def test_a_driver_is_imported_by_one_package(driver: str) -> None:
    wrong = [
        found
        for found in every_import()
        if found.target.split(".")[0] == driver
        and room(found.module) != DRIVERS[driver]
        and not (room(found.module) == "lab" and driver in LAB_MAY)
    ]
    assert not wrong, named(wrong)


def test_core_imports_only_plain_data() -> None:
    wrong = [
        found
        for found in every_import()
        if room(found.module) == "core" and found.target.split(".")[0] not in PURE | {"failover"}
    ]
    assert not wrong, named(wrong)


def test_imports_between_rooms_make_no_circle() -> None:
    """Except the one in the table: settings asks config for a secret when a password is wanted."""
    below: dict[str, set[str]] = {}
    for found in ours():
        here, there = room(found.module), room(found.target)
        if here != there and there and (here, there) != ("settings", "config"):
            below.setdefault(here, set()).add(there)

    def reaches(start: str, goal: str, seen: set[str]) -> bool:
        return any(
            next_ == goal or (next_ not in seen and reaches(next_, goal, seen | {next_}))
            for next_ in below.get(start, set())
        )

    circles = [name for name in below if reaches(name, name, set())]
    assert not circles


def test_no_module_is_dead() -> None:
    """Each is imported by the product, named as an entry point, or a program of its own (`-m failover.x.y`)."""
    named = (ROOT / "setup.cfg").read_text()
    imported = {found.target for found in ours() if found.target != found.module}
    packages = {module.rpartition(".")[0] for module in modules()} | {"failover"}
    programs = {
        module_name(path)
        for path in (ROOT / "failover").rglob("*.py")
        if 'if __name__ == "__main__":' in path.read_text() or f"= {module_name(path)}:" in named
    }
    for_tests = {"failover.coordination.memory"}  # the second implementation of the contract
    dead = modules() - packages - imported - programs - for_tests
    assert not dead, sorted(dead)
