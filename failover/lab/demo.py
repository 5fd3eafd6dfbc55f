"""`./demo`: a whole cluster on this machine, broken on purpose, under measured traffic; the exit code is the verdict.

Nothing is simulated but the wires: ZooKeeper, the databases, sshd, BIND and this product's daemons run on hosts made of
network namespaces. Everything is removed at the end, also after Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from time import strftime
from types import FrameType

from rich.console import Console

import failover
from failover.lab import acts
from failover.lab.acts import ACTS, Stage
from failover.lab.commands import LabError
from failover.lab.databases import ENGINES, dialect
from failover.lab.lab import Lab, LabOptions
from failover.lab.screen import LiveScreen, Screen, verdict_table
from failover.lab.services import missing_programs
from failover.lab.traffic import Traffic
from failover.lab.verdict import Limits, Row, judge

OK, BUG, USAGE, REFUSED, UNDONE, PROBLEMS, INTERRUPTED = 0, 1, 2, 5, 6, 10, 130
SHORT_REPEAT, LONG_REPEAT = 3, 5
ORDER = tuple(ACTS)
NEEDS_MIB = {"disk": 2048, "memory": 1280}  # and the memory of three databases
PIPE_WIDTH = 160  # a log is not a terminal: one line per fact


def options_from(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse and check; a wrong value ends the program with exit code 2 and a sentence."""
    parser = argparse.ArgumentParser(
        prog="demo", description="Boot a real cluster on this machine, break it, measure the outage, print the verdict."
    )
    parser.add_argument("--engine", default=ENGINES[0], choices=ENGINES, help="which database the hosts run")
    parser.add_argument("--profile", default="lan", choices=("lan", "fast", "default"), help="lease and probe timings")
    parser.add_argument("--replication", default="strict", choices=("strict", "async"))
    few = f"{SHORT_REPEAT} runs of each act instead of {LONG_REPEAT}"
    parser.add_argument("--short", action="store_true", help=few)
    parser.add_argument("--repeat", type=int, metavar="N", help="N runs of each act")
    parser.add_argument("--acts", metavar="A,B", help=f"only these, of: {', '.join(ORDER)}")
    beside = "primary: before each act the primary is moved beside ZooKeeper's leader"
    parser.add_argument("--zookeeper-leader", default="any", choices=("any", "primary"), help=beside)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the list of rows, one per run of an act")
    parser.add_argument("--keep", action="store_true", help="keep the lab's directory (logs, data) at the end")
    parser.add_argument("--yes", action="store_true", help="do not ask before installing and starting")
    options = parser.parse_args(argv)
    if options.repeat is None:
        options.repeat = SHORT_REPEAT if options.short else LONG_REPEAT
    if options.repeat < 1:
        parser.error("--repeat: at least 1")
    there_are = acts.acts_of(options.engine)
    wanted = set(there_are if options.acts is None else options.acts.split(","))
    if unknown := sorted(wanted - set(there_are)):
        parser.error(f"--acts: no act {', '.join(map(repr, unknown))}; with {options.engine} there are: {', '.join(there_are)}")
    options.acts = tuple(name for name in there_are if name in wanted)  # in the demo's own order
    return options


def refusals(options: argparse.Namespace) -> list[str]:
    """Why the demo will not start here, all reasons at once."""
    if os.geteuid() != 0:
        return ["needs root, for network namespaces and nftables: sudo ./demo"]
    return missing_programs() + dialect(options.engine).faults()


def preflight(screen: Screen, engine: str) -> None:
    """What this machine is, in one line. Raises LabError when the lab would not fit."""
    facts = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free = {
        "disk": shutil.disk_usage("/var/tmp").free // 2**20,
        "memory": int(facts["MemAvailable"].split()[0]) // 2**10,
    }
    cores = os.cpu_count() or 1
    screen.says(f"preflight: root, {cores} cores, {free['memory']} MiB of memory and {free['disk']} MiB of disk free")
    if cores < 2:
        screen.says("preflight: on one core the figures will be worse than promised")
    needs = {**NEEDS_MIB, "memory": NEEDS_MIB["memory"] + 3 * dialect(engine).memory_mib}
    faults = [f"{free[what]} MiB of {what} free, {least} needed" for what, least in needs.items() if free[what] < least]
    if faults:
        raise LabError("; ".join(faults))


