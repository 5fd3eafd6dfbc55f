"""Three small hosts of our own, for tests of what the kernel does: network namespaces on one bridge."""

from __future__ import annotations

import ctypes
import itertools
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import ClassVar

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000
_numbers = itertools.count(1)


def why_not() -> str:
    """Why these tests cannot run here, or "" if they can."""
    if os.geteuid() != 0:
        return "making network namespaces needs root"
    missing = [program for program in ("ip", "nft", "ss") if shutil.which(program) is None]
    return f"not installed: {', '.join(missing)}" if missing else ""


def sh(command: str) -> str:
    done = subprocess.run(shlex.split(command), capture_output=True, text=True, timeout=10)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


@contextmanager
def inside(name: str) -> Iterator[None]:
    """This thread lives in namespace `name`: sockets and processes it makes belong there."""
    with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{name}") as there:
        assert _LIBC.setns(there.fileno(), _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        try:
            yield
        finally:
            assert _LIBC.setns(home.fileno(), _CLONE_NEWNET) == 0


class Lan:
    """Hosts `db`, `app` and `peer` with 10.77.0.1, .2, .3 and fd77::1, ::2, ::3; every interface is called eth0."""

    V4: ClassVar = {"db": "10.77.0.1", "app": "10.77.0.2", "peer": "10.77.0.3"}
    V6: ClassVar = {"db": "fd77::1", "app": "fd77::2", "peer": "fd77::3"}
    VIP4, VIP6 = "10.77.0.100", "fd77::100"

    def __init__(self) -> None:
        self._tag = f"fo{os.getpid()}x{next(_numbers)}"

    def name(self, host: str) -> str:
        return f"{self._tag}{host}"

    def inside(self, host: str) -> "ExitStack":
        stack = ExitStack()
        stack.enter_context(inside(self.name(host)))
        return stack

    def sh(self, host: str, command: str) -> str:
        return sh(f"ip netns exec {self.name(host)} {command}")

    def build(self) -> None:
        sh(f"ip netns add {self.name('sw')}")
        self.sh("sw", "ip link add br0 type bridge")
        self.sh("sw", "ip link set br0 up")
        for host in self.V4:
            sh(f"ip netns add {self.name(host)}")
            sh(f"ip -n {self.name(host)} link add eth0 type veth peer name {host} netns {self.name('sw')}")
            self.sh("sw", f"ip link set {host} master br0 up")
            for command in (
                "link set lo up",
                "link set eth0 up",
                f"addr add {self.V4[host]}/24 dev eth0",
                f"addr add {self.V6[host]}/64 dev eth0 nodad",
            ):
                sh(f"ip -n {self.name(host)} {command}")

    def destroy(self) -> None:
        for host in [*self.V4, "sw"]:
            if Path(f"/run/netns/{self.name(host)}").exists():
                sh(f"ip netns del {self.name(host)}")


@contextmanager
def lan() -> Iterator[Lan]:
    made = Lan()
    try:
        made.build()
        yield made
    finally:
        made.destroy()
