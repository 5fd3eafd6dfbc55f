"""The leader is killed, or paused for longer than W, right after every step that it writes down; or all controllers die.

    python -m failover.lab.leader_faults [--kind KIND] [--step STEP ...] [--fault kill|stop] [--silent] [--repeat N]

Each run opens an operation, lets a failpoint hit the leading controller after one journal line, and judges from outside: one
primary soon, the journal whole, nothing acknowledged lost, never two writers, and what the sleeper does late changes nothing.
The steps are read from the phase tables, so a new row is covered by itself. At the end a table of steps x faults is printed.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from failover.clock import boottime_s
from failover.core.model import OperationKind
from failover.core.tables import TABLES
from failover.lab import verdict
from failover.lab.commands import LabError
from failover.lab.demo import save_logs
from failover.lab.failpoints import Failpoint
from failover.lab.journal import journal_faults
from failover.lab.lab import Lab, LabOptions
from failover.lab.observed import status
from failover.lab.stage import Stage, adopt, settle
from failover.lab.traffic import DATABASE, Traffic
from failover.lab.verdict import Window
from failover.profiles import PROFILES

KINDS = (OperationKind.FAILOVER, OperationKind.SWITCHOVER)
FAULTS = ("kill", "stop", "kill all")
PRIMARY_S = 10.0  # from the fault to the one primary; W more where the clock is the evidence
CLOSED_S = 30.0  # the last step may wait for followers
RESTART_S = 1.0  # as the service manager would start it again
AWAKE_S = 10.0  # until a woken controller has noticed
LATE_S = 0.5  # what it still does after that would be seen by then
SLEEP_IN_W = 1.2
CONFLICT = 9  # exit code of `failoverctl`: another operation is under way
ASK_S = 60.0  # a command's own time is no part of what is measured
SILENT_STEPS = ("opened", "claim", "confirm")


@dataclass(frozen=True)
class Case:
    """After which journal line of which operation, what happens to the leader. `silent`: the old primary's host is cut off."""

    kind: OperationKind
    step: str
    fault: str
    silent: bool = False

    @property
    def point(self) -> str:
        return f"{self.kind.value}.{self.step}" + ("" if self.step == "opened" else ".done")

    def __str__(self) -> str:
        return f"{self.kind.value}-{self.step}-{self.fault.replace(' ', '-')}" + ("-silent" if self.silent else "")


def all_cases() -> list[Case]:
    """Every line of both tables, and both faults of the leader."""
    steps = [(kind, step) for kind in KINDS for step in ("opened", *(row.step for row in TABLES[kind]))]
    return [Case(kind, step, fault) for kind, step in steps for fault in ("kill", "stop")]


def headless_cases() -> list[Case]:
    """All controllers killed at once, where the most is under way: for a second nobody leads."""
    steps = [(KINDS[0], "claim"), (KINDS[0], "grant"), (KINDS[1], "order"), (KINDS[1], "verify")]
    return [Case(kind, step, "kill all") for kind, step in steps]


def silent_cases() -> list[Case]:
    """Where the old primary's host says nothing and the clock W must be waited for, by whoever leads."""
    steps = [(step, fault) for step in SILENT_STEPS for fault in ("kill", "stop")]
    return [Case(OperationKind.FAILOVER, step, fault, True) for step, fault in [*steps, ("claim", "kill all")]]


@dataclass
class Result:
    """One run. Seconds since the fault: until the one primary took writes, and until the journal was closed."""

    case: Case
    operation: str = ""
    primary: str = ""
    primary_s: float = 0.0
    closed_s: float = 0.0
    ended: str = ""
    reasons: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.reasons

    def __str__(self) -> str:
        return f"{self.ended} primary {self.primary_s:.1f} s, closed {self.closed_s:.1f} s" + ("" if self.ok else " FAILED")


