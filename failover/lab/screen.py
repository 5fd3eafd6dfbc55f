"""What a person sees while the demo runs: plain lines, or on a terminal one live screen of the same facts."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from time import strftime
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from failover.clock import boottime_s
from failover.lab.acts import ACTS, Stage
from failover.lab.commands import LabError
from failover.lab.observed import MemberSeen, Seen, status
from failover.lab.verdict import Limits, Row, median_outage_ms

LOOK_S = 0.25
ASK_S = 2.0  # `failoverctl status` costs a third of a second of one core: not more often, and never while measuring
EVENTS = 8
RESULTS, FEWEST_RESULTS = 14, 3
ABOVE_RESULTS = 28  # lines of the screen that are not results
ROLES = ("controller", "guardian")


class Screen:
    """Plain lines, one per fact. Base of the live screen, and what a pipe or a CI log gets."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.rows: list[Row] = []

    def says(self, text: str) -> None:
        """One step, as it begins or ends."""
        self.console.print(f"{strftime('%H:%M:%S')}  {text}", markup=False, soft_wrap=True)

    def add(self, row: Row) -> None:
        """The result of one act."""
        self.rows.append(row)
        self.console.print(row_text(row), soft_wrap=True)

    def show(self, stage: Stage) -> None:
        """The cluster is up; from here on it may be drawn."""

    def __enter__(self) -> "Screen":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.hide()

    def hide(self) -> None:
        """Back to plain lines."""


class LiveScreen(Screen):
    """Topology, writer, events and results, redrawn four times a second by a thread of its own."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._live: Live | None = None
        self._stage: Stage | None = None
        self._seen: Seen | None = None
        self._asked_at = 0.0
        self._now = ""
        self._said: deque[str] = deque(maxlen=EVENTS)
        self._logs: dict[Path, int] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def says(self, text: str) -> None:
        self._now = text
        self._said.append(f"{strftime('%H:%M:%S')} {text}")
        if self._live is None:
            super().says(text)

    def add(self, row: Row) -> None:
        self.rows.append(row)

    def show(self, stage: Stage) -> None:
        self._stage = stage
        self._logs = {path: _size(path) for path in self._log_paths(stage)}
        self._live = Live(self._draw(stage), console=self.console, auto_refresh=False, transient=True)
        self._live.start(refresh=True)
        self._thread = threading.Thread(target=self._run, args=(stage, self._live), daemon=True)
        self._thread.start()

    def hide(self) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join(timeout=20.0)
        if self._live:
            self._live.stop()
            self._live = None
            for row in self.rows:
                self.console.print(row_text(row), soft_wrap=True)

    def _run(self, stage: Stage, live: Live) -> None:
        while not self._stop.wait(LOOK_S):
            if boottime_s() - self._asked_at > ASK_S:
                self._ask(stage)
            self._read_logs()
            live.update(self._draw(stage), refresh=True)

    def _ask(self, stage: Stage) -> None:
        with stage.asking:
            if stage.measuring.is_set():
                return
            try:
                self._seen = status(stage.lab)
            except LabError as error:
                self._said.append(str(error).splitlines()[0])
            self._asked_at = boottime_s()

    def _read_logs(self) -> None:
        for path, offset in self._logs.items():
            if _size(path) <= offset:
                continue
            with path.open("rb") as log:
                log.seek(offset)
                fresh = log.read()
            whole = fresh[: fresh.rfind(b"\n") + 1]
            self._logs[path] = offset + len(whole)
            host = path.parent.parent.name
            self._said.extend(event_text(host, line) for line in whole.decode(errors="replace").splitlines())

    @staticmethod
    def _log_paths(stage: Stage) -> list[Path]:
        return [host.log(role) for host in stage.members for role in ROLES]

    def _draw(self, stage: Stage) -> RenderableType:
        events = Text("\n".join(self._said), no_wrap=True, overflow="ellipsis")
        parts: list[RenderableType] = [
            Text(self._now, style="bold"),
            topology(self._seen, stage),
            meter(stage),
            Panel(events, title="events", height=EVENTS + 2),
        ]
        lines = max(FEWEST_RESULTS, min(RESULTS, self.console.height - ABOVE_RESULTS))
        return Group(*parts, *([results(self.rows, lines)] if self.rows else []))


def event_text(host: str, line: str) -> str:
    """A daemon's log line (one JSON object) for people; anything else as it is."""
    try:
        said = json.loads(line)
        return f"{said['ts'][11:19]} {host} {said['area']}: {said['event']}"
    except (ValueError, TypeError, KeyError):
        return f"{host} {line.strip()}"


def topology(seen: Seen | None, stage: Stage) -> Table:
    """Members as `failoverctl status` last told them; VIP and "takes writes" as the lab sees them at this moment."""
    title = f"cluster orders, epoch {seen.epoch}, leader {seen.leader or 'none'}" if seen else "cluster orders"
    if stage.measuring.is_set():
        title += "  (role to note: as before the fault, nobody is asked while writes are measured)"
    names = ["member", "VIP", "takes writes", "role", "gate", "streaming", "lag"]
    table = Table(*names, title=title, title_justify="left", expand=True)
    table.add_column("note", no_wrap=True, overflow="ellipsis", ratio=1)  # one line each, or everything below would jump
    holders, takers = stage.traffic.vip_holders(), stage.traffic.takers()
    known = {member.name: member for member in seen.members} if seen else {}
    for host in stage.members:
        now = ["VIP" if host.name in holders else "", "yes" if host.name in takers else ""]
        style = "green" if host.name in takers else ""
        table.add_row(host.name, *now, *_told(known.get(host.name), seen.primary if seen else None), style=style)
    return table


