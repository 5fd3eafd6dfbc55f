"""The guardian's arithmetic: the deadline counts from the sending, and only an acknowledgement moves it."""

from __future__ import annotations

from failover.core.lease import LeaseState
from tests.support.builders import TIMES


def test_the_deadline_is_the_sending_plus_l_however_late_the_answer_came() -> None:
    held = LeaseState().acknowledged(3, 100.0, 1, TIMES)
    assert held.deadline_s == 103.0 and held.ticket == 1
    assert held.valid(3, 102.999) and not held.valid(3, 103.0) and not held.valid(4, 100.0)


def test_a_late_answer_to_an_earlier_attempt_shortens_nothing_and_keeps_the_ticket() -> None:
    held = LeaseState().acknowledged(3, 100.0, 7, TIMES)
    assert held.acknowledged(3, 99.0, 6, TIMES) is held
    assert held.acknowledged(3, 100.5, 8, TIMES) == LeaseState(3, 103.5, 8)


def test_another_epoch_starts_from_its_own_sending_even_if_that_ends_earlier() -> None:
    assert LeaseState(3, 200.0, 7).acknowledged(4, 100.0, 8, TIMES) == LeaseState(4, 103.0, 8)


def test_what_was_dropped_is_not_valid_until_a_new_acknowledgement() -> None:
    dropped = LeaseState(3, 103.0, 1).dropped()
    assert not dropped.valid(3, 100.0) and dropped.ticket is None and dropped.left_s(100.0) == 0.0
    assert dropped.acknowledged(3, 100.0, 2, TIMES).valid(3, 100.0)


def test_the_soft_fence_comes_f_before_the_kernels_end() -> None:
    held = LeaseState(3, 103.0, 1)
    assert not held.soft_fence_due(102.49, TIMES) and held.soft_fence_due(102.5, TIMES)
    assert LeaseState().soft_fence_due(0.0, TIMES), "nothing is held: whoever still serves ends it"
    assert held.left_s(101.0) == 2.0 and held.left_s(104.0) == 0.0


def test_without_end_no_deadline_counts_until_the_kernel_counts_again() -> None:
    untimed = LeaseState(3, 103.0, 1).without_end(2)
    assert untimed.valid(3, 1e9) and not untimed.valid(4, 100.0) and not untimed.soft_fence_due(1e9, TIMES)
    assert untimed.acknowledged(3, 500.0, 9, TIMES) is untimed, "an answer of before the pause gives it no end"
    assert untimed.timed_again(1000.0, 5, TIMES) == LeaseState(3, 1003.0, 5)
    assert not untimed.dropped().valid(3, 100.0)
