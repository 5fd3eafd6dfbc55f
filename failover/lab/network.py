"""The lab's wires: a switch in a network namespace of its own, one namespace and one cable per host.

Nothing of it is visible outside the namespaces, so two labs on one machine use the same addresses without meeting.

Partitions are rules of the *switch* (table bridge), not of a host: no host sees them, no `nft flush ruleset` on a host
heals them, and the product's own tables are untouched. They drop frame by frame, ARP included, established connections
too; nothing is answered, so every cut is silence.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from failover.lab.commands import LabError, run, wait
from failover.lab.processes import kill_verified, network_namespace

PREFIX = "fl"
RUN_NETNS = Path("/run/netns")
BRIDGE = "br0"

CUTS = """\
table bridge cuts {
  set links { type ifname . ifname; }
  set requests { type ifname . ifname . inet_service; }
  set answers { type ifname . ifname . inet_service; }
  chain forward { type filter hook forward priority 0; policy accept;
    iifname . oifname @links drop
    iifname . oifname . tcp dport @requests drop
    iifname . oifname . tcp sport @answers drop
  }
}
"""


def namespace_name(lab_id: str, name: str) -> str:
    return f"{PREFIX}{lab_id}-{name}"


def namespaces_of(lab_id: str) -> list[str]:
    """Names of the namespaces that belong to the lab `lab_id`, whoever made them."""
    if not RUN_NETNS.is_dir():
        return []
    return sorted(n for n in os.listdir(RUN_NETNS) if n.startswith(f"{PREFIX}{lab_id}-"))


def ip_batch(lines: list[str], namespace: str | None = None) -> None:
    """Several `ip` commands in one process."""
    where = ["-n", namespace] if namespace else []
    run(["ip", *where, "-batch", "-"], stdin="\n".join(lines) + "\n")


@dataclass(frozen=True)
class Cut:
    """What `source` sends to `target` is lost: everything, or only requests to that TCP port of the target, or only
    answers from that TCP port of the source.
    """

    source: str
    target: str
    request: int | None = None
    answer: int | None = None

    def command(self) -> str:
        """The nft command that adds it."""
        link = f'"{self.source}" . "{self.target}"'
        name, element = "links", link
        if self.request is not None:
            name, element = "requests", f"{link} . {self.request}"
        elif self.answer is not None:
            name, element = "answers", f"{link} . {self.answer}"
        return f"add element bridge cuts {name} {{ {element} }}"


class Switch:
    """A learning bridge with one port per host. Ports are named after the hosts."""

    def __init__(self, lab_id: str) -> None:
        self.lab_id = lab_id
        self.namespace = namespace_name(lab_id, "sw")
        self.cuts: frozenset[Cut] = frozenset()

    def build(self, addresses: Mapping[str, str]) -> None:
        """Make the switch, a namespace per host and its eth0 with the given address ("10.77.0.11/24")."""
        for name in ("sw", *addresses):
            run(["ip", "netns", "add", namespace_name(self.lab_id, name)])
        cables = [f"link add {name} type veth peer name eth0 netns {namespace_name(self.lab_id, name)}"
                  for name in addresses]  # fmt: skip
        ports = [f"link set {name} master {BRIDGE} up" for name in addresses]
        bridge = f"link add {BRIDGE} type bridge stp_state 0 forward_delay 0 mcast_snooping 0"
        ip_batch([bridge, f"link set {BRIDGE} up", *cables, *ports], self.namespace)
        self._nft(CUTS)
        for name, address in addresses.items():
            wires = ["link set lo up", f"addr add {address} brd + dev eth0", "link set eth0 up"]
            ip_batch(wires, namespace_name(self.lab_id, name))

    def set_port(self, host: str, up: bool) -> None:
        """Plug or pull one host's cable."""
        ip_batch([f"link set {host} {'up' if up else 'down'}"], self.namespace)

    def port_is_up(self, host: str) -> bool:
        flags = run(["ip", "-n", self.namespace, "-o", "link", "show", host]).stdout
        return "UP" in flags[flags.index("<") + 1 : flags.index(">")].split(",")


    def drop(self, cuts: Collection[Cut]) -> None:
        """From now on exactly these cuts hold; all of them begin and end at the same instant (one transaction)."""
        empty = [f"flush set bridge cuts {name}" for name in ("links", "requests", "answers")]
        self._nft("\n".join([*empty, *(cut.command() for cut in cuts), ""]))
        self.cuts = frozenset(cuts)

    def is_isolated(self, host: str) -> bool:
        """True if frames from or to this host are being lost."""
        return not self.port_is_up(host) or any(host in (cut.source, cut.target) for cut in self.cuts)

    def _nft(self, script: str) -> None:
        run(["ip", "netns", "exec", self.namespace, "nft", "-f", "-"], stdin=script)


def remove_namespaces(lab_id: str, deadline_s: float = 10.0) -> None:
    """End every process inside the lab's namespaces, then delete them. Safe to repeat."""
    names = namespaces_of(lab_id)
    for name in names:
        _nothing_inside(name)
    for name in names:
        try:
            wait(partial(_nothing_inside, name), deadline_s, f"processes left in {name}")
        finally:
            run(["ip", "netns", "delete", name], check=False)
    left = namespaces_of(lab_id)
    if left:
        raise LabError(f"namespaces could not be deleted: {', '.join(left)}")


def _nothing_inside(name: str) -> bool:
    """SIGKILL what runs in the network namespace `name`; True if nothing did.

    The namespace is the proof of identity: its name is the lab's own, so nobody else's process can be in it.
    """
    try:
        inode = os.stat(RUN_NETNS / name).st_ino
    except FileNotFoundError:
        return True
    pids = [int(word) for word in run(["ip", "netns", "pids", name], check=False).stdout.split()]
    for pid in pids:
        kill_verified(pid, network_namespace, inode)
    return not pids
