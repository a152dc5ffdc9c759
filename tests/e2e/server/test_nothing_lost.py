"""Whatever is killed, every accepted request ends once, with its own result.

``POLYRANK_CHAOS=30`` kills as often as that, with 500 requests.
"""

import os
import random
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

KILLS = int(os.environ.get("POLYRANK_CHAOS", "6"))
REQUESTS = 500 if KILLS >= 30 else 120
SEED = 20261121


class Caller:
    """A caller who does not give up: it submits again, by the same key, until it has an answer."""

    def __init__(self, server) -> None:
        self._server = server
        self._changed = threading.Condition()
        self._results = 0

    def submit(self, number: int) -> str:
        def attempt(client: httpx.Client) -> str:
            answer = client.post(
                "/queue/local/queue-app/slow",
                json={"number": number},
                headers={"idempotency-key": f"request {number}"},
            )
            answer.raise_for_status()
            return answer.json()["request_id"]

        return self._insist(attempt)

    def result(self, id: str) -> dict[str, int]:
        def attempt(client: httpx.Client) -> dict[str, int]:
            url = f"/queue/local/queue-app/requests/{id}"
            with client.stream("GET", f"{url}/status/stream") as events:
                for _ in events.iter_lines():
                    pass
            answer = client.get(url)
            answer.raise_for_status()
            return answer.json()

        answer = self._insist(attempt)
        with self._changed:
            self._results += 1
            self._changed.notify_all()
        return answer

    def wait_for_a_result(self) -> None:
        with self._changed:
            before = self._results
            assert self._changed.wait_for(lambda: self._results > before, 60)

    def server_is_back(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _insist(self, attempt):
        while True:
            try:
                with httpx.Client(base_url=self._server.address, timeout=60) as client:
                    return attempt(client)
            except httpx.HTTPError:
                with self._changed:
                    self._changed.wait(0.5)


def replica_of(server) -> psutil.Process | None:
    for child in psutil.Process(server.process.pid).children():
        if "polyrank.app.replica" in child.cmdline():
            return child
    return None


@pytest.mark.timeout(600)
def test_every_accepted_request_ends_once_with_its_own_result(server, tmp_path: Path) -> None:
    chance = random.Random(SEED)
    caller = Caller(server)
    with ThreadPoolExecutor(16) as pool:
        submitted = [pool.submit(caller.submit, number) for number in range(REQUESTS)]
        ids = [future.result() for future in submitted]
        results = [pool.submit(caller.result, id) for id in ids]
        for _ in range(KILLS):
            # Between two kills something must get done, or the next one would not hurt.
            caller.wait_for_a_result()
            if chance.random() < 0.5:
                server.process.kill()
                server.end()
                server.start()
                caller.server_is_back()
            elif (replica := replica_of(server)) is not None:
                replica.kill()
        answers = [result.result(300) for result in results]
    assert answers == [{"double": 2 * number} for number in range(REQUESTS)]
    server.end()
    with sqlite3.connect(tmp_path / "polyrank.db") as database:
        rows = database.execute("select state, count(*), max(attempt) from requests group by 1")
        [(state, count, attempts)] = rows.fetchall()
    database.close()
    assert (state, count) == ("done", REQUESTS)
    assert attempts > 1  # the kills did hurt
    server.start()
