"""What "nothing happened" means to a cluster under load, whatever was done to the daemons and to ZooKeeper around it."""

from __future__ import annotations

import os
import threading

from failover.clock import boottime_s
from failover.profiles import PROFILES
from failover.settings import Timings
from tests.support.lab_cluster import Cluster, Load

GAP_MS = 500.0  # without an acknowledgement; the longest idle write on a busy two-core machine took a third of that
DEMOTED = ("ending sessions", "fenced:", "promoted", "as a standby", "gate does not obey", "handover")


def timings(cluster: Cluster) -> Timings:
    """The clock that this lab runs."""
    return PROFILES[cluster.options.profile]


def rest(seconds: float) -> None:
    """Time passes: the absence of an event has no condition to wait for."""
    threading.Event().wait(seconds)


class Undisturbed:
    """From construction on, under `load`: the same epoch, no operation, the same database process, no failed write."""

    def __init__(self, cluster: Cluster, load: Load) -> None:
        self._cluster, self._load = cluster, load
        load.flows(30.0)
        self.primary, self._record = cluster.primary(), _record(cluster)
        self._host = cluster.lab.host(self.primary)
        self._main = self._host.pid_of("database")
        self._log_began = self._host.log("guardian").stat().st_size
        self.began_s = boottime_s()

    def guardian_said(self) -> str:
        """What the primary's guardian has logged since."""
        return self._host.log("guardian").read_bytes()[self._log_began :].decode(errors="replace")

    def so_far(self) -> None:
        """What can be told without ZooKeeper: no demotion, no second primary, no failed write."""
        gap_ms, stalls_ms = self._load.acknowledged_gap(self.began_s), self._load.stalls.total_s() * 1000
        said = [word for word in DEMOTED if word in self.guardian_said()]
        print(
            f"{self._cluster.options.profile}: {boottime_s() - self.began_s:.1f} s, longest gap {gap_ms:.0f} ms, "
            f"the machine stood still for {stalls_ms:.0f} ms, load {os.getloadavg()[0]:.1f}"
        )
        failed = self._load.failed(self.began_s)
        assert failed == [], f"{len(failed)} writes failed or had no answer"
        assert said == [], "the primary's guardian demoted it"
        assert self._host.pid_of("database") == self._main, "another database process"
        assert self._cluster.lab.databases.primaries() == [self.primary]
        assert gap_ms < GAP_MS

    def to_the_end(self) -> None:
        """All of it: whatever was armed before the fault has run out, and the cluster is whole."""
        rest(timings(self._cluster).wait_s + 1.0)
        self._cluster.wait_whole(60.0, cooldown=False)
        self._load.flows(5.0)
        self.so_far()
        assert _record(self._cluster) == self._record, "another epoch, another primary, or an operation"
        assert self._load.lost() == [] and self._load.dual_writer_ms(self.began_s) == 0


def _record(cluster: Cluster) -> tuple[int, str, int]:
    seen = cluster.status()
    return int(seen["epoch"]), str(seen["primary"]), len(cluster.answer("history", "-n", "10000")["operations"])
