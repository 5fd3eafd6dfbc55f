"""What a history proves. Pure: lists of observations in, numbers out; the whole lab believes only this.

All times are CLOCK_BOOTTIME seconds of one machine, so real-time order is exact.

*Outage*: the longest time without an acknowledgement in the act's window, the window's own edges included, so that
writes that never came back cannot look good. *Lost*: acknowledged, and not in the table. *Two writers*: in one act a
host's reign runs from the first to the last success that a client received from it. A change of primary gives two
reigns one after the other; reigns that overlap mean that the old primary still acknowledged after the new one had
begun. A window holds one act and therefore one change, so a host that returns as primary in a later act is in a later
window; one that returns within the same window is counted, because no act may do that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, pairwise
from statistics import median

SHORTEST_MS = 1.0  # an overlap too short to measure still counts: it can never be rounded to none


@dataclass(frozen=True)
class Window:
    """One act: when it began, when the fault was done to it, when everything was whole again. BOOTTIME seconds."""

    start: float
    fault: float
    end: float

    def holds(self, at: float) -> bool:
        return self.start <= at <= self.end


@dataclass(frozen=True)
class Write:
    """One attempt of the application's writer."""

    id: int
    invoke: float
    done: float
    outcome: str  # ok | fail | info


@dataclass(frozen=True)
class Probe:
    """One attempt of the prober at one host."""

    host: str
    invoke: float
    done: float
    outcome: str  # ok | no | info


@dataclass(frozen=True)
class Reign:
    """From the first to the last success a client received from `host`."""

    host: str
    first: float
    last: float


@dataclass(frozen=True)
class VipSample:
    """From `at` on, `host` has (or no longer has) the VIP on its interface."""

    host: str
    at: float
    present: bool


@dataclass(frozen=True)
class Row:
    """One run of one act, as it stands in the JSON file. `result` is "ok" or every reason why not.

    `reported`: rows of the writer's table that the product says it discarded when the old primary came back; None if it
    came back without discarding anything, or not at all.
    """

    act: str
    engine: str
    replication: str
    outage_ms: float
    acked: int
    lost: int
    dual_writer_ms: float
    promoted: str | None
    vip_ok: bool
    dns_ok: bool
    notified: bool
    result: str
    reported: int | None = None

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def acknowledged(writes: Iterable[Write], window: Window) -> list[Write]:
    """The acknowledged writes of the window, in the order in which they were acknowledged."""
    return sorted((w for w in writes if w.outcome == "ok" and window.holds(w.done)), key=lambda w: w.done)


def outage_ms(writes: Iterable[Write], window: Window) -> float:
    """The longest time without an acknowledgement in the window, in milliseconds."""
    moments = [window.start, *(w.done for w in acknowledged(writes, window)), window.end]
    return max(after - before for before, after in pairwise(moments)) * 1000


def resumed(writes: Iterable[Write], window: Window) -> bool:
    """True if a write that was sent after the fault was acknowledged."""
    return any(w.invoke > window.fault for w in acknowledged(writes, window))


def lost_ids(writes: Iterable[Write], present: Iterable[int]) -> list[int]:
    """Ids that were acknowledged and are not in the table."""
    return sorted({w.id for w in writes if w.outcome == "ok"} - set(present))


def unknown(writes: Iterable[Write], window: Window) -> list[Write]:
    """Attempts of the window that nobody can say the end of: committed on the old primary, perhaps, never acknowledged."""
    return [w for w in writes if w.outcome == "info" and window.holds(w.done)]


def misreported(lost: int, reported: int | None, unknown: int) -> str | None:
    """Why the product's report of discarded rows does not agree with what the application finds; None if it does.

    Every lost write must have been reported. More may be reported than were acknowledged, by the attempts whose end
    nobody knows: they too may have been committed on the old primary.
    """
    told = reported or 0
    if lost <= told <= lost + unknown:
        return None
    said = f"{told} discarded rows reported" if reported is not None else "no discarded row reported"
    return f"{said}, {lost} acknowledged writes lost, {unknown} attempts of unknown end"