def run(stage: Stage, case: Case) -> Result:
    """One run on a settled cluster under traffic. Settles it again; raises LabError only if that fails."""
    lab, result = stage.lab, Result(case)
    old = _begin(stage, case)
    start = boottime_s()
    trap = Failpoint(lab, case.point, "kill" if case.fault == "kill" else "stop")
    trap.lay()
    try:
        with ThreadPoolExecutor(1) as person:
            if case.silent:
                lab.cut(old)
            asked = person.submit(_ask, lab, case, old)
            stage.says(f"{case}: {trap.wait(60.0)} reached {case.point}")
            assert trap.at is not None
            _watch(stage, case, result, old, trap)
            result.operation = asked.result(60.0) or result.operation
    finally:
        trap.take_up()
        _repair(lab, case, old)
    result.reasons += settle(stage, result.primary or None)
    _judge(stage, result, trap, Window(start, trap.at, boottime_s()))
    return result


def _begin(stage: Stage, case: Case) -> str:
    """The primary; in a silent case its host does not also have the leading controller, which would end with it."""
    lab = stage.lab
    old = lab.primary()
    if old is None:
        raise LabError("a run needs one primary to begin with")
    if case.silent and status(lab, ASK_S).leader == old:
        lab.host(old).restart("controller")
        lab.wait(lambda: status(lab, ASK_S).leader not in (None, old), 10.0, "another leader")
    lab.wait(stage.traffic.flowing, ASK_S, "writes through the VIP before the fault")
    return old


def _ask(lab: Lab, case: Case, old: str) -> str | None:
    """File the request on a host that is not the old primary's; the name of the operation that carries it out, or None if
    the machine had noticed the silence first and opened one by itself."""
    on = next(name for name in lab.options.members if name != old)
    done = lab.ctl(case.kind.value, "--yes", "--no-wait", "-o", "json", on=on, timeout_s=60.0)
    if case.silent and done.returncode == CONFLICT:
        return None
    if done.returncode != 0:
        raise LabError(f"failoverctl {case.kind.value}: exit {done.returncode}: {done.stderr.strip()}")
    return str(json.loads(done.stdout)["operation"])


def _watch(stage: Stage, case: Case, result: Result, old: str, trap: Failpoint) -> None:
    """From the fault until the operation is closed and the killed or sleeping controller is back."""
    lab = stage.lab
    assert trap.host is not None and trap.at is not None
    on = next(name for name in lab.options.members if name != old)
    back = lab.host(trap.host).log("controller").stat().st_size
    if case.fault != "stop":
        dying = lab.databases_hosts if case.fault == "kill all" else (lab.host(trap.host),)
        for host in dying:
            host.kill("controller")  # nothing happens to the one that has killed itself
        lab.wait(lambda: not any(host.pid_of("controller") for host in dying), 5.0, "the controllers to be gone")
        pause(RESTART_S)
        for host in dying:
            host.start("controller")
        result.reasons += _closed(stage, case, result, trap.at, on)
        return
    wake_at = trap.at + SLEEP_IN_W * PROFILES[lab.options.profile].wait_s
    if case.silent:
        pause(max(0.0, wake_at - boottime_s()))  # it wakes in the middle of what the other one does
    else:
        result.reasons += _closed(stage, case, result, trap.at, on)
        pause(max(0.0, wake_at - boottime_s()))
    result.reasons += _wake(stage, result, trap, on, back)
    if case.silent:
        result.reasons += _closed(stage, case, result, trap.at, on)


def _wake(stage: Stage, result: Result, trap: Failpoint, on: str, since: int) -> list[str]:
    """SIGCONT; what the sleeper then does changes neither the records nor the VIP. Reasons why not."""
    lab = stage.lab
    log = lab.host(trap.host or "").log("controller")
    before = record(lab, on) if result.operation else None
    woke = boottime_s()
    trap.resume()

    def noticed() -> bool:
        with log.open("rb") as lines:
            lines.seek(since)
            return b"does not lead any more" in lines.read()

    try:
        lab.wait(noticed, AWAKE_S, f"{trap.host} to say that it does not lead any more")
    except LabError as error:
        return [str(error)]
    if before is None:
        return []  # the operation goes on by the new leader: the grammar of its journal is judged at the end
    pause(LATE_S)
    after = record(lab, on)
    reasons = [f"the sleeper changed {what}: {before[what]} -> {after[what]}" for what in before if before[what] != after[what]]
    moves = [s for s in stage.traffic.vip_samples() if s.at > woke and s.present != (s.host == result.primary)]
    return reasons + [f"after the sleeper woke, {s.host} {'got' if s.present else 'lost'} the VIP" for s in moves]


