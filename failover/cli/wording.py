"""What would be done, and what came of it, in a sentence."""

from __future__ import annotations

from failover.cli.asking import Ending
from failover.cli.journal import Story
from failover.cli.printing import span
from failover.cli.reading import Look
from failover.core.model import Request, RequestKind


def would(request: Request, look: Look, target: str | None) -> str:
    """What would come of `request`; `target` is whom the leader would choose."""
    primary = look.seen.grant.value.member if look.seen.grant else None
    kind, member = request.kind, request.target
    if kind in (RequestKind.SWITCHOVER, RequestKind.FAILOVER):
        last = "the best standby once the primary is fenced" if kind is RequestKind.FAILOVER else "nobody"
        return f"{kind.value}: {primary or 'nobody'} -> {target or member or last}"
    if kind is RequestKind.ADOPT:
        found = [n for n, s in sorted(look.seen.members.items()) if s.value.role.value == "primary"]
        return f"adopt: {', '.join(found) or 'nobody'} gets the first grant"
    if kind is RequestKind.PAUSE:
        return f"pause: no automatic action for {span(request.for_s)}"
    if kind is RequestKind.MAINTENANCE_ON:
        return f"maintenance: {member} is set aside for {span(request.for_s)}"
    if kind is RequestKind.FENCE:
        return f"fence: the database of {member} is stopped, and stays down until `failoverctl rejoin {member}`"
    if kind is RequestKind.CONFIRM_FENCED:
        return f"confirm-fenced: {_operation(look)} goes on without proof, on your word that {member} cannot write"
    if kind is RequestKind.CANCEL:
        return f"cancel: {_operation(look)} is given up"
    if kind is RequestKind.ACK:
        return f"ack: the cool-down after {_cooling(look) or 'nothing'} ends; the leader may fail over by itself again"
    if kind is RequestKind.REJOIN:
        return _rejoin(request, look)
    return f"{kind.value} {member or ''}".rstrip()


def _operation(look: Look) -> str:
    stored = look.seen.operation
    return f"{stored.value.kind.value} {stored.value.id}" if stored else "nothing"


def _cooling(look: Look) -> str | None:
    return look.seen.policy.value.last_failover if look.seen.policy else None


def _rejoin(request: Request, look: Look) -> str:
    """Which way, and as far as is known what of the member's own log is given up with it."""
    member = request.target or ""
    if request.way is None or request.way.value == "rewind":
        return f"rejoin: {member} follows the primary again; what only it has is saved on its host, then rewound away"
    return f"rejoin: {member} gets a new copy of the primary; {_given_up(member, look)}"


def _given_up(member: str, look: Look) -> str:
    seen = look.seen
    primary = seen.grant.value.member if seen.grant else None
    record = seen.rejoins.get(member)
    mine, theirs = seen.position_of(member), seen.position_of(primary) if primary else None
    if record is not None and record.value.state != "done" and record.value.discarded_commits:
        return f"its old data is given up, {record.value.discarded_commits} commits that only it has with it"
    if mine is not None and theirs is not None and theirs.covers(mine):
        return f"the primary has everything that {member} reported"
    return "its old data is given up, and with it whatever only it has: how much is not known before its log was read"


def ended(told: Story, ending: Ending) -> tuple[str, str]:
    """The answer, and the next thing to do (empty when all is done)."""
    name = f"{told.kind} {ending.operation}"
    if told.kind == "fence":
        return _fence_ended(told, ending, name)
    if ending.result == "done":
        return f"{name} done: {told.old} -> {told.new or 'nobody'} in {span(told.took_s)}", ""
    if ending.result == "undone":
        return f"{name} undone, {told.old} stays primary: {ending.says}", ""
    if ending.result == "failed":
        return f"{name} failed: {ending.says}", "`failoverctl status`; the next failover begins by itself"
    if ending.result == "held":
        then = "`failoverctl explain`, then `failoverctl status` and its playbook"
        return f"{name} is held: {ending.says}", f"{then}; {ending.operation} goes on by itself when the reason ends"
    return f"{name} is still under way: {ending.says}", f"`failoverctl timeline {ending.operation}`"


def _fence_ended(told: Story, ending: Ending, name: str) -> tuple[str, str]:
    if ending.result == "done":
        evidence = dict(ending.steps[-1].facts).get("evidence", "")
        return f"{name} done: {told.old} is down: {evidence}", f"`failoverctl rejoin {told.old}` brings it back"
    if ending.result == "undone":
        return f"{name} undone: {ending.says}", "`failoverctl status`"
    if ending.result == "held":
        return f"{name} is held: {ending.says}", f"`failoverctl explain`; `failoverctl cancel {ending.operation}` gives it up"
    return f"{name} is still under way: {ending.says}", f"`failoverctl timeline {ending.operation}`"
