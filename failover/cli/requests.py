"""The commands that ask for something: adopt, switchover, failover, pause, resume, maintenance."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from failover.cli import options
from failover.cli.options import Duration, Manner, Scope, Suggesting, say, writing

if TYPE_CHECKING:
    from failover.cli.asking import Ending
    from failover.cli.reading import Look, View
    from failover.core.model import Answer, Request


UNTIMED_S = 3.0  # a guardian confirms a pause within its renewal period


@click.command()
@click.option("--confirm", is_flag=True, help="Adopt a database that has failed over before, of which there is no record here.")
@writing
def adopt(scope: Scope, manner: Manner, confirm: bool) -> int:
    """Hand a running cluster to the controllers: the present primary gets the first grant. No restart, no interruption."""
    return _perform(scope, manner, "adopt", confirm=confirm)


@click.command()
@click.option("--to", "target", metavar="MEMBER", help="Default: the best standby.")
@writing
def switchover(scope: Scope, manner: Manner, target: str | None) -> int:
    """Move the primary, planned. Nothing is lost: it succeeds, or writes are given back to the old primary."""
    return _perform(scope, manner, "switchover", target=target)


@click.command()
@click.option("--to", "target", metavar="MEMBER", help="Default: the best standby.")
@writing
def failover(scope: Scope, manner: Manner, target: str | None) -> int:
    """Take over now, without waiting for votes. The primary is fenced first; without proof of that nothing is promoted.

    A healthy primary is stopped at once: what its standbys have not received waits for nobody. Use switchover if you can.
    """
    return _perform(scope, manner, "failover", target=target)


@click.command()
@click.option("--for", "for_s", type=Duration(), default=3600.0, show_default="1h", help="The pause ends by itself.")
@writing
def pause(scope: Scope, manner: Manner, for_s: float) -> int:
    """No automatic action for a while; the lease is suspended, so that even ZooKeeper may be restarted. It always ends."""
    return _perform(scope, manner, "pause", for_s=for_s)


@click.command()
@writing
def resume(scope: Scope, manner: Manner) -> int:
    """End the pause now."""
    return _perform(scope, manner, "resume")


@click.group(cls=Suggesting)
def maintenance() -> None:
    """Set one member aside: neither candidate nor trigger."""


@maintenance.command()
@click.argument("member")
@click.option("--for", "for_s", type=Duration(), default=3600.0, show_default="1h", help="It ends by itself.")
@writing
def on(scope: Scope, manner: Manner, member: str, for_s: float) -> int:
    """Set MEMBER aside for a while."""
    return _perform(scope, manner, "maintenance-on", target=member, for_s=for_s)


@maintenance.command()
@click.argument("member")
@writing
def off(scope: Scope, manner: Manner, member: str) -> int:
    """Take MEMBER back."""
    return _perform(scope, manner, "maintenance-off", target=member)


# --- one path for all of them -----------------------------------------------------------------------------------------------
def _perform(scope: Scope, manner: Manner, kind: str, **fields: object) -> int:
    if not (manner.yes or manner.dry_run or _is_terminal()):
        raise click.UsageError("nobody is there to ask (no terminal): say --yes, or --dry-run to see what would be done")
    from failover.cli.asking import ask, new_request
    from failover.cli.reading import opened
    from failover.core.model import RequestKind

    with opened(scope) as view:
        request = new_request(RequestKind(kind), reason=manner.reason, expect_primary=manner.expect_primary, **fields)
        if manner.dry_run:
            return _rehearse(scope, view, request)
        if not manner.yes and not _confirmed(view, request):
            say("nothing was done")
            return options.REFUSED
        from failover.clock import boottime_s

        end_s = boottime_s() + scope.timeout_s
        if kind == "adopt" and manner.wait:
            _until_reported(view, end_s - scope.timeout_s / 2)
        answer = ask(view, request, end_s - boottime_s())
        if not answer.accepted:
            return _refused(scope, view, request, answer)
        return _carried_out(scope, manner, view, request, answer, end_s)


def _is_terminal() -> bool:
    return sys.stdin.isatty()


def _judged(look: Look, view: View, request: Request) -> tuple[Answer, str]:
    """What the leader would answer, by the leader's own function, on what is in view here; and what would be opened."""
    from failover.core.model import Answer, Operation
    from failover.core.plan import Create
    from failover.core.requests import judge
    from failover.errors import Unreachable

    if look.seen.term is None:
        raise Unreachable(f"no controller (failoverd) has ever run for cluster {view.cluster.name}: nobody would answer")
    plan = judge(look.seen, view.rules, look.seen.term, request)
    created = [write.value for write in plan.writes if isinstance(write, Create)]
    answer = next(value for value in created if isinstance(value, Answer))
    operation = next((value for value in created if isinstance(value, Operation)), None)
    return answer, _would(request, look, operation.target if operation else None)


