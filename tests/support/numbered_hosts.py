"""Small hosts for servers that tell their peers apart by address: network namespaces on one switch, which tests reach too.

Made when they are first wanted and used again by the next cluster. Loopback addresses would not do: whoever connects to
127.0.0.2 comes from 127.0.0.1. Addresses are of 198.18.0.0/15, which is for tests of networks and routed nowhere.
"""

from __future__ import annotations

import atexit
import functools
import os
import re
import subprocess
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from tests.support import small_lan
from tests.support.small_lan import sh, why_not

__all__ = ["ADDRESSES", "OUTSIDE", "Host", "taken", "why_not"]

_NET = f"198.{18 + os.getpid() // 256 % 2}.{os.getpid() % 256}"
_TAG = f"fh{os.getpid()}"
_LEFT = re.compile(r"fh(\d+)x\w+")
ADDRESSES = tuple(f"{_NET}.{n}" for n in range(1, 13))
OUTSIDE = f"{_NET}.254"  # where the test itself comes from
_free: list[str] = []


@dataclass(frozen=True)
class Host:
    address: str

    @property
    def namespace(self) -> str:
        return f"{_TAG}x{self.address.rpartition('.')[2]}"

    def inside(self) -> AbstractContextManager[None]:
        """This thread lives there: sockets and processes that it makes belong there."""
        return small_lan.inside(self.namespace)

    def release(self) -> None:
        """Nothing runs there any more; the next cluster may have it."""
        if self.address not in _free:
            _free.append(self.address)


def taken() -> Host:
    """A host that nobody else uses."""
    _build()
    assert _free, f"more than {len(ADDRESSES)} servers at a time"
    _free.sort(key=ADDRESSES.index)
    return Host(_free.pop(0))


@functools.cache
def _build() -> None:
    _sweep()
    atexit.register(_remove, os.getpid())
    switch, ours = f"{_TAG}xsw", f"{_TAG}o"
    sh(f"ip netns add {switch}")
    lines = ["link add br0 type bridge stp_state 0 forward_delay 0", "link set br0 up"]
    lines.append(f"link add out type veth peer name {ours} netns {os.getpid()}")
    lines.append("link set out master br0 up")
    for address in ADDRESSES:
        host = Host(address)
        sh(f"ip netns add {host.namespace}")
        port = f"p{address.rpartition('.')[2]}"
        lines.append(f"link add {port} type veth peer name eth0 netns {host.namespace}")
        lines.append(f"link set {port} master br0 up")
        _free.append(address)
    _ip(lines, switch)
    for address in ADDRESSES:
        _ip(["link set lo up", f"addr add {address}/24 dev eth0", "link set eth0 up"], Host(address).namespace)
    _ip([f"addr add {OUTSIDE}/24 dev {ours}", f"link set {ours} up"], "")


def _ip(lines: list[str], namespace: str) -> None:
    where = ["-n", namespace] if namespace else []
    script = "\n".join(lines) + "\n"
    done = subprocess.run(["ip", *where, "-batch", "-"], input=script, capture_output=True, text=True, timeout=10)
    assert done.returncode == 0, done.stderr


def _sweep() -> None:
    """Those of test runs that were killed go: their process is not there any more."""
    for path in Path("/run/netns").glob("fh*"):
        found = _LEFT.fullmatch(path.name)
        if found and not Path(f"/proc/{found[1]}").exists():
            sh(f"ip netns del {path.name}")


def _remove(pid: int) -> None:
    if os.getpid() == pid:  # not a child that forked
        for path in Path("/run/netns").glob(f"{_TAG}x*"):
            sh(f"ip netns del {path.name}")
