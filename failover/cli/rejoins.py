"""How rejoins went: which way, what was discarded for them, and where it was saved. Read only."""

from __future__ import annotations

import click

from failover.cli import options
from failover.cli.journal import local_time
from failover.cli.options import Scope
from failover.cli.printing import emit_json, table, wrapped
from failover.cli.reading import opened
from failover.core.model import Rejoin


def show(scope: Scope, verbose: bool) -> int:
    """`failoverctl rejoin` without a member."""
    with opened(scope) as view:
        seen = view.look().seen
        found = [stored.value for _, stored in sorted(seen.rejoins.items())]
        policy = seen.policy.value if seen.policy else None
    if scope.json:
        emit_json({
            "cluster": view.cluster.name, "rejoins": [document(record) for record in found],
            "fenced": list(policy.fenced) if policy else [],
            "orders": [{"member": o.member, "way": o.way.value, "by": o.by} for o in policy.rejoin] if policy else [],
        })  # fmt: skip
        return options.DONE
    for name in policy.fenced if policy else ():
        click.echo(f"{name} is fenced by hand; next: `failoverctl rejoin {name}`")
    for order in policy.rejoin if policy else ():
        click.echo(f"{order.member} may {order.way.value}, ordered by {order.by}")
    _show_records(found, verbose)
    return options.DONE


def _show_records(found: list[Rejoin], verbose: bool) -> None:
    if not found:
        click.echo("every member could simply follow: nothing was rewound or copied, nothing was discarded")
        return
    rows = [
        (r.member, r.way.value, r.state, str(r.discarded_commits), local_time(r.at_wall), _tables(r))
        for r in found
    ]  # fmt: skip
    click.echo(table(("MEMBER", "WAY", "STATE", "DISCARDED", "WHEN", "ROWS IN"), rows))
    for record in found:
        if record.says:
            click.echo(f"{record.member}: {wrapped(record.says, len(record.member) + 2)}")
        if record.saved:
            click.echo(f"{record.member}: what it had is saved on its host, in {record.saved}")
        if verbose:
            for commit in record.discarded:
                click.echo(f"  {commit}")
            more = record.discarded_commits - len(record.discarded)
            if more > 0:
                click.echo(f"  and {more} more, newer ones, in that folder")
    if not verbose and any(record.discarded for record in found):
        click.echo("each discarded commit: `failoverctl rejoin -v`")


def _tables(record: Rejoin) -> str:
    return ", ".join(f"{name} {rows}" for name, rows in record.tables) or "-"


def document(record: Rejoin) -> dict[str, object]:
    """One rejoin as `-o json` tells it, here and in `status`."""
    return {
        "member": record.member, "way": record.way.value, "state": record.state, "epoch": record.epoch,
        "discarded_commits": record.discarded_commits, "discarded": list(record.discarded),
        "tables": [{"table": name, "rows": rows} for name, rows in record.tables], "saved": record.saved,
        "diverged_at": record.diverged_at, "end": record.end, "says": record.says, "at": record.at_wall,
    }  # fmt: skip
