"""The queue keeps its promises, over SQLite and over Postgres."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from polyrank.errors import IdempotencyConflict, QueueFull
from polyrank.store.database import Database
from polyrank.store.requests import (
    LOW,
    MAX_RETRIES,
    RESULT_TTL_S,
    Answer,
    Cancelled,
    Lease,
    NewRequest,
    Requests,
)

HELLO = NewRequest(app="local/hello", caller="ann", body=b'{"name": "you"}')
GOOD = Answer(200, {"content-type": "application/json"}, b'{"text": "Hello, you!"}')


async def lease(requests: Requests, limit: int = 1, owner: str = "one") -> list[Lease]:
    return await requests.lease("local/hello", owner, limit=limit, lease_s=30)


async def test_a_request_is_queued_leased_and_answered(requests: Requests, clock: Any) -> None:
    new = replace(HELLO, path="/greet", headers={"x-mood": "good"}, hint="warm", timeout_s=9)
    submitted = await requests.submit(new)
    assert submitted.created and await requests.position(submitted.id) == 0
    [leased] = await lease(requests)
    assert (leased.id, leased.attempt, leased.until) == (submitted.id, 1, clock.now + 30)
    assert (leased.path, leased.body, leased.headers) == ("/greet", HELLO.body, {"x-mood": "good"})
    assert (leased.hint, leased.timeout_s, leased.method) == ("warm", 9, "POST")
    clock.now += 2
    assert await requests.finish(leased.id, 1, GOOD)
    row = await requests.get(submitted.id)
    assert row is not None
    assert (row["state"], row["status_code"], row["answer"]) == ("done", 200, GOOD.body)
    assert (row["answer_headers"], row["error"]) == (GOOD.headers, None)
    assert row["finished_at"] - row["started_at"] == 2
    assert await lease(requests) == []


async def test_an_unknown_request_is_unknown(requests: Requests) -> None:
    assert await requests.get("none") is None
    assert await requests.position("none") is None
    assert await requests.cancel("none") is Cancelled.UNKNOWN
    assert not await requests.finish("none", 1, GOOD)


async def test_first_come_first_served_and_positions_count_down(requests: Requests) -> None:
    ids = [(await requests.submit(HELLO)).id for _ in range(4)]
    assert [await requests.position(id) for id in ids] == [0, 1, 2, 3]
    assert [leased.id for leased in await lease(requests, 2)] == ids[:2]
    assert [await requests.position(id) for id in ids] == [None, None, 0, 1]
    assert await requests.count_queued("local/hello") == 2


async def test_apps_do_not_see_each_other(requests: Requests) -> None:
    other = await requests.submit(replace(HELLO, app="local/other"))
    assert await lease(requests) == []
    await requests.submit(HELLO)
    assert await requests.position(other.id) == 0


async def test_low_priority_waits_for_all_normal_ones(requests: Requests) -> None:
    low = (await requests.submit(replace(HELLO, priority=LOW))).id
    normal = [(await requests.submit(HELLO)).id for _ in range(2)]
    assert [leased.id for leased in await lease(requests, 3)] == [*normal, low]


async def test_callers_take_turns_however_much_one_submits(requests: Requests) -> None:
    for _ in range(6):
        await requests.submit(HELLO)
    for _ in range(2):
        await requests.submit(replace(HELLO, caller="bob"))
    rows = [await requests.get(leased.id) for leased in await lease(requests, 8)]
    callers = "".join(row["caller"][0] for row in rows if row is not None)
    assert callers == "ababaaaa"


async def test_a_newcomer_joins_the_round_that_is_being_served(requests: Requests) -> None:
    for _ in range(6):
        await requests.submit(HELLO)
    await lease(requests, 4)
    bob = await requests.submit(replace(HELLO, caller="bob"))
    assert await requests.position(bob.id) == 1  # behind the first of ann's, before her second


async def test_a_full_queue_refuses_and_keeps_nothing(requests: Requests) -> None:
    for _ in range(3):
        await requests.submit(HELLO, max_queued=3)
    with pytest.raises(QueueFull) as refused:
        await requests.submit(HELLO, max_queued=3)
    assert (refused.value.waiting, refused.value.limit) == (3, 3)
    assert len(await requests.find()) == 3
    await lease(requests)
    await requests.submit(HELLO, max_queued=3)


async def test_one_idempotency_key_is_one_request(requests: Requests) -> None:
    new = replace(HELLO, idempotency_key="order-7")
    first, *others = await asyncio.gather(*(requests.submit(new) for _ in range(64)))
    assert {one.id for one in others} == {first.id}
    assert Counter(one.created for one in [first, *others]) == {True: 1, False: 63}
    assert len(await lease(requests, 64)) == 1
    with pytest.raises(IdempotencyConflict, match="order-7"):
        await requests.submit(replace(new, body=b"{}"))
    foreign = await requests.submit(replace(new, caller="bob"))
    assert foreign.id != first.id


async def test_one_idempotency_key_on_two_servers_is_one_request(
    open_database: Callable[[str], Database], postgres_url: str
) -> None:
    servers = [Requests(open_database(postgres_url)) for _ in range(2)]
    for number in range(100):
        new = replace(HELLO, idempotency_key=str(number))
        both = await asyncio.gather(*(server.submit(new) for server in servers for _ in range(4)))
        assert len({one.id for one in both}) == 1
        assert sum(one.created for one in both) == 1


async def test_an_answer_of_an_attempt_that_was_given_up_is_dropped(
    requests: Requests, clock: Any
) -> None:
    id = (await requests.submit(HELLO)).id
    await lease(requests)
    clock.now += 31
    assert await requests.expire() == [id]
    [second] = await lease(requests, owner="two")
    assert second.attempt == 2
    assert not await requests.finish(id, 1, Answer(500))
    assert await requests.finish(id, 2, GOOD)
    assert not await requests.finish(id, 2, Answer(500))
    row = await requests.get(id)
    assert row is not None and row["status_code"] == 200


async def test_a_lease_that_is_renewed_does_not_expire(requests: Requests, clock: Any) -> None:
    id = (await requests.submit(HELLO)).id
    await lease(requests)
    clock.now += 20
    renewal = await requests.renew({id: 1}, lease_s=30)
    assert (renewal.to_cancel, renewal.lost) == ([], [])
    clock.now += 20
    assert await requests.expire() == []
    clock.now += 11
    assert await requests.expire() == [id]
    assert (await requests.renew({id: 1}, lease_s=30)).lost == [id]


async def test_what_is_put_back_waits_and_keeps_its_place(requests: Requests, clock: Any) -> None:
    first = (await requests.submit(HELLO)).id
    second = (await requests.submit(HELLO)).id
    await lease(requests)
    assert await requests.put_back(first, 1, delay_s=5, why=Answer(503))
    assert [leased.id for leased in await lease(requests, 2)] == [second]
    assert await requests.next_due() == clock.now + 5
    clock.now += 5
    assert [leased.id for leased in await lease(requests, 2)] == [first]


async def test_retries_are_limited_and_the_last_reason_is_the_answer(
    requests: Requests, clock: Any
) -> None:
    id = (await requests.submit(HELLO)).id
    why = Answer(503, error="the replica said 503", error_type="runner_error")
    for attempt in range(1, MAX_RETRIES + 2):
        [leased] = await lease(requests)
        assert leased.attempt == attempt
        assert await requests.put_back(id, attempt, delay_s=0, why=why)
    row = await requests.get(id)
    assert row is not None
    assert (row["state"], row["status_code"], row["error"]) == ("done", 503, why.error)


async def test_a_server_that_died_costs_no_retry(
    open_database: Callable[[str], Database], tmp_path: Path
) -> None:
    requests = Requests(open_database(f"sqlite:///{tmp_path / 'polyrank.db'}"))
    id = (await requests.submit(HELLO)).id
    for attempt in range(1, MAX_RETRIES + 5):
        [leased] = await lease(requests)
        assert leased.attempt == attempt
        assert await requests.recover() == [id]
    assert await requests.position(id) == 0


async def test_cancelling(requests: Requests) -> None:
    waiting, running = [(await requests.submit(HELLO)).id for _ in range(2)]
    assert await requests.cancel(waiting) is Cancelled.DONE
    row = await requests.get(waiting)
    assert row is not None and (row["status_code"], row["error_type"]) == (499, "client_cancelled")
    await lease(requests)
    assert await requests.cancel(running) is Cancelled.REQUESTED
    assert (await requests.renew({running: 1}, lease_s=30)).to_cancel == [running]
    assert await requests.finish(running, 1, GOOD)  # it was quicker
    assert await requests.cancel(running) is Cancelled.TOO_LATE


async def test_a_cancelled_request_whose_runner_dies_is_not_run_again(
    requests: Requests, clock: Any
) -> None:
    id = (await requests.submit(HELLO)).id
    await lease(requests)
    await requests.cancel(id)
    clock.now += 31
    assert await requests.expire() == [id]
    row = await requests.get(id)
    assert row is not None and (row["state"], row["status_code"]) == ("done", 499)


async def test_what_does_not_start_in_time_ends(requests: Requests, clock: Any) -> None:
    id = (await requests.submit(replace(HELLO, start_timeout_s=9))).id
    assert await requests.next_due() == clock.now + 9
    clock.now += 9
    assert await lease(requests) == []
    assert await requests.expire() == [id]
    row = await requests.get(id)
    assert row is not None
    assert (row["status_code"], row["error_type"]) == (504, "request_timeout")
    assert row["answer_headers"] == {"x-fal-request-timeout-type": "user"}


async def test_answers_are_kept_for_their_time(requests: Requests, clock: Any) -> None:
    done, waiting = [(await requests.submit(HELLO)).id for _ in range(2)]
    await lease(requests)
    await requests.finish(done, 1, GOOD)
    clock.now += RESULT_TTL_S - 1
    assert await requests.sweep() == 0
    clock.now += 1
    assert await requests.sweep() == 1
    assert await requests.get(done) is None
    assert await requests.get(waiting) is not None


async def test_requests_are_listed_newest_first(requests: Requests, clock: Any) -> None:
    ids = []
    for _ in range(3):
        ids.append((await requests.submit(HELLO)).id)
        clock.now += 1
    await lease(requests)
    assert [row["id"] for row in await requests.find(app="local/hello")] == ids[::-1]
    assert [row["id"] for row in await requests.find(state="running")] == ids[:1]
    assert [row["id"] for row in await requests.find(before=clock.now - 2, limit=1)] == ids[:1]
    assert "body" not in (await requests.find())[0]


async def test_two_servers_share_the_work_and_nothing_is_given_twice(
    open_database: Callable[[str], Database], postgres_url: str, clock: Any
) -> None:
    servers = [Requests(open_database(postgres_url), clock) for _ in range(2)]
    ids = {
        submitted.id
        for submitted in await asyncio.gather(*(servers[n % 2].submit(HELLO) for n in range(200)))
    }

    async def serve(server: Requests, owner: str) -> list[str]:
        served = []
        while leases := await lease(server, 7, owner):
            for leased in leases:
                assert await server.finish(leased.id, leased.attempt, GOOD)
                served.append(leased.id)
        return served

    shares = await asyncio.gather(*(serve(server, str(n)) for n, server in enumerate(servers)))
    assert Counter(id for share in shares for id in share) == dict.fromkeys(ids, 1)


async def test_half_of_ten_thousand_are_cancelled(requests: Requests) -> None:
    ids = [s.id for s in await asyncio.gather(*(requests.submit(HELLO) for _ in range(10_000)))]
    outcomes = await asyncio.gather(*(requests.cancel(id) for id in ids[::2]))
    assert set(outcomes) == {Cancelled.DONE}
    left = await lease(requests, 10_000)
    assert {leased.id for leased in left} == set(ids[1::2])


async def test_queue_sizes_are_told_of_all_apps_at_once(requests: Requests) -> None:
    for app in ("local/hello", "local/hello", "local/other"):
        await requests.submit(replace(HELLO, app=app))
    await lease(requests)
    assert await requests.queue_sizes() == {"local/hello": 1, "local/other": 1}


async def test_who_counts_is_told_of_each_end_once(database: Database, clock: Any) -> None:
    ends: list[tuple[int | None, float, float | None]] = []
    requests = Requests(
        database, clock, on_end=lambda end: ends.append((end.status, end.waited_s, end.ran_s))
    )
    ids = [
        (await requests.submit(replace(HELLO, start_timeout_s=start_timeout_s))).id
        for start_timeout_s in (None, None, None, 5)
    ]
    clock.now += 2
    first, second = await lease(requests, 2)
    clock.now += 3
    await requests.finish(first.id, 1, GOOD)
    await requests.finish(first.id, 1, GOOD)  # it has ended
    await requests.put_back(second.id, 1, delay_s=0, why=Answer(503))  # it has not
    await requests.expire()
    await requests.cancel(ids[2])
    await requests.cancel(second.id)
    assert ends == [(200, 2, 3), (504, 5, None), (499, 5, None), (499, 5, None)]
