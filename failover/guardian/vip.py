"""The virtual address on this host's interface, which the kernel itself takes away when nobody renews it (valid_lft).

Give it the prefix /32 (IPv6 /128). With the subnet's own prefix the kernel makes the address *secondary* to the
host's own or, if it came first, the other way round: removing a primary IPv4 address removes its secondaries with it
(unless promote_secondaries is set), and each prefix brings a second route to the same subnet. A /32 has neither; the
neighbours reach it because they have the subnet route themselves.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import math
import socket
import struct
import subprocess

from failover.errors import ConfigurationError, Corrupt, Refused, Unknown, Unreachable

_log = logging.getLogger("failover.guardian.vip")

_DEADLINE_S = 1.0
FOREVER_S = 2**32 - 1  # what iproute2 prints for no end
_ETHERNET_ARP = 0x0806
_BROADCAST = b"\xff" * 6
_REQUEST, _REPLY = 1, 2
_ETHERNET_IPV6 = 0x86DD
_ICMPV6, _NEIGHBOUR_ADVERTISEMENT, _OVERRIDE = 58, 136, 1 << 29
_ALL_NODES = ipaddress.IPv6Address("ff02::1").packed
_ALL_NODES_ETHERNET = b"\x33\x33\x00\x00\x00\x01"


class LocalVip:
    """The address `address`/`prefix` on `interface`. See `failover.guardian.base.Vip`. A call costs 2-3 ms."""

    def __init__(self, address: str, prefix: int, interface: str) -> None:
        try:
            self._address = ipaddress.ip_address(address)
        except ValueError as error:
            raise ConfigurationError((f"the virtual address must be an IP address, not {address!r}",)) from error
        if not 0 < prefix <= self._address.max_prefixlen:
            raise ConfigurationError((f"/{prefix} is no prefix length for {self._address}",))
        self._with_prefix = f"{self._address}/{prefix}"
        self._interface = interface
        self._link: socket.socket | None = None
        self._show = f"addr show dev {interface} to {self._address}"

    def hold(self, lifetime_s: float | None, announce: bool) -> None:
        """Add it or set its end anew, `lifetime_s` from now in whole seconds, rounded up; never less than 1. None: no end.

        One that is there already (adoption), in whatever prefix length, is given an end in place: it is never removed and
        never added beside itself. Raises Unknown if afterwards the kernel holds it for longer than asked.
        """
        seconds = FOREVER_S if lifetime_s is None else max(1, math.ceil(lifetime_s))
        word = "forever" if lifetime_s is None else str(seconds)
        detection = " nodad" if self._address.version == 6 else ""
        there = {f"{self._address}/{prefix}" for prefix, _ in self._look()} or {self._with_prefix}
        timed = [f"addr replace {each} dev {self._interface} valid_lft {word} preferred_lft {word}{detection}" for each in there]
        found = self._parse(_ip(*timed, self._show))
        if not found or any(left_s > seconds for _, left_s in found):
            raise Unknown(f"{self._address} is not held on {self._interface} for {seconds} s alone: {found}")
        if announce:
            self._announce()

    def drop(self) -> bool:
        """Take it away in whatever prefix length it is there. True if it was there; Unknown if it still is."""
        found = self._look()
        for prefix, _ in found:
            try:
                _ip(f"addr del {self._address}/{prefix} dev {self._interface}")
            except Refused:
                _log.debug("%s/%d ended by itself before its removal", self._address, prefix)
        if found and self._look():
            raise Unknown(f"{self._address} is still on {self._interface} after its removal")
        return bool(found)

    def held(self) -> bool:
        return bool(self._look())

    def _look(self) -> list[tuple[int, int]]:
        return self._parse(_ip(self._show))

    def _parse(self, text: str) -> list[tuple[int, int]]:
        """Prefix length and seconds left (2**32-1: no end) of each entry of the address: [] when it is not there.

        iproute2 leaves an empty entry in place of each address its filter took out.
        """
        try:
            links = json.loads(text or "[]")
            return [
                (int(entry["prefixlen"]), int(entry["valid_life_time"]))
                for link in links
                for entry in link.get("addr_info", [])
                if entry and ipaddress.ip_address(entry["local"]) == self._address
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise Corrupt("ip lists addresses in a form we do not know") from error

    def _announce(self) -> None:
        """Tell the neighbours: gratuitous ARP, or an unsolicited neighbour advertisement.

        The socket is kept: the kernel takes 10-15 ms to close one, and this is on the way to the first client.
        """
        try:
            if self._link is None:
                self._link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
                self._link.bind((self._interface, 0))
            hardware = self._link.getsockname()[4]
            for frame in _announcements(hardware, self._address):
                self._link.send(frame)
        except OSError as error:
            if self._link is not None:
                self._link.close()
                self._link = None
            raise Unknown(f"{self._address} is held, but its announcement failed: {error.strerror}") from error


def _announcements(hardware: bytes, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> list[bytes]:
    """IPv4: a request and a reply, because some neighbours update their table from the one, some from the other."""
    if address.version == 4:
        return [_arp_frame(hardware, address.packed, operation) for operation in (_REQUEST, _REPLY)]
    return [_advertisement_frame(hardware, address.packed)]


def _advertisement_frame(hardware: bytes, address: bytes) -> bytes:
    """An unsolicited neighbour advertisement to all nodes, with the override flag (RFC 4861, 7.2.6)."""
    body = struct.pack("!BBHI", _NEIGHBOUR_ADVERTISEMENT, 0, 0, _OVERRIDE) + address + b"\x02\x01" + hardware
    pseudo = address + _ALL_NODES + struct.pack("!II", len(body), _ICMPV6)
    body = body[:2] + struct.pack("!H", _checksum(pseudo + body)) + body[4:]
    header = struct.pack("!IHBB", 6 << 28, len(body), _ICMPV6, 255) + address + _ALL_NODES
    return _ALL_NODES_ETHERNET + hardware + struct.pack("!H", _ETHERNET_IPV6) + header + body


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _arp_frame(hardware: bytes, address: bytes, operation: int) -> bytes:
    """An Ethernet broadcast saying `address` is at `hardware`: sender and target protocol address are the same."""
    ethernet = _BROADCAST + hardware + struct.pack("!H", _ETHERNET_ARP)
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation)
    return ethernet + body + hardware + address + _BROADCAST + address


def _ip(*commands: str) -> str:
    """What `ip` prints for all commands in one process, which ends at the first one refused.

    Raises Refused when it says no, Unknown when it does not end in time, Unreachable when it is not installed.
    """
    try:
        done = subprocess.run(
            ["ip", "-json", "-batch", "-"],
            input="\n".join(commands) + "\n",
            capture_output=True,
            text=True,
            timeout=_DEADLINE_S,
        )
    except FileNotFoundError as error:
        raise Unreachable("the program ip (iproute2) is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise Unknown(f"ip did not end within {_DEADLINE_S:.0f} s") from error
    if done.returncode == 0:
        return done.stdout
    raise Refused(f"ip: {(done.stderr.strip().splitlines() or ['no reason given'])[0]}")
