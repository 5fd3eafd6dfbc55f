"""A killed postmaster leaves server processes that still work, commit and answer. The receipt says that they cannot: this
file holds the receipt to it, on the one clock of the machine."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import pytest

import failover
from failover.clock import boottime_s
from failover.lab.host import Host
from tests.support import orphans
from tests.support.lab_cluster import Cluster, Load

pytestmark = [pytest.mark.timeout(240), pytest.mark.engines("postgresql")]  # the others are one process
CLOCKS_S = 0.003  # the wall clock of the log against BOOTTIME, both read here
SECONDS = ("0.25", "0.6", "1.5")


@dataclass
class Mourner:
    """Holds a pidfd of each process and notes, in BOOTTIME seconds, when each ended."""

    ended: dict[int, float] = field(default_factory=dict)
    handles: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def take(self, pids: list[int]) -> None:
        for pid in pids:
            try:
                self.handles.setdefault(pid, os.pidfd_open(pid))
            except ProcessLookupError:
                continue  # it ended between the look and the handle

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(5.0)
        for handle in self.handles.values():
            os.close(handle)

    def _watch(self) -> None:
        while not self._stop.is_set():
            poller = select.poll()
            waiting = {handle: pid for pid, handle in list(self.handles.items()) if pid not in self.ended}
            for handle in waiting:
                poller.register(handle, select.POLLIN)
            for handle, _ in poller.poll(20):
                self.ended[waiting[handle]] = boottime_s()


def start_orphans(cluster: Cluster, load: Load, host: Host, out: Path) -> None:
    login = str(load.traffic.directory / "writer.login")
    argv = [sys.executable, str(Path(orphans.__file__)), "--login-file", login, "--out", str(out),
            "--target", f"{host.name}={host.address}:{cluster.lab.dialect.port}", *SECONDS]  # fmt: skip
    root = Path(failover.__file__).resolve().parent.parent
    process = cluster.lab.app.popen(argv, env={"PYTHONPATH": str(root)}, log=out.with_suffix(".log"))
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n", out.with_suffix(".log").read_text()


def receipt_s(cluster: Cluster, member: str, since: float) -> float | None:
    """When the guardian of `member` had its receipt ready, after `since`; BOOTTIME seconds."""
    to_boottime = boottime_s() - time.time()
    for line in cluster.log_of(member, "guardian").splitlines():
        record = json.loads(line) if line.startswith("{") else {}
        if str(record.get("event", "")).startswith("fenced: "):
            at = datetime.fromisoformat(record["ts"]).timestamp() + to_boottime
            if at > since:
                return at
    return None


def test_no_orphan_acknowledges_once_the_receipt_is_written(cluster: Cluster, tmp_path: Path) -> None:
    old = cluster.lab.host(cluster.primary())
    out, mourner = tmp_path / "orphans.jsonl", Mourner()
    with cluster.traffic() as load:
        start_orphans(cluster, load, old, out)
        mourner.take([p.pid for p in old.of_role("database_all")])
        mourner.start()
        try:
            killed = boottime_s()
            assert old.kill("database", signal.SIGKILL)
            mourner.take([p.pid for p in old.of_role("database_all")])
            load.flows(30.0, killed, "writes on another primary")
            cluster.lab.wait(lambda: len(out.read_text().splitlines()) == 2 * len(SECONDS), 15.0, "the end of every statement")
            receipt = receipt_s(cluster, old.name, killed)
        finally:
            mourner.close()
        told = [json.loads(line) for line in out.read_text().splitlines()]
        assert receipt is not None
        last_death = max(mourner.ended.values())
        print(f"receipt {1000 * (receipt - killed):.1f} ms after the kill, last process gone after "
              f"{1000 * (last_death - killed):.1f} ms, {len(mourner.ended)} processes")  # fmt: skip
        assert set(mourner.ended) == set(mourner.handles) and len(mourner.ended) > 6
        assert last_death <= receipt + CLOCKS_S
        assert [o for o in told if o["outcome"] == "ok" and o["done"] > receipt + CLOCKS_S] == []
        under_way = [o for o in told if o["done"] > killed]
        assert len(under_way) >= len(SECONDS), "the kill came too late: the statements had ended"
        new = cluster.primary()
        assert new != old.name
        present = cluster.sql(new, f"SELECT id FROM lab.writes WHERE id >= {orphans.ID}", dbname="app").split()
        assert {str(o["id"]) for o in told if o["outcome"] == "ok"} <= set(present)
        assert load.lost() == [] and load.dual_writer_ms() == 0
        cluster.wait_whole(cooldown=False)
        assert [load.lost(member) for member in cluster.standbys()] == [[], []]
