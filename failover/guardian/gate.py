"""The kernel's hold on the guarded ports (safety.md G3): what no pause, crash or bug of ours can keep open too long.

The table, and who passes:

    input   over lo: accept    to a guarded port: requests -> peers accept, ticket in force accept, else TCP reset
    output  over lo: accept    from a guarded port: answers -> peers accept, ticket in force accept, RST accept, drop

A *ticket* is a set of its own, `ticket_N`, with one element, the protocol tcp, that times out. It is inert until the
chain `in_force` looks it up: that one rule is `current`, replaced in one transaction, for all ports at once. No
packet mark is touched (policy routing, WireGuard and Kubernetes live by it), which the earlier form with a map to
`meta mark` could not avoid: nft 1.0.6 has no way to look up the result of a lookup. A late switch names a set that is
empty or gone: shut.

Only the kernel ends a ticket: its end is the element's own time-out, counted in the kernel's jiffies. They stand still
while the host is suspended, and `clock.boottime_s` does not. Only TCP is gated, and only traffic of this host (hooks
input and output): forwarded traffic (a container's published port) does not pass here, `check` refuses it.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import threading
from dataclasses import dataclass, replace

from failover.errors import ConfigurationError, Corrupt, FailoverError, Refused, Unknown, Unreachable
from failover.guardian.base import GateState, Guarded
from failover.guardian.nft import Missing, Nft
from failover.guardian.sessions import cut_sessions

_log = logging.getLogger("failover.guardian.gate")

_HIGHEST_TICKET = 2**31
_JIFFY_S = 0.01
"""The kernel rounds a time-out up to its next tick, 10 ms at most (HZ=100): tickets are made that much shorter."""

_STATIC_CHAINS = ("input", "output", "requests", "answers")
_BLOCK = re.compile(r"^\t(set|chain) (\w+) \{\n(.*?)^\t\}\n", re.MULTILINE | re.DOTALL)
_IN_FORCE = re.compile(r"@ticket_(\d+) accept")
_DURATION = re.compile(r"(\d+)(ms|[wdhms])")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


def table_name(kind: str, cluster: str) -> str:
    """`failover_gate_orders` for ("gate", "orders"): letters, digits and _ only, different for different clusters."""
    safe = "".join(c if c.isascii() and c.isalnum() else f"_{ord(c):x}_" for c in cluster)
    return f"failover_{kind}_{safe}"


_NO_TABLE = GateState(table=False, open=True, current=None, expires_in_s=None)


@dataclass(frozen=True)
class _Ticket:
    """A ticket's set as the kernel lists it. `valid`: its element is there; `expires_in_s` None: untimed."""

    valid: bool
    expires_in_s: float | None


@dataclass(frozen=True)
class _Listing:
    """Our table, taken apart: what never changes (`static`, verbatim), and what a renewal changes.

    `sound`: the chain `in_force` holds nothing but the look-up of one ticket, or nothing.
    """

    static: str
    sound: bool
    current: int | None
    tickets: dict[int, _Ticket]

    def state(self) -> GateState:
        ticket = None if self.current is None else self.tickets.get(self.current)
        if ticket is None:
            return GateState(table=True, open=False, current=self.current, expires_in_s=None)
        left = ticket.expires_in_s if ticket.valid else 0.0
        return GateState(table=True, open=ticket.valid, current=self.current, expires_in_s=left)


