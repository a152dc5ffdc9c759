"""Whatever is killed, every accepted request ends once, with its own result.

``make chaos`` kills 30 times, with 500 requests.
"""

import asyncio
import contextlib
import os
import random
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from polyrank_program import ROOT

from .conftest import ServerProcess

KILLS = int(os.environ.get("POLYRANK_CHAOS", "6"))
REQUESTS = 500 if KILLS >= 30 else 120
SEED = 20261121
QUEUE = "/queue/local/ranks-app"
APP = ROOT / "tests" / "programs" / "ranks_app.py"


class Caller:
    """A caller who does not give up: what a kill cuts off, it asks again, by the same key."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self._clients: dict[str, httpx.AsyncClient] = {}
        self._changed = asyncio.Condition()
        self._results = 0

    async def call(self, number: int, accepted: asyncio.Semaphore) -> Any:
        """Submits a request, and waits for its result."""
        submitted = await self._insist(
            lambda client: client.post(
                QUEUE,
                json={"number": number},
                headers={"idempotency-key": f"request {number}"},
            )
        )
        accepted.release()
        url = f"{QUEUE}/requests/{submitted['request_id']}"
        await self._insist(lambda client: client.get(f"{url}/status/stream"), is_json=False)
        result = await self._insist(lambda client: client.get(url))
        async with self._changed:
            self._results += 1
            self._changed.notify_all()
        return result

    async def wait_for_results(self, count: int) -> None:
        """Between two kills something must get done, or the next one would not hurt.

        Where starting takes long, more is done between two kills, and in the end nothing is left.
        """
        async with asyncio.timeout(120), self._changed:
            wanted = min(self._results + count, REQUESTS)
            await self._changed.wait_for(lambda: self._results >= wanted)

    async def server_is_back(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _insist(
        self,
        ask: Callable[[httpx.AsyncClient], Awaitable[httpx.Response]],
        is_json: bool = True,
    ) -> Any:
        while True:
            address = self._server.address
            try:
                answer = await ask(self._client(address))
                answer.raise_for_status()
                return answer.json() if is_json else None
            except httpx.TransportError:
                async with self._changed:
                    await self._changed.wait_for(lambda: self._server.address != address)  # noqa: B023

    def _client(self, address: str) -> httpx.AsyncClient:
        if address not in self._clients:
            limits = httpx.Limits(max_connections=None)
            self._clients[address] = httpx.AsyncClient(
                base_url=address, timeout=None, limits=limits
            )
        return self._clients[address]

    async def close(self) -> None:
        for client in self._clients.values():
            await client.aclose()


def processes_of(server: ServerProcess) -> dict[str, list[psutil.Process]]:
    """The processes below a server: its replica, and the replica's ranks."""
    found: dict[str, list[psutil.Process]] = {"replica": [], "rank": []}
    for child in psutil.Process(server.process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it may be ending
            if "polyrank.app.replica" in child.cmdline():
                found["replica"].append(child)
                below = child.children(recursive=True)
                found["rank"] += [each for each in below if not each.children()]
    return found


async def kill_at_random(server: ServerProcess, caller: Caller, gate: Path) -> set[psutil.Process]:
    """The first kill hits a rank at work. Returns the processes that were there at some time."""
    chance = random.Random(SEED)
    seen: set[psutil.Process] = set()
    for number in range(KILLS):
        if gate.exists():
            assert "at work" in await asyncio.to_thread(gate.read_text)
        else:
            await caller.wait_for_results(chance.randint(1, 9))
        kind = ("server", "replica", "rank")[number % 3]
        seen.update(psutil.Process(server.process.pid).children(recursive=True))
        if kind == "server":
            server.process.kill()
            gate.unlink(missing_ok=True)
            await asyncio.to_thread(server.end)
            await asyncio.to_thread(server.start)
            await caller.server_is_back()
        elif found := processes_of(server)[kind]:  # between two lives there is none
            with contextlib.suppress(psutil.NoSuchProcess):
                chance.choice(found).kill()
    return seen


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A fifo: ranks at work write to it, and go on when it is gone."""
    os.mkfifo(tmp_path / "gate")
    return tmp_path / "gate"


@pytest.fixture
def server(tmp_path: Path, gate: Path) -> Iterator[ServerProcess]:
    database = f"sqlite:///{tmp_path / 'polyrank.db'}"
    environment = {"RANKS_GATE": str(gate)}
    process = ServerProcess(database, f"{APP}::RanksApp", environment=environment)
    yield process
    process.end()


@pytest.mark.timeout(600)
async def test_every_accepted_request_ends_once_with_its_own_result(
    server: ServerProcess, tmp_path: Path, gate: Path
) -> None:
    caller, accepted = Caller(server), asyncio.Semaphore(0)
    calls = asyncio.gather(*(caller.call(number, accepted) for number in range(REQUESTS)))
    for _ in range(REQUESTS):
        await accepted.acquire()
    seen = await kill_at_random(server, caller, gate)
    assert await calls == [{"double": 2 * number} for number in range(REQUESTS)]
    await caller.close()
    await asyncio.to_thread(server.end)
    _, left = await asyncio.to_thread(psutil.wait_procs, seen, 60)
    assert left == []  # nobody outlives its server
    with sqlite3.connect(tmp_path / "polyrank.db") as database:
        rows = database.execute("select state, count(*), max(attempt) from requests group by 1")
        [(state, count, attempts)] = rows.fetchall()
    database.close()
    assert (state, count) == ("done", REQUESTS)
    assert attempts > 1  # the kills did hurt
    await asyncio.to_thread(server.start)
