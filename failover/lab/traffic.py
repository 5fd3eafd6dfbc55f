"""Everything that watches the cluster from outside during an act, started on the application's host.

The writer goes through the VIP, the prober to each host, the receiver takes the webhooks, and one `ip monitor` notes
when the VIP came and went. All of them write files; this module starts and ends the processes and reads the files.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import failover
from failover.clock import boottime_s
from failover.lab.commands import LabError, end_group, private_file, run
from failover.lab.configuration import VIP
from failover.lab.history import Tail, probe_of, write_of
from failover.lab.host import Host
from failover.lab.lab import Lab
from failover.lab.session import Login
from failover.lab.verdict import Probe, VipSample, Write

DATABASE = "app"
_MONITOR_LINE = re.compile(
    r"^\[(?P<at>[^\]]+)\] \[nsid (?P<nsid>\d+)\](?P<gone>Deleted )?\d+: .*\binet " + re.escape(VIP) + "/"
)


@dataclass(frozen=True)
class Delivery:
    """One webhook delivery as the receiver took it. `body` only if it was genuine and accepted."""

    key: str
    at: float
    status: int
    repeated: bool
    body: dict[str, object] | None


class Traffic:
    """Start once the cluster replicates; read at any time; `close` ends every process. Files stay in `directory`."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self._lab = lab
        self.directory = directory
        self._processes: list[subprocess.Popen[str]] = []
        self._vip: VipMonitor | None = None
        self._writes = Tail(directory / "writes.jsonl", write_of)
        self._probes = Tail(directory / "probes.jsonl", probe_of)
        self._deliveries = Tail(directory / "deliveries.jsonl", _delivery_of)

    def start(self, fail_first: int = 0) -> None:
        """Make the tables, start every client and wait until writes flow. Raises LabError. `fail_first`: see
        receiver.py.
        """
        lab, folder = self._lab, self.directory
        folder.mkdir(parents=True, exist_ok=True)
        primary = lab.primary()
        if primary is None:
            raise LabError("the traffic needs one primary to make its tables on")
        lab.host(primary).sql(lab.dialect.schema, dbname=DATABASE)
        for client, user in (("writer", "app"), ("prober", lab.dialect.prober)):
            login = Login(lab.options.engine, VIP, lab.dialect.port, DATABASE, user, lab.secrets.password(user))
            private_file(folder / f"{client}.login", f"{login}\n")
        self._vip = VipMonitor(lab, folder / "vip.log")
        out = ["--out", str(folder / "deliveries.jsonl"), "--fail-first", str(fail_first)]
        self._client("receiver", "--secret-file", str(lab.secrets.path("webhook")), *out)
        self._client("prober", *self._where("prober", "probes.jsonl"), *map(self._target, _database_hosts(lab)))
        self._client("writer", *self._where("writer", "writes.jsonl"))
        lab.wait(self.flowing, 10.0, f"writes through the VIP; see {folder}")

    def busy(self, member: str, seconds: float) -> subprocess.Popen[str]:
        """One statement that keeps the server of `member` busy, running when this returns. It joins the probes.
        """
        process = self._client("prober", *self._where("prober", "probes.jsonl"), "--busy-s", f"{seconds:g}",
                               self._target(self._lab.host(member)))  # fmt: skip
        if process.stdout is None or process.stdout.readline() != "running\n":
            raise LabError(f"the long statement did not start on {member}; see {self.directory}/prober.log")
        return process

    def stop_client(self, process: subprocess.Popen[str]) -> None:
        """End one client."""
        _end(process)
        if process in self._processes:
            self._processes.remove(process)

    def close(self) -> None:
        """End every client; the last answers are on file. Safe to repeat."""
        while self._processes:
            _end(self._processes.pop())
        if self._vip:
            self._vip.close()

    def writes(self) -> list[Write]:
        return self._writes.read()

    def probes(self) -> list[Probe]:
        return self._probes.read()

    def deliveries(self) -> list[Delivery]:
        return self._deliveries.read()

    def vip_samples(self) -> list[VipSample]:
        return self._vip.samples() if self._vip else []

    def flowing(self, since: float | None = None) -> bool:
        """True if the newest attempt was acknowledged, within the last half second, and sent after `since`
        (BOOTTIME).
        """
        writes = self.writes()
        last = writes[-1] if writes else None
        fresh = last is not None and last.outcome == "ok" and boottime_s() - last.done < 0.5
        return fresh and last is not None and last.invoke > (since or 0.0)

    def writing_rate(self, over_s: float = 1.0) -> float:
        """Acknowledged writes per second just now."""
        since = boottime_s() - over_s
        recent = self.writes()[-round(over_s * 200) :]
        return sum(w.outcome == "ok" and w.done > since for w in recent) / over_s

    def takers(self, over_s: float = 0.3) -> set[str]:
        """Hosts that accepted a write of the prober just now."""
        since = boottime_s() - over_s
        recent = self.probes()[-round(over_s * 300) :]
        return {p.host for p in recent if p.outcome == "ok" and p.done > since}

    def vip_holders(self) -> set[str]:
        """Hosts that have the VIP just now."""
        return self._vip.holders() if self._vip else set()

    def _client(self, module: str, *args: str) -> subprocess.Popen[str]:
        argv = [sys.executable, "-m", f"failover.lab.{module}", *args]
        env = {"PYTHONPATH": str(Path(failover.__file__).resolve().parent.parent)}
        process = self._lab.app.popen(argv, env=env, log=self.directory / f"{module}.log")
        self._processes.append(process)
        return process

    def _where(self, client: str, out: str) -> Sequence[str]:
        return ("--login-file", str(self.directory / f"{client}.login"), "--out", str(self.directory / out))

    def _target(self, host: Host) -> str:
        return f"{host.name}={host.address}:{self._lab.dialect.port}"


