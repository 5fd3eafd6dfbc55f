"""The control run: two writers made on purpose, to show that the measurement can say so."""

from __future__ import annotations

import threading

from failover.clock import boottime_s
from failover.lab import verdict
from failover.lab.commands import LabError
from failover.lab.configuration import CLUSTER
from failover.lab.host import Host
from failover.lab.lab import Lab
from failover.lab.services import entry_point
from failover.lab.traffic import Traffic
from failover.lab.verdict import Window


def control_run(lab: Lab, traffic: Traffic, for_s: float = 1.0) -> float:
    """Make two writers on purpose and return the `dual_writer_ms` that the lab measures: it must be above zero.

    Guardians are told to let go (`release`, the break-glass) and stopped, controllers too; a standby is promoted by
    hand and the old primary is made a primary by hand. Afterwards the cluster is ruined: close the lab.
    """
    old = lab.primary()
    if old is None:
        raise LabError("the control run needs one primary to begin with")
    new = next(name for name in lab.options.members if name != old)
    start = boottime_s()
    for name in lab.options.members:
        if lab.host(name).pid_of("controller"):
            lab.stop(name, "controller")
    for name in (old, new):
        _let_go(lab.host(name))
    lab.databases.make_primary(new)
    lab.databases.make_primary(old)
    lab.wait(lambda: len(_successful(traffic, start)) > 1, 15.0, "two hosts that take writes")
    threading.Event().wait(for_s)
    return verdict.dual_writer_ms(traffic.probes(), Window(start, start, boottime_s()))


def _successful(traffic: Traffic, since: float) -> set[str]:
    return {p.host for p in traffic.probes() if p.outcome == "ok" and p.invoke > since}


def _let_go(host: Host) -> None:
    if host.pid_of("guardian"):
        host.run([entry_point("failover-guardian"), "release", "--cluster", CLUSTER])
        host.stop("guardian")
