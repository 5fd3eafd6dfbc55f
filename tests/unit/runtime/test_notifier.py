"""Notices: at least once, in their own time, erased only after an acknowledgement."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from failover.core.model import Notice, Stored
from failover.errors import Unreachable
from failover.runtime import notifier as module
from failover.runtime.notifier import BACKOFF_S, Notifier

NOTICE = Notice("op-1-0", "http://app/hook", "failover", "main", 5, "op-1", "db1", "db2", "10.0.0.100")
OWED = {"op-1-0": Stored(NOTICE, 4, 0.0)}


class Post:
    def __init__(self) -> None:
        self.now_s, self.up = 100.0, True
        self.delivered: list[Notice] = []
        self.erased: list[tuple[str, int]] = []
        self.tried = 0
        self.notifier = Notifier(self._deliver, lambda key, version: self.erased.append((key, version)))

    def _deliver(self, notice: Notice) -> None:
        self.tried += 1
        if not self.up:
            raise Unreachable("connection refused")
        self.delivered.append(notice)

    def pay(self, tries: int) -> None:
        """Offer what is owed until this many tries were made and the last one is over."""
        self.notifier.pay(OWED)
        for _ in range(2000):
            if self.tried >= tries and not self.notifier._running:
                return
            threading.Event().wait(0.001)
        raise AssertionError(f"{self.tried} tries, not {tries}")


@pytest.fixture
def post(monkeypatch: pytest.MonkeyPatch) -> Iterator[Post]:
    one = Post()
    monkeypatch.setattr(module, "boottime_s", lambda: one.now_s)
    yield one
    one.notifier.close()


def test_a_delivered_notice_is_erased_at_the_version_that_was_read(post: Post) -> None:
    post.pay(1)
    assert post.delivered == [NOTICE] and post.erased == [("op-1-0", 4)]


def test_what_was_not_acknowledged_is_kept_and_tried_again_later_and_later(post: Post) -> None:
    post.up = False
    for tries, pause_s in enumerate(BACKOFF_S, start=1):
        post.pay(tries)
        post.now_s += pause_s - 0.01
        post.notifier.pay(OWED)
        assert post.tried == tries, "too early"
        post.now_s += 0.02
    assert post.erased == [] and post.notifier.owing() == ("op-1-0",)
    post.up = True
    post.pay(len(BACKOFF_S) + 1)
    assert post.erased == [("op-1-0", 4)]


def test_people_hear_of_it_after_three_tries_in_vain_and_no_more_when_it_is_gone(post: Post) -> None:
    post.up = False
    for tries in (1, 2):
        post.pay(tries)
        post.now_s += 10.0
    assert post.notifier.owing() == ()
    post.pay(3)
    assert post.notifier.owing() == ("op-1-0",)
    post.notifier.pay({})
    assert post.notifier.owing() == ()
