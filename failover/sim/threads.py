"""The product's `threading`, cooperative: the same names, carried by tasks of the simulation instead of threads.

Only what the product uses is here. A lock that nobody competes for costs a few instructions; who has to wait gives way to
whoever holds it. Time-outs count on the host's own clock, as the kernel's do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from importlib import import_module
from types import TracebackType
from typing import Any

from failover import clock
from failover.sim.scheduler import Sim, Task

_sim: Sim | None = None


def _now() -> Sim:
    assert _sim is not None, "no simulation runs"
    return _sim


def give_way(timeout_s: float | None) -> bool:
    """The current task waits: for `timeout_s` on its own host's clock, or until woken. True if woken."""
    sim = _now()
    task = sim.current
    assert task is not None, "only a task can wait"
    return task.block(None if timeout_s is None else task.process.clock.true_s(max(0.0, timeout_s)))


class Lock:
    """Held by at most one task; who waits gets it in the order of asking."""

    __slots__ = ("_held", "_waiting")

    def __init__(self) -> None:
        self._held = False
        self._waiting: deque[Task] = deque()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if not self._held:
            self._held = True
            return True
        if not blocking:
            return False
        task = _now().current
        assert task is not None, "a deadlock outside of any task"
        self._waiting.append(task)
        if give_way(None if timeout < 0 else timeout):
            return True  # handed over by release
        self._waiting.remove(task)
        return False

    def release(self) -> None:
        while self._waiting:
            task = self._waiting.popleft()
            if task.process.alive and task.alive:
                task.wake()
                return
        self._held = False

    def locked(self) -> bool:
        return self._held

    def __enter__(self) -> bool:
        if self._held:
            return self.acquire()
        self._held = True
        return True

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._waiting:
            self.release()
        else:
            self._held = False


class RLock(Lock):
    """As Lock, but its holder may take it again."""

    __slots__ = ("_depth", "_owner")

    def __init__(self) -> None:
        super().__init__()
        self._owner: Task | None = None
        self._depth = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        me = _now().current
        if self._held and self._owner is me:
            self._depth += 1
            return True
        if not super().acquire(blocking, timeout):
            return False
        self._owner, self._depth = me, 1
        return True

    def release(self) -> None:
        self._depth -= 1
        if not self._depth:
            self._owner = None
            super().release()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()


class Event:
    __slots__ = ("_set", "_waiting")

    def __init__(self) -> None:
        self._set = False
        self._waiting: list[Task] = []

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for task in waiting:
                task.wake()

    def clear(self) -> None:
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        if self._set:
            return True
        task = _now().current
        assert task is not None, "only a task can wait"
        self._waiting.append(task)
        if not give_way(timeout) and task in self._waiting:
            self._waiting.remove(task)
        return self._set


class Condition:
    """Only what the product uses: `wait_for`, `notify`, `notify_all`, as a context manager."""

    def __init__(self, lock: Lock | None = None) -> None:
        self._lock = lock or RLock()
        self._waiting: list[Task] = []

    def __enter__(self) -> bool:
        return self._lock.acquire()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        task = _now().current
        assert task is not None, "only a task can wait"
        self._waiting.append(task)
        self._lock.release()
        woken = give_way(timeout)
        if not woken and task in self._waiting:
            self._waiting.remove(task)
        self._lock.acquire()
        return woken

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        end_s = None if timeout is None else clock.boottime_s() + timeout
        while not (result := predicate()):
            left_s = None if end_s is None else end_s - clock.boottime_s()
            if left_s is not None and left_s <= 0:
                break
            self.wait(left_s)
        return result

    def notify(self, n: int = 1) -> None:
        waiting, self._waiting = self._waiting[:n], self._waiting[n:]
        for task in waiting:
            task.wake()

    def notify_all(self) -> None:
        self.notify(len(self._waiting))


class Thread:
    def __init__(
        self, group: None = None, target: Callable[..., object] | None = None, name: str | None = None,
        args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None, daemon: bool | None = None,
    ) -> None:  # fmt: skip
        self.name = name or "thread"
        self._target, self._args, self._kwargs = target, args, kwargs or {}
        self._task: Task | None = None
        self._done = Event()

    def start(self) -> None:
        current = _now().current
        assert current is not None, "a thread belongs to a process"
        self._task = current.process.spawn(self.name, self._run)

    def _run(self) -> None:
        try:
            if self._target is not None:
                self._target(*self._args, **self._kwargs)
        finally:
            self._done.set()

    def is_alive(self) -> bool:
        return self._task is not None and not self._done.is_set()

    def join(self, timeout: float | None = None) -> None:
        self._done.wait(timeout)


class ThreadPoolExecutor:
    """Every job at once: the product's pools are wide enough for what they get."""

    def __init__(self, max_workers: int | None = None, thread_name_prefix: str = "") -> None:
        self._name = thread_name_prefix

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        current = _now().current
        assert current is not None, "a job belongs to a process"
        current.process.spawn(self._name, lambda: self._do(future, work, args, kwargs))
        return future

    def _do(self, future: Future[Any], work: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        try:
            result = work(*args, **kwargs)
        except Exception as error:  # as a pool does: it belongs to whoever asks the future
            future.set_exception(error)
        else:
            future.set_result(result)

    def shutdown(self, wait: bool = True, cancel_futures: bool = False) -> None:
        """Nothing to end: tasks end with their process."""


class NoStranger:
    """guardian.ruleset_watch.RulesetWatch where nobody else touches the kernel's tables."""

    def wait(self, timeout_s: float) -> bool:
        give_way(timeout_s)
        return False

    def close(self) -> None:
        """Nothing is held."""


def _turn(pid: int) -> tuple[int, bool] | None:
    """guardian.processes.turn, of this host's own database."""
    current = _now().current
    return current.process.turn(pid) if current is not None else None


class _Threading:
    """What product modules see as `threading` while a simulation runs."""

    Lock, RLock, Event, Condition, Thread = Lock, RLock, Event, Condition, Thread


THREADED = (
    "guardian.board", "guardian.keeper", "guardian.fencer", "guardian.warden", "guardian.reporter", "guardian.checkpointer",
    "guardian.service", "guardian.pledges", "runtime.node", "runtime.executor", "runtime.probes", "runtime.notifier",
)  # fmt: skip
POOLED = ("runtime.executor", "runtime.notifier")


@contextmanager
def simulated(sim: Sim) -> Iterator[None]:
    """Product code runs on this simulation's time and tasks until the block ends. Not re-entrant; one per process."""
    global _sim
    assert _sim is None, "a simulation runs already"
    changed: list[tuple[Any, str, Any]] = []

    def replace(name: str, attribute: str, value: object) -> None:
        module = import_module(f"failover.{name}")
        if hasattr(module, attribute):
            changed.append((module, attribute, getattr(module, attribute)))
            setattr(module, attribute, value)

    _sim = sim
    try:
        for name in THREADED:
            replace(name, "threading", _Threading)
        for name in POOLED:
            replace(name, "ThreadPoolExecutor", ThreadPoolExecutor)
        replace("guardian.service", "RulesetWatch", NoStranger)
        replace("guardian.reporter", "turn", _turn)
        replace("guardian.reporter", "life_of", lambda pid: f"run {pid}")
        replace("coordination.ledger", "encode", lambda kind, value: value)
        with clock.run_on(sim.boottime_s, sim.wall_s):
            yield
    finally:
        for module, attribute, value in changed:
            setattr(module, attribute, value)
        _sim = None
