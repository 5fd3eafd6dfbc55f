"""A cluster without machines: real records in a memory ensemble, the real `decide`, and guardians of one line each."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from failover.bootstrap import rules_of
from failover.cli import reading
from failover.cli.main import main
from failover.clock import boottime_s
from failover.config import load
from failover.coordination.base import LostRace
from failover.coordination.ledger import Ledger, Records
from failover.coordination.memory import MemoryEnsemble
from failover.coordination.paths import Paths
from failover.core.decide import decide
from failover.core.model import (
    ControllerStatus,
    Grant,
    Handover,
    MemberStatus,
    Mode,
    Policy,
    Receipt,
    Role,
    Seal,
    SyncSet,
)  # fmt: skip
from failover.core.plan import Create, Erase, Fence, Key, Kind, Outcome, Swap
from failover.engines import engine
from failover.runtime.observer import Observer

MEMBERS = ("db1", "db2", "db3")
FILE = """\
zookeeper: {hosts: [10.9.0.1:2181, 10.9.0.2:2181, 10.9.0.3:2181]}
controllers: {c1: 10.9.0.1, c2: 10.9.0.2, c3: 10.9.0.3}
ssh: {user: root, key_file: /etc/failover/key, known_hosts_file: /etc/failover/known_hosts}
clusters:
  orders:
    engine: postgresql
    mode: automatic
    replication: strict
    instance: {port: 5432, data_dir: /srv/pg, bin_dir: /usr/lib/postgresql/15/bin, service: direct}
    guarded_ports: [5432]
    users:
      monitor: {name: monitor}
      operator: {name: operator}
      replication: {name: replication}
    members:
      db1: {address: 10.9.0.1, priority: 3}
      db2: {address: 10.9.0.2, priority: 2}
      db3: {address: 10.9.0.3, priority: 1}
"""
S = 1.0


@dataclass
class World:
    """One cluster in memory. `run` is the command line; `beat` is one heartbeat of every living guardian."""

    ensemble: MemoryEnsemble
    ledger: Ledger
    file: Path
    digest: str
    dead: set[str]
    deaf: set[str]  # guardians that do not hand over or confirm

    def run(self, *args: str, input: str | None = None) -> Result:  # as CliRunner calls it
        return CliRunner().invoke(main, ["--config", str(self.file), *args], input=input)

    def json(self, *args: str) -> tuple[int, Any]:
        done = self.run(*args, "-o", "json")
        return done.exit_code, json.loads(done.stdout)

    def put(self, kind: Kind, name: str, value: object, ephemeral: bool = False) -> None:
        """Create or replace one record, whatever its version."""
        key = Key(kind, name)
        write = Create(key, value, ephemeral) if self.ledger.read(key, S) is None else Swap(key, value, None)
        try:
            self.ledger.commit([write], S)
        except LostRace:  # the beating thread was first
            self.ledger.commit([Swap(key, value, None)], S)

    def read(self, kind: Kind, name: str = "") -> Any:
        stored = self.ledger.read(Key(kind, name), S)
        return stored.value if stored else None

    def erase(self, kind: Kind, name: str = "") -> None:
        stored = self.ledger.read(Key(kind, name), S)
        assert stored is not None
        self.ledger.commit([Erase(Key(kind, name), stored.version)], S)

    def names(self, kind: Kind) -> tuple[str, ...]:
        return self.ledger.coordinator.children(self.ledger.paths.tree(kind), S)

    def adopt(self) -> None:
        pair = (SyncSet(1, ("db2", "db3"), "1"),)
        self.put(Kind.GRANT, "", Grant("db1", 1, ("db2", "db3"), pair, system_identifier="7"))
        self.beat()

    def lead(self, name: str = "c1") -> None:
        """This controller leads; nobody decides yet (see `decider`)."""
        term = self.ledger.read(Key(Kind.TERM), S)
        assert term is not None
        self.ledger.commit([Create(Key(Kind.LEADER), name), Swap(Key(Kind.TERM), term.value + 1, term.version)], S)

    def controllers(self, *names: str) -> None:
        for name in names:
            self.put(Kind.CONTROLLER, name, ControllerStatus(name, self.digest, "1"))

    def beat(self) -> None:
        grant: Grant | None = self.read(Kind.GRANT)
        for name in MEMBERS:
            if name not in self.dead:
                self.put(Kind.MEMBER, name, self.status(name, grant))
                self._duties(name, grant)

    def status(self, name: str, grant: Grant | None) -> MemberStatus:
        primary = grant.member if grant else "db1"
        epoch = grant.epoch if grant else 0
        sync = grant.sync[-1] if grant and grant.sync else SyncSet(1, ("db2", "db3"), "1")
        if name == primary:
            return MemberStatus(
                name, Role.PRIMARY, "7", "1@0/2000", gate="open", epoch=epoch, writable=grant is not None,
                applied_sync=sync, guardian="serves writes",
            )  # fmt: skip
        if name in self.read(Kind.POLICY).fenced:
            return MemberStatus(name, Role.DOWN, "7", "1@0/2000", gate="shut", guardian="fenced by hand: kept down")
        return MemberStatus(
            name, Role.STANDBY, "7", "1@0/2000", 0, primary, primary is not None, "shut", guardian="a standby follows"
        )

    def _duties(self, name: str, grant: Grant | None) -> None:
        operation = self.read(Kind.OPERATION)
        if grant is None or operation is None or name in self.deaf:
            return
        if operation.phase == "stopping" and name == operation.old:
            self.put(Kind.HANDOVER, name, Handover(name, operation.id, "stopped", "1@0/2000"))
        if grant.claim and name == grant.claim.old:
            self.put(Kind.RECEIPT, name, Receipt(name, grant.claim.old_epoch, "stopped in order"))
        if grant.claim and name != grant.claim.old:
            self.put(Kind.SEAL, name, Seal(name, grant.epoch, "1@0/2000", True))


class Loops:
    """Beats and decisions in the background, ended by the fixture."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def every(self, seconds: float, work: Callable[[], None]) -> None:
        def loop() -> None:
            while not self.stop.wait(seconds):
                work()

        thread = threading.Thread(target=loop, daemon=True)
        thread.start()
        self._threads.append(thread)

    def end(self) -> None:
        self.stop.set()
        for thread in self._threads:
            thread.join(5.0)


