"""A booted lab with its daemons as the lab tests use it: asked, put under load, waited for, replaced when it is ruined."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from failover.clock import boottime_s
from failover.lab import Lab, LabOptions, acts, verdict
from failover.lab.commands import LabError, tail
from failover.lab.configuration import CLUSTER
from failover.lab.observed import Seen, parse, status
from failover.lab.services import entry_point
from failover.lab.stage import free_to_fail_over
from failover.lab.traffic import DATABASE, Traffic
from failover.lab.verdict import Window, Write
from tests.support.stagehand import Stagehand, stagehand
from tests.support.stalls import Stalls

ROLES = ("zookeeper", "sshd", "guardian", "controller")
LOGS = ("guardian", "controller")
WHOLE_S = 90.0  # a rejoin, a new copy and a controller's election fit in
LOOK_EVERY_S = 0.3
REPLAYED_S = 20.0


class Load:
    """The demo's own clients on a cluster, and what they saw since `began` (BOOTTIME seconds). Readable after its end too."""

    def __init__(self, cluster: Cluster, traffic: Traffic, stalls: Stalls) -> None:
        self.traffic = traffic
        self.began = boottime_s()
        self.stalls = stalls
        self._cluster = cluster

    def acknowledged(self, since: float | None = None) -> list[Write]:
        """Acknowledged writes, in the order of their acknowledgements."""
        return verdict.acknowledged(self.traffic.writes(), self._window(since))

    def acknowledged_gap(self, since: float | None = None) -> float:
        """The longest time without an acknowledgement, from `since` (default: the begin) until now, in milliseconds;
        time in which the whole machine stood still is not counted."""
        window = self._window(since)
        moments = [window.start, *(w.done for w in self.acknowledged(since)), window.end]
        return max(b - a - self.stalls.within_s(a, b) for a, b in pairwise(moments)) * 1000

    def failed(self, since: float | None = None) -> list[Write]:
        """Attempts that were not acknowledged, refused or no answer, except while the whole machine stood still."""
        start = self.began if since is None else since
        tried = [w for w in self.traffic.writes() if w.outcome != "ok" and w.invoke >= start]
        return [w for w in tried if not self.stalls.near(w.invoke, w.done)]

    def flows(self, deadline_s: float, since: float | None = None, says: str = "writes through the VIP") -> float:
        """Wait until writes (sent after `since`) are acknowledged; the seconds it took. The error quotes stuck standbys."""
        return Lab.wait(lambda: self.traffic.flowing(since), deadline_s, lambda: "; ".join([says, *self._cluster.stuck()]))

    def lost(self, member: str | None = None) -> list[int]:
        """Ids that were acknowledged and that `member` (default: the primary) does not have. A standby gets time to replay."""
        acknowledged = [w for w in self.traffic.writes() if w.outcome == "ok"]  # first: the table grows meanwhile
        host, end = self._cluster.lab.host(member or self._cluster.primary()), boottime_s() + (REPLAYED_S if member else 0.0)
        pause = threading.Event()
        while (missing := verdict.lost_ids(acknowledged, acts.ids_on(host))) and boottime_s() < end:
            pause.wait(LOOK_EVERY_S)
        return missing

    def dual_writer_ms(self, since: float | None = None) -> float:
        """For how long two hosts were writers."""
        return verdict.dual_writer_ms(self.traffic.probes(), self._window(since))

    def _window(self, since: float | None) -> Window:
        start = self.began if since is None else since
        return Window(start, start, boottime_s())


