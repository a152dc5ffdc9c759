"""Which answers are tried again."""

import pytest

from polyrank.gateway.retries import MAX_DELAY_S, UNREACHABLE, allowed, delay_s
from polyrank.store.requests import MAX_RETRIES, Answer


@pytest.mark.parametrize(
    ("status", "retried"),
    [
        (200, False),
        (404, False),
        (422, False),
        (429, True),
        (500, False),
        (502, False),
        (503, True),
        (504, True),
    ],
)
def test_by_status(status: int, retried: bool) -> None:
    assert allowed(Answer(status), {}) == (MAX_RETRIES if retried else 0)


def test_a_lost_connection_is_tried_again() -> None:
    assert allowed(UNREACHABLE, {})


def test_the_apps_answer_has_the_last_word() -> None:
    assert allowed(Answer(500, {"X-Fal-Needs-Retry": "1"}), {"x-fal-no-retry": "1"})
    assert not allowed(Answer(503, {"x-fal-needs-retry": "0"}), {})


def test_the_caller_may_refuse() -> None:
    assert not allowed(Answer(503), {"X-Fal-No-Retry": "1"})


def test_the_app_may_say_how_often() -> None:
    assert not allowed(Answer(503), {}, {"server_error": 0})
    assert not allowed(Answer(504), {}, {"timeout": 0})
    assert not allowed(UNREACHABLE, {}, {"connection_error": 0})
    assert allowed(Answer(503), {}, {"timeout": 0, "server_error": 2}) == 2


def test_delays_double_up_to_a_limit() -> None:
    assert [delay_s(retries) for retries in (0, 1, 2)] == [0.1, 0.2, 0.4]
    assert delay_s(50) == MAX_DELAY_S
