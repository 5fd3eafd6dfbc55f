"""Lays a failpoint for the controllers of a lab and sees who comes to it. See failover/runtime/failpoints.py.

>>> trap = Failpoint(lab, "switchover.claim.done", "stop")
>>> trap.lay()
>>> host = trap.wait(10.0)
>>> trap.resume()
"""

from __future__ import annotations

import signal
import time
from pathlib import Path, PurePosixPath

from failover.clock import boottime_s
from failover.lab.commands import LabError
from failover.lab.host import Host
from failover.lab.lab import Lab
from failover.lab.services import FAILPOINTS

LOOK_BACK = ".reached"


class Failpoint:
    """One name on every database host: only the controller that leads comes to it, so it fires once in the cluster."""

    def __init__(self, lab: Lab, name: str, deed: str) -> None:
        self._lab, self.name, self.deed = lab, name, deed
        self.host: str | None = None
        self.at: float | None = None  # BOOTTIME, when the file was renamed: the moment of the fault, however late we look

    def lay(self) -> None:
        """On every host that is up. What was laid earlier under this name is forgotten."""
        for host in self._hosts():
            folder = _folder(host)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{self.name}{LOOK_BACK}").unlink(missing_ok=True)
            half = folder / f".{self.name}"
            half.write_text(f"{self.deed}\n")
            half.rename(folder / self.name)

    def reached(self) -> bool:
        """True once a controller came to it; `host` says which. It is taken up on the others then."""
        for host in self._hosts() if self.host is None else ():
            mark = _folder(host) / f"{self.name}{LOOK_BACK}"
            if mark.exists():
                self.host, self.at = host.name, mark.stat().st_ctime + boottime_s() - time.time()
                self.take_up()
                break
        return self.host is not None

    def wait(self, deadline_s: float) -> str:
        """The host whose controller came to it. LabError if none did."""
        self._lab.wait(self.reached, deadline_s, f"a controller at the failpoint {self.name}")
        assert self.host is not None
        return self.host

    def resume(self) -> None:
        """SIGCONT for the controller that stopped itself."""
        if self.host is None or not self._lab.host(self.host).kill("controller", signal.SIGCONT):
            raise LabError(f"nobody sleeps at the failpoint {self.name}")

    def take_up(self) -> None:
        """Nobody comes to it any more."""
        for host in self._hosts():
            (_folder(host) / self.name).unlink(missing_ok=True)

    def _hosts(self) -> list[Host]:
        return [host for host in self._lab.databases_hosts if host.is_up]


def _folder(host: Host) -> Path:
    """The host's own folder, seen from outside: its /run is a directory of the lab."""
    return host.directory / "run" / PurePosixPath(FAILPOINTS).relative_to("/run")
