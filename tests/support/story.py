"""A whole cluster in memory, told as a story: three controllers, three guardians, one ensemble, and only the kernel, the
databases and the network between them made up.

Node, Observer, Leadership, decide and every guardian part are the product's own. A scenario file has commands (`> ...`) and,
below each, what the journal and the guardians said until things came to rest; `tell` prints the same from a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from failover.coordination.ledger import Ledger
from failover.coordination.memory import MemoryCoordinator, MemoryEnsemble
from failover.coordination.paths import Paths
from failover.core.model import (
    ControllerStatus,
    Grant,
    Mode,
    Notice,
    Operation,
    Policy,
    Request,
    RequestKind,
    Role,
    Step,
    Stored,
    SyncSet,
)
from failover.core.plan import Action, Checkpoint, Create, Fence, Key, Kind, MoveVip, Outcome, SwitchDns, VerifyWritable
from failover.core.rules import Rules
from failover.engines.base import ProbeResult
from failover.engines.lsn import Lsn
from failover.errors import FailoverError, Refused, Unknown
from failover.runtime.leadership import Leadership
from failover.runtime.node import Node, NodeParts
from failover.runtime.observer import Observer
from failover.runtime.probes import ProbeBoard
from tests.support.builders import MEMBERS, some_rules
from tests.support.fake_host import Authority, Clock, FakeHost

ROUND_S = 0.1
ENOUGH = 400


class SameTickExecutor:
    """The executor's contract without its threads: what is wanted is done at once, its outcome is seen at the next look."""

    def __init__(self, act: Callable[[Action], str], clock: Clock) -> None:
        self._act, self._clock = act, clock
        self._outcomes: list[Outcome] = []

    def want(self, actions: tuple[Action, ...]) -> None:
        for action in actions:
            if any(o.action == action and o.ok for o in self._outcomes):
                continue
            ok: bool | None
            try:
                evidence, ok = self._act(action), True
            except Unknown as error:
                evidence, ok = str(error), None
            except FailoverError as error:
                evidence, ok = str(error), False
            self._outcomes.append(Outcome(action, ok, evidence, self._clock(), 0.0))

    def outcomes(self) -> tuple[Outcome, ...]:
        return tuple(self._outcomes)


class Mailbox:
    """The notifier's contract: keeps what is owed in sight."""

    def __init__(self) -> None:
        self.owed: dict[str, Notice] = {}

    def pay(self, notices: dict[str, Stored[Notice]]) -> None:
        self.owed |= {key: stored.value for key, stored in notices.items()}


class Controller:
    """One failoverd."""

    def __init__(self, name: str, cluster: Cluster) -> None:
        self.name, self.mailbox = name, Mailbox()
        self.client: MemoryCoordinator = cluster.ensemble.client(name, clock=cluster.clock)
        self.client.start(1.0)
        self.ledger = Ledger(self.client, Paths("main"))
        paths = self.ledger.paths
        self.probes = ProbeBoard(cluster.rules.probes_lost, cluster.rules.crash_recovery_max_s)
        self.executor = SameTickExecutor(cluster.act, cluster.clock)
        parts = NodeParts(
            name, cluster.rules, Policy(mode=Mode.AUTOMATIC), self.ledger, self.client.mirror(paths.singles(), paths.trees()),
            Observer(name, Lsn.parse), Leadership(name, self.ledger), self.executor, self.mailbox,  # type: ignore[arg-type]
            self.probes, ControllerStatus(name, "digest", "1"), tuple,
        )  # fmt: skip
        self.node = Node(parts)

    def tick(self) -> None:
        try:
            self.node.tick()
        except FailoverError:
            pass  # as Node.run: looked at again at the next tick

    def leads(self) -> bool:
        leader = self.ledger.read(Key(Kind.LEADER), 1.0)
        return leader is not None and leader.owner_session == self.client.session()