class VipMonitor:
    """The comings and goings of the VIP on all hosts, from one kernel socket: their order is the kernel's, not a guess.

    The switch's namespace knows every host's by a number (nsid), because a cable leads there; `ip monitor` listens
    there.
    """

    def __init__(self, lab: Lab, path: Path) -> None:
        self._path = path
        names = {host.namespace: host.name for host in _database_hosts(lab)}
        told = run(["ip", "netns", "exec", lab.switch.namespace, "ip", "netns", "list-id"]).stdout
        numbers = re.findall(r"nsid (\d+) \(iproute2 netns name: (\S+)\)", told)
        self._hosts = {number: names[namespace] for number, namespace in numbers if namespace in names}
        if len(self._hosts) != len(names):
            raise LabError(f"the switch does not know every host's namespace: {told.strip()}")
        with path.open("ab") as out:
            self._process = subprocess.Popen(
                ["ip", "-n", lab.switch.namespace, "-4", "-o", "-ts", "monitor", "address", "all-nsid"],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, text=True, cwd="/", start_new_session=True,
            )  # fmt: skip
        self._first = [VipSample(host.name, boottime_s(), host.has_vip()) for host in _database_hosts(lab)]

    def samples(self) -> list[VipSample]:
        """A first look at every host, then the events in the kernel's order."""
        to_boottime = boottime_s() - time.time()
        found = list(self._first)
        for line in self._path.read_text().splitlines():
            match = _MONITOR_LINE.match(line)
            if match and match["nsid"] in self._hosts:
                at = datetime.fromisoformat(match["at"]).timestamp() + to_boottime
                found.append(VipSample(self._hosts[match["nsid"]], at, not match["gone"]))
        return found

    def holders(self) -> set[str]:
        """Hosts that have the VIP after the last event."""
        last = {sample.host: sample.present for sample in self.samples()}
        return {host for host, present in last.items() if present}

    def close(self) -> None:
        end_group(self._process)


def _end(process: subprocess.Popen[str]) -> None:
    """Close its stdin, which asks it to end; kill it if it does not within two seconds."""
    if process.stdin:
        try:
            process.stdin.close()
        except BrokenPipeError:
            pass  # it has ended by itself
    try:
        process.wait(timeout=2.0)
    except subprocess.TimeoutExpired:
        end_group(process)
    if process.stdout:
        process.stdout.close()


def _delivery_of(line: dict[str, object]) -> Delivery:
    body = line["body"]
    return Delivery(
        str(line["key"]), float(str(line["at"])), int(str(line["status"])), bool(line["repeated"]),
        body if isinstance(body, dict) else None,
    )  # fmt: skip


def _database_hosts(lab: Lab) -> list[Host]:
    return [lab.host(name) for name in lab.options.members]
