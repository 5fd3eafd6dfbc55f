"""The commands that ask for something: adopt, switchover, failover, pause, resume, maintenance."""

from __future__ import annotations

import click

from failover.cli.options import Duration, Manner, Scope, Suggesting, writing
from failover.cli.performing import perform


@click.command()
@click.option("--confirm", is_flag=True, help="Adopt a database that has failed over before, of which there is no record here.")
@writing
def adopt(scope: Scope, manner: Manner, confirm: bool) -> int:
    """Hand a running cluster to the controllers: the present primary gets the first grant. No restart, no interruption."""
    return perform(scope, manner, "adopt", confirm=confirm)


@click.command()
@click.option("--to", "target", metavar="MEMBER", help="Default: the best standby.")
@writing
def switchover(scope: Scope, manner: Manner, target: str | None) -> int:
    """Move the primary, planned. Nothing is lost: it succeeds, or writes are given back to the old primary."""
    return perform(scope, manner, "switchover", target=target)


@click.command()
@click.option("--to", "target", metavar="MEMBER", help="Default: the best standby.")
@writing
def failover(scope: Scope, manner: Manner, target: str | None) -> int:
    """Take over now, without waiting for votes. The primary is fenced first; without proof of that nothing is promoted.

    A healthy primary is stopped at once: what its standbys have not received waits for nobody. Use switchover if you can.
    """
    return perform(scope, manner, "failover", target=target)


@click.command()
@click.option("--for", "for_s", type=Duration(), default=3600.0, show_default="1h", help="The pause ends by itself.")
@writing
def pause(scope: Scope, manner: Manner, for_s: float) -> int:
    """No automatic action for a while; the lease is suspended, so that even ZooKeeper may be restarted. It always ends."""
    return perform(scope, manner, "pause", for_s=for_s)


@click.command()
@writing
def resume(scope: Scope, manner: Manner) -> int:
    """End the pause now."""
    return perform(scope, manner, "resume")


@click.group(cls=Suggesting)
def maintenance() -> None:
    """Set one member aside: neither candidate nor trigger."""


@maintenance.command()
@click.argument("member")
@click.option("--for", "for_s", type=Duration(), default=3600.0, show_default="1h", help="It ends by itself.")
@writing
def on(scope: Scope, manner: Manner, member: str, for_s: float) -> int:
    """Set MEMBER aside for a while."""
    return perform(scope, manner, "maintenance-on", target=member, for_s=for_s)


@maintenance.command()
@click.argument("member")
@writing
def off(scope: Scope, manner: Manner, member: str) -> int:
    """Take MEMBER back."""
    return perform(scope, manner, "maintenance-off", target=member)
