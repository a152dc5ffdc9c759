"""What the engine costs: round trips, events, large values, start. ``make bench-runner``."""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable

import numpy as np
import zmq
import zmq.asyncio

from benchmarks.workers import Echo
from polyrank.distributed import DistributedRunner

WARM_UP = 100


async def median_ms(call: Callable[[], Awaitable[object]], repeats: int, warm_up: int) -> float:
    """Median duration of ``call`` in milliseconds."""
    for _ in range(warm_up):
        await call()
    spent = []
    for _ in range(repeats):
        start = time.perf_counter()
        await call()
        spent.append(time.perf_counter() - start)
    return statistics.median(spent) * 1e3


def answer(address: str, rank: int) -> None:
    """The bare process at the other end of a ZeroMQ round trip."""
    socket = zmq.Context().socket(zmq.DEALER)
    socket.setsockopt(zmq.IDENTITY, str(rank).encode())
    socket.connect(address)
    socket.send(b"ready")
    while (message := socket.recv()) != b"stop":
        socket.send(message)


async def bare_zeromq(ranks: int, repeats: int) -> float:
    """Median milliseconds of main process -> ranks -> main process with plain asyncio ZeroMQ."""
    with tempfile.TemporaryDirectory() as folder:
        socket = zmq.asyncio.Context().socket(zmq.ROUTER)
        address = f"ipc://{folder}/socket"
        socket.bind(address)
        spawn = multiprocessing.get_context("spawn")
        processes = [spawn.Process(target=answer, args=(address, rank)) for rank in range(ranks)]
        for process in processes:
            process.start()
        peers = [(await socket.recv_multipart())[0] for _ in processes]

        async def round_trip() -> None:
            for peer in peers:
                await socket.send_multipart([peer, b"x" * 200])
            for _ in peers:
                await socket.recv_multipart()

        spent = await median_ms(round_trip, repeats, WARM_UP)
        for peer in peers:
            await socket.send_multipart([peer, b"stop"])
        for process in processes:
            process.join()
        socket.close()
    return spent


async def event_age_ms(runner: DistributedRunner, events: int) -> float:
    """Median age of a streamed event when it reaches the caller."""
    ages = []
    async for item in runner.stream({"do": "events", "events": events}):
        if item is not None:
            ages.append(time.monotonic() - item["sent"])
    return statistics.median(ages) * 1e3


def slowest_phases(runner: DistributedRunner) -> str:
    """What each phase of the start took on the rank where it took longest."""
    slowest = {name: max(row[name] for row in runner.timings) for name in runner.timings[0]}
    return ", ".join(
        f"{name.removesuffix('_s')} {s:.2f} s"
        for name, s in slowest.items()
        if isinstance(s, float)
    )


async def measure(ranks: int, device: str, repeats: int) -> None:
    """Prints the table."""
    start = time.perf_counter()
    runner = DistributedRunner(Echo, ranks, device=device)
    await runner.start(timeout=300)
    start_s = time.perf_counter() - start
    array = np.random.default_rng(0).integers(0, 255, 64 << 20, np.uint8)
    nothing = await median_ms(lambda: runner.invoke({}), repeats, WARM_UP)
    picture = await median_ms(lambda: runner.invoke({"do": "picture"}), repeats // 10, 10)
    echo = await median_ms(lambda: runner.invoke({"do": "echo", "array": array}), 20, 5)
    age = await event_age_ms(runner, 200)
    phases = slowest_phases(runner)
    await runner.stop()
    bare = await bare_zeromq(ranks, repeats)
    print(
        f"{ranks} ranks ({device}), {os.cpu_count()} cores, Python {platform.python_version()}; "
        f"medians of {repeats}\n\n"
        "| measured | figure | goal |\n|---|---|---|\n"
        f"| bare ZeroMQ round trip to {ranks} processes | {bare:.3f} ms | |\n"
        f"| no-op `invoke` | {nothing:.3f} ms = {nothing / bare:.2f} times bare | <= 2.5 times |\n"
        f"| age of a streamed event on arrival | {age:.3f} ms | < 1 ms |\n"
        f"| `invoke`, 1024x1024 RGB picture as result | no-op + {picture - nothing:.3f} ms "
        "| no-op + 1 ms |\n"
        f"| `invoke`, 64 MiB each way | {echo:.1f} ms | <= 15 ms |\n"
        f"| start to ready | {start_s:.2f} s | |"
    )
    print(f"\nslowest rank's phases: {phases}")


def main() -> None:
    """Reads the arguments and measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--repeats", type=int, default=2000)
    args = parser.parse_args()
    asyncio.run(measure(args.ranks, args.device, args.repeats))


if __name__ == "__main__":
    main()
