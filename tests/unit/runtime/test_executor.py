"""Hands: one at a time for each action, unknown is not failed, a bug in one hand is no standstill."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from failover.core.plan import Action, Fence, MoveVip, Outcome, Stonith, VerifyWritable
from failover.errors import Refused, Unknown
from failover.runtime import executor as module
from failover.runtime.executor import CONTENT_S, LOOK_AGAIN_S, RETRY_S, STONITH_AGAIN_S, Executor

FENCE, LOOK, POWER = Fence("db1", 3), VerifyWritable("db2", 5), Stonith("db1", "op-1")


class Bench:
    """An executor whose hand is given for each test, and a clock in the test's hand."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.hand: Callable[[Action], str] = lambda action: "done"
        self.calls: list[Action] = []
        self.finished = threading.Semaphore(0)
        self.executor = Executor(dict.fromkeys((Fence, VerifyWritable, Stonith), self._act), self.finished.release)

    def _act(self, action: Action) -> str:
        self.calls.append(action)
        return self.hand(action)

    def do(self, action: Action) -> Outcome:
        self.executor.want((action,))
        assert self.finished.acquire(timeout=5.0), "the hand did not come back"
        return self.executor.outcomes()[-1]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    one = Bench()
    monkeypatch.setattr(module, "boottime_s", lambda: one.now_s)
    yield one
    one.executor.close()


def test_evidence_is_kept_with_the_action(bench: Bench) -> None:
    outcome = bench.do(FENCE)
    assert (outcome.action, outcome.ok, outcome.evidence, outcome.at_s) == (FENCE, True, "done", 100.0)


@pytest.mark.parametrize(("error", "ok"), [(Unknown("no answer"), None), (Refused("no"), False), (ZeroDivisionError(), None)])
def test_unknown_is_not_failed_and_our_own_bug_is_unknown(bench: Bench, error: Exception, ok: bool | None) -> None:
    def hand(action: Action) -> str:
        raise error

    bench.hand = hand
    assert bench.do(FENCE).ok is ok


def test_a_hand_that_is_missing_is_our_bug_and_no_standstill(bench: Bench) -> None:
    assert bench.do(MoveVip("db2", 5)).ok is None
    assert bench.do(FENCE).ok is True


def test_the_same_action_is_not_started_twice_while_it_runs(bench: Bench) -> None:
    go = threading.Event()
    bench.hand = lambda action: str(go.wait(5.0))
    bench.executor.want((FENCE,))
    bench.executor.want((FENCE, FENCE))
    go.set()
    assert bench.finished.acquire(timeout=5.0) and bench.calls == [FENCE]


@pytest.mark.parametrize(("action", "ok", "pause_s"), [
    (FENCE, True, CONTENT_S), (FENCE, False, RETRY_S), (LOOK, False, LOOK_AGAIN_S), (LOOK, True, CONTENT_S),
    (POWER, False, STONITH_AGAIN_S), (POWER, True, CONTENT_S),
])  # fmt: skip
def test_what_was_done_rests_and_what_failed_is_tried_again_soon(bench: Bench, action: Action, ok: bool, pause_s: float) -> None:
    def hand(wanted: Action) -> str:
        if ok:
            return "done"
        raise Refused("no")

    bench.hand = hand
    bench.do(action)
    bench.now_s += pause_s - 0.01
    bench.executor.want((action,))
    assert len(bench.calls) == 1
    bench.now_s += 0.02
    bench.do(action)
    assert len(bench.calls) == 2


def test_another_epoch_is_another_action(bench: Bench) -> None:
    bench.do(FENCE)
    bench.do(Fence("db1", 4))
    assert bench.calls == [FENCE, Fence("db1", 4)]
