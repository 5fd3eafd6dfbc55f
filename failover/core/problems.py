"""What a person should know about what is seen, each with the next command to type. Pure; decides nothing.

One function per subject, in the order in which a person wants to hear them: who decides, who writes, who could take over,
what a commit rests on, what was switched off on purpose, and what the daemons themselves complain about.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from failover.core.detector import judge_primary
from failover.core.model import Grant, MemberStatus, Mode, Operation, OperationKind, Problem, Replication, Role
from failover.core.observation import Observation
from failover.core.plan import Verdict
from failover.core.rules import Rules

Found = Iterator[Problem]


def find_problems(
    seen: Observation, rules: Rules, leader: str | None, digest: str | None = None, corrupt: Sequence[str] = ()
) -> tuple[Problem, ...]:  # fmt: skip
    """All problems. `leader` is the record `leader`; `digest` that of the asker's own configuration file, if it has one."""
    found = [*_controllers(seen, rules, leader, digest), *_adoption(seen), *_members(seen, rules)]
    grant = seen.grant.value if seen.grant else None
    if grant is not None:
        found += [
            *_system_identifier(seen, rules, grant), *_primary(seen, rules, grant), *_vip(seen, rules, grant),
            *_standbys(seen, rules, grant), *_sync(seen, rules, grant),
        ]  # fmt: skip
    found += [*_operation(seen), *_switches(seen)]
    found += [
        problem
        for _, stored in sorted(seen.controllers.items())
        for problem in _told_by(stored.value.name, stored.value.problems)
    ]
    found += [Problem("corrupt", f"a record cannot be read: {text}", "look at it with a ZooKeeper shell") for text in corrupt]
    return tuple(dict.fromkeys(found))


def _controllers(seen: Observation, rules: Rules, leader: str | None, digest: str | None) -> Found:
    if seen.term is None:
        yield Problem("never-run", f"no controller has ever run for {rules.cluster}", "start failoverd on every controller host")
    elif leader is None:
        yield Problem(
            "no-leader", "no controller leads: nothing is decided", "systemctl status failoverd on the controller hosts"
        )
    absent = [name for name in rules.controllers if name not in seen.controllers]
    if absent:
        here = len(rules.controllers) - len(absent)
        text = f"{here} of {len(rules.controllers)} controllers are there; missing: {', '.join(absent)}"
        if here < rules.votes_needed:
            text += f"; a loss needs the votes of {rules.votes_needed}"
        yield Problem("controllers-missing", text, f"systemctl status failoverd on {', '.join(absent)}")
    strangers = sorted(set(seen.controllers) - set(rules.controllers))
    if strangers:
        yield Problem(
            "controller-unknown", f"not in this configuration: controller {', '.join(strangers)}", "failoverctl config check"
        )
    yield from _digests(seen, digest)


def _digests(seen: Observation, own: str | None) -> Found:
    by_digest: dict[str, list[str]] = {}
    for name, stored in sorted(seen.controllers.items()):
        by_digest.setdefault(stored.value.digest, []).append(name)
    hint = "give every host the same failover.yml and restart failoverd where it changed"
    if len(by_digest) > 1:
        groups = " | ".join(f"{', '.join(names)} ({digest[:8]})" for digest, names in by_digest.items())
        yield Problem("configuration-differs", f"controllers run with different configuration files: {groups}", hint)
    if own and by_digest and own not in by_digest:
        yield Problem(
            "own-configuration-differs", f"this host's configuration file ({own[:8]}) is not what the controllers run with", hint
        )


def _adoption(seen: Observation) -> Found:
    if seen.grant is None:
        yield Problem(
            "not-adopted", "this cluster is not adopted: nobody is guarded and nothing would be done", "failoverctl adopt"
        )


def _members(seen: Observation, rules: Rules) -> Found:
    for member in rules.members:
        stored = seen.members.get(member.name)
        status = seen.status(member.name, rules.gone_s)
        if status is None and not member.guarded:
            text = f"{member.name} (no guardian there) is not seen: no controller reaches its host agent"
            hint = f"is the host up? sshd and failover-hostagent on {member.name}; failoverctl check"
            yield Problem("member-unseen", text, hint)
        elif stored is None:
            yield Problem(
                "member-unknown", f"{member.name} has never reported", f"systemctl status failover-guardian on {member.name}"
            )
        elif status is None:
            yield Problem(
                "member-silent", f"{member.name} is silent: its guardian does not report",
                f"is the host up? systemctl status failover-guardian on {member.name}",
            )  # fmt: skip
        else:
            yield from _told_by(member.name, tuple(Problem("member", text, "") for text in status.problems))
            if status.heartbeat_fails and status.role is not Role.DOWN:  # of one that has ended other lines tell
                text = f"{member.name}: its guardian could not insert a heartbeat row {status.heartbeat_fails} times in a row"
                yield Problem("heartbeat", text, f"disk full, or the database of {member.name} does not take new connections")
            if status.rejoin:
                hint = f"failoverctl rejoin; failoverctl rejoin {member.name}, or with --reseed; playbooks/reseed.md"
                yield Problem("rejoin", f"{member.name} does not rejoin: {status.rejoin}", hint)
            if status.gate.startswith("unknown"):
                yield Problem(
                    "gate-unknown", f"{member.name}: the gate cannot be read: {status.gate}", f"nft list ruleset on {member.name}"
                )