def _told(member: MemberSeen | None, primary: str | None) -> list[str]:
    """Role, gate, streaming, lag and note of one member."""
    if member is None:
        return [""] * 5
    leads = member.name == primary
    streaming = "" if leads else "yes" if member.streaming else "no"
    return [member.role, member.gate, streaming, "" if leads else _lag(member), member.rejoin or "; ".join(member.problems)]


def _lag(member: MemberSeen) -> str:
    if member.lag_transactions is not None:
        return f"{member.lag_transactions} tx"
    return "" if member.lag_bytes is None else f"{member.lag_bytes / 1024:.0f} KiB"


def meter(stage: Stage) -> Text:
    """What the application gets just now."""
    rate = stage.traffic.writing_rate()
    writes = stage.traffic.writes()
    last = writes[-1] if writes else None
    bad = last is not None and last.outcome != "ok"
    blocks = "█" * round(rate / 4)
    return Text.assemble(
        ("writer through the VIP  ", "bold"), (f"{rate:4.0f} acknowledged/s ", "red" if bad else "green"), blocks
    )


def row_text(row: Row) -> Text:
    """One result in one line."""
    good = row.result == "ok"
    told = "" if row.reported is None else f" ({row.reported} reported)"
    text = (
        f"{ACTS[row.act].title}: writes stopped for {row.outage_ms:.0f} ms, {row.acked} acknowledged, {row.lost} lost{told}, "
        f"two writers {row.dual_writer_ms:.0f} ms, primary now {row.promoted or 'nobody'}"
    )
    return Text.assemble(("ok   " if good else "FAIL ", "green" if good else "bold red"), text,
                         "" if good else f": {row.result}")  # fmt: skip


def results(rows: Sequence[Row], last: int = RESULTS) -> Table:
    """The latest runs, the newest last, one line each: a screen has only so many."""
    heads = ["act", "outage ms", "acked", "lost", "two writers ms", "primary now", "VIP DNS notice", "result"]
    table = Table(title="results", title_justify="left", expand=True)
    lines = [_result(row) for row in rows[-last:]]
    _add_columns(table, heads[:-1], lines)
    table.add_column(heads[-1], no_wrap=True, overflow="ellipsis", ratio=1)  # it gives way, the others do not
    for row, line in zip(rows[-last:], lines, strict=True):
        table.add_row(*line, style="" if row.result == "ok" else "red")
    return table


def _result(row: Row) -> list[str]:
    wrong = [name for name, good in (("VIP", row.vip_ok), ("DNS", row.dns_ok), ("notice", row.notified)) if not good]
    figures = [f"{row.outage_ms:.0f}", str(row.acked), _lost((row,)), f"{row.dual_writer_ms:.0f}"]
    return [row.act, *figures, row.promoted or "nobody", f"no {', '.join(wrong)}" if wrong else "yes", row.result]


def verdict_table(rows: Sequence[Row], acts: Sequence[str], limits: Limits) -> Table:
    """Medians against what is promised, one line per act."""
    heads = ["act", "runs", "median outage ms", "worst ms", "limit ms", "acked", "lost", "two writers ms"]
    table = Table(title="verdict", title_justify="left")
    lines, bad = [], []
    for act in acts:
        of_act = [row for row in rows if row.act == act]
        value, allowed = median_outage_ms(rows, act), limits.of(act)
        outages = ["-" if value is None else f"{value:.0f}", f"{max((row.outage_ms for row in of_act), default=0):.0f}"]
        counts = [str(sum(row.acked for row in of_act)), _lost(of_act), f"{sum(row.dual_writer_ms for row in of_act):.0f}"]
        lines.append([ACTS[act].title, str(len(of_act)), *outages, f"{allowed:.0f}", *counts])
        bad.append(value is None or value > allowed or any(row.result != "ok" for row in of_act))
    _add_columns(table, heads, lines)
    for line, is_bad in zip(lines, bad, strict=True):
        table.add_row(*line, style="red" if is_bad else "")
    return table


def _add_columns(table: Table, heads: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """As wide as what stands in them, whatever the window; only a head may wrap, between words. Figures to the right."""
    for number, head in enumerate(heads):
        cells = [line[number] for line in lines]
        width = max(map(len, [*head.split(), *cells]))
        figures = all(cell[:1].isdigit() or cell == "-" for cell in cells)
        table.add_column(head, width=width, justify="right" if figures else "left")


def _lost(rows: Sequence[Row]) -> str:
    """Acknowledged writes lost; behind a slash the discarded rows that the product reported, where losing is allowed."""
    lost = sum(row.lost for row in rows)
    reported = [row.reported for row in rows if row.replication == "async" and row.reported is not None]
    return f"{lost}/{sum(reported)}" if reported else str(lost)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
