"""One path for every command that asks for something: rehearse, confirm, file, wait, and say what came of it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from failover.cli import options
from failover.cli.options import Manner, Scope, say

if TYPE_CHECKING:
    from failover.cli.asking import Ending
    from failover.cli.reading import Look, View
    from failover.core.model import Answer, Request


Confirm = Callable[["View", "Request"], bool]


def perform(scope: Scope, manner: Manner, kind: str, confirm_by: Confirm | None = None, **fields: object) -> int:
    """`confirm_by` asks the person, even if they said --yes; it is there for what a plain "yes" is not enough for."""
    if not (manner.yes or manner.dry_run or is_terminal()):
        raise click.UsageError("nobody is there to ask (no terminal): say --yes, or --dry-run to see what would be done")
    from failover.cli.asking import ask, new_request
    from failover.cli.reading import opened
    from failover.core.model import RequestKind

    with opened(scope) as view:
        request = new_request(RequestKind(kind), reason=manner.reason, expect_primary=manner.expect_primary, **fields)
        if manner.dry_run:
            return _rehearse(scope, view, request)
        if not (confirm_by(view, request) if confirm_by else manner.yes or _confirmed(view, request)):
            say("nothing was done")
            return options.REFUSED
        from failover.cli.waiting import until_reported
        from failover.clock import boottime_s

        end_s = boottime_s() + scope.timeout_s
        if kind == "adopt" and manner.wait:
            until_reported(view, end_s - scope.timeout_s / 2)
        answer = ask(view, request, end_s - boottime_s())
        if not answer.accepted:
            return _refused(scope, view, request, answer)
        return _carried_out(scope, manner, view, request, answer, end_s)


def is_terminal() -> bool:
    return sys.stdin.isatty()


def judged(look: Look, view: View, request: Request) -> tuple[Answer, str]:
    """What the leader would answer, by the leader's own function, on what is in view here; and what would be opened."""
    from failover.cli.wording import would
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
    return answer, would(request, look, operation.target if operation else None)


def _rehearse(scope: Scope, view: View, request: Request) -> int:
    from failover.cli.printing import emit_json

    look = view.watch()
    answer, would = judged(look, view, request)
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
    answer, would = judged(view.watch(), view, request)
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
    opens = request.kind.value in ("switchover", "failover", "fence")
    if (request.expect_primary and request.expect_primary != primary) or (opens and records.one(Kind.OPERATION)):
        return options.CONFLICT
    return options.REFUSED


def _carried_out(scope: Scope, manner: Manner, view: View, request: Request, answer: Answer, end_s: float) -> int:
    from failover.cli import waiting
    from failover.cli.asking import follow

    kind = request.kind.value
    if answer.operation and manner.wait and kind != "cancel":
        say(f"accepted by {answer.by}: {answer.operation}")
        try:
            ending = follow(view, answer.operation, end_s)
        except KeyboardInterrupt:
            say(f"\n{answer.operation} goes on without you; `failoverctl timeline {answer.operation}`")
            raise
        return _ended(scope, request, answer, ending)
    if not manner.wait:
        return _accepted(scope, request, answer, None)
    if kind == "rejoin":
        say(f"accepted by {answer.by}")
        return _rejoined(scope, request, answer, waiting.until_streams(view, request.target or "", end_s))
    if kind == "pause":
        waiting.until_untimed(view, end_s)
    if kind in ("adopt", "cancel"):
        primary = waiting.until_guarded(view, end_s)
        member = view.rules.member(primary or "")
        return _guarded(scope, request, answer, primary, agentless=member is not None and not member.guarded)
    return _accepted(scope, request, answer, None)


def _accepted(scope: Scope, request: Request, answer: Answer, primary: str | None) -> int:
    from failover.cli.printing import emit_json

    if scope.json:
        goes_on = answer.operation and request.kind.value != "cancel"
        emit_json({**_document(request, answer), "result": "accepted" if goes_on else "done", "primary": primary})
    elif request.kind.value == "cancel":
        click.echo(f"cancel: {answer.operation} is given up, says {answer.by}; `failoverctl timeline {answer.operation}`")
    elif answer.operation:
        click.echo(f"accepted: {answer.operation}; `failoverctl timeline {answer.operation}` shows it")
    elif request.kind.value == "rejoin":
        click.echo(f"accepted: {request.target} may rejoin; `failoverctl rejoin` shows how it gets on")
    else:
        click.echo(f"{request.kind.value}: done, says {answer.by}")
    return options.DONE


def _guarded(scope: Scope, request: Request, answer: Answer, primary: str | None, agentless: bool) -> int:
    """After adopt and cancel: somebody takes writes under their own proof (or without a guardian), or not yet."""
    from failover.cli.printing import emit_json

    adopting = request.kind.value == "adopt"
    if scope.json:
        result = "done" if primary else "accepted"
        emit_json({**_document(request, answer), "result": result, "primary": primary})
    elif adopting:
        how = "has no guardian: watched from afar, bound by no lease" if agentless else "is primary under its own proof"
        proved = f"adopted: {primary} {how}"
        click.echo(proved if primary else "adopted; the primary's guardian has no proof yet")
    else:
        still = f"{primary} takes writes" if primary else "the primary does not take writes yet"
        click.echo(f"cancel: {answer.operation} is given up; {still}")
    if primary is None:
        say("next: `failoverctl status` says what the primary's guardian waits for")
    return options.DONE if primary else options.LATE


def _rejoined(scope: Scope, request: Request, answer: Answer, said: str | None) -> int:
    """`said` is what its guardian said last, or None once it streams."""
    from failover.cli.printing import emit_json

    if scope.json:
        emit_json({**_document(request, answer), "result": "done" if said is None else "running", "says": said})
    elif said is None:
        click.echo(f"{request.target} streams from the primary again")
    else:
        click.echo(f"{request.target} does not stream yet: {said}")
    if said is not None:
        say("next: it goes on by itself; `failoverctl rejoin` shows how it gets on, `failoverctl status` what is wrong")
    return options.DONE if said is None else options.LATE


CODES = {"done": options.DONE, "undone": options.UNDONE, "held": options.HUMAN, "failed": options.PROBLEMS}


def _ended(scope: Scope, request: Request, answer: Answer, ending: Ending) -> int:
    from failover.cli.journal import story
    from failover.cli.printing import emit_json
    from failover.cli.wording import ended

    told = story(ending.operation, ending.steps)
    code = CODES.get(ending.result, options.LATE)
    if scope.json:
        emit_json({**_document(request, answer), "result": ending.result, "says": ending.says, **told.document()})
        return code
    chooses = request.kind.value in ("switchover", "failover")
    if ending.result == "done" and chooses and request.target and told.new != request.target:
        say(f"{request.target} could not be chosen; `failoverctl timeline {ending.operation}` says why")
        code = options.PROBLEMS
    answer_line, next_line = ended(told, ending)
    click.echo(answer_line)
    if next_line:
        say(f"next: {next_line}")
    return code


def _document(request: Request, answer: Answer) -> dict[str, object]:
    return {
        "request": request.id, "kind": request.kind.value, "by": request.by, "target": request.target,
        "accepted": answer.accepted, "reasons": list(answer.reasons), "operation": answer.operation, "answered_by": answer.by,
    }  # fmt: skip