def _would(request: Request, look: Look, target: str | None) -> str:
    from failover.cli.printing import span

    primary = look.seen.grant.value.member if look.seen.grant else None
    kind = request.kind.value
    if kind in ("switchover", "failover"):
        to = target or request.target or ("the best standby once the primary is fenced" if kind == "failover" else "nobody")
        return f"{kind}: {primary or 'nobody'} -> {to}"
    if kind == "adopt":
        found = [n for n, s in sorted(look.seen.members.items()) if s.value.role.value == "primary"]
        return f"adopt: {', '.join(found) or 'nobody'} gets the first grant"
    if kind == "pause":
        return f"pause: no automatic action for {span(request.for_s)}"
    if kind == "maintenance-on":
        return f"maintenance: {request.target} is set aside for {span(request.for_s)}"
    return f"{kind} {request.target or ''}".rstrip()


def _rehearse(scope: Scope, view: View, request: Request) -> int:
    from failover.cli.printing import emit_json

    look = view.watch()
    answer, would = _judged(look, view, request)
    if look.leader is None:
        say("no controller leads now: nobody would answer")
    if scope.json:
        emit_json({**_document(request, answer), "dry_run": True, "would": would})
    else:
        click.echo(f"would be {'done' if answer.accepted else 'refused'}: {would}")
        for reason in answer.reasons:
            click.echo(f"  - {reason}")
    return options.DONE if answer.accepted else _refusal_code(view, request)


def _confirmed(view: View, request: Request) -> bool:
    """Show what would come of it, then ask once."""
    answer, would = _judged(view.watch(), view, request)
    say(would)
    for reason in answer.reasons:
        say(f"  would be refused: {reason}")
    try:
        return click.confirm("Go on?", default=False, err=True)
    except click.exceptions.Abort:  # Ctrl-C or Ctrl-D
        say("\nnothing was done")
        raise


def _refused(scope: Scope, view: View, request: Request, answer: Answer) -> int:
    from failover.cli.printing import emit_json

    for reason in answer.reasons:
        say(f"refused: {reason}")
    if not answer.reasons:
        say("refused, without a reason")
    say("nothing was changed; `failoverctl status` shows what is")
    if scope.json:
        emit_json({**_document(request, answer), "result": "refused"})
    return _refusal_code(view, request)


def _refusal_code(view: View, request: Request) -> int:
    """Refused because the world is another one than the asker thought, or because a rule says no."""
    from failover.core.plan import Kind

    records = view.records()
    grant = records.one(Kind.GRANT)
    primary = grant.value.member if grant else None
    opens = request.kind.value in ("switchover", "failover")
    if (request.expect_primary and request.expect_primary != primary) or (opens and records.one(Kind.OPERATION)):
        return options.CONFLICT
    return options.REFUSED


def _carried_out(scope: Scope, manner: Manner, view: View, request: Request, answer: Answer, end_s: float) -> int:
    from failover.cli.asking import follow

    if answer.operation and manner.wait:
        say(f"accepted by {answer.by}: {answer.operation}")
        try:
            ending = follow(view, answer.operation, end_s)
        except KeyboardInterrupt:
            say(f"\n{answer.operation} goes on without you; `failoverctl timeline {answer.operation}`")
            raise
        return _ended(scope, request, answer, ending)
    guarded = None
    if request.kind.value == "adopt" and manner.wait:
        guarded = _until_guarded(view, end_s)
    if request.kind.value == "pause" and manner.wait:
        _until_untimed(view, end_s)
    return _accepted(scope, request, answer, guarded, manner.wait)


