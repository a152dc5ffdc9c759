"""Which answers are tried again."""

import pytest

from polyrank.gateway.retries import MAX_DELAY_S, UNREACHABLE, delay_s, is_retried
from polyrank.store.requests import Answer


@pytest.mark.parametrize(
    ("status", "retried"),
    [
        (200, False),
        (404, False),
        (422, False),
        (500, False),
        (502, False),
        (503, True),
        (504, True),
    ],
)
def test_by_status(status: int, retried: bool) -> None:
    assert is_retried(Answer(status), {}) is retried


def test_a_lost_connection_is_tried_again() -> None:
    assert is_retried(UNREACHABLE, {})


def test_the_apps_answer_has_the_last_word() -> None:
    assert is_retried(Answer(500, {"X-Fal-Needs-Retry": "1"}), {"x-fal-no-retry": "1"})
    assert not is_retried(Answer(503, {"x-fal-needs-retry": "0"}), {})


def test_the_caller_may_refuse() -> None:
    assert not is_retried(Answer(503), {"X-Fal-No-Retry": "1"})


def test_the_app_may_leave_conditions_out() -> None:
    assert not is_retried(Answer(503), {}, frozenset({"server_error"}))
    assert not is_retried(Answer(504), {}, frozenset({"timeout"}))
    assert not is_retried(UNREACHABLE, {}, frozenset({"connection_error"}))
    assert is_retried(Answer(503), {}, frozenset({"timeout"}))


def test_delays_double_up_to_a_limit() -> None:
    assert [delay_s(attempt) for attempt in (1, 2, 3)] == [0.1, 0.2, 0.4]
    assert delay_s(50) == MAX_DELAY_S