class Cluster:
    """One engine's lab with daemons. `lab` changes when a ruined one is replaced: do not keep it over a test's end."""

    def __init__(self, options: LabOptions) -> None:
        self.options = options
        self._lab: Lab | None = None
        self._loads = 0

    # --- life ------------------------------------------------------------------------------------------------------
    @property
    def lab(self) -> Lab:
        """The booted lab; boots one if there is none."""
        if self._lab is None:
            self._lab = Lab.boot(self.options)
            acts.use_lab_resolver(self._lab)
        return self._lab

    @property
    def booted(self) -> bool:
        return self._lab is not None

    def adopt(self) -> None:
        """As a new user does. Nothing happens to a cluster that is adopted already."""
        acts.adopt(self.lab)

    def close(self) -> None:
        """Remove the lab. The next use boots a new one."""
        lab, self._lab = self._lab, None
        if lab is not None:
            lab.close()

    def make_whole(self, deadline_s: float = WHOLE_S, cooldown: bool = True) -> None:
        """Wait until the lab is whole; boot and adopt a new one if there is none or this one stays broken."""
        if self._lab is not None:
            try:
                return self.wait_whole(deadline_s, cooldown)
            except LabError as error:
                warnings.warn(f"the lab was replaced: {error}", stacklevel=2)
                self.close()
        self.adopt()
        self.wait_whole(deadline_s, cooldown)

    def start_everything(self, but: str | None = None) -> None:
        """Start whatever of ROLES does not run, on every host at once; one role may be left out."""
        stopped = [(h, role) for h in self.lab.databases_hosts for role in ROLES if role != but and h.pid_of(role) is None]
        with ThreadPoolExecutor(max_workers=max(1, len(stopped))) as pool:
            for started in [pool.submit(host.start, role) for host, role in stopped]:
                started.result()

    # --- asking ----------------------------------------------------------------------------------------------------
    def ctl(self, *args: str, timeout_s: float = 30.0, on: str | None = None) -> subprocess.CompletedProcess[str]:
        """`failoverctl ARGS` on a database host; the exit code is not judged."""
        return self.lab.ctl(*args, timeout_s=timeout_s, on=on)

    def answer(self, *args: str, timeout_s: float = 30.0) -> dict[str, Any]:
        """The document that `failoverctl ARGS -o json` prints."""
        done = self.ctl(*args, "-o", "json", timeout_s=timeout_s)
        try:
            document: dict[str, Any] = json.loads(done.stdout)
        except ValueError as error:
            raise LabError(f"failoverctl {' '.join(args)}: exit {done.returncode}: {done.stderr or done.stdout}") from error
        return document

    def status(self) -> dict[str, Any]:
        """`failoverctl status -o json`, parsed."""
        return self.answer("status")

    def seen(self) -> Seen:
        """The same as an object."""
        return status(self.lab)

    def primary(self) -> str:
        """The one member whose database takes writes. LabError if there is none, or more than one."""
        found = self.lab.databases.primaries()
        if len(found) != 1:
            raise LabError(f"one primary expected, found {', '.join(found) or 'none'}")
        return found[0]

    def standbys(self) -> list[str]:
        """The other members, in the order of their priority."""
        primary = self.primary()
        return [name for name in self.options.members if name != primary]

    @property
    def hand(self) -> Stagehand:
        """What a story does to the databases by hand, in their engine's words."""
        return stagehand(self.lab)

    def sql(self, member: str, sql: str, dbname: str | None = None, timeout_s: float = 10.0) -> str:
        """What the member's database answers its administrator."""
        return self.lab.host(member).sql(sql, dbname=dbname, timeout_s=timeout_s)

    def guardian(self, member: str, verb: str) -> subprocess.CompletedProcess[str]:
        """`failover-guardian VERB` on that host (release, arm); the exit code is not judged."""
        return self.lab.host(member).run([entry_point("failover-guardian"), verb], check=False)

    def log_of(self, member: str, role: str) -> str:
        return self.lab.host(member).log(role).read_text(errors="replace")

    def stuck(self) -> list[str]:
        """Each standby that has log which its primary's history does not have, in its database's own words."""
        found = []
        for host in self.lab.databases_hosts:
            logs = [host.log("database"), host.directory / "state" / f"{CLUSTER}-database.log"]
            lines = [line for log in logs if log.exists() for line in log.read_text(errors="replace").splitlines()[-200:]]
            found += [f"{host.name}: {line}" for line in lines if host.dialect.cannot_follow in line][-1:]
        return found

    # --- waiting ---------------------------------------------------------------------------------------------------
    def wait_whole(self, deadline_s: float = WHOLE_S, cooldown: bool = True) -> None:
        """Until every service runs, the primary takes writes, its standbys stream, nothing is under way, nothing is paused,
        and (`cooldown`) the leader may fail over by itself again. A member that asks for a new copy gets one. LabError."""
        end = boottime_s() + deadline_s
        reseeded: set[str] = set()
        pause = threading.Event()
        while (why := self._not_whole(reseeded, cooldown)) is not None:
            if boottime_s() > end:
                raise LabError(f"not whole within {deadline_s:g} s: {why}")
            pause.wait(LOOK_EVERY_S)

    def _not_whole(self, reseeded: set[str], cooldown: bool) -> str | None:
        missing = [f"{role} on {h.name}" for h in self.lab.databases_hosts for role in ROLES if h.pid_of(role) is None]
        if missing:
            return f"{', '.join(missing)} does not run"
        try:
            record = self.status()
            seen = parse(json.dumps(record))
        except LabError as error:
            return str(error)
        for member in seen.members:
            if member.needs_reseed and member.name not in reseeded:
                reseeded.add(member.name)
                self.lab.reseed(member.name)
                return f"{member.name} was copied anew"
        primary = next((m for m in record["members"] if m["name"] == record["primary"]), None)
        if not seen.settled or primary is None:
            return seen.unsettled_because
        if not (primary["writable"] and primary["gate"] == "open" and primary["vip"]):
            return f"{primary['name']} {primary['says']}: gate {primary['gate']}, VIP {primary['vip']}"
        if record["paused"] or record["mode"] != "automatic":
            return f"mode {record['mode']}, paused {record['paused']}"
        return free_to_fail_over(self.lab) if cooldown else None

    # --- load ------------------------------------------------------------------------------------------------------
    @contextmanager
    def traffic(self) -> Iterator[Load]:
        """The demo's clients on empty tables: a writer through the VIP every 10 ms, a prober at every host, the receiver of
        notices. Ended with the block; what they recorded stays readable."""
        self._loads += 1
        self.sql(self.primary(), self.lab.dialect.emptied, dbname=DATABASE)
        clients = Traffic(self.lab, self.lab.directory / f"traffic-{self._loads}")
        stalls = Stalls(self.lab.directory / "stalls")
        try:
            clients.start()
            yield Load(self, clients, stalls)
        finally:
            clients.close()
            stalls.close()

    # --- after a failure -------------------------------------------------------------------------------------------
    def save_logs(self, folder: Path) -> str:
        """Copy logs and histories, nothing secret, into `folder`; the last lines of our daemons' logs, to be printed."""
        if self._lab is None:
            return "there was no lab"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for history in self._lab.directory.glob("traffic-*"):
            shutil.copytree(history, folder / history.name, ignore=shutil.ignore_patterns("*.login"))
        said = [f"logs and histories: {folder}"]
        for name in self.options.members:
            host = self._lab.host(name)
            if not host.directory.exists():
                return f"{said[0]}; the lab was removed while it ran: {self._lab.directory}"
            shutil.copytree(host.directory / "log", folder / name)
            for database in (host.directory / "state").glob("*-database.log*"):
                shutil.copy(database, folder / name)
            for role in LOGS:
                said.append(f"--- {role} on {name}\n{tail(host.log(role), 12)}")
        try:
            said.append(self._lab.ctl("status", timeout_s=10.0).stdout)
            said.append(self._lab.ctl("timeline", timeout_s=10.0).stdout)
        except LabError as error:
            said.append(str(error))
        (folder / "last-words.txt").write_text("\n".join(said))
        return "\n".join(said)
