"""Which answers of a replica are given to the caller, and which are tried again."""

from __future__ import annotations

from collections.abc import Mapping

from polyrank.store.requests import MAX_RETRIES, Answer

FIRST_DELAY_S = 0.1
MAX_DELAY_S = 30.0

UNREACHABLE = Answer(
    503,
    {"content-type": "application/json"},
    b'{"detail":"the replica did not answer","error_type":"runner_connection_error"}',
    error="the replica did not answer",
    error_type="runner_connection_error",
)
# What an app's options call these answers. An app that answers 429 is asked again later.
CONDITIONS = {429: "busy", 503: "server_error", 504: "timeout"}


def delay_s(retries: int) -> float:
    """How long to wait before the next attempt, after so many retries."""
    return min(MAX_DELAY_S, FIRST_DELAY_S * 2.0**retries)


def allowed(
    answer: Answer, request_headers: Mapping[str, str], limits: Mapping[str, int] | None = None
) -> int:
    """How often a queued request may be run again for such an answer, 0 if not at all.

    After 429, 503, 504 and a lost connection it is, unless its caller says otherwise or its app's
    ``limits`` (by condition) do; after anything if the app's answer asks for it.
    """
    asked = _header(answer.headers, "x-fal-needs-retry")
    if asked in ("0", "1"):
        return MAX_RETRIES if asked == "1" else 0
    if _header(request_headers, "x-fal-no-retry") in ("1", "true"):
        return 0
    is_lost = answer.error_type == UNREACHABLE.error_type
    condition = "connection_error" if is_lost else CONDITIONS.get(answer.status_code)
    if condition is None:
        return 0
    return min(MAX_RETRIES, (limits or {}).get(condition, MAX_RETRIES))


def _header(headers: Mapping[str, str], name: str) -> str | None:
    return next((value for key, value in headers.items() if key.lower() == name), None)
