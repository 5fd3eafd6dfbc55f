"""`plan --if-dies`: the leader's own judgement about a death that has not happened."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from failover.cli import options
from failover.cli.options import Scope, common

if TYPE_CHECKING:
    from failover.cli.reading import Look, View
    from failover.core.hypothesis import Hypothesis, Rank


@click.command()
@click.option("--if-dies", "member", metavar="MEMBER", help="Default: the primary.")
@common
def plan(scope: Scope, member: str | None) -> int:
    """What would happen if MEMBER died now: verdict, ranking with reasons, steps, blockers, what is at risk.

    Exit code 0: it would fail over, or need not; 10: it would hold, not act, or writes would block.
    """
    from failover.cli.printing import emit_json
    from failover.cli.reading import opened
    from failover.core.hypothesis import if_dies
    from failover.errors import Refused

    with opened(scope) as view:
        look = view.watch()
        grant = look.seen.grant.value if look.seen.grant else None
        asked = member or (grant.member if grant else None) or view.rules.members[0].name
        if view.rules.member(asked) is None:
            raise Refused(f"no member {asked}; there are: {', '.join(m.name for m in view.rules.members)}")
        found = if_dies(look.seen, view.rules, asked, cooldown_left_s(view, look, scope.timeout_s))
    if scope.json:
        document = asdict(found)
        document["steps"] = [{"step": step, "says": says} for step, says in found.steps]
        emit_json({"cluster": view.cluster.name, **document})
    else:
        _show(found, scope.color)
    return options.DONE if found.verdict in ("failover", "nothing") else options.PROBLEMS


def cooldown_left_s(view: View, look: Look, deadline_s: float) -> float | None:
    """An estimate by wall clocks, for people: the leader counts on its own clock. None if no failover was ever."""
    from failover.cli.asking import wall_s
    from failover.clock import wall_text

    last = look.seen.policy.value.last_failover if look.seen.policy else None
    steps = view.ledger.journal(last, deadline_s) if last else ()
    if not steps:
        return None
    since_s = wall_s(wall_text()) - wall_s(steps[-1].at_wall)
    return max(view.rules.cooldown_s - since_s, 0.0)


def _why(rank: Rank) -> str:
    if rank.chosen:
        return "chosen"
    return rank.why or "fit, and nobody is promoted all the same"


def _show(found: Hypothesis, color: bool) -> None:
    from failover.cli.printing import bold, lag, table

    click.echo(bold(found.says, color))
    if found.at_risk:
        click.echo(f"at risk: {found.at_risk}")
    for blocker in found.blockers:
        click.echo(f"BLOCK  {blocker}")
    if found.ranking:
        rows = [
            ("*" if r.chosen else "", r.member, lag(r.lag, r.lag_unit), (r.position or "-").partition(" ")[0], _why(r))
            for r in found.ranking
        ]
        click.echo("\n" + table(("", "MEMBER", "BEHIND", "POSITION", "WHY"), rows))
    if found.steps:
        click.echo("")
    for number, (step, says) in enumerate(found.steps, start=1):
        click.echo(f"{number:3d} {step:<8} {says}")
    for note in found.notes:
        click.echo(f"note: {note}")
