"""Which answers of a replica are given to the caller, and which are tried again."""

from __future__ import annotations

from collections.abc import Mapping

from polyrank.store.requests import Answer

FIRST_DELAY_S = 0.1
MAX_DELAY_S = 30.0

UNREACHABLE = Answer(
    503,
    {"content-type": "application/json"},
    b'{"detail":"the replica did not answer","error_type":"runner_connection_error"}',
    error="the replica did not answer",
    error_type="runner_connection_error",
)
# What an app's ``skip_retry_conditions`` call these answers.
CONDITIONS = {503: "server_error", 504: "timeout"}


def delay_s(attempt: int) -> float:
    """How long to wait before the next attempt; ``attempt`` counts from 1."""
    return min(MAX_DELAY_S, FIRST_DELAY_S * 2.0 ** (attempt - 1))


def is_retried(
    answer: Answer, request_headers: Mapping[str, str], skipped: frozenset[str] = frozenset()
) -> bool:
    """Whether a queued request is run again: after 503, 504 and a lost connection, unless its
    caller or its app say otherwise; after anything if the app's answer asks for it."""
    asked = _header(answer.headers, "x-fal-needs-retry")
    if asked in ("0", "1"):
        return asked == "1"
    if _header(request_headers, "x-fal-no-retry") in ("1", "true"):
        return False
    if answer is UNREACHABLE:
        return "connection_error" not in skipped
    condition = CONDITIONS.get(answer.status_code)
    return condition is not None and condition not in skipped


def _header(headers: Mapping[str, str], name: str) -> str | None:
    return next((value for key, value in headers.items() if key.lower() == name), None)
