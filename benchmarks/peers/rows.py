"""What is measured: each function is given a running server and returns a cell of the table."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import time
from pathlib import Path

from benchmarks.peers.client import describe
from benchmarks.peers.servers import Server

NOTHING = {"steps": 0, "log": ""}
STEPS = 100
WORK_S = 5.0
CAP_S = 30.0


async def latency(server: Server, warm_up: int = 100, repeats: int = 1000) -> str:
    """One caller, one connection, one no-op after the other."""
    spent = []
    async with server.caller() as caller:
        for _ in range(warm_up + repeats):
            start = time.perf_counter()
            answer = await caller.post(NOTHING)
            spent.append((time.perf_counter() - start) * 1e3)
            if not answer.is_right(steps=0):
                return f"failed: {answer}"
    spent = spent[warm_up:]
    p99 = statistics.quantiles(spent, n=100)[98]
    return f"{statistics.median(spent):.2f} / {p99:.2f} ms"


async def throughput(server: Server, callers: int = 32, spell_s: float = 5.0) -> str:
    """Concurrent callers, each with a connection of its own, one no-op after the other."""
    start = time.perf_counter() + 1.0  # after a second of warm-up
    answered, wrong = 0, ""

    async def call() -> None:
        nonlocal answered, wrong
        async with server.caller() as caller:
            while (now := time.perf_counter()) < start + spell_s:
                answer = await caller.post(NOTHING)
                if not answer.is_right(steps=0):
                    wrong = str(answer)
                elif now >= start:
                    answered += 1

    await asyncio.gather(*(call() for _ in range(callers)))
    return f"{answered / spell_s:,.0f}/s" + (f", and {wrong}" if wrong else "")


async def hang_up(server: Server, after_s: float = 0.2) -> str:
    """The caller closes the connection in the middle of the work."""
    log = server.new_log()
    async with server.caller() as caller:
        caller.send({"steps": STEPS, "log": str(log)})
        await asyncio.sleep(after_s)
    return await _stopped(log)


async def timed_out(server: Server) -> str:
    """The work is longer than the server's limit on a request."""
    log = server.new_log()
    start = time.perf_counter()
    async with server.caller() as caller:
        answer = await caller.post({"steps": STEPS, "log": str(log)})
    spent = time.perf_counter() - start
    return f"{answer} after {spent:.2f} s; {await _stopped(log)}"


async def worker_killed(server: Server) -> tuple[str, str]:
    """SIGKILL in the middle of the work: what its caller gets, and when the next is served."""
    log = server.new_log()
    in_flight = asyncio.create_task(_call(server, log))
    await asyncio.sleep(WORK_S / 10)
    pids = log.read_text().split()
    if not pids:
        in_flight.cancel()
        return "the work did not begin", "not measured"
    os.kill(int(pids[-1]), signal.SIGKILL)
    killed = time.perf_counter()
    back = await _back(server, killed)
    await asyncio.wait([in_flight], timeout=killed + CAP_S - time.perf_counter())
    if not in_flight.done():
        in_flight.cancel()
        return f"**nothing** within {CAP_S:.0f} s", back
    outcome, at = in_flight.result()
    return f"{outcome} after {at - killed:.2f} s", back


async def _call(server: Server, log: Path) -> tuple[str, float]:
    """What a caller of the whole work gets, and when."""
    try:
        async with server.caller() as caller:
            outcome = str(await caller.post({"steps": STEPS, "log": str(log)}))
    except (OSError, EOFError) as failure:
        outcome = describe(failure)
    return outcome, time.perf_counter()


async def _back(server: Server, killed: float) -> str:
    """When a new request is answered right, and what others got until then."""
    refusals: list[str] = []
    try:
        await server.first_good_answer(killed + CAP_S - time.perf_counter(), refusals)
        when = f"{time.perf_counter() - killed:.2f} s"
    except TimeoutError:
        when = f"**never** within {CAP_S:.0f} s"
    if server.process.poll() is not None:
        when += ", the server has exited"
    return f"{when}; until then {', '.join(refusals)}" if refusals else when


async def _stopped(log: Path) -> str:
    """How many steps the work makes from now on."""
    before = _count(log)
    await asyncio.sleep(WORK_S + 1)  # as long as it could go on, and more
    more = _count(log) - before
    if before == 0:
        return f"the work had not begun; {more} steps later"
    if before + more >= STEPS:
        return f"**not stopped**, {more} more steps to its end" if more else "it ran to its end"
    return f"stopped, {more} more step{'' if more == 1 else 's'}"


def _count(log: Path) -> int:
    return len(log.read_text().splitlines())
