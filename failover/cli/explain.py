"""`explain`: what the leader judges right now, guard by guard with the facts it saw, and the latest doubt it had."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from failover.cli import options
from failover.cli.options import Scope, common

if TYPE_CHECKING:
    from failover.cli.reading import Look, View
    from failover.core.model import Decision, Operation
    from failover.core.plan import Guard


@dataclass(frozen=True)
class Account:
    """What `explain` tells. `leads`: who leads, None if nobody does; then `decision` was made here, from what is in view."""

    cluster: str
    leads: str | None
    decision: Decision
    operation: Operation | None
    age_s: float | None


@click.command()
@common
def explain(scope: Scope) -> int:
    """What the leader judges right now, each guard PASS, BLOCK or UNKNOWN with the facts it saw; and its latest doubt.

    Exit code 0: nothing is wrong, or it is being dealt with; 10: something is held, or an action is blocked.
    """
    from failover.cli.printing import emit_json
    from failover.cli.reading import opened
    from failover.errors import Unreachable

    with opened(scope) as view:
        look = view.look()
        if look.leader is None:
            look = view.watch()
        if look.seen.term is None:
            raise Unreachable(f"no controller (failoverd) has ever run for cluster {view.cluster.name}: nobody has judged")
        told = account(view, look)
    if scope.json:
        emit_json(_document(told))
    else:
        _show(told, scope.color)
    return options.PROBLEMS if blocked(told) else options.DONE


def account(view: View, look: Look) -> Account:
    """The leader's own record; without a leader (or before its first word), the same judgement made here."""
    from failover.cli.asking import wall_s
    from failover.clock import wall_text
    from failover.core.plan import Kind

    doing = look.seen.operation.value if look.seen.operation else None
    stored = view.records().one(Kind.DECISION)
    recorded: Decision | None = stored.value if stored else None
    if look.leader is not None and recorded is not None and recorded.controller == look.leader:
        age_s = max(wall_s(wall_text()) - wall_s(recorded.at_wall), 0.0)
        return Account(view.cluster.name, look.leader, recorded, doing, age_s)
    return Account(view.cluster.name, look.leader, _judged_here(view, look, recorded), doing, None)


def _judged_here(view: View, look: Look, recorded: Decision | None) -> Decision:
    from failover.core.decide import decide
    from failover.core.invariants import Violated
    from failover.core.model import Decision
    from failover.core.plan import Guard, Verdict

    term = look.seen.term.value if look.seen.term else 0
    doubt = recorded.doubt if recorded else None
    try:
        plan = decide(look.seen, view.rules)
    except Violated as violated:
        guards = (Guard("invariants", Verdict.BLOCK, str(violated)),)
        return Decision("failoverctl", term, f"invariant violated, hands off: {violated}", guards, look.seen.wall, doubt)
    return Decision("failoverctl", term, plan.says, plan.guards, look.seen.wall, doubt)


def blocked(told: Account) -> bool:
    """Does a person have something to look at? A healthy cluster's guards block as well: nobody says that it is lost."""
    from failover.core.plan import Verdict

    passed = {guard.name for guard in told.decision.guards if guard.verdict is Verdict.PASS}
    against = {guard.name for guard in told.decision.guards if guard.verdict is Verdict.BLOCK}
    if told.operation is not None:
        return bool(told.operation.held)
    return bool(against and passed & {"quorum of controllers", "receipt"}) or bool(against & {"receipt", "invariants"})


# --- how it looks ---------------------------------------------------------------------------------------------------------
def _document(told: Account) -> dict[str, object]:
    doing, decision = told.operation, told.decision
    return {
        "cluster": told.cluster,
        "leader": told.leads,
        "judged_by": decision.controller,
        "term": decision.term,
        "says": decision.says,
        "at": decision.at_wall,
        "age_s": None if told.age_s is None else round(told.age_s, 1),
        "guards": _guards(decision.guards),
        "operation": {
            "id": doing.id, "kind": doing.kind.value, "phase": doing.phase, "held": doing.held, "old": doing.old,
            "fenced_by": doing.fenced_by,
        } if doing else None,
        "doubt": {
            "says": decision.doubt.says, "at": decision.doubt.at_wall, "controller": decision.doubt.controller,
            "guards": _guards(decision.doubt.guards),
        } if decision.doubt else None,
        "blocked": blocked(told),
    }  # fmt: skip


def _guards(guards: tuple[Guard, ...]) -> list[dict[str, str]]:
    return [{"name": guard.name, "verdict": guard.verdict.value, "facts": guard.facts} for guard in guards]


def _show(told: Account, color: bool) -> None:
    from failover.cli.journal import local_time
    from failover.cli.printing import bold, paint, span, wrapped

    decision, doing = told.decision, told.operation
    if told.leads is None:
        text = "no controller leads, so nobody acts. What follows was judged here, from the records in view"
        click.echo(paint(text, "yellow", color))
    elif told.age_s is None:
        click.echo(paint(f"{told.leads} leads and has not said anything yet. What follows was judged here", "yellow", color))
    else:
        click.echo(f"{told.leads} leads (term {decision.term}) and said this {span(told.age_s)} ago:")
    if doing is not None:
        says = decision.says or "waiting"
        click.echo(bold(f"{doing.kind.value} {doing.id} of {doing.old}, phase {doing.phase}: {wrapped(says, 0)}", color))
        if doing.held:
            why = doing.held.partition(". ")[0] if decision.guards else doing.held  # the guards below say the rest
            click.echo(paint(f"HELD: {wrapped(why, 6)}", "red", color))
    else:
        click.echo(bold(decision.says or "all is well: nothing to do", color))
    if decision.guards:
        what = "one PASS is enough to go on" if doing else "all must PASS before a failover"
        click.echo(f"\nguards ({what}):")
    _show_guards(decision.guards, color)
    for line in _next(told):
        click.echo(f"next: {line}")
    doubt = decision.doubt
    if doubt is not None and doubt.at_wall != decision.at_wall:
        click.echo(f"\nlatest doubt, {local_time(doubt.at_wall)} ({doubt.controller}): {wrapped(doubt.says, 2)}")
        _show_guards(doubt.guards, color)


def _show_guards(guards: tuple[Guard, ...], color: bool) -> None:
    from failover.cli.printing import paint, wrapped

    width = max((len(guard.name) for guard in guards), default=0)
    shades = {"PASS": "green", "BLOCK": "yellow", "UNKNOWN": "cyan"}  # a healthy cluster's guards block: no alarm
    for guard in guards:
        verdict = paint(guard.verdict.value.ljust(7), shades[guard.verdict.value], color)
        click.echo(f"{verdict}  {guard.name.ljust(width)}  {wrapped(guard.facts, 11 + width)}")


def _next(told: Account) -> list[str]:
    doing = told.operation
    if doing is not None and doing.held:
        from failover.core.problems import held_next

        return [command for command in held_next(doing) if command != "failoverctl explain"]
    if told.leads is None:
        return ["systemctl status failoverd on the controller hosts"]
    return ["`failoverctl status`"] if blocked(told) else []
