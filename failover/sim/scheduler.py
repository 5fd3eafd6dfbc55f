"""Virtual time, and the actors that live in it: processes made of tasks, on hosts whose clocks run a little wrong.

Everything runs in one thread. A task is a greenlet: product code runs in it unchanged and gives way only where it waits or
calls one of its hands. Every such call is an *effect boundary*: there a process can be paused or killed. What is due at
the same instant runs in the order in which it was asked for, so one seed always gives one history.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from random import Random

from greenlet import getcurrent, greenlet

EVENTS_MAX = 2_000_000  # a history this long is a loop that does not wait


class Killed(BaseException):
    """Raised inside the tasks of a process that has ended: not an error, and nothing of the product catches it."""


class Timer:
    """Something due. `cancel()` makes it nothing."""

    __slots__ = ("act",)

    def __init__(self, act: Callable[[], None] | None) -> None:
        self.act = act

    def cancel(self) -> None:
        self.act = None


class Clock:
    """A host's CLOCK_BOOTTIME: true time, run at `rate`, from an offset of its own."""

    __slots__ = ("_sim", "offset_s", "rate")

    def __init__(self, sim: Sim, rate: float = 1.0, offset_s: float = 0.0) -> None:
        self._sim, self.rate, self.offset_s = sim, rate, offset_s

    def now_s(self) -> float:
        return self._sim.now_s * self.rate + self.offset_s

    def true_s(self, local_s: float) -> float:
        """How much true time passes while this clock counts `local_s`."""
        return local_s / self.rate


class Task:
    """One thread of a process. `value` is what whoever wakes it hands over."""

    __slots__ = ("_body", "_timed_out", "_timer", "_waiting", "_waits", "ended", "name", "process", "value")

    def __init__(self, process: Process, name: str, body: Callable[[], None]) -> None:
        self.process, self.name = process, name
        self.ended: Callable[[], None] | None = None
        self.value: object = None
        self._waiting = False
        self._timed_out = False
        self._waits = 0
        self._timer: Timer | None = None
        self._body: greenlet | None = greenlet(lambda: self._run(body), process.sim.hub)

    @property
    def alive(self) -> bool:
        return self._body is not None

    def _run(self, body: Callable[[], None]) -> None:
        try:
            body()
        except Killed:
            pass
        except BaseException as error:  # a bug in product or simulator: the history ends here, with its trace
            self.process.sim.crashed = self.process.sim.crashed or error
        finally:
            self._body = None
            self.process.tasks.pop(self, None)
            if self.ended is not None:
                self.ended()

    def start(self) -> None:
        sim = self.process.sim
        sim.soon(lambda: self._go_on())
        sim.spawned += 1

    def block(self, timeout_s: float | None) -> bool:
        """Give way until woken, or for `timeout_s` of true time. True if woken. Only the task itself calls this."""
        sim = self.process.sim
        self._waiting = True
        self._waits += 1
        if timeout_s is not None:
            self._timer = sim.at(sim.now_s + timeout_s, self._time_out)
        sim.hub.switch()
        if not self.process.alive:
            raise Killed
        return not self._timed_out

    def wake(self, value: object = None) -> None:
        """Let it go on at this instant. Nothing if it is not waiting."""
        if not self._waiting:
            return
        self._waiting, self.value = False, value
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timed_out = False
        self.process.sim.soon(self._go_on)

    def waker(self) -> Callable[[], None]:
        """Wakes it from the wait that comes next, and from no later one: an answer may come when nobody waits for it any more."""
        wait = self._waits + 1

        def wake() -> None:
            if self._waits == wait:
                self.wake()

        return wake

    def _time_out(self) -> None:
        self._waiting, self._timer, self._timed_out, self.value = False, None, True, None
        self._go_on()

    def _go_on(self) -> None:
        process = self.process
        if process.paused:
            process.held.append(self)
            return
        body = self._body
        if body is None:
            return
        sim = process.sim
        sim.current = self
        body.switch()
        sim.current = None


