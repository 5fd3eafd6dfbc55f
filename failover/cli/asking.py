"""File a request, wait for its answer, and stay with the operation that came of it until it ends.

The command never acts itself. What it files it can also take back: a request that nobody answered in time is withdrawn, so
that it does not fire after its author has gone. Withdrawing *is* answering: the leader's verdict and ours both create the
one znode `answers/<id>`, so exactly one of them counts, and a leader that comes second carries out nothing.
"""

from __future__ import annotations

import getpass
import os
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass

from failover.cli.options import say
from failover.cli.printing import span
from failover.cli.reading import View
from failover.clock import boottime_s, wall_text
from failover.coordination.base import LostRace
from failover.core.interventions import BY_HAND, CANCELLED
from failover.core.machine import DONE
from failover.core.model import Answer, Operation, Request, RequestKind, Step
from failover.core.plan import Create, Erase, Key, Kind
from failover.core.tables import TABLES
from failover.errors import FailoverError, Unknown, Unreachable

COMMIT_S = 2.0
LOOK_S = 0.25
ENDINGS = {"undone": "undone", CANCELLED: "undone", "failed": "failed"}  # a line's kind -> how the operation ended
PATIENCE_S = 2.0  # after this long without a line, say what is being waited for


@dataclass(frozen=True)
class Ending:
    """How an operation ended, or how it stood when we stopped waiting. `result`: done, undone, failed, held, running."""

    operation: str
    result: str
    says: str
    steps: tuple[Step, ...]


def requester() -> str:
    """user@host, and the person behind sudo rather than root."""
    try:
        user = os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def new_request(kind: RequestKind, **fields: object) -> Request:
    """A request of ours; its id sorts by time and is nobody else's."""
    host = "".join(c for c in socket.gethostname().partition(".")[0] if c.isalnum() or c == "-")[:40] or "host"
    now = wall_text()
    stamp = "".join(c for c in now if c.isdigit() or c == "T")
    name = f"{stamp}-{host}-{os.getpid()}-{secrets.token_hex(3)}"
    return Request(name, kind, requester(), filed_at_wall=now, **fields)  # type: ignore[arg-type]  # field names are checked by Request


def ask(view: View, request: Request, timeout_s: float) -> Answer:
    """File `request` and wait for the verdict. Not answered in time: withdrawn, and Unreachable raised."""
    end_s, filed = boottime_s() + timeout_s, False
    try:
        _file(view, request, end_s)
        filed = True
        answer = _await_answer(view, request, end_s)
    except BaseException as error:  # Ctrl-C above all: an unanswered request must not fire later
        if filed or not isinstance(error, FailoverError):
            theirs = _withdraw(view, request, say)
            say(
                f"it was accepted before: {theirs.operation or request.kind.value}" if theirs and theirs.accepted else "withdrawn"
            )
        raise
    if answer is not None:
        return answer
    theirs = _withdraw(view, request, say)
    if theirs is not None:
        return theirs
    leader = view.records().one(Kind.LEADER)
    who = f"the leader, {leader.value}, did not answer" if leader else "no controller leads, so nobody answered"
    raise Unreachable(f"{who} within {timeout_s:g} s; the request was withdrawn and nothing was changed")


def _file(view: View, request: Request, end_s: float) -> None:
    """Create the record. A lost reply is asked about by creating it again: "exists" means that it was done."""
    create = Create(Key(Kind.REQUEST, request.id), request)
    unclear: Unknown | None = None
    while True:
        try:
            view.ledger.commit([create], COMMIT_S)
            return
        except LostRace as lost:
            if lost.why == "exists":
                return
            raise Unreachable(
                f"there are no records of cluster {view.cluster.name} yet: no controller (failoverd) has ever run for it"
            ) from lost
        except Unknown as error:
            unclear = error
        except Unreachable:
            if unclear is None:
                raise  # known not to have been filed
        if boottime_s() >= end_s:
            raise Unknown(f"request {request.id} may have been filed, and may still be carried out") from unclear
        view.mirror.changed.wait(LOOK_S)


def _await_answer(view: View, request: Request, end_s: float) -> Answer | None:
    start_s, told_nobody, told_wait = boottime_s(), False, False
    while True:
        view.mirror.changed.clear()
        records = view.records()
        answer = records.all(Kind.ANSWER).get(request.id)
        if answer is not None:
            return _answer(answer.value)
        now_s = boottime_s()
        if now_s >= end_s:
            return None
        leaderless = records.one(Kind.LEADER) is None and view.mirror.ready()
        if leaderless and not told_nobody:
            say(f"no controller leads now; the request waits, and is withdrawn in {span(end_s - now_s)}")
            told_nobody = True
        elif not leaderless and not told_wait and now_s - start_s > PATIENCE_S:
            say("waiting for the leader's answer")
            told_wait = True
        view.mirror.changed.wait(min(LOOK_S, end_s - now_s))


