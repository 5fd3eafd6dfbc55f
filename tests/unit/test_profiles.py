"""Every profile keeps T1 to T6 by itself, except `fast`, which takes pledges."""

from __future__ import annotations

from dataclasses import replace

import pytest

from failover.config_rules import clock
from failover.config_schema import File, TimingOverrides, timings_field
from failover.profiles import PROFILES
from failover.settings import Timings


def test_the_file_can_name_exactly_the_profiles_there_are() -> None:
    assert set(File.model_fields["profile"].annotation.__args__) == set(PROFILES)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["default", "lan", "wan"])
def test_a_profile_keeps_every_inequality(name: str) -> None:
    assert list(clock(PROFILES[name])) == []


def test_fast_breaks_t3_and_nothing_else() -> None:
    broken = list(clock(PROFILES["fast"]))
    assert [field for field, _ in broken] == ["coordinator_outage_s"]
    assert "T3 is violated" in broken[0][1]


def test_with_pledges_every_profile_is_sound() -> None:
    for name, timings in PROFILES.items():
        assert list(clock(timings, pledged=True)) == [], name
        assert timings.renew_s + 2 * timings.attempt_s + timings.soft_fence_s <= timings.lease_s, "a renewal, then a round"


@pytest.mark.parametrize(("name", "wait_s"), [("default", 6.62), ("lan", 3.36), ("fast", 1.52), ("wan", 16.30)])
def test_the_wait_is_the_one_in_the_comment(name: str, wait_s: float) -> None:
    assert PROFILES[name].wait_s == pytest.approx(wait_s, abs=0.005)


@pytest.mark.parametrize(
    ("name", "blip_s", "detection_s"), [("default", 4.0, 6.0), ("lan", 2.0, 3.0), ("fast", 0.8, 1.5), ("wan", 11.0, 15.0)]
)
def test_the_tolerated_blip_and_the_detection_are_those_in_the_comment(name: str, blip_s: float, detection_s: float) -> None:
    timings = PROFILES[name]
    assert timings.blip_s == pytest.approx(blip_s) and timings.detection_s == pytest.approx(detection_s)
    assert timings.detection_s < timings.wait_s, "patience with a silent host costs nothing: W runs meanwhile"


def test_the_wait_outlives_a_slow_clock_with_a_full_lease() -> None:
    for timings in PROFILES.values():
        slowest_end = timings.lease_s / (1 - timings.clock_rate_error)
        shortest_wait = timings.wait_s / (1 + timings.clock_rate_error)
        assert shortest_wait > slowest_end


def test_every_field_of_the_clock_can_be_replaced_in_the_file() -> None:
    assert {timings_field(key) for key in TimingOverrides.model_fields} == set(Timings.__dataclass_fields__)


def test_a_lease_that_just_fits_is_allowed() -> None:
    lan = PROFILES["lan"]
    assert list(clock(replace(lan, lease_s=2.67))) == []
    assert [field for field, _ in clock(replace(lan, lease_s=2.66))] == ["coordinator_outage_s"]