def _accepted(scope: Scope, request: Request, answer: Answer, guarded: str | None, waited: bool) -> int:
    from failover.cli.printing import emit_json

    late = request.kind.value == "adopt" and waited and guarded is None
    result = "accepted" if late or answer.operation else "done"
    if scope.json:
        emit_json({**_document(request, answer), "result": result, "primary": guarded})
    elif answer.operation:
        click.echo(f"accepted: {answer.operation}; `failoverctl timeline {answer.operation}` shows it")
    elif guarded:
        click.echo(f"adopted: {guarded} is primary under its own proof")
    else:
        click.echo(
            f"{request.kind.value}: done, says {answer.by}" if not late else "adopted; the primary's guardian has no proof yet"
        )
    if late:
        say("next: `failoverctl status` says what the primary's guardian waits for")
    return options.LATE if late else options.DONE


def _until_reported(view: View, end_s: float) -> None:
    """Daemons that were started a moment ago may not have spoken yet: adoption needs a word of every guardian."""
    from failover.clock import boottime_s

    told = False
    while True:
        view.mirror.changed.clear()
        missing = [m.name for m in view.rules.members if m.name not in view.look().seen.members]
        left_s = end_s - boottime_s()
        if not missing or left_s <= 0:
            return
        if not told:
            say(f"waiting for the first word of the guardian of {', '.join(missing)}")
            told = True
        view.mirror.changed.wait(min(left_s, 0.25))


def _until_guarded(view: View, end_s: float) -> str | None:
    """Wait until the adopted primary takes writes under its grant; its name, or None if it took too long."""
    from failover.clock import boottime_s

    told = False
    start_s = boottime_s()
    while True:
        view.mirror.changed.clear()
        seen = view.look().seen
        grant = seen.grant.value if seen.grant else None
        stored = seen.members.get(grant.member or "") if grant else None
        if grant and stored and stored.value.writable and stored.value.epoch == grant.epoch:
            return grant.member
        left_s = end_s - boottime_s()
        if left_s <= 0:
            return None
        if not told and boottime_s() - start_s > 2.0:
            say(f"adopted; waiting for the guardian of {grant.member if grant else 'the primary'} to prove its grant")
            told = True
        view.mirror.changed.wait(min(left_s, 0.25))


def _until_untimed(view: View, end_s: float) -> None:
    """A pause is there when the primary's guardian holds a ticket without an end; before that, its lease still counts."""
    from failover.clock import boottime_s

    end_s = min(end_s, boottime_s() + UNTIMED_S)
    while boottime_s() < end_s:
        view.mirror.changed.clear()
        seen = view.look().seen
        primary = seen.grant.value.member if seen.grant else None
        lease = seen.leases.get(primary or "")
        if lease is not None and lease.value.untimed:
            return
        view.mirror.changed.wait(0.1)
    say("paused; the primary's guardian has not confirmed it yet: its lease still counts, see `failoverctl status`")


def _ended(scope: Scope, request: Request, answer: Answer, ending: Ending) -> int:
    from failover.cli.journal import story
    from failover.cli.printing import emit_json, span

    told = story(ending.operation, ending.steps)
    code = {"done": options.DONE, "undone": options.UNDONE, "held": options.HUMAN}.get(ending.result, options.LATE)
    if scope.json:
        emit_json({**_document(request, answer), "result": ending.result, "says": ending.says, **told.document()})
        return code
    if ending.result == "done":
        if request.target and told.new != request.target:
            say(f"{request.target} could not be chosen; `failoverctl timeline {ending.operation}` says why")
            code = options.PROBLEMS
        click.echo(f"{told.kind} {ending.operation} done: {told.old} -> {told.new or 'nobody'} in {span(told.took_s)}")
    elif ending.result == "undone":
        click.echo(f"{told.kind} {ending.operation} undone, {told.old} stays primary: {ending.says}")
    elif ending.result == "held":
        click.echo(f"{told.kind} {ending.operation} is held: {ending.says}")
        say(f"next: `failoverctl status`, then its playbook; it goes on by itself when the reason ends ({ending.operation})")
    else:
        click.echo(f"{told.kind} {ending.operation} is still under way: {ending.says}")
        say(f"next: `failoverctl timeline {ending.operation}`")
    return code


def _document(request: Request, answer: Answer) -> dict[str, object]:
    return {
        "request": request.id, "kind": request.kind.value, "by": request.by, "target": request.target,
        "accepted": answer.accepted, "reasons": list(answer.reasons), "operation": answer.operation, "answered_by": answer.by,
    }  # fmt: skip
