"""A naive MariaDB cluster for the algebra of positions: a domain's log is a list of who wrote it, transaction by transaction."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import strategies as st

from failover.engines.maria_gtid import MariaPosition

DOMAINS = (0, 7)


@dataclass
class Server:
    """`lines[d]` is all it has, `applied[d]` so much of it is in its binlog; `io` is what its receiver says it ended at.

    `relay[d]` is the line of the receiver where the server itself has strayed from it.
    """

    number: int
    lines: dict[int, list[int]] = field(default_factory=lambda: {d: [] for d in DOMAINS})
    applied: dict[int, int] = field(default_factory=lambda: dict.fromkeys(DOMAINS, 0))
    state: dict[tuple[int, int], int] = field(default_factory=dict)
    binlog: dict[int, str] = field(default_factory=dict)
    replicated: dict[int, str] = field(default_factory=dict)
    io: dict[int, str] = field(default_factory=dict)
    relay: dict[int, list[int]] = field(default_factory=dict)
    seeded: bool = False

    def write(self, domain: int) -> None:
        self.lines[domain].append(self.number)
        self._log(domain)

    def stray(self, domain: int) -> None:
        """A write on a standby: what it received behind that, and still receives, is never applied (1950)."""
        self.relay.setdefault(domain, list(self.lines[domain]))
        del self.lines[domain][self.applied[domain] :]
        self.write(domain)

    def receive(self, source: Server, domain: int, count: int) -> None:
        """A source that does not have the last transaction of this one's receiver refuses it (1236)."""
        mine, theirs = self.relay.get(domain, self.lines[domain]), source.lines[domain]
        if theirs[: len(mine)] != mine or len(theirs) == len(mine):
            return
        if not self.relay:  # what an engine does with a server that was primary before it may follow
            self.replicated = {number: end for number in DOMAINS if (end := self.end(number, self.applied[number]))}
        mine.extend(theirs[len(mine) :][:count])
        self.io[domain] = source.end(domain, len(mine))

    def lead(self) -> None:
        self.apply()
        self.relay, self.io = {}, {}

    def apply(self) -> None:
        for domain in DOMAINS:
            while self.applied[domain] < len(self.lines[domain]):
                self._log(domain)
                self.replicated[domain] = self.end(domain, self.applied[domain])

    def seed(self, source: Server) -> None:
        """Made anew from a backup of `source`: an empty binlog, and gtid_slave_pos."""
        self.lines = {domain: list(line) for domain, line in source.lines.items()}
        self.applied = {domain: len(line) for domain, line in self.lines.items()}
        self.replicated = {domain: self.end(domain, len(line)) for domain, line in self.lines.items() if line}
        self.state, self.binlog, self.io, self.relay, self.seeded = {}, {}, {}, {}, True

    def end(self, domain: int, count: int) -> str:
        return f"{domain}-{self.lines[domain][count - 1]}-{count}" if count else ""

    def position(self) -> MariaPosition:
        state = ",".join(f"{domain}-{server}-{number}" for (domain, server), number in self.state.items())
        said = (",".join(ends.values()) for ends in (self.binlog, self.replicated, self.io))
        return MariaPosition.reported(self.number, state, *said)

    def has_all_of(self, other: Server) -> bool:
        return all(self.lines[d][: len(line)] == line for d, line in other.lines.items())

    def _log(self, domain: int) -> None:
        self.applied[domain] += 1
        number = self.applied[domain]
        writer = self.lines[domain][number - 1]
        self.state[domain, writer] = number
        self.binlog[domain] = f"{domain}-{writer}-{number}"


@dataclass
class Lines:
    """Three servers with one primary; `pictures` are what it has said of itself since it is one."""

    servers: list[Server]
    primary: Server
    pictures: list[MariaPosition] = field(default_factory=list)

    def step(self, what: str, one: Server, domain: int, count: int) -> None:
        if what == "write":
            self.primary.write(domain)
        elif what == "take over":
            one.lead()
            if one is not self.primary:
                self.primary, self.pictures = one, []
        elif one is not self.primary:
            if what == "receive":
                one.receive(self.primary, domain, count)
            elif what == "apply":
                one.apply()
            elif what == "seed":
                one.seed(self.primary)
            elif what == "stray":
                one.stray(domain)
        self.pictures.append(self.primary.position())


STEPS = ("write", "write", "receive", "receive", "apply", "take over", "seed", "stray")


@st.composite
def lines(draw: st.DrawFn, steps: tuple[str, ...] = STEPS) -> Lines:
    servers = [Server(number) for number in (1, 2, 3)]
    made = Lines(servers, servers[0])
    for _ in range(draw(st.integers(0, 25))):
        one, domain = draw(st.sampled_from(servers)), draw(st.sampled_from(DOMAINS))
        made.step(draw(st.sampled_from(steps)), one, domain, draw(st.integers(1, 3)))
    return made
