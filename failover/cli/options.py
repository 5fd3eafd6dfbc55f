"""What every command shares: exit codes, options, durations. Imports nothing heavy, so that `--help` is quick."""

from __future__ import annotations

import difflib
import functools
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click

DONE = 0
BUG = 1
USAGE = 2
CONFIGURATION = 3
NOBODY = 4
REFUSED = 5
UNDONE = 6
HUMAN = 7
LATE = 8
CONFLICT = 9
PROBLEMS = 10
INTERRUPTED = 130

EXIT_CODES = {
    DONE: "done, healthy",
    BUG: "a bug of ours",
    USAGE: "wrong usage",
    CONFIGURATION: "the configuration is wrong",
    NOBODY: "nobody to talk to",
    REFUSED: "refused, nothing was changed",
    UNDONE: "undone, safe",
    HUMAN: "a human is needed",
    LATE: "the wait timed out, the work may go on",
    CONFLICT: "conflict: the world moved, or another operation is under way",
    PROBLEMS: "problems seen (status, check)",
    INTERRUPTED: "Ctrl-C",
}

TIMEOUT_S = 30.0
_FILE = click.Path(path_type=Path)
Command = Callable[..., int]


class Duration(click.ParamType[float]):
    """Seconds from `30s`, `5min`, `2h`, in the words of the configuration file."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        from failover.config_schema import duration

        try:
            seconds = duration(value)
        except ValueError as error:
            self.fail(f"{value}: {error}", param, ctx)
        if seconds <= 0:
            self.fail(f"{value}: must be more than nothing", param, ctx)
        return seconds


@dataclass(frozen=True)
class Given:
    """The common options as typed before or after the command; None where nothing was said."""

    config: Path | None = None
    cluster: str | None = None
    output: str | None = None
    timeout_s: float | None = None
    color: str | None = None

    def over(self, other: Given) -> Given:
        """What was said here, else what was said there."""
        return Given(
            self.config or other.config, self.cluster or other.cluster, self.output or other.output,
            self.timeout_s or other.timeout_s, self.color or other.color,
        )  # fmt: skip


@dataclass(frozen=True)
class Scope:
    """Where to look, how long to wait, how to answer."""

    config: Path | None
    cluster: str | None
    json: bool
    timeout_s: float
    color: bool


@dataclass(frozen=True)
class Manner:
    """How a write is to be made."""

    dry_run: bool
    yes: bool
    reason: str
    wait: bool
    expect_primary: str | None


def common_options(command: Callable[..., object]) -> Callable[..., object]:
    """The options themselves, for the group and for every command."""
    for option in reversed((
        click.option("--config", type=_FILE, help="Default: $FAILOVER_CONFIG, or /etc/failover/failover.yml."),
        click.option("-C", "--cluster", help="Which cluster; needed if the file has several."),
        click.option("-o", "--output", type=click.Choice(["table", "json"]), help="Default: table."),
        click.option("--timeout", "timeout_s", type=Duration(), help="How long to wait. Default: 30s."),
        click.option("--color", type=click.Choice(["auto", "always", "never"]), help="Default: auto; NO_COLOR is respected."),
    )):  # fmt: skip
        command = option(command)
    return command


def common(command: Command) -> Command:
    """Give `command` the common options as its first argument, a `Scope`."""

    @functools.wraps(command)
    def wrapped(
        config: Path | None, cluster: str | None, output: str | None, timeout_s: float | None, color: str | None, **rest: object
    ) -> int:  # fmt: skip
        context = click.get_current_context()
        scope = scope_of(Given(config, cluster, output, timeout_s, color).over(context.find_object(Given) or Given()))
        context.color = scope.color  # else click takes colours out where nobody looks, also when they were asked for
        return command(scope, **rest)

    return common_options(wrapped)  # type: ignore[return-value]  # click decorators keep the function


def scope_of(given: Given) -> Scope:
    colored = sys.stdout.isatty() and not os.environ.get("NO_COLOR") if given.color in (None, "auto") else given.color == "always"
    return Scope(given.config, given.cluster, given.output == "json", given.timeout_s or TIMEOUT_S, colored)


def writing(command: Command) -> Command:
    """Give `command` the options of every write as its second argument, a `Manner`."""

    @functools.wraps(command)
    def wrapped(
        scope: Scope, dry_run: bool, yes: bool, reason: str, wait: bool, expect_primary: str | None, **rest: object
    ) -> int:  # fmt: skip
        return command(scope, Manner(dry_run, yes, reason, wait, expect_primary), **rest)

    made: Callable[..., object] = wrapped
    for option in reversed((
        click.option("--dry-run", is_flag=True, help="Say what would come of it, change nothing."),
        click.option("--yes", is_flag=True, help="Do not ask first."),
        click.option("--reason", default="", metavar="TEXT", help="Kept in the journal with your name."),
        click.option("--wait/--no-wait", default=True, help="Wait until it is done (default) or only until it is accepted."),
        click.option("--expect-primary", metavar="NAME", help="Refuse if another member is primary by now."),
    )):  # fmt: skip
        made = option(made)
    return common(made)  # type: ignore[arg-type]  # click decorators keep the function


def say(text: str) -> None:
    """One line of progress, on standard error: standard output is for the answer alone."""
    click.echo(text, err=True)


class Suggesting(click.Group):
    """A group that knows what was probably meant."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:  # fmt: skip
        name = args[0] if args else ""
        if name and not name.startswith("-") and self.get_command(ctx, name) is None:
            near = difflib.get_close_matches(name, self.list_commands(ctx), n=1, cutoff=0.5)
            known = ", ".join(self.list_commands(ctx))
            ctx.fail(
                f"no command {name!r}; " + (f"did you mean `{ctx.command_path} {near[0]}`?" if near else f"there are: {known}")
            )
        return super().resolve_command(ctx, args)
