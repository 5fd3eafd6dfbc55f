"""What `--wait` waits for where no operation can be followed: a word of the guardians, a proof, a standby that streams again."""

from __future__ import annotations

from failover.cli.options import say
from failover.cli.reading import View
from failover.clock import boottime_s

UNTIMED_S = 3.0  # a guardian confirms a pause within its renewal period
PROGRESS_S = 3.0


def until_reported(view: View, end_s: float) -> None:
    """Daemons that were started a moment ago may not have spoken yet: adoption needs a word of every guardian."""
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


def until_guarded(view: View, end_s: float) -> str | None:
    """Wait until the adopted primary takes writes under its grant; its name, or None if it took too long."""
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


def until_untimed(view: View, end_s: float) -> None:
    """A pause is there when the primary's guardian holds a ticket without an end; before that, its lease still counts."""
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


def until_streams(view: View, member: str, end_s: float) -> str | None:
    """Wait until `member` streams from the primary again, telling how its guardian gets on. None, or its last word if late."""
    told, told_s = "", boottime_s()
    while True:
        view.mirror.changed.clear()
        look = view.look()
        status = look.seen.status(member, view.rules.gone_s)
        fenced = look.seen.policy is not None and member in look.seen.policy.value.fenced
        if status is not None and status.streaming and status.rejoin is None and not fenced:
            return None
        record = look.seen.rejoins.get(member)
        going = record.value.says if record and record.value.state == "running" else ""
        word = (status.rejoin or going or status.guardian or status.role.value) if status else "its guardian is silent"
        now_s = boottime_s()
        if now_s >= end_s:
            return word
        if word != told or now_s - told_s > PROGRESS_S:
            say(f"          ... {member}: {word}")
            told, told_s = word, now_s
        view.mirror.changed.wait(min(0.25, end_s - now_s))
