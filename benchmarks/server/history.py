"""Whether the dispatcher gets slower with the requests that are done."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time

from polyrank.store.database import Database
from polyrank.store.migrations import upgrade
from polyrank.store.requests import Answer, NewRequest, Requests

DONE = (10, 1_000, 100_000)
SAMPLES = 200


async def leases() -> None:
    """Submit, lease and finish one request, beside more and more finished ones (SQLite)."""
    print("\n| finished requests in the database | submit + lease + finish | expire + next due |")
    print("|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        database = Database(f"sqlite:///{folder}/polyrank.db")
        upgrade(database)
        requests = Requests(database)
        have = 0
        for wanted in DONE:
            await _fill(requests, wanted - have)
            have = wanted
            served, looked = [], []
            for _ in range(SAMPLES):
                begun = time.perf_counter()
                await _serve(requests)
                served.append(time.perf_counter() - begun)
                begun = time.perf_counter()
                await requests.expire()
                await requests.next_due()
                looked.append(time.perf_counter() - begun)
                have += 1
            print(
                f"| {wanted:,} | {statistics.median(served) * 1e3:.2f} ms "
                f"| {statistics.median(looked) * 1e3:.2f} ms |",
                flush=True,
            )
        database.close()


async def _serve(requests: Requests) -> None:
    await requests.submit(NewRequest("local/app", "caller", b"{}"))
    [lease] = await requests.lease("local/app", "server", limit=1, lease_s=15)
    assert await requests.finish(lease.id, lease.attempt, Answer(200, body=b"{}"))


async def _fill(requests: Requests, count: int) -> None:
    """Requests that are done, made in groups as big as the database takes."""
    for start in range(0, count, 256):
        size = min(256, count - start)
        new = NewRequest("local/app", "caller", b"{}")
        await asyncio.gather(*(requests.submit(new) for _ in range(size)))
        leased = await requests.lease("local/app", "server", limit=size, lease_s=60)
        await asyncio.gather(
            *(requests.finish(lease.id, lease.attempt, Answer(200, body=b"{}")) for lease in leased)
        )