def impossible_ids(writes: Iterable[Write], present: Iterable[int]) -> list[int]:
    """Ids in the table that were never attempted, or that the client was told had failed: the history itself is wrong.

    Read the table first and the history second. The id after the last attempt on file is the one under way.
    """
    attempted = {w.id: w.outcome for w in writes}
    under_way = max(attempted, default=0) + 1
    return sorted(i for i in set(present) if i != under_way and attempted.get(i, "fail") == "fail")


def reigns(probes: Iterable[Probe], window: Window) -> list[Reign]:
    """One per host that acknowledged a probe in the window, in the order in which they began."""
    moments: dict[str, list[float]] = {}
    for probe in probes:
        if probe.outcome == "ok" and window.holds(probe.done):
            moments.setdefault(probe.host, []).append(probe.done)
    found = [Reign(host, min(times), max(times)) for host, times in moments.items()]
    return sorted(found, key=lambda reign: reign.first)


def dual_writer_ms(probes: Iterable[Probe], window: Window) -> float:
    """Total time, over all pairs of hosts, in which both were writers. 0.0 only if every pair's reigns follow one
    another.
    """
    return sum(_overlap_ms(a, b) for a, b in combinations(reigns(probes, window), 2))


def _overlap_ms(a: Reign, b: Reign) -> float:
    """`a` began first. One success of `b` inside `a`'s reign is enough, however short."""
    overlap = min(a.last, b.last) - b.first
    crossed = a.last > b.first
    return max(overlap * 1000, SHORTEST_MS) if crossed else 0.0


def vip_conflicts(samples: Iterable[VipSample], window: Window) -> list[str]:
    """Each moment of the window at which a second host got the VIP while another still had it, as a sentence.

    Judged by what the kernels own, with no excuse for a host that is cut off: a partition seldom separates it from
    *every* client, and an address must be gone from it (valid_lft) before W lets anybody else have it. Only a kernel that
    no longer exists owns nothing: the lab takes its addresses away as it crashes the host.
    """
    holders: set[str] = set()
    conflicts = []
    for sample in sorted(samples, key=lambda s: s.at):  # stable: equal moments stay in the order of events
        if not sample.present:
            holders.discard(sample.host)
            continue
        others = holders - {sample.host}
        holders.add(sample.host)
        if others and window.holds(sample.at):
            conflicts.append(f"{sample.host} got the VIP while {', '.join(sorted(others))} had it")
    return conflicts


SILENT = ("host_crash", "power_off", "host_cut", "frozen", "frozen_postmaster")


@dataclass(frozen=True)
class Limits:
    """The longest median outage each act may have, in milliseconds. `silent_ms`: where the old primary says nothing."""

    process_kill_ms: float = 1500.0
    switchover_ms: float = 1000.0
    silent_ms: float = 6000.0

    def of(self, act: str) -> float:
        """Raises KeyError for an act that has no limit."""
        silent = dict.fromkeys(SILENT, self.silent_ms)
        return {"process_kill": self.process_kill_ms, "switchover": self.switchover_ms, **silent}[act]


def median_outage_ms(rows: Sequence[Row], act: str) -> float | None:
    """Median over the runs of `act`; None if there was none."""
    outages = [row.outage_ms for row in rows if row.act == act]
    return median(outages) if outages else None


def judge(rows: Sequence[Row], acts: Sequence[str], limits: Limits = Limits()) -> list[str]:
    """Why the whole run is not good; empty if it is. An act that never ran is a reason, and so is no row at all."""
    reasons = [f"{row.act}: {row.result}" for row in rows if row.result != "ok"]
    dual = sum(row.dual_writer_ms for row in rows)
    lost = sum(row.lost for row in rows if row.replication != "async")  # there the row says whether it was reported
    if lost:
        reasons.append(f"{lost} acknowledged writes lost")
    if dual:
        reasons.append(f"two writers for {dual:.0f} ms")
    for act in acts:
        value = median_outage_ms(rows, act)
        if value is None:
            reasons.append(f"{act}: never ran to its end")
        elif value > limits.of(act):
            reasons.append(f"{act}: median outage {value:.0f} ms, allowed {limits.of(act):.0f} ms")
    return reasons or ([] if rows else ["no act was run"])
