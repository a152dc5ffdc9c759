"""Direct calls: no-ops beside the peers, streams beside bare Starlette, and doing nothing."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import httpx

from benchmarks.peers.servers import Peer, Server
from benchmarks.server import load

NOTHING = {"steps": 0, "log": ""}
EVENTS = 10_000
IDLE_S = 10.0


async def no_ops(servers: list[tuple[Peer, Path]], seconds: float) -> None:
    """The same JSON no-op everywhere, from 1 and from 64 connections."""
    print(
        "| no-op, JSON in and out | processes | 1 connection: rate, p50 / p99 "
        "| times bare | 64 connections: rate, p50 / p99 |\n|---|---|---|---|---|"
    )
    bare_ms = 0.0
    for peer, commands in servers:
        try:
            async with _served(peer, commands) as server:
                one = await load.post(server.url, NOTHING, connections=1, seconds=seconds)
                many = await load.post(server.url, NOTHING, connections=64, seconds=seconds)
                family = 1 + len(server.process.children(recursive=True))
        except RuntimeError as failure:
            print(f"| {peer.name} | | did not start: {failure} | | |")
            continue
        bare_ms = bare_ms or 1e3 / one.rate
        print(
            f"| {peer.name} | {family} | {one} | {1e3 / one.rate / bare_ms:.2f} | {many} |",
            flush=True,
        )


async def events(servers: list[tuple[Peer, Path]]) -> None:
    """Server-sent events through the server: how many a second, and the first one's time."""
    print("\n| 10,000 small events in one stream | events/s | first event |\n|---|---|---|")
    for peer, commands in servers:
        async with _served(peer, commands) as server:
            rates, firsts = [], []
            for _ in range(5):
                rates.append((await _stream(server.url, EVENTS))[0])
            for _ in range(50):
                firsts.append((await _stream(server.url, 1))[1])
        first = statistics.median(firsts) * 1e3
        print(f"| {peer.name} | {statistics.median(rates):,.0f} | {first:.2f} ms |", flush=True)


async def idle(ours: tuple[Peer, Path]) -> None:
    """What server and replica use while nobody calls."""
    async with _served(*ours) as server:
        family = [server.process, *server.process.children(recursive=True)]
        await asyncio.sleep(1)
        before = sum(sum(process.cpu_times()[:2]) for process in family)
        await asyncio.sleep(IDLE_S)
        spent = sum(sum(process.cpu_times()[:2]) for process in family) - before
        memory = [process.memory_full_info().pss / 2**20 for process in family]
    print(
        f"\nidle: {spent / IDLE_S:.2%} of a core over {IDLE_S:g} s, and "
        f"{' + '.join(f'{mib:.0f}' for mib in memory)} MiB (server, replica)",
        flush=True,
    )


class _served(Server):
    """A server in a folder of its own."""

    def __init__(self, peer: Peer, commands: Path) -> None:
        self._home = tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True)
        super().__init__(peer, commands, Path(self._home.name), timeout_s=60)


async def _stream(url: str, count: int) -> tuple[float, float]:
    """Events per second of one stream, and the time to its first bytes."""
    async with httpx.AsyncClient(timeout=60) as client:
        await client.get(url)  # the connection is there
        begun, first, received = time.perf_counter(), 0.0, bytearray()
        body = {"events": count}
        async with client.stream("POST", url.rstrip("/") + "/stream", json=body) as answer:
            async for chunk in answer.aiter_raw():
                first = first or time.perf_counter() - begun
                received += chunk
        assert received.count(b"\n\n") == count, answer.status_code
        return count / (time.perf_counter() - begun), first