class Cluster:
    """db1 primary under epoch 3 with db2 and db3 in its sync set; c1, c2 and c3 watch, c1 leads."""

    def __init__(self, clock: Clock, rules: Rules | None = None) -> None:
        self.clock, self.rules = clock, rules or some_rules()
        self.ensemble = MemoryEnsemble(clock)
        self.authority = Authority(self.ensemble)
        self.authority.grant(Grant("db1", 3, ("db2", "db3"), (SyncSet(1, ("db2", "db3"), "1"),)))
        self.hosts = {m.name: FakeHost(self.ensemble, m.name, clock) for m in MEMBERS}
        self.unreachable: set[str] = set()
        self.name_answers = ""
        self.said: list[str] = []
        self._told: set[str] = set()
        self._asked = 0
        self._duties: dict[str, str] = {}
        self._boot()
        self.controllers = [Controller(name, self) for name in self.rules.controllers]
        self.rounds(8)
        self.said.clear()

    def _boot(self) -> None:
        for name, host in self.hosts.items():
            host.database.run(11, Role.PRIMARY if name == "db1" else Role.STANDBY)
            host.database.upstream = "" if name == "db1" else "10.0.0.1"
        self.hosts["db1"].vip.here = True

    def close(self) -> None:
        for host in self.hosts.values():
            host.close()

    # --- time passes ------------------------------------------------------------------------------------------------
    def rounds(self, number: int) -> Cluster:
        for _ in range(number):
            self.clock.advance(ROUND_S)
            self.round()
        return self

    def round(self) -> None:
        self._replicate()
        for host in self._reachable():
            host.turn()
        self._replicate()
        for controller in list(self.controllers):
            self._probe(controller)
            controller.tick()
        self._listen()

    def rest(self) -> Cluster:
        """Rounds until no operation runs, and a little longer."""
        self.rounds(4)
        return self.until(lambda: self.operation() is None).rounds(60)

    def until(self, done: Callable[[], bool]) -> Cluster:
        """Rounds until `done()`; a story that does not end is a failure."""
        for _ in range(ENOUGH):
            if done():
                return self
            self.rounds(1)
        raise AssertionError("it does not come to rest:\n" + "\n".join(self.said))

    # --- what happens -------------------------------------------------------------------------------------------------
    def kill(self, member: str) -> None:
        self.hosts[member].die()

    def silence(self, member: str) -> None:
        """Its whole host says nothing any more; nobody knows whether it still writes."""
        self.unreachable.add(member)
        self.hosts[member].client.cut()
        self.hosts[member].renewals.cut()

    def answer(self, member: str) -> None:
        self.unreachable.discard(member)
        self.hosts[member].client.heal()
        self.hosts[member].renewals.heal()

    def ask(self, kind: RequestKind, target: str | None = None, reason: str = "", confirm: bool = False) -> None:
        self._asked += 1
        request = Request(f"r{self._asked}", kind, "ann", reason, target, confirm=confirm)
        self.authority.ledger.commit([Create(Key(Kind.REQUEST, request.id), request)], 1.0)

    def kill_leader(self) -> str:
        """The leading controller's process is gone and its session expires."""
        leader = next(c for c in self.controllers if c.leads())
        self.controllers.remove(leader)
        leader.client.expire()
        leader.client.cut()
        return leader.name

    def leader(self) -> Controller:
        return next(c for c in self.controllers if c.leads())

    # --- what is so -----------------------------------------------------------------------------------------------------
    def operation(self) -> Operation | None:
        stored = self.authority.ledger.read(Key(Kind.OPERATION), 1.0)
        return stored.value if stored else None

    def grant(self) -> Grant:
        stored = self.authority.ledger.read(Key(Kind.GRANT), 1.0)
        assert stored is not None
        grant: Grant = stored.value
        return grant

    def writers(self) -> list[str]:
        """Members at which a client's write would return success now."""
        return [n for n, h in self.hosts.items() if h.database.role is Role.PRIMARY and h.database.pid and h.gate.open()]

    def journal(self, operation: str = "op-1") -> list[Step]:
        base = Paths("main").of(Key(Kind.JOURNAL, operation))
        names = self.authority.ledger.coordinator.children(base, 1.0)
        found = [self.authority.ledger.read(Key(Kind.JOURNAL, f"{operation}/{name}"), 1.0) for name in names]
        return [stored.value for stored in found if stored]

    def summary(self) -> str:
        grant = self.grant()
        following = sorted(n for n, h in self.hosts.items() if h.database.pid and h.database.upstream)
        vip = [n for n, h in self.hosts.items() if h.vip.here]
        return (
            f"writes: {', '.join(self.writers()) or 'nobody'}; grant: {grant.member or 'nobody'} under epoch {grant.epoch}; "
            f"vip: {', '.join(vip) or 'nowhere'}; following: {', '.join(following) or 'nobody'}"
        )

    # --- made up: network, hands, replication -----------------------------------------------------------------------------
    def act(self, action: Action) -> str:
        """What the actuators would do."""
        if isinstance(action, Fence):
            if action.member in self.unreachable:
                raise Unknown("no answer within 3.0 s")
            return self.hosts[action.member].fencer.fence(action.closes, "ordered over SSH")
        if isinstance(action, VerifyWritable):
            if self.writers() != [action.member]:
                raise Refused("does not take writes")
            return f"a write under epoch {action.epoch} returned"
        if isinstance(action, MoveVip):
            for name, host in self.hosts.items():
                if name not in (action.to, *self.unreachable):
                    host.vip.drop()
            return self.hosts[action.to].warden.take_vip(action.epoch)
        if isinstance(action, SwitchDns):
            self.name_answers = action.address
            return f"the name answers {action.address}"
        assert isinstance(action, Checkpoint)
        return "checkpoint done"

    def _reachable(self) -> Iterable[FakeHost]:
        return [host for name, host in self.hosts.items() if name not in self.unreachable]

    def _replicate(self) -> None:
        """What a standby may receive: from a living primary, or the last bytes of one that stopped in order."""
        for name, host in self.hosts.items():
            sources = [h for m in MEMBERS if m.address == host.database.upstream and (h := self.hosts.get(m.name))]
            source = sources[0] if sources and not self.unreachable & {name, sources[0].me} else None
            alive = source is not None and source.database.role is Role.PRIMARY and bool(source.database.pid)
            blocked = source is not None and host.sealer.sealed() is not None
            host.database.streaming = alive and not blocked if host.database.upstream else None
            if source and not blocked and (alive or source.database.clean) and source.database.at.covers(host.database.at):
                host.database.at = source.database.at

    def _probe(self, controller: Controller) -> None:
        for name, host in self.hosts.items():
            alive = bool(host.database.pid) and name not in self.unreachable
            controller.probes.found(name, "fresh", ProbeResult(alive, Role.UNKNOWN, "answers" if alive else "no answer", 0.01))

    def _listen(self) -> None:
        """New journal lines and new duties, in the order in which they came to be."""
        client = self.authority.ledger.coordinator
        for operation in client.children(Paths("main").journal, 1.0):
            for step in sorted(self.journal(operation), key=lambda s: (s.kind == "intent", s.number)):
                line = f"{operation}/{step.number:02d}-{step.name}"
                if line not in self._told:
                    self._told.add(line)
                    facts = "; ".join(f"{key}: {value}" for key, value in step.facts if key != "lease_version")
                    if step.kind != "intent":
                        self.said.append(f"{step.name:<16} {step.says}" + (f" [{facts}]" if facts else ""))
        for host in self._reachable():
            says = host.board.own.says
            if self._duties.get(host.me) != says:
                self._duties[host.me] = says
                self.said.append(f"    {host.me}: {says}")


