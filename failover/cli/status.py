"""`status`: every member as it was wanted and as it was seen, what is under way, and numbered problems with a hint each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from failover.cli import options
from failover.cli.options import Scope, common

if TYPE_CHECKING:
    from failover.cli.reading import Look, View
    from failover.core.model import MemberStatus, Problem


@click.command()
@click.option(
    "--fresh/--quick", default=True, help="Look until every guardian has spoken again, at most 1.5 s (default), or once."
)
@common
def status(scope: Scope, fresh: bool) -> int:
    """What is, and what is wrong with it. Exit code 0: healthy; 10: there are problems; 4: nobody is there."""
    from failover.cli.printing import emit_json
    from failover.cli.reading import opened
    from failover.core.problems import find_problems

    with opened(scope) as view:
        look = view.watch() if fresh else view.look()
        found = find_problems(look.seen, view.rules, look.leader, view.settings.digest, look.corrupt)
        document = report(view, look, found)
    if scope.json:
        emit_json(document)
    else:
        show(document, scope.color, paused_left_s(look))
    if look.seen.term is None:
        return options.NOBODY
    return options.PROBLEMS if found else options.DONE


def report(view: View, look: Look, found: tuple[Problem, ...]) -> dict[str, object]:
    """The answer as one document: the promise of `-o json`."""
    from failover.cli.rejoins import document as rejoin

    seen, cluster = look.seen, view.cluster
    grant = seen.grant.value if seen.grant else None
    policy = seen.policy.value if seen.policy else None
    doing = seen.operation.value if seen.operation else None
    return {
        "cluster": cluster.name,
        "engine": cluster.engine,
        "replication": cluster.replication.value,
        "mode": policy.mode.value if policy else cluster.mode.value,
        "epoch": grant.epoch if grant else 0,
        "primary": grant.member if grant else None,
        "operation": {
            "id": doing.id, "kind": doing.kind.value, "phase": doing.phase, "held": doing.held, "old": doing.old,
            "candidate": doing.candidate, "target": doing.target,
        } if doing else None,
        "paused": {"for_s": policy.paused_for_s, "by": policy.paused_by, "reason": policy.paused_reason}
        if policy and policy.paused else None,
        "cooldown_left_s": None,  # only the leader knows since when it counts
        "members": [_member(view, look, member.name) for member in view.rules.members],
        "controllers": _controllers(view, look),
        "fenced": list(policy.fenced) if policy else [],
        "rejoins": [rejoin(stored.value) for _, stored in sorted(seen.rejoins.items())],
        "sync": [{"w": pair.w, "names": list(pair.names)} for pair in grant.sync] if grant else [],
        "degraded": [
            {"epoch": d.epoch, "began_at": d.began_at_wall, "ended_at": d.ended_at_wall or None}
            for d in (policy.degraded if policy else ())
        ],
        "problems": [{"code": p.code, "text": p.text, "hint": p.hint} for p in found],
    }  # fmt: skip


def _member(view: View, look: Look, name: str) -> dict[str, object]:
    """What the guardian says now. Of a silent one only its last position is told: the rest would be guessed."""
    stored = look.seen.members.get(name)
    live = look.seen.status(name, view.rules.gone_s)
    if live is None:
        says = "has never reported" if stored is None else f"silent; its last word was: {stored.value.guardian or '-'}"
        return {
            "name": name, "role": "unknown", "gate": "unknown", "vip": False, "writable": False, "streaming": False,
            "lag_bytes": None, "lag_transactions": None, "position": stored.value.position if stored else None, "epoch": 0,
            "problems": list(stored.value.problems) if stored else [], "rejoin": stored.value.rejoin if stored else None,
            "says": says, "age_s": None,
        }  # fmt: skip
    age_s = look.ages_s.get(name)
    return {
        "name": name, "role": live.role.value, "gate": live.gate, "vip": live.vip, "writable": live.writable,
        "streaming": live.streaming, **_lag(look, live), "position": live.position, "epoch": live.epoch,
        "problems": list(live.problems), "rejoin": live.rejoin, "says": live.guardian,
        "age_s": None if age_s is None else round(age_s, 2),
    }  # fmt: skip


def _lag(look: Look, live: MemberStatus) -> dict[str, int | None]:
    """How far what this standby has received is behind what the primary last reported, in what its positions count."""
    told: dict[str, int | None] = {"lag_bytes": None, "lag_transactions": None}
    primary = look.seen.grant.value.member if look.seen.grant else None
    mine = look.seen.position(live.position)
    theirs = look.seen.position_of(primary) if primary else None
    if live.member == primary or mine is None or theirs is None:
        return told
    return {**told, f"lag_{mine.unit}": mine.behind(theirs)}


def _controllers(view: View, look: Look) -> list[dict[str, object]]:
    names = dict.fromkeys([*view.rules.controllers, *look.seen.controllers])
    told = []
    for name in names:
        stored = look.seen.controllers.get(name)
        told.append({
            "name": name, "leader": name == look.leader, "digest": stored.value.digest if stored else None,
            "problems": [p.text for p in stored.value.problems] if stored else [],
        })  # fmt: skip
    return told


# --- for people -----------------------------------------------------------------------------------------------------------
def paused_left_s(look: Look) -> float | None:
    """How long the pause still lasts, by wall clocks and for people: the leader counts on its own clock."""
    from failover.cli.asking import wall_s
    from failover.clock import wall_text

    policy = look.seen.policy.value if look.seen.policy else None
    if policy is None or policy.paused_for_s is None:
        return None
    return max(policy.paused_for_s - (wall_s(wall_text()) - wall_s(policy.paused_at_wall)), 0.0)


def show(document: dict[str, object], color: bool, paused_left_s: float | None = None) -> None:
    """The same document as a page. Raises nothing: every field has its dash."""
    from failover.cli.printing import bold, paint

    d: dict[str, object] = document
    primary = d["primary"] or "nobody"
    click.echo(
        bold(f"{d['cluster']}  {d['engine']}  {d['replication']}  {d['mode']}  epoch {d['epoch']}  primary {primary}", color)
    )
    click.echo(_sync_line(d))
    click.echo(_controller_line(d))
    if d["paused"]:
        click.echo(paint(_paused_line(d["paused"], paused_left_s), "yellow", color))
    click.echo("")
    click.echo(_members_table(d, color))
    if d["operation"]:
        click.echo("")
        click.echo(_operation_line(d["operation"], color))
    for line in filter(None, map(_rejoin_line, _rows(d["rejoins"]))):
        click.echo(f"\n{line}")
    problems = _rows(d["problems"])
    click.echo("")
    if not problems:
        click.echo(paint("healthy", "green", color))
    for number, problem in enumerate(problems, start=1):
        click.echo(paint(f"{number}. {problem['text']}", "red", color))
        if problem["hint"]:
            click.echo(f"   next: {problem['hint']}")


def _rows(value: object) -> list[dict[str, object]]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def _sync_line(d: dict[str, object]) -> str:
    pairs = [f"{pair['w']} of ({', '.join(map(str, _list(pair['names'])))})" for pair in _rows(d["sync"])]
    return "a commit waits for: " + (" and ".join(pairs) if pairs else "nobody")


def _controller_line(d: dict[str, object]) -> str:
    def mark(c: dict[str, object]) -> str:
        return " (leader)" if c["leader"] else " (absent)" if c["digest"] is None else ""

    return "controllers: " + ", ".join(f"{c['name']}{mark(c)}" for c in _rows(d["controllers"]))


def _paused_line(paused: object, left_s: float | None) -> str:
    from failover.cli.printing import span

    p = paused if isinstance(paused, dict) else {}
    reason = f": {p['reason']}" if p.get("reason") else ""
    left = "" if left_s is None else f", {span(left_s)} left"
    return f"PAUSED for {span(p.get('for_s'))} by {p.get('by')}{left}{reason}"


def _members_table(d: dict[str, object], color: bool) -> str:
    from failover.cli.printing import span, table

    rows = []
    for m in _rows(d["members"]):
        wanted = "primary" if m["name"] == d["primary"] else "standby"
        role = f"{m['role']}, not {wanted}" if d["primary"] and m["role"] not in (wanted, "unknown") else str(m["role"])
        age = m["age_s"]
        rows.append((
            str(m["name"]), role, str(m["gate"]), "yes" if m["vip"] else "-", _stream(m),
            _behind(m), str(m["position"] or "-").partition(" ")[0],
            span(age) if isinstance(age, float) else "-", str(m["rejoin"] or m["says"] or "-"),
        ))  # fmt: skip
    return table(("MEMBER", "ROLE", "GATE", "VIP", "WRITES / STREAMS", "LAG", "POSITION", "AGE", "ITS GUARDIAN SAYS"), rows)


def _behind(m: dict[str, object]) -> str:
    from failover.cli.printing import lag

    told = next(((m[f"lag_{unit}"], unit) for unit in ("bytes", "transactions") if isinstance(m[f"lag_{unit}"], int)), None)
    return lag(int(str(told[0])), told[1]) if told else "-"


def _stream(m: dict[str, object]) -> str:
    return "takes writes" if m["writable"] else "streams" if m["streaming"] else "-"


def _operation_line(operation: object, color: bool) -> str:
    from failover.cli.printing import paint, wrapped

    o = operation if isinstance(operation, dict) else {}
    target = o.get("candidate") or o.get("target") or "?"
    moves = o.get("old") if o.get("kind") == "fence" else f"{o.get('old')} -> {target}"
    line = f"{o.get('kind')} {o.get('id')}: {moves}, phase {o.get('phase')}"
    return line + paint(f"\n   HELD: {wrapped(str(o['held']), 9)}", "red", color) if o.get("held") else line


def _rejoin_line(r: dict[str, object]) -> str | None:
    """What a person should know of a rejoin: that it is not through, or that something was discarded for it."""
    state, commits = r["state"], r["discarded_commits"]
    if state == "done" and not commits:
        return None
    saved = f", saved in {r['saved']} on {r['member']}" if r["saved"] else ""
    given_up = f"{commits} commits discarded{saved}" if commits else "nothing discarded"
    if state == "done":
        return f"{r['member']} rejoined by {r['way']}: {given_up}; `failoverctl rejoin -v` lists them"
    return f"{r['member']}: {r['way']} {state}: {r['says'] or '-'}; {given_up}"


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