class KernelGate:
    """The gate of one cluster on this host. Thread-safe. See `failover.guardian.base.Gate` for the contract.

    `closed` is what an earlier guardian made durable: no epoch up to it is armed. Errors of nftables come as they are:
    Refused (nothing changed), Unknown (read back), Unreachable (never asked).
    """

    def __init__(self, cluster: str, guarded: Guarded, nft: Nft, closed: int = 0) -> None:
        self._name = table_name("gate", cluster)
        self._table = f"inet {self._name}"
        self._guarded = guarded
        self._nft = nft
        self._closed = closed
        self._lock = threading.RLock()
        self._shape_text = _shape(self._table, guarded)
        self._static: tuple[int, str] | None = None
        self._armed: set[int] = set()
        self._stale: tuple[int, ...] = ()
        self._repaired = False
        self._known = False
        self._released = False

    # --- taking over and installing -------------------------------------------------------------------------------

    def adopt(self) -> GateState:
        """A table is brought to the configured ports and peers around its running ticket.

        "No table" is said only until this gate has seen or made one: after that a missing table was taken away by
        somebody, and is put back, shut, as `read_back` does (which alone reports it and forgets it).
        """
        with self._lock:
            if not self._known and self._look() is None:
                return _NO_TABLE
            return replace(self._inspect().state(), repaired=self._repaired)

    def install_open(self, ticket: int, lifetime_s: float | None) -> None:
        with self._lock:
            self._static = None
            self._nft.run(self._shape_text + self._ticket_text(ticket, lifetime_s) + self._switch_text(ticket))
            self._remember_static()

    def install_shut(self) -> None:
        with self._lock:
            self._to_shape()

    def release(self) -> None:
        with self._lock:
            self._static = None
            self._released, self._known = True, False
            self._nft.run(f"add table {self._table}\ndelete table {self._table}\n")

    # --- a renewal ------------------------------------------------------------------------------------------------

    def arm(self, ticket: int, lifetime_s: float | None, epoch: int) -> bool:
        with self._lock:
            if epoch <= self._closed:
                return False
            if self._released:
                raise Refused("the gate was released: nothing is armed until it is installed again")
            text = self._ticket_text(ticket, lifetime_s)
            swept = "".join(f"delete set {self._table} ticket_{old}\n" for old in self._stale)
            self._stale = ()
            try:
                self._nft.run(swept + text)
            except Missing:
                self._inspect()
                self._nft.run(text)
            self._armed.add(ticket)
            return True

    def switch(self, ticket: int) -> None:
        with self._lock:
            self._armed.discard(ticket)
            self._stale = tuple(old for old in self._stale if old != ticket)
            try:
                self._nft.run(self._switch_text(ticket))
            except Missing as error:
                self._inspect()
                self._rewrite_shut()
                raise Refused(f"ticket {ticket} is not in the kernel any more: the port is shut") from error

    def shut(self, closes: int | None) -> None:
        with self._lock:
            if closes is not None:
                self._closed = max(self._closed, closes)
            self._rewrite_shut()

    # --- looking --------------------------------------------------------------------------------------------------

    def read_back(self) -> GateState:
        with self._lock:
            if self._released and self._look() is None:
                return _NO_TABLE  # looking must not undo break-glass
            listing = self._inspect()
            self._stale = tuple(n for n, ticket in listing.tickets.items() if self._is_stale(n, ticket, listing))
            repaired, self._repaired = self._repaired, False
            return replace(listing.state(), repaired=repaired)

    def look(self) -> GateState:
        """Looks and changes nothing: for whoever asks where no guardian runs."""
        with self._lock:
            listing = self._look()
            return _NO_TABLE if listing is None else listing.state()

    def cut_sessions(self) -> int:
        return cut_sessions(self._guarded)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _inspect(self) -> _Listing:
        """Look, and put the table back, shut, if it is gone or not as we made it. `read_back` reports that once."""
        listing = self._look()
        if listing is not None and self._in_shape(listing):
            return listing
        what = "gone" if listing is None else "changed by somebody"
        _log.critical("table %s was %s, the ports may have stood open: made anew, shut", self._name, what)
        self._rewrite_shut()
        self._repaired = True
        return self._must_look()

    def _ticket_text(self, ticket: int, lifetime_s: float | None) -> str:
        """`create`, not `add`: a number used twice is refused by the kernel itself."""
        if not 0 <= ticket <= _HIGHEST_TICKET:
            raise Refused(f"ticket number {ticket} is out of range")
        timeout_ms = None if lifetime_s is None else int((lifetime_s - _JIFFY_S) * 1000)
        if timeout_ms is not None and timeout_ms < 1:
            raise Refused(f"a ticket of {lifetime_s} s has ended before it begins")
        timeout = "" if timeout_ms is None else f" timeout {timeout_ms}ms"
        return (
            f"create set {self._table} ticket_{ticket} {{ type inet_proto; flags timeout; }}\n"
            f"add element {self._table} ticket_{ticket} {{ tcp{timeout} }}\n"
        )

    def _switch_text(self, ticket: int) -> str:
        return (
            f"flush chain {self._table} in_force\n"
            f"add rule {self._table} in_force meta l4proto @ticket_{ticket} accept\n"
        )

    def _rewrite_shut(self) -> None:
        """The whole table anew, without a ticket, in one transaction: needs no knowledge of what is there now.

        Tried twice: shutting is worth a second worker when the first one hangs, dies or is busy.
        """
        self._armed.clear()
        self._stale = ()
        self._static = None
        text = f"add table {self._table}\ndelete table {self._table}\n" + self._shape_text
        try:
            self._nft.run(text)
        except (Unknown, Unreachable):
            self._nft.run(text)
        self._remember_static()

    def _to_shape(self) -> None:
        """Ports, peers and rules as configured, tickets and the one in force untouched, in one transaction."""
        self._static = None
        self._nft.run(self._shape_text)
        self._remember_static()

    def _remember_static(self) -> None:
        """What the kernel prints right after we wrote the shape is what every later look is compared with.

        Never fails its caller, whose transaction is done: the next look writes the shape again and compares then.
        """
        self._released, self._known = False, True
        try:
            self._static = (self._nft.generation, self._must_look().static)
        except FailoverError as error:
            _log.warning("table %s could not be read back now: %s", self._name, error)
            self._static = None

    def _in_shape(self, listing: _Listing) -> bool:
        """After a restart, or with a new worker (which may print differently), nothing to compare with: write it."""
        if not listing.sound:
            return False
        if self._static is None or self._static[0] != self._nft.generation:
            self._to_shape()
            return True
        return self._static[1] == listing.static

    def _is_stale(self, number: int, ticket: _Ticket, listing: _Listing) -> bool:
        if number == listing.current:
            return False
        return not ticket.valid or (ticket.expires_in_s is None and number not in self._armed)

    def _must_look(self) -> _Listing:
        listing = self._look()
        if listing is None:
            raise Unknown(f"table {self._name} went away again just after it was made")
        return listing

    def _look(self) -> _Listing | None:
        try:
            return _parse(self._nft.run(f"list table {self._table}"))
        except Missing:
            return None