def record(lab: Lab, on: str) -> dict[str, Any]:
    """What a late leader could have changed."""
    seen, told = status(lab, ASK_S), timeline(lab, on)
    lines = [(s["number"], s["name"], s["controller"], s["term"]) for s in told["steps"]]
    return {"primary": seen.primary, "epoch": seen.epoch, "operation": told["id"], "journal": lines}


def timeline(lab: Lab, on: str) -> dict[str, Any]:
    """The latest operation, told by its journal."""
    done = lab.ctl("timeline", "-o", "json", on=on, timeout_s=ASK_S)
    try:
        told: dict[str, Any] = json.loads(done.stdout)
    except ValueError as error:
        raise LabError(f"failoverctl timeline: exit {done.returncode}: {done.stderr.strip()}") from error
    return told


def _closed(stage: Stage, case: Case, result: Result, fault: float, on: str) -> list[str]:
    """Wait for writes, then for the end of the operation; reasons why it is not as it should be."""
    allowed_s = PRIMARY_S + (PROFILES[stage.lab.options.profile].wait_s if case.silent else 0.0)
    told: dict[str, Any] = {}

    def ended() -> bool:
        told.update(timeline(stage.lab, on))
        return told["result"] in ("done", "undone")

    try:
        stage.lab.wait(lambda: stage.traffic.flowing(fault), allowed_s + 5.0, "a write acknowledged after the fault")
        stage.lab.wait(ended, CLOSED_S, f"the journal's end; it says {told.get('result')}")
    except LabError as error:
        return [str(error)]
    result.operation, result.ended = told["id"], told["result"]
    result.primary = told["new"] if told["result"] == "done" else told["old"]
    wall_to_boottime = boottime_s() - time.time()
    result.closed_s = datetime.fromisoformat(told["steps"][-1]["at"]).timestamp() + wall_to_boottime - fault
    return journal_faults(told["steps"]) + (_not_by_clock(told["steps"]) if case.silent else [])


def _not_by_clock(steps: Sequence[dict[str, Any]]) -> list[str]:
    """A silent host leaves the clock W as the only evidence; any other would mean that it was not silent."""
    by = [step["facts"].get("by") for step in steps if step["name"] == "confirm.done"]
    return [] if by == ["clock"] else [f"confirmed by {by}, not by the clock"]


def _repair(lab: Lab, case: Case, old: str) -> None:
    if case.silent:
        lab.heal(old)
    for host in lab.databases_hosts:
        if host.pid_of("controller") is None:
            host.start("controller")


def _judge(stage: Stage, result: Result, trap: Failpoint, window: Window) -> None:
    """From what the clients saw."""
    case, probes = result.case, stage.traffic.probes()
    allowed_s = PRIMARY_S + (PROFILES[stage.lab.options.profile].wait_s if case.silent else 0.0)
    result.primary_s = primary_after_s(probes, result.primary, window)
    dual = verdict.dual_writer_ms(probes, window)
    lost = _lost(stage, result.primary, window) if result.primary else []
    holders = [host.name for host in stage.members if host.has_vip()]
    conflicts = verdict.vip_conflicts(stage.traffic.vip_samples(), window) if not case.silent else []
    told = {
        f"one primary only after {result.primary_s:.1f} s": result.primary_s > allowed_s,
        f"two writers for {dual:.0f} ms": dual > 0,
        f"{len(lost)} acknowledged writes lost: {lost[:5]}": bool(lost),
        f"the VIP is on {', '.join(holders) or 'nobody'}": holders != [result.primary],
        "; ".join(conflicts): bool(conflicts),
        f"{result.operation} ended {result.ended}": result.ended == "undone" and not _may_be_undone(case),
    }
    result.reasons += [reason for reason, holds in told.items() if holds]


def _may_be_undone(case: Case) -> bool:
    """Before the old word is ended a switchover may give writes back."""
    return case.kind is OperationKind.SWITCHOVER and case.step in ("opened", "prepare", "order")


