"""The outbox: a row with every end of a request, and tries that nobody loses."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from polyrank.store.database import Database
from polyrank.store.requests import (
    MAX_RETRIES,
    RESULT_TTL_S,
    Answer,
    NewRequest,
    Requests,
)
from polyrank.store.webhooks import Outcome, Webhooks

NEW = NewRequest(app="local/hello", caller="ann", body=b"{}", webhook_url="https://ann.example/")
GOOD = Answer(200, {}, b"{}")
LATE = Answer(503, error="no", error_type="server_error")


class Bell:
    """Counts how often it was rung."""

    def __init__(self) -> None:
        self.rung = 0

    def __call__(self) -> None:
        self.rung += 1


@pytest.fixture
def bell() -> Bell:
    return Bell()


@pytest.fixture
def requests(database: Database, clock: Any, bell: Bell) -> Requests:
    return Requests(database, clock, on_webhook=bell)


@pytest.fixture
def webhooks(database: Database, clock: Any) -> Webhooks:
    return Webhooks(database, clock)


async def finish(requests: Requests, id: str, clock: Any) -> None:
    [lease] = await requests.lease(NEW.app, "one", limit=1, lease_s=30)
    await requests.finish(id, lease.attempt, GOOD)


async def cancel(requests: Requests, id: str, clock: Any) -> None:
    await requests.cancel(id)


async def cancel_what_is_lost(requests: Requests, id: str, clock: Any) -> None:
    await requests.lease(NEW.app, "one", limit=1, lease_s=30)
    await requests.cancel(id)
    clock.now += 31
    await requests.expire()


async def start_too_late(requests: Requests, id: str, clock: Any) -> None:
    clock.now += 6
    await requests.expire()


async def fail_too_often(requests: Requests, id: str, clock: Any) -> None:
    for _ in range(MAX_RETRIES + 1):
        [lease] = await requests.lease(NEW.app, "one", limit=1, lease_s=30)
        await requests.put_back(id, lease.attempt, delay_s=0, why=LATE)


@pytest.mark.parametrize(
    "end", [finish, cancel, cancel_what_is_lost, start_too_late, fail_too_often]
)
async def test_every_end_is_told(
    requests: Requests, webhooks: Webhooks, clock: Any, bell: Bell, end: Callable[..., Any]
) -> None:
    new = replace(NEW, start_timeout_s=5 if end is start_too_late else None)
    submitted = await requests.submit(new)
    assert await webhooks.get(submitted.id) is None
    assert (await webhooks.lease(limit=9, lease_s=30), bell.rung) == ([], 0)
    await end(requests, submitted.id, clock)
    assert bell.rung == 1
    [delivery] = await webhooks.lease(limit=9, lease_s=30)
    assert (delivery.request_id, delivery.url, delivery.attempts) == (
        submitted.id,
        NEW.webhook_url,
        0,
    )


async def test_who_asked_for_nothing_is_told_nothing(
    requests: Requests, webhooks: Webhooks, clock: Any, bell: Bell
) -> None:
    submitted = await requests.submit(replace(NEW, webhook_url=None))
    await finish(requests, submitted.id, clock)
    assert (await webhooks.lease(limit=9, lease_s=30), bell.rung) == ([], 0)
    assert not await webhooks.again(submitted.id)


async def test_a_try_is_made_by_one_server_and_by_another_if_that_dies(
    requests: Requests, webhooks: Webhooks, clock: Any
) -> None:
    submitted = await requests.submit(NEW)
    await finish(requests, submitted.id, clock)
    [first] = await webhooks.lease(limit=9, lease_s=30)
    assert await webhooks.lease(limit=9, lease_s=30) == []
    assert await webhooks.next_due() == clock.now + 30
    clock.now += 30
    [second] = await webhooks.lease(limit=9, lease_s=30)
    assert second.attempts == 0
    assert not await webhooks.finish(first, Outcome(200, None))  # it took too long
    assert await webhooks.finish(second, Outcome(200, None))
    row = await webhooks.get(submitted.id)
    assert row is not None
    assert (row["state"], row["attempts"], row["delivered_at"]) == ("delivered", 1, clock.now)
    assert await webhooks.next_due() is None


async def test_a_failed_try_is_made_again_when_its_time_has_come(
    requests: Requests, webhooks: Webhooks, clock: Any
) -> None:
    submitted = await requests.submit(NEW)
    await finish(requests, submitted.id, clock)
    [delivery] = await webhooks.lease(limit=9, lease_s=30)
    await webhooks.finish(delivery, Outcome(500, "no", retry_at=clock.now + 60))
    assert await webhooks.lease(limit=9, lease_s=30) == []
    clock.now += 60
    [delivery] = await webhooks.lease(limit=9, lease_s=30)
    assert delivery.attempts == 1
    await webhooks.finish(delivery, Outcome(None, "gone"))
    row = await webhooks.get(submitted.id)
    assert row is not None
    assert (row["state"], row["attempts"], row["last_error"]) == ("failed", 2, "gone")
    assert await webhooks.again(submitted.id)
    [delivery] = await webhooks.lease(limit=9, lease_s=30)
    assert delivery.attempts == 0


async def test_a_server_that_is_alone_goes_on_at_once_with_what_it_was_telling(
    requests: Requests, webhooks: Webhooks, database: Database, clock: Any
) -> None:
    await finish(requests, (await requests.submit(NEW)).id, clock)
    await webhooks.lease(limit=9, lease_s=30)
    await webhooks.recover()
    taken = await webhooks.lease(limit=9, lease_s=30)
    # Of several servers on a Postgres another may be telling it right now.
    assert len(taken) == (1 if database.dialect == "sqlite" else 0)


async def test_what_is_due_longest_is_told_first_and_goes_with_its_request(
    requests: Requests, webhooks: Webhooks, clock: Any
) -> None:
    ids = []
    for _ in range(3):
        ids.append((await requests.submit(NEW)).id)
        await finish(requests, ids[-1], clock)
        clock.now += 1
    assert [d.request_id for d in await webhooks.lease(limit=2, lease_s=30)] == ids[:2]
    clock.now += RESULT_TTL_S
    assert await requests.sweep() == 3
    assert await webhooks.lease(limit=9, lease_s=30) == []
    assert await webhooks.get(ids[0]) is None


async def test_one_idempotency_key_does_not_stand_for_two_receivers(requests: Requests) -> None:
    first = await requests.submit(replace(NEW, idempotency_key="one"))
    again = await requests.submit(replace(NEW, idempotency_key="one"))
    assert again.id == first.id and not again.created
    with pytest.raises(Exception, match="came with another request"):
        await requests.submit(
            replace(NEW, idempotency_key="one", webhook_url="https://bob.example/")
        )
