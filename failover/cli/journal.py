"""`history` and `timeline`: what the journal tells, by the wall clocks of the controllers that wrote it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from failover.cli import options
from failover.cli.options import Scope, common

if TYPE_CHECKING:
    from failover.core.model import Step


@dataclass(frozen=True)
class Story:
    """One operation as its journal tells it. `result`: done, undone, failed, held or running; `took_s` up to the last line."""

    id: str
    kind: str
    old: str
    new: str | None
    reason: str
    requester: str
    started_at: str
    result: str
    took_s: float

    def document(self) -> dict[str, object]:
        return {
            "id": self.id, "kind": self.kind, "old": self.old, "new": self.new, "reason": self.reason,
            "requester": self.requester, "started_at": self.started_at, "result": self.result, "took_s": self.took_s,
        }  # fmt: skip


def story(operation: str, steps: tuple[Step, ...]) -> Story:
    """Read one operation's lines."""
    from failover.cli.asking import ending_of, wall_s

    if not steps:
        return Story(operation, "operation", "", None, "", "", "", "running", 0.0)
    head, facts = steps[0], dict(steps[0].facts)
    kind, _, reason = head.says.partition(": ")
    if any("became" in dict(step.facts) for step in steps):
        kind = f"{kind}, then failover"
    if reason == f"asked for by {facts.get('requester', '')}":
        reason = ""  # nobody gave one, and the requester is told beside it
    granted = [dict(step.facts).get("member") for step in steps if step.name == "grant.done"]
    held = steps[-1].kind == "held"
    result = ending_of(steps) or ("held" if held else "running")
    took_s = round(max(wall_s(steps[-1].at_wall) - wall_s(head.at_wall), 0.0), 3)
    new = granted[-1] if granted else None
    return Story(operation, kind, facts.get("old", ""), new, reason, facts.get("requester", ""), head.at_wall, result, took_s)


@click.command()
@click.option("-n", "--last", type=click.IntRange(1), default=20, show_default=True, help="How many, the newest.")
@common
def history(scope: Scope, last: int) -> int:
    """Every operation, oldest first: from, to, why, by whom, result and duration."""
    from failover.cli.printing import emit_json, span, table
    from failover.cli.reading import opened

    with opened(scope) as view:
        names = view.ledger.operations(scope.timeout_s)[-last:]
        stories = [story(name, view.ledger.journal(name, scope.timeout_s)) for name in names]
    if scope.json:
        emit_json({"cluster": view.cluster.name, "operations": [told.document() for told in stories]})
    elif not stories:
        click.echo("no operation yet")
    else:
        rows = [
            (
                s.id,
                s.kind,
                s.old if s.kind == "fence" else f"{s.old} -> {s.new or '-'}",
                s.result,
                span(s.took_s),
                local_time(s.started_at),
                s.requester,
                s.reason,
            )
            for s in stories
        ]
        click.echo(table(("OPERATION", "KIND", "FROM -> TO", "RESULT", "TOOK", "STARTED", "BY", "REASON"), rows))
    return options.DONE


@click.command()
@click.argument("operation", required=False)
@common
def timeline(scope: Scope, operation: str | None) -> int:
    """One OPERATION step by step: offset in ms, who led, what was known. Without a name: the latest."""
    from failover.cli.reading import opened
    from failover.errors import Refused

    with opened(scope) as view:
        names = view.ledger.operations(scope.timeout_s)
        if not names:
            click.echo("no operation yet", err=True)
            return options.REFUSED
        chosen = operation or names[-1]
        if chosen not in names:
            raise Refused(f"no operation {chosen}; there are: {', '.join(names[-10:])}")
        steps = view.ledger.journal(chosen, scope.timeout_s)
    _show(scope, story(chosen, steps), steps)
    return options.DONE


def _show(scope: Scope, told: Story, steps: tuple[Step, ...]) -> None:
    from failover.cli.asking import wall_s
    from failover.cli.printing import emit_json, span

    start_s = wall_s(told.started_at)
    offsets = [round((wall_s(step.at_wall) - start_s) * 1000) for step in steps]
    if scope.json:
        lines = [
            {
                "at_ms": at, "number": step.number, "name": step.name, "kind": step.kind, "controller": step.controller,
                "term": step.term, "says": step.says, "facts": dict(step.facts), "at": step.at_wall,
            }
            for at, step in zip(offsets, steps, strict=True)
        ]  # fmt: skip
        emit_json({**told.document(), "steps": lines})
        return
    moved = told.old if told.kind == "fence" else f"{told.old} -> {told.new or '-'}"
    click.echo(f"{told.id}: {told.kind} {moved}, {told.result} after {span(told.took_s)}")
    click.echo(f"by {told.requester}{': ' + told.reason if told.reason else ''}; {local_time(told.started_at)}")
    for at, step in zip(offsets, steps, strict=True):
        click.echo(f"{at:8d} ms  {step.controller}/{step.term}  {step.name:<16} {step.says}")
        for name, value in step.facts:
            click.echo(f"{'':13}{name}: {value}")


def local_time(text: str) -> str:
    """A record's UTC time as this host's clock on the wall shows it, with its offset."""
    from datetime import datetime

    try:
        return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
    except ValueError:
        return text or "-"