def _shape(table: str, guarded: Guarded) -> str:
    """Everything but the tickets. Works on a missing table (makes it, shut) and on one in use (keeps its tickets)."""
    ports = sorted(set(guarded.ports))
    if not ports or not all(0 < port < 65536 for port in ports):
        raise ConfigurationError((f"a gate needs ports between 1 and 65535, not {ports}",))
    families = {4: "ipv4_addr", 6: "ipv6_addr"}
    peers: dict[int, list[str]] = {4: [], 6: []}
    for peer in _addresses(guarded):
        peers[peer.version].append(str(peer))
    lines = [f"add table {table}", f"add set {table} ports {{ type inet_service; }}", f"flush set {table} ports"]
    lines.append(f"add element {table} ports {{ {', '.join(map(str, ports))} }}")
    for family, kind in families.items():
        lines += [f"add set {table} peers{family} {{ type {kind}; }}", f"flush set {table} peers{family}"]
        if peers[family]:
            lines.append(f"add element {table} peers{family} {{ {', '.join(peers[family])} }}")
    for hook in ("input", "output"):
        lines.append(f"add chain {table} {hook} {{ type filter hook {hook} priority -10; policy accept; }}")
    lines += [f"add chain {table} {chain}" for chain in ("requests", "answers", "in_force")]
    lines += [f"flush chain {table} {chain}" for chain in _STATIC_CHAINS]
    lines += [f"add rule {table} {rule}" for rule in _RULES]
    return "\n".join(lines) + "\n"


_RULES = (
    "input iif lo accept",
    "input tcp dport @ports jump requests",
    "requests ip saddr @peers4 accept",
    "requests ip6 saddr @peers6 accept",
    "requests jump in_force",
    "requests meta l4proto tcp reject with tcp reset",
    "output oif lo accept",
    "output tcp sport @ports jump answers",
    "answers ip daddr @peers4 accept",
    "answers ip6 daddr @peers6 accept",
    "answers jump in_force",
    "answers tcp flags & rst == rst accept",
    "answers drop",
)
"""`jump`, never `goto`: a chain left by its end must come back here, to the refusal, and not to the hook's policy."""


def _addresses(guarded: Guarded) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    found, faults = [], []
    for peer in dict.fromkeys(guarded.peers):
        try:
            found.append(ipaddress.ip_address(peer))
        except ValueError:
            faults.append(f"a peer of the gate must be an IP address, not {peer!r}")
    if faults:
        raise ConfigurationError(faults)
    return found


def _parse(text: str) -> _Listing:
    tickets: dict[int, _Ticket] = {}
    static: list[str] = []
    current: int | None = None
    sound = False
    for kind, name, body in _BLOCK.findall(text):
        if kind == "set" and name.startswith("ticket_"):
            tickets[int(name.removeprefix("ticket_"))] = _parse_ticket(body)
        elif kind == "chain" and name == "in_force":
            rules = body.strip().splitlines()
            found = [_IN_FORCE.search(rule) for rule in rules]
            sound = len(rules) <= 1 and None not in found
            current = int(found[0].group(1)) if found and found[0] else None
        else:
            static.append(f"{kind} {name} {body}")
    if not static:
        raise Corrupt("nftables lists our table in a form we do not know")
    return _Listing("".join(static), sound, current, tickets)


def _parse_ticket(body: str) -> _Ticket:
    if "elements" not in body:
        return _Ticket(valid=False, expires_in_s=0.0)
    _, found, expires = body.partition("expires ")
    if not found:
        return _Ticket(valid=True, expires_in_s=None)
    duration = expires.split()[0].rstrip(",")
    return _Ticket(valid=True, expires_in_s=sum(int(n) * _UNIT_S[unit] for n, unit in _DURATION.findall(duration)))