def primary_after_s(probes: Sequence[verdict.Probe], primary: str, window: Window) -> float:
    """Seconds from the fault until `primary` took writes and nobody else did any more; infinite if it never did."""
    good = [p for p in probes if p.outcome == "ok" and window.fault < p.done <= window.end]
    mine = min((p.done for p in good if p.host == primary), default=float("inf"))
    others = max((p.done for p in good if p.host != primary), default=window.fault)
    return max(mine, others) - window.fault


def _lost(stage: Stage, primary: str, window: Window) -> list[int]:
    """Ids acknowledged in the window that the primary does not have."""
    mine = verdict.acknowledged(stage.traffic.writes(), window)
    if not mine:
        return []
    least = min(w.id for w in mine)
    told = stage.lab.host(primary).sql(f"SELECT id FROM lab.writes WHERE id >= {least}", dbname=DATABASE)
    return verdict.lost_ids(mine, map(int, told.split()))


def table(results: Sequence[Result]) -> str:
    """Steps x faults, with the seconds from the fault to the one primary and to the closed journal."""
    rows: dict[str, dict[str, list[Result]]] = {}
    for result in results:
        name = f"{result.case.kind.value} {result.case.step}" + (", old host silent" if result.case.silent else "")
        rows.setdefault(name, {}).setdefault(result.case.fault, []).append(result)
    heads = {"kill": "leader killed", "stop": f"leader paused for {SLEEP_IN_W} W", "kill all": "all controllers killed"}
    lines = [f"{'after':<34}" + "".join(f"{heads[fault]:<40}" for fault in FAULTS).rstrip()]
    for name, cells in rows.items():
        lines.append(f"{name:<34}" + "".join(f"{_cell(cells.get(fault, [])):<40}" for fault in FAULTS).rstrip())
    bad = [f"FAILED {result.case}: {reason}" for result in results for reason in result.reasons]
    verdicts = f"{sum(r.ok for r in results)} of {len(results)} runs well; seconds are counted from the fault"
    return "\n".join([*lines, verdicts, *bad]) + "\n"


def _cell(results: Sequence[Result]) -> str:
    """The worst of the repetitions."""
    if not results:
        return "-"
    worst = max(results, key=lambda r: (not r.ok, r.primary_s))
    return str(worst) + (f" ({len(results)} runs)" if len(results) > 1 else "")


def pause(seconds: float) -> None:
    """As long as the fault is meant to last."""
    if seconds > 0:
        threading.Event().wait(seconds)


# --- the command ---------------------------------------------------------------------------------------------------
def chosen(argv: Sequence[str] | None = None) -> list[Case]:
    """The cases that the command line asks for."""
    parser = argparse.ArgumentParser(prog="leader_faults", description="Kill or pause the leader after every journaled step.")
    parser.add_argument("--kind", choices=[kind.value for kind in KINDS])
    parser.add_argument("--step", nargs="+", default=[], help="opened, claim, confirm, ...")
    parser.add_argument("--fault", choices=FAULTS)
    parser.add_argument("--silent", action="store_true", help="with the old primary's host cut off: W is the evidence")
    parser.add_argument("--repeat", type=int, default=1)
    options = parser.parse_args(argv)
    cases = silent_cases() if options.silent else [*all_cases(), *headless_cases()]
    wanted = [
        case for case in cases
        if options.kind in (None, case.kind.value)
        and (not options.step or case.step in options.step)
        and options.fault in (None, case.fault)
    ]  # fmt: skip
    if not wanted:
        parser.error("no such step in that table")
    repeat: int = options.repeat
    return wanted * repeat


def main(argv: Sequence[str] | None = None) -> int:
    cases, results = chosen(argv), []
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))
    began = boottime_s()
    with Lab.boot(LabOptions(), print) as lab:
        adopt(lab, print)
        traffic = Traffic(lab, lab.directory / "traffic")
        try:
            traffic.start()
            for case in cases:
                results.append(run(Stage(lab, traffic, lambda text: print(f"          {text}", flush=True)), case))
                print(f"{boottime_s() - began:6.0f} s  {case}: {results[-1]}", flush=True)
                for reason in results[-1].reasons:
                    print(f"          {reason}")
        finally:
            traffic.close()
            if not all(result.ok for result in results) or len(results) < len(cases):
                print(f"the logs are in {save_logs(lab)}")
    print(table(results))
    return 0 if all(result.ok for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