class Process:
    """One operating-system process of a host: it can be killed, or stopped and continued."""

    def __init__(self, sim: Sim, name: str, clock: Clock) -> None:
        self.sim, self.name, self.clock = sim, name, clock
        self.alive, self.paused = True, False
        self.tasks: dict[Task, None] = {}
        self.held: list[Task] = []
        self.inbox: list[Callable[[], None]] = []
        self.boundaries = 0
        self.changed: list[Callable[[], None]] = []
        self.turn: Callable[[int], tuple[int, bool] | None] = lambda pid: None  # /proc: has the database's main process run?

    def _tell(self) -> None:
        for listener in self.changed:
            listener()

    def receive(self, act: Callable[[], None]) -> None:
        """What the network has for this process: handled now, or when it goes on, or never."""
        if self.paused:
            self.inbox.append(act)
        elif self.alive:
            before, self.sim.acting = self.sim.acting, self
            act()
            self.sim.acting = before

    def spawn(self, name: str, body: Callable[[], None]) -> Task:
        task = Task(self, name, body)
        if self.alive:
            self.tasks[task] = None
            task.start()
        return task

    def pause(self) -> None:
        """SIGSTOP."""
        self.paused = True
        self._tell()

    def go_on(self) -> None:
        """SIGCONT."""
        if self.paused:
            self.paused = False
            held, self.held = self.held, []
            inbox, self.inbox = self.inbox, []
            for act in inbox:
                self.sim.soon(lambda act=act: self.receive(act))  # type: ignore[misc]  # binds now
            for task in held:
                self.sim.soon(task._go_on)
            self._tell()

    def kill(self) -> None:
        """SIGKILL: no task of it runs another line that anybody could see."""
        if not self.alive:
            return
        self.alive = False
        self.paused, self.held, self.inbox = False, [], []
        for task in tuple(self.tasks):
            task.wake()
        self._tell()

    def boundary(self, label: str) -> None:
        """Called by every hand, before and after what it does. Raises Killed where the process ends."""
        self.boundaries += 1
        hook = self.sim.on_boundary
        if hook is not None:
            hook(self, label)
        task = self.sim.current
        if task is None or task.process is not self:
            return
        while self.paused and self.alive:
            task._waiting = False
            self.held.append(task)
            self.sim.hub.switch()
        if not self.alive:
            raise Killed


class Sim:
    """The heap of what is due. `now_s` is true time; nobody in the simulated world can read it."""

    def __init__(self, seed: int) -> None:
        self.now_s = 0.0
        self.random = Random(seed)
        self.hub = getcurrent()
        self.current: Task | None = None
        self.acting: Process | None = None
        self.crashed: BaseException | None = None
        self.on_boundary: Callable[[Process, str], None] | None = None
        self.after_event: Callable[[], None] | None = None
        self.events = 0
        self.spawned = 0
        self.outside = Clock(self)
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = count()

    def at(self, when_s: float, act: Callable[[], None]) -> Timer:
        timer = Timer(act)
        heapq.heappush(self._heap, (when_s, next(self._order), timer))
        return timer

    def after(self, delay_s: float, act: Callable[[], None]) -> Timer:
        return self.at(self.now_s + delay_s, act)

    def soon(self, act: Callable[[], None]) -> Timer:
        return self.at(self.now_s, act)

    def sleep(self, seconds: float) -> None:
        """The current task waits for `seconds` of true time."""
        task = self.current
        assert task is not None, "only a task can wait"
        task.block(seconds)

    def boottime_s(self) -> float:
        """What CLOCK_BOOTTIME says to whoever runs now."""
        process = self.current.process if self.current is not None else self.acting
        return self.now_s if process is None else process.clock.now_s()

    def wall_s(self) -> float:
        """The wall clock, for records that people read."""
        return 1_800_000_000.0 + self.now_s

    def run(self, until_s: float, stop: Callable[[], bool] = lambda: False) -> None:
        """Let everything happen up to `until_s`. Raises what a bug raised inside a task."""
        heap, check = self._heap, self.after_event
        while heap and heap[0][0] <= until_s:
            when_s, _, timer = heapq.heappop(heap)
            act = timer.act
            if act is None:
                continue
            self.now_s = when_s
            self.events += 1
            act()
            if self.crashed is not None:
                raise self.crashed
            if check is not None:
                check()
            if stop():
                return
            if self.events > EVENTS_MAX:
                raise RuntimeError(f"{self.events} events by {self.now_s:.1f} s: something never waits")
        self.now_s = max(self.now_s, until_s)

    def end(self, processes: list[Process]) -> None:
        """Kill what is left, so that no greenlet outlives its history."""
        self.on_boundary = self.after_event = None
        for process in processes:
            process.kill()
        heap = self._heap
        deadline = self.events + 100_000
        for process in processes:
            while process.tasks and self.events < deadline:
                for task in tuple(process.tasks):
                    self.events += 1
                    task._go_on()
        heap.clear()
