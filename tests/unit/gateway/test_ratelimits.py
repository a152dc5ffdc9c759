"""A bucket for each key, filled at its rate."""

from typing import Any

import pytest

from polyrank.gateway import ratelimits
from polyrank.gateway.ratelimits import RateLimited, RateLimits
from polyrank.store.keys import Rate


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def spend(limits: RateLimits, name: str, rate: str, times: int) -> int:
    """How many of so many calls are free."""
    free = 0
    for _ in range(times):
        try:
            limits.spend(name, Rate.parse(rate))
            free += 1
        except RateLimited:
            pass
    return free


def test_a_burst_is_as_large_as_the_rate_and_comes_back_in_its_time(clock: Clock) -> None:
    limits = RateLimits(clock)
    assert spend(limits, "ann", "10/s", 100) == 10
    clock.now += 0.55
    assert spend(limits, "ann", "10/s", 100) == 5
    clock.now += 3600
    assert spend(limits, "ann", "10/s", 100) == 10


def test_over_a_long_time_it_is_the_rate_and_no_more(clock: Clock) -> None:
    limits, free = RateLimits(clock), 0
    for _ in range(6000):
        clock.now += 0.01
        free += spend(limits, "ann", "120/m", 1)
    assert free in (120 + 119, 120 + 120)  # the full bucket, and one minute


def test_callers_do_not_spend_each_others(clock: Clock) -> None:
    limits = RateLimits(clock)
    assert spend(limits, "ann", "2/h", 5) == 2
    assert spend(limits, "bob", "2/h", 5) == 2


def test_who_is_refused_learns_when_to_come_back(clock: Clock) -> None:
    limits = RateLimits(clock)
    spend(limits, "ann", "3/m", 3)
    with pytest.raises(RateLimited, match="the key's rate is 3/m") as refused:
        limits.spend("ann", Rate.parse("3/m"))
    assert (refused.value.retry_after_s, refused.value.status) == (20, 429)
    clock.now += refused.value.retry_after_s
    limits.spend("ann", Rate.parse("3/m"))


def test_full_buckets_are_forgotten(clock: Clock, monkeypatch: Any) -> None:
    monkeypatch.setattr(ratelimits, "MAX_BUCKETS", 100)
    limits = RateLimits(clock)
    for number in range(250):
        limits.spend(f"caller {number}", Rate.parse("1/s"))
        clock.now += 1.0
    assert len(limits._buckets) <= 101
