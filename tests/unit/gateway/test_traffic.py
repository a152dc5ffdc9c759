"""Counts of requests: all of them, and those of the last minute."""

import pytest

from polyrank.gateway.traffic import SLOT_S, Completed, Tally, Traffic, by_bucket, cumulated


class Clock:
    """A monotonic clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_tally_knows_all_counts_and_forgets_when_those_of_more_than_a_minute_ago_were() -> None:
    tally: Tally[str] = Tally()
    for second in range(0, 180, 10):
        tally.add("a", float(second))
    tally.add("b", 179.0)
    assert tally.all() == {"a": 18, "b": 1}
    assert tally.minute(179.0) == {"a": 6, "b": 1}
    assert tally.minute(240.0) == {}
    assert tally.all() == {"a": 18, "b": 1}


@pytest.mark.parametrize("age", [0.0, 30.0, 60.0 - SLOT_S])
def test_what_is_within_the_minute_counts_to_the_last_slot(age: float) -> None:
    tally: Tally[str] = Tally()
    tally.add("a", 1000.0)
    assert tally.minute(1000.0 + age) == {"a": 1}
    assert tally.minute(1060.0) == {}


def test_a_request_counts_by_method_status_and_duration() -> None:
    traffic = Traffic(clock := Clock())
    traffic.note_received("POST")
    traffic.note_completed("POST", 200, waited_s=0.02, ran_s=0.3)
    traffic.note_completed("POST", 504, waited_s=2.0, ran_s=None)
    received, completed = traffic.minute()
    assert received == {"POST": 1}
    assert sum(completed.values()) == 2 and Completed("POST", 504, None) in completed
    assert sum(by_bucket(completed)) == 1, "one of them never ran"
    assert (traffic.ran_s, traffic.waited_s) == (0.3, 2.02)
    clock.now += 60
    assert traffic.minute() == ({}, {})
    assert traffic.all() == (received, completed)


def test_buckets_hold_what_is_at_most_their_bound() -> None:
    traffic = Traffic(Clock())
    for seconds in (0.005, 0.006, 1.0, 10_000.0):
        traffic.note_completed("POST", 200, waited_s=0.0, ran_s=seconds)
    counts = cumulated(by_bucket(traffic.all()[1]))
    assert (counts[0], counts[1], counts[-2], counts[-1]) == (1, 2, 3, 4)
