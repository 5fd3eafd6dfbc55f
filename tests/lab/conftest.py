"""The labs that the tests share, of each engine: one without our daemons, one with them that is whole again before every test.

Every test that uses one of them is there for every engine, or for those that its mark `engines` names; all tests of one engine,
then all of the next, so that each lab is booted once. The everyday run takes all of them on PostgreSQL, on one clock each, and
those of EVERYDAY on the others; with LAB_ENGINES=all everything runs on all three, which takes hours on two cores.

`cluster` is what most tests want: three guarded hosts, adopted, whole, and the leader free to fail over. `calm_cluster` is
the same without waiting for the cool-down after a failover, for tests that cause none; `profiled_cluster` is that on more
than one clock. `own_cluster` boots another kind of lab; only one lab with daemons exists at a time, so that tests do not
measure each other.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from failover.lab import Lab, LabOptions
from failover.lab.databases import ENGINES, dialect
from failover.lab.services import missing_programs
from tests.support.lab_cluster import Cluster

EVERYDAY = {"test_acts": ("switchover", "process_kill", "host_cut")}  # of the acts
CLOCKS = {"test_rolling_restarts": "lan", "test_zookeeper_away": "fast"}
ALL = os.environ.get("LAB_ENGINES") == "all"
SAVED = Path(__file__).parents[2] / "build" / "lab-logs"
running = pytest.StashKey[list[Cluster]]()
broken = pytest.StashKey[bool]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "engines(*names): what the test asks for is there with these engines only")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what a mark says is not there; nothing is skipped by it, because nothing is missing."""
    apart = {item for item in items if not _is_there(item)}
    if apart:
        config.hook.pytest_deselected(items=list(apart))
        items[:] = [item for item in items if item not in apart]


def _is_there(item: pytest.Item) -> bool:
    mark, call = item.get_closest_marker("engines"), getattr(item, "callspec", None)
    params = call.params if call is not None else {}
    engine = params.get("engine_name")
    if engine is not None and mark is not None and engine not in mark.args:
        return False
    return ALL or _everyday(item.path.stem, engine, params)


def _everyday(file: str, engine: object, params: Mapping[str, object]) -> bool:
    clock = params.get("_clock_lab")
    if clock is not None and clock != CLOCKS.get(file, clock):
        return False
    return engine in (None, "postgresql") or params.get("act") in EVERYDAY.get(file, ())


@pytest.fixture(scope="session", params=ENGINES)
def engine_name(request: pytest.FixtureRequest) -> str:
    """The engine that the labs run. Skips, with the reason, where this machine does not have it."""
    if faults := dialect(request.param).faults():
        pytest.skip("; ".join(faults))
    return str(request.param)


@pytest.fixture(scope="session")
def machine() -> None:
    """Skips, with the reason, where the lab cannot be booted at all."""
    faults = missing_programs()
    if faults:
        pytest.skip("; ".join(faults))


@pytest.fixture(scope="session")
def lab(machine: None, engine_name: str) -> Iterator[Lab]:
    """Three database hosts that replicate, a name server and an application host; no controller, no guardian."""
    with Lab.boot(LabOptions(engine=engine_name, daemons=False)) as booted:
        yield booted


@pytest.fixture(scope="session")
def shared_cluster(machine: None, engine_name: str, pytestconfig: pytest.Config) -> Iterator[Cluster]:
    """The one lab with daemons, in whatever state the last test left it. Booted at first use."""
    shared = Cluster(LabOptions(engine=engine_name))
    clusters = pytestconfig.stash.setdefault(running, [])
    clusters.append(shared)
    try:
        yield shared
    finally:
        clusters.remove(shared)
        shared.close()


@pytest.fixture
def cluster(shared_cluster: Cluster, pytestconfig: pytest.Config) -> Cluster:
    """Whole: the primary takes writes, both standbys stream, no operation, no pause, no cool-down."""
    return _whole(shared_cluster, pytestconfig, cooldown=True)


@pytest.fixture
def calm_cluster(shared_cluster: Cluster, pytestconfig: pytest.Config) -> Cluster:
    """As `cluster`, but a cool-down may still run: for tests that need no automatic failover."""
    return _whole(shared_cluster, pytestconfig, cooldown=False)


@pytest.fixture
def own_cluster(shared_cluster: Cluster, pytestconfig: pytest.Config) -> Iterator[Callable[..., Cluster]]:
    """Makes a lab of the test's own, e.g. `own_cluster(replication="async")`; booted at its first use, not adopted."""
    shared_cluster.close()
    clusters = pytestconfig.stash[running]
    made: list[Cluster] = []

    def make(**options: Any) -> Cluster:
        mine = Cluster(LabOptions(engine=shared_cluster.options.engine, **options))
        made.append(mine)
        clusters.append(mine)
        return mine

    try:
        yield make
    finally:
        for mine in made:
            clusters.remove(mine)
            mine.close()


@pytest.fixture(scope="module", params=["lan", "fast"])
def _clock_lab(request: pytest.FixtureRequest, shared_cluster: Cluster, pytestconfig: pytest.Config) -> Iterator[Cluster]:
    """The shared lab for its own profile; for another one a lab that lives as long as the module's tests on that clock."""
    if request.param == shared_cluster.options.profile:
        yield shared_cluster
        return
    shared_cluster.close()
    other = Cluster(LabOptions(engine=shared_cluster.options.engine, profile=request.param))
    clusters = pytestconfig.stash[running]
    clusters.append(other)
    try:
        yield other
    finally:
        clusters.remove(other)
        other.close()


@pytest.fixture
def profiled_cluster(_clock_lab: Cluster, pytestconfig: pytest.Config) -> Cluster:
    """As `calm_cluster`, once for each of the clocks that promise most: all tests of a module on `lan`, then all on `fast`."""
    return _whole(_clock_lab, pytestconfig, cooldown=False)


def _whole(shared: Cluster, config: pytest.Config, cooldown: bool) -> Cluster:
    """A lab in which a test has failed is not asked to heal: the next test gets a new one."""
    if config.stash.get(broken, False):
        shared.close()
        config.stash[broken] = False
    shared.make_whole(cooldown=cooldown)
    return shared


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """A failed test leaves the logs of its lab in build/lab-logs/<test>, and their last lines in its report."""
    report = yield
    clusters = [one for one in item.config.stash.get(running, []) if one.booted]
    if report.failed and report.when in ("setup", "call") and clusters and _uses_a_cluster(item):
        item.config.stash[broken] = True
        for number, one in enumerate(clusters):
            folder = SAVED / item.name.replace("/", "-") / (str(number) if number else "")
            report.sections.append(("the lab's last words", one.save_logs(folder)))
            (folder / "failure.txt").write_text(report.longreprtext)
    return report


def _uses_a_cluster(item: pytest.Item) -> bool:
    return "shared_cluster" in getattr(item, "fixturenames", ())