def main(argv: Sequence[str] | None = None) -> int:
    options = options_from(argv)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
    reasons = refusals(options)
    if reasons:
        for reason in reasons:
            console.print(f"demo: {reason}", markup=False, soft_wrap=True)
        return REFUSED
    signal.signal(signal.SIGHUP, _leave)
    screen = LiveScreen(console) if console.is_terminal else Screen(console)
    status = OK
    try:
        perform(options, screen)
    except KeyboardInterrupt:
        console.print("demo: interrupted; everything was removed")
        status = INTERRUPTED
    except LabError as error:
        console.print(f"demo: {error}", markup=False, soft_wrap=True, style="red")
        status = UNDONE
    if options.json:
        options.json.write_text(json.dumps([row.as_dict() for row in screen.rows], indent=2) + "\n")
    return status or conclude(console, screen.rows, options.acts)


def conclude(console: Console, rows: Sequence[Row], wanted: Sequence[str]) -> int:
    """Print the verdict on the wanted acts; the exit code."""
    console.print(verdict_table(rows, wanted, Limits()))
    faults = judge(rows, wanted)
    for fault in faults:
        console.print(f"FAIL {fault}", markup=False, soft_wrap=True, style="bold red")
    if not faults:
        lost = sum(row.lost for row in rows)
        kept = f"{lost} acknowledged writes are lost, as async permits, and every one was reported" if lost else ""
        kept = kept or "every acknowledged write is there"
        console.print(f"{kept}, there was one writer at every instant, and it was quick", soft_wrap=True)
    return PROBLEMS if faults else OK


def perform(options: argparse.Namespace, screen: Screen) -> None:
    """Boot, run every act `repeat` times, remove everything. Finished rows are on the screen."""
    preflight(screen, options.engine)
    screen.says(f"booting hosts: real ZooKeeper, {options.engine}, sshd, BIND, controllers, guardians; virtual cables")
    wanted = LabOptions(engine=options.engine, replication=options.replication, profile=options.profile)
    lab = Lab.boot(wanted, screen.says)
    traffic = Traffic(lab, lab.directory / "traffic")
    finished = False
    try:
        with screen:
            beside_zookeeper = options.zookeeper_leader == "primary"
            _play(options, Stage(lab, traffic, screen.says, beside_zookeeper), screen)
        finished = all(row.result == "ok" for row in screen.rows)
    finally:
        _without_interruption()
        traffic.close()
        if not finished:
            screen.says(f"the logs are in {save_logs(lab)}")
        lab.close(keep=options.keep)
        if options.keep:
            screen.says(f"kept: {lab.directory}")


def _play(options: argparse.Namespace, stage: Stage, screen: Screen) -> None:
    acts.use_lab_resolver(stage.lab)
    acts.adopt(stage.lab, screen.says)
    stage.traffic.start()
    screen.show(stage)
    for turn in range(1, options.repeat + 1):
        for name in options.acts:
            screen.says(f"act {name}, {turn} of {options.repeat}")
            screen.add(acts.run(stage, ACTS[name]))
            if not stage.whole:
                return  # the row says why; another act on a broken cluster would say nothing


def save_logs(lab: Lab) -> Path:
    """Copy logs and histories, and nothing secret, to build/demo-logs. The folder."""
    folder = Path(failover.__file__).resolve().parent.parent / "build" / "demo-logs" / strftime("%Y%m%d-%H%M%S")
    for logs in sorted(lab.directory.glob("*/log")):
        shutil.copytree(logs, folder / logs.parent.name, dirs_exist_ok=True)
    if (lab.directory / "traffic").exists():
        shutil.copytree(lab.directory / "traffic", folder / "traffic", ignore=shutil.ignore_patterns("*.login"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _without_interruption() -> None:
    """From here on Ctrl-C must not stop the cleaning."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
