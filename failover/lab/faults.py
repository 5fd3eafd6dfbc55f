"""What the acts do: one fault or one command each, and how the old primary is given back afterwards.

A fault is done to the primary of a healthy cluster under traffic. Where the old primary is silenced, it comes back only
after another has taken over and taken writes for a while: a second writer would show itself then.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass

from failover.clock import boottime_s
from failover.lab.commands import LabError
from failover.lab.databases import dialect
from failover.lab.stage import Stage

BUSY_S = 1.5
SERVICES = ("zookeeper", "sshd", "guardian", "controller")  # what a database host starts as it boots; never the database


@dataclass(frozen=True)
class Done:
    """What an act did: the BOOTTIME moment of the fault, and why it failed, if it did."""

    fault: float
    why_not: str | None = None


@dataclass(frozen=True)
class Act:
    """What is done. `perform(stage, primary)` does it, `mend(stage, primary)` undoes it once another member has taken over;
    `automatic`: the controllers act by themselves, so only once the cool-down is over. `needs_children`: only where the
    database's main process has children that live on without it.
    """

    name: str
    title: str
    automatic: bool
    perform: Callable[[Stage, str], Done]
    mend: Callable[[Stage, str], None] | None = None
    needs_children: bool = False


# --- somebody testifies --------------------------------------------------------------------------------------------
def _switchover(stage: Stage, primary: str) -> Done:
    target = next(host.name for host in stage.members if host.name != primary)
    stage.says(f"failoverctl switchover --to {target}")
    fault = boottime_s()
    done = stage.lab.ctl("switchover", "--to", target, "--yes", "--wait", timeout_s=60.0)
    said = " ".join((done.stderr or done.stdout).split())
    return Done(fault, None if done.returncode == 0 else f"failoverctl switchover: exit {done.returncode}: {said}")


def _process_kill(stage: Stage, primary: str) -> Done:
    """Only the main process is killed. Where it has children, one is in the middle of a statement and would commit without a
    fence.
    """
    busy = stage.traffic.busy(primary, BUSY_S)
    stage.says(f"kill -9 of the database's main process on {primary}, while a statement runs there")
    fault = boottime_s()
    if not stage.lab.host(primary).kill("database", signal.SIGKILL):
        raise LabError(f"there was no database to kill on {primary}")
    busy_ends = fault + BUSY_S + 2.0
    stage.lab.wait(lambda: busy.poll() is not None or boottime_s() > busy_ends, 10.0, "the long statement's end")
    stage.traffic.stop_client(busy)
    return Done(fault)


# --- nobody testifies ----------------------------------------------------------------------------------------------
def _host_crash(stage: Stage, primary: str) -> Done:
    stage.says(f"{primary} crashes: every process on it ends, its sockets are reset, then its kernel is gone")
    fault = boottime_s()
    stage.lab.crash(primary)
    return Done(fault)


def _power_off(stage: Stage, primary: str) -> Done:
    stage.says(f"the power of {primary} is cut: silence, nobody gets a reset")
    fault = boottime_s()
    stage.lab.power_off(primary)
    return Done(fault)


def _boot(stage: Stage, old: str) -> None:
    stage.says(f"{old} is switched on again, with what a database host starts as it boots")
    stage.lab.boot_host(old, SERVICES)


def _peers(stage: Stage, old: str) -> list[str]:
    """All that hear the old primary, except the application."""
    return [name for name in stage.lab.hosts if name not in (old, stage.lab.app.name)]


def _host_cut(stage: Stage, primary: str) -> Done:
    """Cut off from every other host but not from its clients, the dangerous way: it lives, it has the VIP, and whoever
    writes can reach it. Only its own guardian and kernel can stop it; a pulled cable (`power_off`) would do their work.
    """
    stage.says(f"{primary} is cut off from every database host, ZooKeeper and DNS; the application still reaches it")
    peers = _peers(stage, primary)
    fault = boottime_s()
    stage.lab.cut(primary, *peers)
    return Done(fault)


def _heal(stage: Stage, old: str) -> None:
    stage.says(f"{old} is connected again")
    stage.lab.heal(old, *_peers(stage, old))


def _frozen(stage: Stage, primary: str) -> Done:
    stage.says(f"SIGSTOP to every process of the database on {primary}: sockets open, nobody answers")
    fault = boottime_s()
    stage.lab.host(primary).freeze("database")
    return Done(fault)


def _frozen_postmaster(stage: Stage, primary: str) -> Done:
    """Sessions that were connected go on working: only whoever connects anew finds out."""
    stage.says(f"SIGSTOP to the database's main process alone on {primary}: sessions go on, new ones hang")
    fault = boottime_s()
    stage.lab.host(primary).freeze("main process")
    return Done(fault)


def _thaw(stage: Stage, old: str) -> None:
    """Whatever the product left of the frozen processes runs on now."""
    woken = stage.lab.host(old).thaw("database")
    stage.says(f"SIGCONT to what is left of the frozen processes on {old}: {len(woken) or 'none'}")


ACTS = {
    act.name: act
    for act in (
        Act("switchover", "planned switchover", False, _switchover),
        Act("process_kill", "process killed", True, _process_kill),
        Act("host_crash", "host crashed", True, _host_crash, _boot),
        Act("power_off", "host without power", True, _power_off, _boot),
        Act("host_cut", "host cut off", True, _host_cut, _heal),
        Act("frozen", "database frozen", True, _frozen, _thaw),
        Act("frozen_postmaster", "postmaster frozen", True, _frozen_postmaster, _thaw, needs_children=True),
    )
}


def acts_of(engine: str) -> tuple[str, ...]:
    """The acts that can be played on an engine. Raises LabError if there is none of that name."""
    return tuple(act.name for act in ACTS.values() if dialect(engine).forks or not act.needs_children)