def cluster_of(script: str, clock: Clock) -> Cluster:
    """The cluster a scenario is about: `# agentless: db1` in its head gives db1 no guardian in the configuration."""
    bare = {name for line in script.splitlines() if line.startswith("# agentless: ") for name in line[13:].split(", ")}
    members = tuple(replace(member, guarded=member.name not in bare) for member in MEMBERS)
    return Cluster(clock, some_rules(members=members))


def tell(cluster: Cluster, script: str) -> str:
    """Run the commands of a scenario and return the file as it should read."""
    out: list[str] = []
    for line in script.splitlines():
        if line.startswith("#"):
            out.append(line)
        if not line.startswith("> "):
            continue
        out += ["", line]
        verb, *words = line[2:].split()
        before = len(cluster.said)
        _perform(cluster, verb, words)
        out += [*cluster.said[before:], f"== {cluster.summary()}"]
    return "\n".join(out) + "\n"


def _perform(cluster: Cluster, verb: str, words: list[str]) -> None:
    if verb == "kill":
        cluster.kill(words[0])
    elif verb == "silence":
        cluster.silence(words[0])
    elif verb == "answer":
        cluster.answer(words[0])
    elif verb == "switchover":
        cluster.ask(RequestKind.SWITCHOVER, words[0])
    elif verb == "rest":
        cluster.rest()
    elif verb == "settle":
        cluster.rounds(60)
    elif verb == "until":
        cluster.until(lambda: words[0] in (((o := cluster.operation()) and (o.phase, o.held and "held")) or ()))
    else:
        raise AssertionError(f"no such command: {verb}")

