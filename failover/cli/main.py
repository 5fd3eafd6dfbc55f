"""`failoverctl`: the group, its exit codes and how it says no. Commands are imported when they are asked for."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import click

from failover import errors
from failover.cli import options
from failover.cli.options import EXIT_CODES, Given, Suggesting, common_options

COMMANDS: Mapping[str, tuple[str, str]] = {
    "status": ("status", "What is, and what is wrong with it."),
    "plan": ("plan", "What would happen if a member died now, and why."),
    "explain": ("explain", "What the leader judges right now, guard by guard, and its latest doubt."),
    "adopt": ("requests", "Hand a running cluster to the controllers."),
    "switchover": ("requests", "Move the primary, planned: nothing is lost, or nothing happens."),
    "failover": ("requests", "Take over from a primary that is lost, now."),
    "fence": ("interventions", "Take a member down, with proof, and keep it down."),
    "confirm-fenced": ("interventions", "Swear that a silent old primary cannot write, so that a failover goes on."),
    "rejoin": ("interventions", "Bring a member back, or see how rejoins went and what was discarded."),
    "cancel": ("interventions", "Give up what is under way, while that is safe."),
    "ack": ("interventions", "Acknowledge the last failover: its cool-down ends."),
    "pause": ("requests", "No automatic action, for a while; it always ends."),
    "resume": ("requests", "End the pause."),
    "maintenance": ("requests", "Set one member aside: neither candidate nor trigger."),
    "history": ("journal", "Every operation: from, to, why, by whom, result."),
    "timeline": ("journal", "One operation, step by step, in milliseconds."),
    "check": ("check", "Look at everything that a failover will need, live, read-only."),
    "config": ("check", "Look at the configuration file."),
    "simulate": ("simulate", "Thousands of histories with your timers in which everything fails; nothing real is touched."),
}

# What went wrong -> exit code, and the next thing to type.
ANSWERS: tuple[tuple[type[errors.FailoverError], int, str], ...] = (
    (errors.Refused, options.REFUSED, ""),
    (errors.WrongCredentials, options.CONFIGURATION, "`failoverctl config check`; zookeeper.user and its password_file"),
    (errors.Unreachable, options.NOBODY, "`failoverctl check` says who answers"),
    (errors.Unknown, options.LATE, "`failoverctl status` and `failoverctl history` say what came of it"),
    (errors.Conflict, options.CONFLICT, "`failoverctl status`, then ask again"),
    (errors.Corrupt, options.HUMAN, "look at that record with a ZooKeeper shell"),
)


class Failoverctl(Suggesting):
    """Loads a command when it is needed, and turns whatever ends it into one documented exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        found: click.Command = getattr(_module(COMMANDS[cmd_name][0]), cmd_name.replace("-", "_"))
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):  # from the table: no command is imported for a list of names
            formatter.write_dl([(name, says) for name, (_, says) in COMMANDS.items()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), words) for code, words in EXIT_CODES.items()])

    def main(  # type: ignore[override]  # always ends the process, as click does by default
        self, args: Sequence[str] | None = None, prog_name: str | None = None, standalone_mode: bool = True, **extra: Any
    ) -> NoReturn:
        sys.exit(_guarded(lambda: super(Failoverctl, self).main(args, prog_name, standalone_mode=False, **extra)))


def _guarded(work: Callable[[], object]) -> int:
    """Run it; every way out is a code and, if it is not 0, a sentence on standard error."""
    try:
        code = work()
    except click.exceptions.Abort:
        return options.INTERRUPTED
    except click.ClickException as error:
        error.show()
        return options.USAGE
    except errors.ConfigurationError as error:
        for fault in error.faults:
            options.say(fault)
        options.say("next: correct the file, then `failoverctl config check`")
        return options.CONFIGURATION
    except errors.FailoverError as error:
        return _told(error)
    except Exception:  # the edge of the process: whatever it is, it is ours, and the code must say so
        options.say(traceback.format_exc().rstrip())
        options.say("failoverctl: this is a bug of ours; please report the lines above")
        return options.BUG
    return code if isinstance(code, int) else options.DONE


def _told(error: errors.FailoverError) -> int:
    from failover.logs import redact

    code, hint = next(((code, hint) for kind, code, hint in ANSWERS if isinstance(error, kind)), (options.BUG, ""))
    for line in error.reasons if isinstance(error, errors.Refused) else (str(error),):
        options.say(f"{'refused: ' if code == options.REFUSED else ''}{redact(line)}")
    if hint:
        options.say(f"next: {hint}")
    return code


def _module(name: str) -> ModuleType:
    """Import one file of commands: a statement each, so that whoever reads imports sees them."""
    if name == "status":
        from failover.cli import status

        return status
    if name == "plan":
        from failover.cli import plan

        return plan
    if name == "requests":
        from failover.cli import requests

        return requests
    if name == "interventions":
        from failover.cli import interventions

        return interventions
    if name == "explain":
        from failover.cli import explain

        return explain
    if name == "journal":
        from failover.cli import journal

        return journal
    if name == "simulate":
        from failover.cli import simulate

        return simulate
    from failover.cli import check

    return check


@click.group(cls=Failoverctl, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="failover", prog_name="failoverctl")
@common_options
@click.pass_context
def main(
    ctx: click.Context, config: Path | None, cluster: str | None, output: str | None, timeout_s: float | None, color: str | None
) -> None:  # fmt: skip
    """Ask the controllers for something, and read what they know.

    Every write takes --dry-run, --yes, --reason, --wait and --expect-primary. Standard output carries the answer only.
    """
    ctx.obj = Given(config, cluster, output, timeout_s, color)
    _quiet_libraries()


def _quiet_libraries() -> None:
    """Drivers keep their warnings for those who ask: FAILOVER_LOG=info (or debug) shows them on standard error."""
    import logging

    wanted = os.environ.get("FAILOVER_LOG")
    if wanted:
        from failover.logs import setup

        setup(wanted)
    else:
        logging.getLogger().addHandler(logging.NullHandler())


if __name__ == "__main__":
    main()