class Decider:
    """The leader's loop: observe, decide, commit; every action succeeds at once, or (`ok=False`) the fences never do."""

    def __init__(self, world: World, ok: bool = True) -> None:
        self._world, self._ok = world, ok
        client = world.ensemble.client("leader")
        client.start(S)
        self._ledger = Ledger(client, world.ledger.paths)
        self._mirror = client.mirror(self._ledger.paths.singles(), self._ledger.paths.trees())
        self._observer = Observer("c1", engine("postgresql").parse_position)
        self._outcomes: tuple[Outcome, ...] = ()
        settings = load(world.file)
        self._rules = rules_of(settings.cluster(), tuple(c.name for c in settings.controllers))

    def tick(self) -> None:
        records: Records = self._ledger.view(self._mirror)
        plan = decide(self._observer.observe(records, self._outcomes), self._rules)
        try:
            if plan.writes:
                self._ledger.commit(plan.writes, S)
        except LostRace:
            return
        self._outcomes += tuple(
            Outcome(a, self._ok or not isinstance(a, Fence), "done" if self._ok else "no answer", boottime_s(), 0.0)
            for a in plan.actions
        )


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Bootstrapped, three controllers there, nobody leads, nothing adopted, guardians beat only when told."""
    ensemble = MemoryEnsemble()
    client = ensemble.client("test")
    client.start(S)
    file = tmp_path / "failover.yml"
    key = file.with_name("key")
    key.write_text("a key\n")
    key.chmod(0o600)
    file.write_text(FILE.replace("/etc/failover/key", str(key)))
    ledger = Ledger(client, Paths("orders"))
    ledger.bootstrap(MEMBERS, Policy(mode=Mode.AUTOMATIC), S)
    monkeypatch.setattr(reading, "client_of", lambda settings, cluster: ensemble.client("failoverctl"))
    made = World(ensemble, ledger, file, load(file).digest, set(), set())
    made.controllers("c1", "c2", "c3")
    return made


@pytest.fixture
def loops() -> Iterator[Loops]:
    made = Loops()
    yield made
    made.end()


@pytest.fixture
def living(world: World, loops: Loops) -> World:
    """The same with c1 leading and deciding, and guardians that beat."""
    world.lead()
    world.beat()
    loops.every(0.05, world.beat)
    loops.every(0.03, Decider(world).tick)
    return world


def quiet(status: MemberStatus, **changes: Any) -> MemberStatus:
    return replace(status, **changes)