def _told_by(name: str, problems: Sequence[Problem]) -> Found:
    for problem in problems:
        hint = problem.hint or f"journalctl -u 'failover*' on {name}"
        yield Problem(problem.code, f"{name}: {problem.text}", hint)


def _system_identifier(seen: Observation, rules: Rules, grant: Grant) -> Found:
    for member in rules.members:
        status = seen.status(member.name, rules.gone_s)
        if grant.system_identifier and status and status.system_identifier not in ("", grant.system_identifier):
            found = status.system_identifier
            text = f"{member.name} holds another database: system identifier {found}, not {grant.system_identifier}"
            yield Problem("system-identifier", text, "playbooks/reseed.md")


def _primary(seen: Observation, rules: Rules, grant: Grant) -> Found:
    if grant.member is None:
        if seen.operation is None:
            yield Problem(
                "no-primary", f"the grant names nobody (epoch {grant.epoch}) and no operation is under way", "failoverctl history"
            )
        return
    status = seen.status(grant.member, rules.gone_s)
    if status is not None:
        yield from _gate(seen, rules, grant, status)
        if not status.writable and seen.operation is None:
            what = f"has the grant of epoch {grant.epoch} and does not take writes"
            text = f"{grant.member} {what} ({status.role.value}): {status.guardian}"
            yield Problem("primary-not-writable", text, f"failoverctl plan --if-dies {grant.member}")
    if seen.operation is None:
        yield from _lost(seen, rules, grant)
    others = [n for n, s in seen.members.items() if n != grant.member and s.value.writable and seen.status(n, rules.gone_s)]
    for name in sorted(others):
        yield Problem(
            "second-writer",
            f"{name} says it takes writes and has no grant",
            "playbooks/two-primaries-suspected.md",
        )


def _gate(seen: Observation, rules: Rules, grant: Grant, status: MemberStatus) -> Found:
    member = rules.member(status.member)
    if member is not None and not member.guarded:
        return  # agentless: no gate is promised, `config check` says what that means
    observing = seen.policy is not None and seen.policy.value.mode is Mode.OBSERVE
    if status.gate == "released":
        text = f"{status.member}: the gate was released by hand; it can write whatever the grant says"
        yield Problem("gate-released", text, f"failover-guardian arm on {status.member}; playbooks/release-the-gate.md")
    elif status.gate == "none" and not observing:
        text = f"{status.member}: there is no gate: nothing keeps an old primary from writing"
        yield Problem("gate-none", text, f"journalctl -u failover-guardian on {status.member}")
    elif status.gate == "shut" and status.member == grant.member and seen.operation is None:
        yield Problem("gate-shut", f"{status.member} is primary and its gate is shut: {status.guardian}", "failoverctl check")


def _lost(seen: Observation, rules: Rules, grant: Grant) -> Found:
    finding = judge_primary(seen, rules, grant)
    verdicts = {guard.name: guard for guard in finding.guards}
    votes, heartbeat = verdicts.get("quorum of controllers"), verdicts.get("no heartbeat at any standby")
    if finding.lost:
        yield Problem("primary-lost", f"{grant.member} is lost: {finding.why}", f"failoverctl plan --if-dies {grant.member}")
    elif votes and heartbeat and votes.verdict is Verdict.PASS and heartbeat.verdict is Verdict.BLOCK:
        text = f"a majority of the controllers cannot reach {grant.member}, but {heartbeat.facts}: not lost"
        yield Problem("votes-vetoed", text, f"the network between the controllers and {grant.member}; failoverctl check")


def _vip(seen: Observation, rules: Rules, grant: Grant) -> Found:
    if not rules.has_vip or seen.operation is not None or grant.member is None:
        return
    holders = [m.name for m in rules.members if (s := seen.status(m.name, rules.gone_s)) and s.vip]
    wrong = [name for name in holders if name != grant.member]
    if wrong:
        text = f"the VIP {rules.service_address} is on {', '.join(wrong)}; the primary is {grant.member}"
        yield Problem("vip-wrong", text, "failoverctl check; the leader moves it while the cluster is not paused")
    elif not holders and seen.status(grant.member, rules.gone_s):
        yield Problem(
            "vip-nowhere", f"the VIP {rules.service_address} is on no member", "failoverctl check; is vip.interface right?"
        )


