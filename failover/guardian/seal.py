"""The kernel's half of a seal on a standby: nothing passes between it and the old primary's database.

Letting nothing *leave* is the proof: whatever the standby still receives, writes and replays, no acknowledgement
reaches the old primary any more, so no strict commit completes there. What the database would send is answered
with a reset by this host itself: a receiver that waits for its connection to come about cannot be stopped meanwhile,
which held a promotion up for 2 s. It works at once (a few ms), whatever replay is doing, and for every engine. What
is kept after a reboot is not here: the guardian seals again before it starts the database.
"""

from __future__ import annotations

import ipaddress
import re
import threading

from failover.errors import Corrupt, Refused, Unknown
from failover.guardian.gate import table_name
from failover.guardian.nft import Missing, Nft
from failover.guardian.sessions import cut_upstream

_OUTGOING = re.compile(r"^\s*ip6? daddr (\S+) tcp dport (\d+) drop$", re.MULTILINE)
_REFUSED = re.compile(r"^\s*meta skuid \S+ ip6? daddr (\S+) tcp dport (\d+) reject with tcp reset$", re.MULTILINE)
_INCOMING = re.compile(r"^\s*ip6? saddr (\S+) tcp sport (\d+) tcp flags & rst != rst drop$", re.MULTILINE)


class KernelSealer:
    """Seals this host against one old primary at a time. Idempotent. See `failover.guardian.base.Sealer`.

    `uid`: the database's account. Only its sockets are reset: a probe from here must find silence, not the answer of its own
    kernel, which would look like a sign of life of the old primary's host.
    """

    def __init__(self, cluster: str, nft: Nft, uid: int) -> None:
        self._uid = uid
        self._name = table_name("seal", cluster)
        self._table = f"inet {self._name}"
        self._nft = nft
        self._lock = threading.Lock()

    def seal(self, address: str, port: int) -> None:
        """Cut everything to and from the database at `address` (a literal IPv4 or IPv6 address) and `port`.

        Returns when the kernel says so itself, with every connection to it ended. Replaces an earlier seal in the same
        transaction. Raises Refused for
        an address that is no literal or a refusing kernel, Unknown when no answer came or the rules are not there
        after it.
        """
        old = _literal(address)
        if not 0 < port < 65536:
            raise Refused(f"{port} is no TCP port")
        with self._lock:
            self._nft.run(self._text(old, port))
            if self._read() != (str(old), port):
                raise Unknown(f"the seal against {old} is not in the kernel")
        cut_upstream(str(old), port)  # or the receiver would sit on its silent connection until a time-out

    def unseal(self) -> None:
        with self._lock:
            self._nft.run(f"add table {self._table}\ndelete table {self._table}\n")

    def sealed(self) -> str | None:
        found = self._read()
        return found[0] if found else None

    def _read(self) -> tuple[str, int] | None:
        try:
            text = self._nft.run(f"list table {self._table}")
        except Missing:
            return None
        rules = _OUTGOING.findall(text)
        if len(rules) != 1 or _INCOMING.findall(text) != rules or _REFUSED.findall(text) != rules:
            raise Corrupt(f"table {self._name} is not as we make it")
        address, port = rules[0]
        return address, int(port)

    def _text(self, old: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> str:
        """The old primary's database is the far end: its port is the destination going out, the source coming in."""
        family = "ip" if old.version == 4 else "ip6"
        lines = [f"add table {self._table}", f"delete table {self._table}", f"add table {self._table}"]
        for hook in ("output", "input"):
            lines.append(f"add chain {self._table} {hook} {{ type filter hook {hook} priority -10; policy accept; }}")
        out = f"{family} daddr {old} tcp dport {port}"
        lines.append(f"add rule {self._table} output meta skuid {self._uid} {out} reject with tcp reset")
        lines.append(f"add rule {self._table} output {out} drop")
        # our own reset comes in here
        lines.append(f"add rule {self._table} input {family} saddr {old} tcp sport {port} tcp flags & rst != rst drop")
        return "\n".join(lines) + "\n"


def _literal(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(address)
    except ValueError as error:
        raise Refused(f"a seal needs a literal IP address, not {address!r}") from error
