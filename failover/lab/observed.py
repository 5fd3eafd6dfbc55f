"""What the lab sees of the product: `failoverctl status -o json`, read as an operator's script would read it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from failover.lab.commands import LabError
from failover.lab.lab import Lab


@dataclass(frozen=True)
class MemberSeen:
    """One member as `failoverctl status` tells it. `rejoin` is what its return waits for, or None. Its lag is counted in bytes or
    in transactions, as its engine can.
    """

    name: str
    role: str
    gate: str
    vip: bool
    streaming: bool
    lag_bytes: int | None
    lag_transactions: int | None
    rejoin: str | None
    problems: tuple[str, ...]

    @property
    def needs_reseed(self) -> bool:
        return "reseed" in (self.rejoin or "")


@dataclass(frozen=True)
class RejoinSeen:
    """How a member came back that could not simply follow, and what was given up for it. `tables`: rows each had got."""

    member: str
    way: str
    state: str
    discarded_commits: int
    tables: Mapping[str, int]
    record: str  # all of it, to tell a new one from the one of an earlier act


@dataclass(frozen=True)
class Seen:
    """One answer of `failoverctl status -o json`."""

    primary: str | None
    epoch: int
    operation: str | None
    held: str | None
    members: tuple[MemberSeen, ...]
    leader: str | None
    problems: tuple[str, ...]
    rejoins: Mapping[str, RejoinSeen] = field(default_factory=dict)

    @property
    def settled(self) -> bool:
        """One primary, every other member streams from it, nothing under way."""
        others = [m for m in self.members if m.name != self.primary]
        return self.primary is not None and self.operation is None and all(m.streaming and not m.rejoin for m in others)

    @property
    def unsettled_because(self) -> str:
        """Why `settled` is false, in words."""
        if self.primary is None:
            return "there is no primary"
        if self.operation:
            return f"{self.operation} is under way" + (f", held: {self.held}" if self.held else "")
        waiting = [m for m in self.members if m.name != self.primary and (m.rejoin or not m.streaming)]
        return "; ".join(f"{m.name} {m.rejoin or 'does not stream'}" for m in waiting)


def status(lab: Lab, timeout_s: float = 15.0) -> Seen:
    """Ask once. Raises LabError when the command fails or says something else than promised."""
    done = lab.ctl("status", "-o", "json", timeout_s=timeout_s)
    try:
        return parse(done.stdout)
    except (ValueError, TypeError, KeyError) as error:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise LabError(f"failoverctl status: exit {done.returncode}: {said[-1] if said else error}") from error


def parse(text: str) -> Seen:
    """From the command's output. Raises ValueError, TypeError or KeyError when it has another shape."""
    record: Mapping[str, object] = json.loads(text)
    operation = record["operation"]
    doing = operation if isinstance(operation, dict) else {}
    return Seen(
        primary=_text(record["primary"]),
        epoch=int(str(record["epoch"])),
        operation=f"{doing['kind']} {doing['phase']}" if doing else None,
        held=_text(doing.get("held")),
        members=tuple(_member(member) for member in _records(record["members"])),
        leader=next((str(c["name"]) for c in _records(record["controllers"]) if c.get("leader")), None),
        problems=tuple(str(problem["text"]) for problem in _records(record.get("problems"))),
        rejoins={str(one["member"]): _rejoin(one) for one in _records(record.get("rejoins"))},
    )


def _member(record: Mapping[str, object]) -> MemberSeen:
    problems = record.get("problems") or []
    return MemberSeen(
        name=str(record["name"]),
        role=str(record["role"]),
        gate=str(record["gate"]),
        vip=bool(record["vip"]),
        streaming=bool(record["streaming"]),
        lag_bytes=_number(record.get("lag_bytes")),
        lag_transactions=_number(record.get("lag_transactions")),
        rejoin=_text(record.get("rejoin")),
        problems=tuple(map(str, problems)) if isinstance(problems, list) else (),
    )


def _rejoin(record: Mapping[str, object]) -> RejoinSeen:
    """`tables` is a list of {"table", "rows"}, of pairs, or one object: name -> rows."""
    listed = record.get("tables") or []
    pairs = list(listed.items()) if isinstance(listed, dict) else []
    for entry in listed if isinstance(listed, list) else []:
        pairs.append((entry["table"], entry["rows"]) if isinstance(entry, dict) else (entry[0], entry[1]))
    return RejoinSeen(
        member=str(record["member"]),
        way=str(record.get("way")),
        state=str(record.get("state")),
        discarded_commits=int(str(record.get("discarded_commits") or 0)),
        tables={str(name): int(str(rows)) for name, rows in pairs},
        record=json.dumps(record, sort_keys=True),
    )


def _records(value: object) -> list[dict[str, object]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _number(value: object) -> int | None:
    return None if value is None else int(str(value))


def _text(value: object) -> str | None:
    return None if value is None else str(value)
