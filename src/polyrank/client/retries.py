"""Sends a request again when that can do no harm."""

from __future__ import annotations

import random
from dataclasses import replace

from polyrank.client.errors import ServerUnreachable
from polyrank.client.steps import (
    Answer,
    Deadline,
    DeadlinePassed,
    Flow,
    Lost,
    Open,
    Pause,
    Request,
    Send,
)

FIRST_DELAY_S = 0.1
MAX_DELAY_S = 30.0
# Answers of a server, or of a proxy before it, that is busy or away.
BUSY = frozenset({408, 429, 502, 503, 504})


def attempt(
    request: Request,
    attempts: int,
    *,
    repeatable: bool,
    deadline: Deadline = Deadline(),  # noqa: B008  it is frozen
    opening: bool = False,
) -> Flow[Answer]:
    """Sends ``request`` up to ``attempts`` times; an error status is an answer like any other.

    ``repeatable``: it may arrive twice without being done twice. Others are sent again only if
    they cannot have been received, or were turned away with 429. ``opening`` leaves the answer to
    be read as it comes. Raises ServerUnreachable or DeadlinePassed.
    """
    for tried in range(1, attempts + 1):
        limited = replace(request, timeout_s=deadline.left(request.timeout_s))
        try:
            answer: Answer = yield Open(limited, deadline) if opening else Send(limited)
        except Lost as lost:
            if deadline.has_passed:
                raise DeadlinePassed from lost
            if tried == attempts or (lost.is_sent and not repeatable):
                raise unreachable(request, lost) from lost
            yield Pause(_delay_s(tried, deadline))
            continue
        if tried == attempts or not _is_busy(answer, repeatable):
            return answer
        yield Pause(_delay_s(tried, deadline, answer.headers.get("retry-after", "")))
    raise ValueError(f"a request is tried at least once, not {attempts} times")


def unreachable(request: Request, lost: Lost) -> ServerUnreachable:
    """The error of a request that got no answer; its ``is_late`` says if that took too long."""
    if lost.is_sent:
        message = f"{request.url} was not answered: {lost}"
        return ServerUnreachable(message, is_late=lost.is_late)
    return ServerUnreachable(
        f"nobody answers at {request.url}: {lost}; `polyrank run` starts a server, "
        "and POLYRANK_SERVER names the one to call",
        is_late=False,
    )


def _is_busy(answer: Answer, repeatable: bool) -> bool:
    if not repeatable:
        return answer.status == 429
    # With a request's id it is the answer of an app, kept: asking again brings the same.
    return answer.status in BUSY and "x-fal-request-id" not in answer.headers


def _delay_s(tried: int, deadline: Deadline, retry_after: str = "") -> float:
    if retry_after.isdecimal():
        delay = min(MAX_DELAY_S, float(retry_after)) * random.uniform(1.0, 1.2)
    else:
        delay = min(MAX_DELAY_S, FIRST_DELAY_S * 2.0 ** (tried - 1)) * random.uniform(0.5, 1.0)
    return deadline.left(delay) or 0.0
