"""When a webhook is tried again."""

import random

from polyrank.gateway.webhooks import Schedule


def test_ten_tries_within_two_hours_each_wait_about_twice_the_one_before() -> None:
    random.seed(7)
    schedule = Schedule()
    for _ in range(100):
        waits = [wait for tries in range(1, 11) if (wait := schedule.delay_s(tries)) is not None]
        assert len(waits) == 9
        assert all(
            1.5 < later / earlier < 2.6 for earlier, later in zip(waits, waits[1:], strict=False)
        )
        assert 5400 < sum(waits) + 10 * schedule.timeout_s < 7200


def test_no_two_receivers_are_hit_at_once_when_they_come_back() -> None:
    random.seed(7)
    assert len({Schedule().delay_s(9) for _ in range(100)}) == 100
