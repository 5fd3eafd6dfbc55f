"""The commands for when something is wrong: fence, confirm-fenced, cancel, ack, rejoin."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from failover.cli import options, performing
from failover.cli.options import Manner, Scope, say, writing
from failover.cli.performing import judged, perform

if TYPE_CHECKING:
    from failover.cli.reading import View
    from failover.core.model import Request


@click.command()
@click.argument("member")
@writing
def fence(scope: Scope, manner: Manner, member: str) -> int:
    """Take MEMBER down, with proof, and keep it down until `failoverctl rejoin MEMBER`. Not for the primary: see failover."""
    return perform(scope, manner, "fence", target=member)


@click.command()
@click.argument("operation", required=False)
@writing
def cancel(scope: Scope, manner: Manner, operation: str | None) -> int:
    """Give up what is under way (OPERATION, if its name is given), as long as that is safe: before the old primary is claimed."""
    return perform(scope, manner, "cancel", target=operation)


@click.command()
@click.argument("operation", required=False)
@writing
def ack(scope: Scope, manner: Manner, operation: str | None) -> int:
    """End the cool-down after the last failover (OPERATION, if its name is given): the next one may begin by itself again.

    For when you have seen why it happened: the cool-down is there so that a fault that moves with the primary takes one only.
    """
    return perform(scope, manner, "ack", target=operation)


# --- confirm-fenced -----------------------------------------------------------------------------------------------------------
@click.command("confirm-fenced")
@click.argument("member")
@click.option("--typed", metavar="MEMBER", help="The host's name once more, where nobody can be asked; needs --yes too.")
@writing
def confirm_fenced(scope: Scope, manner: Manner, member: str, typed: str | None) -> int:
    """Swear that MEMBER cannot write, so that a failover without proof goes on. --reason is needed; --yes alone is not enough.

    Only after you have powered MEMBER off or unplugged its network. If it can still write, data will be lost.
    """
    if not manner.dry_run:
        if typed is not None and typed != member:
            say(f"refused: --typed {typed} is not {member}")
            say("nothing was done")
            return options.REFUSED
        if not performing.is_terminal() and not (typed and manner.yes):
            raise click.UsageError(f"--yes alone is not enough, and nobody is there to type the name: add --typed {member} --yes")
        if not manner.reason:
            raise click.UsageError('say how you know: --reason "power cable pulled by ...", it is kept in the journal')

    def sworn(view: View, request: Request) -> bool:
        return bool(typed and manner.yes) or _swears(view, request)

    return perform(scope, manner, "confirm-fenced", sworn, target=member, confirm=True)


def _swears(view: View, request: Request) -> bool:
    """Show what would come of it and what is sworn, then have the name typed."""
    answer, would = judged(view.watch(), view, request)
    for reason in answer.reasons:
        say(f"would be refused: {reason}")
    if not answer.accepted:
        return False
    name = request.target or ""
    say(would)
    say("")
    say("By typing the name of the host you swear:")
    say(f"  I have made sure that {name} cannot write: it is powered off, or its network is unplugged.")
    say(f"If it can, two databases take writes, and data will be lost. --reason: {request.reason}")
    try:
        given: str = click.prompt("Name of the host", default="", show_default=False, err=True)
    except click.exceptions.Abort:  # Ctrl-C or Ctrl-D
        say("\nnothing was done")
        raise
    if given.strip() != name:
        say(f"that is not {name}")
    return given.strip() == name


# --- rejoin -------------------------------------------------------------------------------------------------------------------
@click.command()
@click.argument("member", required=False)
@click.option("--reseed", is_flag=True, help="A new copy of the primary, beside the old data, instead of a rewind.")
@click.option("-v", "--verbose", is_flag=True, help="Without MEMBER: every commit that was discarded.")
@writing
def rejoin(scope: Scope, manner: Manner, member: str | None, reseed: bool, verbose: bool) -> int:
    """Bring MEMBER back: it is no longer fenced, and may be rewound (or copied anew). Without MEMBER: how rejoins went.

    What only MEMBER has is saved on its host before it is given up.
    """
    from failover.cli.rejoins import show
    from failover.core.model import RejoinWay

    if member is None:
        if reseed:
            raise click.UsageError("which member? `failoverctl rejoin MEMBER --reseed`")
        return show(scope, verbose)
    return perform(scope, manner, "rejoin", target=member, way=RejoinWay.RESEED if reseed else RejoinWay.REWIND)