def _withdraw(view: View, request: Request, tell: Callable[[str], None]) -> Answer | None:
    """Answer our own request with "withdrawn". The leader's answer if it was first, None if ours counts."""
    key = Key(Kind.ANSWER, request.id)
    ours = Answer(request.id, False, (f"withdrawn by {request.by}: nobody answered in time",), None, request.by)
    for _ in range(3):
        try:
            view.ledger.commit([Create(key, ours), Erase(Key(Kind.REQUEST, request.id), 0)], COMMIT_S)
            return None
        except LostRace as lost:
            if lost.why == "missing":
                return None  # the request is gone: answered and cleared away, or withdrawn by a reply we did not get
            stored = view.ledger.read(key, COMMIT_S)
            if stored is not None:
                theirs = _answer(stored.value)
                return None if theirs == ours else theirs
        except Unknown:
            continue  # asked again: "exists" tells whose answer it is
        except FailoverError as error:
            tell(f"could not withdraw the request {request.id}: {error}")
            break
    raise Unknown(f"request {request.id} could not be withdrawn and may still be carried out")


def _answer(value: object) -> Answer:
    assert isinstance(value, Answer)  # decoded by its kind
    return value


# --- the operation --------------------------------------------------------------------------------------------------------
class Follower:
    """Reads one operation's journal as it grows and tells every new line once."""

    def __init__(self, view: View, operation: str, tell: Callable[[Step, float], None]) -> None:
        self._view, self._operation, self._tell = view, operation, tell
        self._told: set[tuple[int, str]] = set()
        self.steps: tuple[Step, ...] = ()

    def read(self) -> None:
        """Raises Unreachable."""
        self.steps = self._view.ledger.journal(self._operation, COMMIT_S)
        for step in self.steps:
            mark = (step.number, step.name)
            if mark not in self._told:
                self._told.add(mark)
                self._tell(step, wall_s(step.at_wall) - wall_s(self.steps[0].at_wall))

    @property
    def ending(self) -> str | None:
        return ending_of(self.steps)


def ending_of(steps: tuple[Step, ...]) -> str | None:
    """`done`, `undone`, `failed` (the new primary was lost in its turn); None while it runs.

    The journal's last line is written by the transaction that ends it.
    """
    last = {f"{row.step}.{DONE}" for table in TABLES.values() for row in table if row.target == DONE}
    for step in steps:
        if step.kind in ENDINGS:
            return ENDINGS[step.kind]
        if step.name in last:
            return "done"
    return None


def wall_s(text: str) -> float:
    """Seconds since 1970 of a record's wall time, for differences shown to people; 0 for what is no time."""
    from datetime import datetime

    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0


def follow(view: View, operation: str, end_s: float) -> Ending:
    """Stay with `operation` until its journal ends or it is `end_s`. A ZooKeeper that is away for a moment is waited for."""
    follower = Follower(view, operation, _tell_step)
    quiet_since_s, held_told = boottime_s(), ""
    while True:
        view.mirror.changed.clear()
        count = len(follower.steps)
        try:
            follower.read()
        except Unreachable as error:
            if boottime_s() >= end_s:
                raise Unknown(f"{operation} is under way and ZooKeeper does not answer any more: {error}") from error
        if follower.ending:
            return Ending(operation, follower.ending, follower.steps[-1].says, follower.steps)
        now_s = boottime_s()
        if len(follower.steps) > count:
            quiet_since_s = now_s
        running = _running(view, operation)
        held = running.held if running and running.held else ""
        if now_s >= end_s:
            return _unfinished(operation, running, follower.steps)
        if held and held != held_told:
            held_told = held  # its journal line tells it too; this is for a leader that could not write one
        elif now_s - quiet_since_s > PATIENCE_S:
            say(f"          ... {_waiting_for(running, follower.steps)}")
            quiet_since_s = now_s
        view.mirror.changed.wait(min(LOOK_S, end_s - now_s))


def _running(view: View, operation: str) -> Operation | None:
    stored = view.records().one(Kind.OPERATION)
    return stored.value if stored and stored.value.id == operation else None


def _unfinished(operation: str, running: Operation | None, steps: tuple[Step, ...]) -> Ending:
    if running and running.held:
        return Ending(operation, "held", running.held, steps)
    return Ending(operation, "running", _waiting_for(running, steps), steps)


def _waiting_for(running: Operation | None, steps: tuple[Step, ...]) -> str:
    if running and running.held:
        return f"held: {running.held}"
    return f"{steps[-1].name.partition('.')[0]}: {steps[-1].says}" if steps else "waiting for the first step"


def _tell_step(step: Step, after_s: float) -> None:
    if step.kind == "intent":
        return
    name = step.name.rpartition(".")[0] or step.name
    mark = {
        "held": " HELD", "undone": " UNDONE", CANCELLED: " CANCELLED", "failed": " FAILED", BY_HAND: " CONFIRMED BY HAND",
    }.get(step.kind, "")  # fmt: skip
    say(f"{after_s:7.3f} s  {name}{mark}: {step.says}")