def _standbys(seen: Observation, rules: Rules, grant: Grant) -> Found:
    for member in rules.others(grant.member):
        status = seen.status(member.name, rules.gone_s)
        if status is None:
            continue
        if status.gate == "released":
            yield from _gate(seen, rules, grant, status)
        if status.paused_replay:
            hint = f"on {member.name}: SELECT pg_wal_replay_resume() (PostgreSQL), START REPLICA SQL_THREAD (MySQL, MariaDB)"
            yield Problem("replay-paused", f"{member.name}: replay is paused", hint)
        fenced = seen.policy is not None and member.name in seen.policy.value.fenced
        if seen.operation is None and status.rejoin is None and not status.streaming and not fenced:
            yield Problem(
                "not-streaming", f"{member.name} does not stream from {grant.member} ({status.role.value}): {status.guardian}",
                f"the database's log on {member.name}; playbooks/reseed.md if log is missing",
            )  # fmt: skip
        if status.replay_lag_bytes is not None and status.replay_lag_bytes > rules.lag_max_bytes:
            text = f"{member.name} replays {status.replay_lag_bytes} bytes behind, more than lag_max ({rules.lag_max_bytes})"
            yield Problem("lag", text, f"load and long readers on {member.name}")


def _sync(seen: Observation, rules: Rules, grant: Grant) -> Found:
    if rules.replication is Replication.ASYNC or grant.member is None:
        return
    streaming = [m.name for m in rules.others(grant.member) if (s := seen.status(m.name, rules.gone_s)) and s.streaming]
    in_force = [pair for pair in grant.sync if pair.names]
    if rules.replication is Replication.STRICT:
        if not in_force:
            yield Problem(
                "sync-not-in-force",
                "replication is strict, and no sync set is in force yet: nothing is promised",
                "it takes a second once a standby streams; failoverctl status",
            )
        elif not any(set(pair.names) & set(streaming) for pair in in_force):
            waiting = ", ".join(dict.fromkeys(name for pair in in_force for name in pair.names))
            yield Problem(
                "writes-block", f"writes block: a commit waits for one of ({waiting}), and none streams", "bring a standby back"
            )
    elif not in_force:
        last = seen.policy.value.degraded[-1:] if seen.policy else ()
        since = next((f" since {d.began_at_wall}" for d in last if not d.ended_at_wall), "")
        text = f"replication is sync and degraded{since}: a commit waits for nobody"
        yield Problem("sync-degraded", text, "bring a standby back; failoverctl status -o json lists every such time")
    if len(grant.sync) > 1:
        text = f"{len(grant.sync)} sync sets at once: the newer one is not proved in force yet"
        yield Problem("sync-pending", text, f"it ends when {', '.join(grant.sync[-1].names) or 'the primary'} has caught up")


def _operation(seen: Observation) -> Found:
    if seen.operation is not None and seen.operation.value.held:
        doing = seen.operation.value
        why = (doing.held or "").partition(". ")[0]  # the rest is told with the operation, and guard by guard by `explain`
        text = f"{doing.kind.value} {doing.id} is held in phase {doing.phase}: {why}"
        yield Problem("held", text, "; ".join(held_next(doing)))


def held_next(doing: Operation) -> list[str]:
    """What a person may type about a held operation, the harmless first."""
    if doing.kind is OperationKind.FENCE:
        return ["failoverctl explain", f"failoverctl cancel {doing.id} gives it up"]
    if doing.phase != "claimed":
        return [f"failoverctl timeline {doing.id}"]
    return [
        "failoverctl explain", "playbooks/the-fence-is-not-confirmed.md", f"failoverctl confirm-fenced {doing.old}",
    ]  # fmt: skip


def _switches(seen: Observation) -> Found:
    policy = seen.policy.value if seen.policy else None
    if policy is None:
        return
    if policy.mode is Mode.OBSERVE:
        yield Problem(
            "observe", "mode is observe: losses are judged and logged, nothing is done", "mode: automatic in failover.yml"
        )
    if policy.paused:
        why = f": {policy.paused_reason}" if policy.paused_reason else ""
        yield Problem("paused", f"paused by {policy.paused_by}{why}; no automatic action", "failoverctl resume")
    for name in policy.fenced:
        text = f"{name} is fenced by hand: its database is kept down, and it is no candidate"
        yield Problem("fenced", text, f"failoverctl rejoin {name}")
    for entry in policy.maintenance:
        why = f": {entry.reason}" if entry.reason else ""
        text = f"{entry.member} is in maintenance by {entry.by}{why}; neither candidate nor trigger"
        yield Problem("maintenance", text, f"failoverctl maintenance off {entry.member}")


def is_standby(status: MemberStatus | None) -> bool:
    """A standby in good standing, from which a seal could be expected."""
    return status is not None and status.role is Role.STANDBY and status.rejoin is None
