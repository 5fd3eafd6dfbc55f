"""The judge must be able to say no: every story is a true history first, then one with a single thing changed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from failover.lab.verdict import (
    Limits,
    Probe,
    Reign,
    Row,
    VipSample,
    Window,
    Write,
    dual_writer_ms,
    impossible_ids,
    judge,
    lost_ids,
    misreported,
    outage_ms,
    reigns,
    resumed,
    unknown,
    vip_conflicts,
)

WINDOW = Window(start=0.0, fault=2.0, end=5.0)


def writes_with_outage(first_after: float = 2.5) -> list[Write]:
    """A write every 10 ms, each acknowledged after 1 ms; the last before the fault at 1.991 s; one unknown in
    between.
    """
    before = [Write(i, i / 100, i / 100 + 0.001, "ok") for i in range(200)]
    unknown = [Write(200, 2.0, 2.3, "info"), Write(201, 2.3, 2.4, "fail")]
    after = [
        Write(202 + i, first_after - 0.001 + i / 100, first_after + i / 100, "ok")
        for i in range(round((5.0 - first_after) * 100))
    ]
    return before + unknown + after


def probes(host: str, start: float, end: float) -> list[Probe]:
    """A success every 20 ms, each taking 1 ms."""
    count = round((end - start) / 0.020)
    return [Probe(host, start + i * 0.020, start + i * 0.020 + 0.001, "ok") for i in range(count + 1)]


def handover() -> list[Probe]:
    refused = [Probe("db2", t / 10, t / 10 + 0.001, "no") for t in range(24)]
    return probes("db1", 0.0, 2.0) + refused + probes("db2", 2.4, 5.0)


class TestOutage:
    def test_is_the_time_between_the_last_success_before_and_the_first_after(self) -> None:
        assert outage_ms(writes_with_outage(), WINDOW) == pytest.approx(509, abs=0.01)

    def test_writes_that_never_come_back_are_an_outage_until_the_windows_end(self) -> None:
        dead = [w for w in writes_with_outage() if w.done < 2.0]
        assert outage_ms(dead, WINDOW) == pytest.approx(3009, abs=0.01)
        assert not resumed(dead, WINDOW)

    def test_no_write_at_all_is_an_outage_of_the_whole_window(self) -> None:
        assert outage_ms([], WINDOW) == 5000

    def test_unknown_and_failed_attempts_do_not_shorten_it(self) -> None:
        chatter = [Write(900 + i, 2.1 + i / 100, 2.101 + i / 100, "info") for i in range(20)]
        assert outage_ms(writes_with_outage() + chatter, WINDOW) == pytest.approx(509, abs=0.01)

    def test_dropping_one_acknowledgement_beside_the_gap_makes_it_longer(self) -> None:
        dropped = [w for w in writes_with_outage() if w.id != 202]
        assert outage_ms(dropped, WINDOW) == pytest.approx(519, abs=0.01)

    def test_an_answer_to_a_write_sent_before_the_fault_is_no_proof_of_recovery(self) -> None:
        late = [w for w in writes_with_outage() if w.done < 2.0] + [Write(999, 1.999, 4.0, "ok")]
        assert not resumed(late, WINDOW)
        assert resumed(writes_with_outage(), WINDOW)


class TestLost:
    def test_nothing_is_lost_when_the_table_holds_every_acknowledged_id(self) -> None:
        history = writes_with_outage()
        assert lost_ids(history, [w.id for w in history if w.outcome == "ok"]) == []

    def test_a_missing_acknowledged_id_is_lost(self) -> None:
        history = writes_with_outage()
        assert lost_ids(history, [w.id for w in history if w.id != 150]) == [150]

    def test_an_unknown_write_is_neither_lost_when_absent_nor_wrong_when_present(self) -> None:
        history = writes_with_outage()
        present = [w.id for w in history if w.outcome == "ok"]
        assert lost_ids(history, present) == [] and impossible_ids(history, present) == []
        assert impossible_ids(history, [*present, 200]) == []

    def test_a_row_nobody_sent_or_that_was_reported_failed_condemns_the_history(self) -> None:
        history = writes_with_outage()
        present = [w.id for w in history if w.outcome == "ok"]
        assert impossible_ids(history, [*present, 201, 7777]) == [201, 7777]


    def test_the_write_that_is_under_way_while_the_table_is_read_is_not_wrong(self) -> None:
        history = writes_with_outage()
        last = max(w.id for w in history)
        present = [w.id for w in history if w.outcome == "ok"]
        assert impossible_ids(history, [*present, last + 1]) == []
        assert impossible_ids(history, [*present, last + 2]) == [last + 2]


class TestReported:
    """Where losing is permitted, the product must say exactly what was lost; only attempts of unknown end blur it."""

    @pytest.mark.parametrize(("lost", "reported"), [(0, None), (0, 0), (7, 7), (7, 9), (0, 2)])
    def test_a_true_report_is_no_fault(self, lost: int, reported: int | None) -> None:
        assert misreported(lost, reported, unknown=2) is None

    @pytest.mark.parametrize(
        ("lost", "reported", "says"),
        [
            (7, None, "no discarded row reported, 7 acknowledged writes lost"),
            (7, 6, "6 discarded rows reported, 7 acknowledged writes lost"),
            (7, 10, "10 discarded rows reported"),
            (0, 3, "2 attempts of unknown end"),
        ],
    )
    def test_too_few_or_more_than_can_be_are_named(self, lost: int, reported: int | None, says: str) -> None:
        assert says in (misreported(lost, reported, unknown=2) or "")

    def test_only_attempts_of_the_window_without_an_answer_are_unknown(self) -> None:
        history = [*writes_with_outage(), Write(900, 6.0, 6.1, "info")]
        assert [w.id for w in unknown(history, WINDOW)] == [200]


class TestTwoWriters:
    def test_one_after_the_other_is_none(self) -> None:
        assert dual_writer_ms(handover(), WINDOW) == 0.0
        assert [r.host for r in reigns(handover(), WINDOW)] == ["db1", "db2"]

    def test_overlapping_reigns_count_for_as_long_as_they_overlap(self) -> None:
        late = handover() + probes("db1", 2.02, 3.0)
        assert dual_writer_ms(late, WINDOW) == pytest.approx(600, abs=1)

    def test_a_single_late_success_of_the_old_primary_is_enough(self) -> None:
        orphan = Probe("db1", 0.5, 2.9, "ok")  # sent long before the fault, acknowledged by an orphaned backend
        assert dual_writer_ms([*handover(), orphan], WINDOW) == pytest.approx(499, abs=1)

    def test_a_single_early_success_of_the_new_primary_is_enough(self) -> None:
        assert dual_writer_ms([*handover(), Probe("db2", 1.0, 1.0015, "ok")], WINDOW) == pytest.approx(999.5, abs=1)

    def test_swapping_two_successes_is_seen_however_short_the_overlap(self) -> None:
        history = handover()
        old = next(p for p in reversed(history) if p.host == "db1")
        new = next(p for p in history if p.host == "db2" and p.outcome == "ok")
        swapped = [p for p in history if p not in (old, new)] + [replace(old, host="db2"), replace(new, host="db1")]
        assert dual_writer_ms(swapped, WINDOW) > 0

    def test_one_success_within_the_others_reign_counts_at_least_a_millisecond(self) -> None:
        third = Probe("db3", 4.0, 4.001, "ok")
        assert dual_writer_ms([*handover(), third], WINDOW) == pytest.approx(1.0)

    def test_refusals_and_unknowns_of_the_old_primary_are_no_writes(self) -> None:
        silent = [replace(p, outcome=o) for p in probes("db1", 2.5, 3.0) for o in ("no", "info")]
        assert dual_writer_ms(handover() + silent, WINDOW) == 0.0

    def test_a_host_that_returns_in_a_later_act_is_no_second_writer(self) -> None:
        back = probes("db1", 7.0, 9.0)
        both = handover() + probes("db2", 5.0, 6.5) + back
        assert dual_writer_ms(both, WINDOW) == 0.0
        assert dual_writer_ms(both, Window(5.0, 6.5, 9.0)) == 0.0

    def test_a_host_that_returns_within_one_act_is_counted(self) -> None:
        assert dual_writer_ms(handover() + probes("db1", 4.5, 4.6), WINDOW) > 0

    def test_a_reign_runs_from_the_first_to_the_last_success(self) -> None:
        assert reigns(probes("db1", 1.0, 2.0), WINDOW) == [Reign("db1", pytest.approx(1.001), pytest.approx(2.001))]


class TestVip:
    HANDED_OVER = (VipSample("db1", 0.0, True), VipSample("db1", 2.0, False), VipSample("db2", 2.1, True))

    def test_handed_over_in_order_is_fine_and_renewing_it_too(self) -> None:
        assert vip_conflicts([*self.HANDED_OVER, VipSample("db2", 3.0, True)], WINDOW) == []

    def test_taken_before_it_was_given_up_is_named(self) -> None:
        early = [replace(s, at=1.9) if s.host == "db2" else s for s in self.HANDED_OVER]
        assert vip_conflicts(early, WINDOW) == ["db2 got the VIP while db1 had it"]

    def test_a_conflict_of_an_earlier_act_is_not_told_twice(self) -> None:
        early = [replace(s, at=1.9) if s.host == "db2" else s for s in self.HANDED_OVER]
        assert vip_conflicts(early, Window(2.5, 3.0, 5.0)) == []


def row(act: str, outage: float = 200.0, **changes: object) -> Row:
    good = Row(act, "postgresql", "strict", outage, 100, 0, 0.0, "db2", True, True, True, "ok")
    return replace(good, **changes)  # type: ignore[arg-type]  # a test's shorthand


class TestJudge:
    ACTS = ("switchover", "process_kill")

    def test_good_rows_of_every_act_are_good(self) -> None:
        assert judge([row("switchover"), row("process_kill")], self.ACTS) == []

    @pytest.mark.parametrize(
        ("bad", "says"),
        [
            (row("switchover", result="DNS still names db1"), "DNS still names db1"),
            (row("switchover", lost=1), "1 acknowledged writes lost"),
            (row("switchover", dual_writer_ms=12.0), "two writers for 12 ms"),
            (row("switchover", 1000.1), "median outage 1000 ms"),
        ],
    )
    def test_each_fault_is_a_reason(self, bad: Row, says: str) -> None:
        assert any(says in reason for reason in judge([bad, row("process_kill")], self.ACTS))

    def test_the_median_decides_not_one_slow_run(self) -> None:
        runs = [row("process_kill", ms) for ms in (200.0, 300.0, 9000.0)]
        assert judge(runs, ["process_kill"]) == []
        assert judge([*runs, row("process_kill", 9000.0), row("process_kill", 9000.0)], ["process_kill"]) != []

    def test_an_act_that_never_ran_is_not_silently_good(self) -> None:
        assert judge([row("switchover")], self.ACTS) == ["process_kill: never ran to its end"]
        assert judge([], []) == ["no act was run"]

    def test_the_limits_are_those_promised(self) -> None:
        assert (Limits().of("process_kill"), Limits().of("switchover")) == (1500.0, 1000.0)
        silent = ("host_crash", "power_off", "host_cut", "frozen", "frozen_postmaster")
        assert {Limits().of(act) for act in silent} == {6000.0}

    def test_a_loss_in_async_is_judged_by_its_row_alone(self) -> None:
        lossy = row("host_cut", 3000.0, replication="async", lost=7, reported=7)
        assert judge([lossy], ["host_cut"]) == []
        assert judge([replace(lossy, replication="strict")], ["host_cut"]) == ["7 acknowledged writes lost"]
        unreported = replace(lossy, result="no discarded row reported, 7 acknowledged writes lost")
        assert judge([unreported], ["host_cut"]) == [f"host_cut: {unreported.result}"]
