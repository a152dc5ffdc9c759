"""A runner starts, stops, and leaves nothing behind, however it ends."""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from engine_workers import Playground

from polyrank.distributed import DistributedRunner
from polyrank.distributed.launch.forks import Forks
from polyrank.distributed.launch.local import LocalLauncher
from polyrank.distributed.launch.preload import Preload
from polyrank.errors import RequestTimeout, RunnerError, RunnerStopped, SetupFailed

PROGRAMS = Path(__file__).parents[2] / "programs"

PARENT = """
import asyncio, sys
from engine_workers import Playground
from polyrank.distributed import DistributedRunner

async def main():
    runner = DistributedRunner(Playground, world_size=2, device="cpu")
    await runner.start()
    print(*await runner.invoke({"do": "pids"}), flush=True)
    BODY

asyncio.run(main())
"""


@pytest.fixture
def scratch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temp folder of its own, with a path short enough for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="life"))
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def leaves_nothing(scratch: Path) -> Iterator[None]:
    """Fails if a process, descriptor, shared memory or temporary file is left after the test."""
    me = psutil.Process()
    before = shared_memory(), me.num_fds(), len(me.children(recursive=True))
    yield
    assert os.listdir(scratch) == []
    assert (shared_memory(), me.num_fds(), len(me.children(recursive=True))) == before


def shared_memory() -> set[str]:
    """What lies in /dev/shm, but for what tests that run beside these have there: databases, and
    the semaphores of Python's own pools, of which polyrank has none."""
    return {
        name for name in os.listdir("/dev/shm") if not name.startswith(("PostgreSQL.", "sem.mp-"))
    }


@contextlib.asynccontextmanager
async def program(
    body: str, folder: Path
) -> AsyncIterator[tuple[asyncio.subprocess.Process, list[psutil.Process]]]:
    """A process that has started a runner and gone on to ``body``, and its ranks."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PARENT.replace("BODY", body),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(PROGRAMS), "TMPDIR": str(folder)},
    )
    try:
        assert process.stdout is not None
        line = await process.stdout.readline()
        ranks = [psutil.Process(int(pid)) for pid in line.split()]
        assert len(ranks) == 2, (await process.communicate())[1].decode()
        yield process, [*ranks, ranks[0].parent()]
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def all_end(processes: list[psutil.Process]) -> bool:
    _, alive = await asyncio.to_thread(psutil.wait_procs, processes, 60)
    return not alive


async def folder_empties(folder: Path) -> bool:
    """The fork server removes the folder in its last moments, after its ranks."""
    return os.listdir(folder) == []


async def test_a_runner_starts_serves_and_stops(leaves_nothing: None) -> None:
    runner = DistributedRunner(Playground, world_size=2, device="cpu")
    assert not runner.is_alive()
    await runner.start()
    assert runner.is_alive()
    await runner.ensure_alive()
    assert await runner.invoke({"do": "echo", "value": 1}) == 1
    await runner.stop()
    assert not runner.is_alive()


async def test_async_with_starts_and_stops(leaves_nothing: None) -> None:
    async with DistributedRunner(Playground, world_size=2, device="cpu") as runner:
        assert runner.is_alive()
    assert not runner.is_alive()


async def test_an_exception_inside_async_with_stops_the_runner(leaves_nothing: None) -> None:
    with pytest.raises(ZeroDivisionError):
        async with DistributedRunner(Playground, device="cpu"):
            raise ZeroDivisionError


async def test_two_runners_at_once_do_not_meet(leaves_nothing: None) -> None:
    """Row 14: no fixed port, no shared name."""
    async with (
        DistributedRunner(Playground, world_size=2, device="cpu") as first,
        DistributedRunner(Playground, world_size=2, device="cpu") as second,
    ):
        both = await asyncio.gather(
            *(runner.invoke({"do": "pids"}) for runner in (first, second) for _ in range(10))
        )
        assert len({pid for pids in both for pid in pids}) == 4
        await first.stop()
        assert len(await second.invoke({"do": "pids"})) == 2


async def test_a_runner_can_be_started_again(leaves_nothing: None) -> None:
    runner = DistributedRunner(Playground, device="cpu")
    for value in range(2):
        await runner.start()
        assert await runner.invoke({"do": "echo", "value": value}) == value
        await runner.stop()


async def test_starting_twice_is_refused(running: Callable[..., Any]) -> None:
    async with running() as runner:
        with pytest.raises(RunnerError, match="already"):
            await runner.start()
        assert await runner.invoke({"do": "echo", "value": 1}) == 1


async def test_stopping_twice_or_unstarted_is_fine(leaves_nothing: None) -> None:
    runner = DistributedRunner(Playground, device="cpu")
    await runner.stop()
    await runner.start()
    await asyncio.gather(runner.stop(), runner.stop())
    await runner.terminate()


async def test_a_runner_that_does_not_run_says_so() -> None:
    runner = DistributedRunner(Playground, device="cpu")
    with pytest.raises(RunnerStopped, match="start"):
        await runner.invoke()
    with pytest.raises(RunnerStopped, match="start"):
        async for _ in runner.stream():
            pass


@pytest.mark.parametrize(
    "payload", [{"do": "endless"}, {"do": "block"}], ids=["cancellable", "stuck"]
)
async def test_stopping_ends_what_runs_and_what_waits(
    leaves_nothing: None, payload: dict[str, Any]
) -> None:
    runner = DistributedRunner(Playground, world_size=2, device="cpu")
    await runner.start()
    requests = [asyncio.create_task(runner.invoke(payload)) for _ in range(3)]
    await asyncio.sleep(0)
    await runner.stop(timeout=0.5)
    for outcome in await asyncio.gather(*requests, return_exceptions=True):
        assert isinstance(outcome, RunnerStopped)


async def test_stopping_while_a_stream_is_read_ends_the_stream(leaves_nothing: None) -> None:
    runner = DistributedRunner(Playground, world_size=2, device="cpu")
    await runner.start()
    stream = runner.stream({"do": "endless"})
    assert await anext(stream) == "begun"
    await runner.stop()
    with pytest.raises(RunnerStopped):
        await anext(stream)


async def test_stopping_while_a_group_is_restarted(leaves_nothing: None) -> None:
    runner = DistributedRunner(Playground, world_size=2, device="cpu")
    await runner.start()
    lost = asyncio.create_task(runner.invoke({"do": "die", "rank": 0, "how": "exit"}))
    waiting = asyncio.create_task(runner.invoke({"do": "pids"}))
    await asyncio.wait([lost])
    await runner.stop()
    assert lost.exception() is not None
    with pytest.raises(RunnerStopped):
        await waiting


@pytest.mark.parametrize("limit", [{"cancel_grace_s": 0.1}, {"hang_timeout_s": 0.1}])
async def test_ranks_that_are_given_up_during_stop_are_not_started_again(
    leaves_nothing: None, limit: dict[str, Any]
) -> None:
    """The time in which a request has to leave may end while ``stop`` waits for it."""
    runner = DistributedRunner(Playground, world_size=2, device="cpu", **limit)
    await runner.start()
    request = asyncio.create_task(runner.invoke({"do": "block"}))
    await asyncio.sleep(0)
    request.cancel()
    await runner.stop(timeout=20)
    with pytest.raises(asyncio.CancelledError):
        await request
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_stop_that_is_cancelled_stops_at_once(leaves_nothing: None) -> None:
    runner = DistributedRunner(Playground, world_size=2, device="cpu")
    await runner.start()
    request = asyncio.create_task(runner.invoke({"do": "block"}))
    await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await runner.stop(timeout=3600)
    with pytest.raises(RunnerStopped):
        await request


async def test_stopping_a_frozen_rank(leaves_nothing: None) -> None:
    runner = DistributedRunner(Playground, world_size=2, device="cpu")
    await runner.start()
    pids = await runner.invoke({"do": "pids"})
    os.kill(pids[1], signal.SIGSTOP)
    await runner.stop(timeout=0.3)
    assert not any(psutil.pid_exists(pid) for pid in pids)


@pytest.mark.parametrize(
    "setup",
    [{"do": "fail", "ranks": [1]}, {"do": "die", "rank": 0, "how": "kill", "place": "setup"}],
    ids=["raises", "dies"],
)
async def test_a_failed_start_leaves_nothing_behind(
    leaves_nothing: None, setup: dict[str, Any]
) -> None:
    """And the same object can be started again."""
    runner = DistributedRunner(Playground, world_size=2, groups=2, device="cpu")
    with pytest.raises(SetupFailed):
        await runner.start(**setup)
    assert not runner.is_alive()
    await runner.start()
    assert await runner.invoke({"do": "echo", "value": 1}) == 1
    await runner.stop()


async def test_a_fork_server_is_replaced_before_its_end_is_heard(
    leaves_nothing: None, scratch: Path
) -> None:
    """Whoever starts ranks may know of it earlier than the socket's reader."""
    forks = Forks(scratch / "runner", Preload())
    await forks.start()
    server = forks._server
    assert server is not None
    server.kill()
    server.wait()
    assert await forks.start()
    await forks.stop()


async def test_a_rank_that_nobody_waits_for_is_killed(leaves_nothing: None) -> None:
    """It has been asked for, and is forked after whoever asked was cancelled."""
    launcher = LocalLauncher(Preload())
    await launcher.start()
    link = launcher.link(group=0, epoch=1, world_size=1)
    launching = asyncio.create_task(link.launch(0, {}, lambda *_: None, lambda *_: None))
    await asyncio.sleep(0)
    launching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await launching
    [process] = launcher._forks._processes.values()
    assert (await process.exited).signal == "SIGKILL"
    link.close()
    await launcher.stop()


async def test_a_start_that_is_cancelled_or_late_leaves_nothing_behind(
    leaves_nothing: None,
) -> None:
    runner = DistributedRunner(Playground, world_size=2, device="cpu")
    starting = asyncio.create_task(runner.start(do="block"))
    await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    with pytest.raises(SetupFailed, match="not ready within 3 s"):
        await runner.start(timeout=3, do="block")


async def test_a_runner_is_started_at_the_top_not_in_a_rank(
    running: Callable[..., Any],
) -> None:
    async with running() as runner:
        with pytest.raises(RunnerError, match="inside a rank"):
            await runner.invoke({"do": "start_a_runner"})


async def test_a_long_temp_folder_is_fine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A socket's path is limited to 107 characters; a user's temp folder is not."""
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    async with DistributedRunner(Playground, device="cpu") as runner:
        assert await runner.invoke({"do": "echo", "value": 1}) == 1


async def test_the_folder_of_a_runner_is_private(scratch: Path) -> None:
    """Row 16: nobody else on the machine can talk to the ranks, and nothing listens for calls."""
    async with DistributedRunner(Playground, device="cpu") as runner:
        await runner.invoke()
        (folder,) = scratch.iterdir()
        assert folder.stat().st_mode & 0o777 == 0o700


async def test_a_parent_that_leaves_without_stop_ends_at_once(scratch: Path) -> None:
    """Row 18: neither a forgotten stop() nor an exception keeps the process or its ranks."""
    for body in ("pass", "raise SystemExit(0)", "runner.forgotten = runner"):
        async with program(body, scratch) as (process, ranks):
            async with asyncio.timeout(60):
                await process.wait()
            assert await all_end(ranks)
            assert await folder_empties(scratch)


@pytest.mark.parametrize("payload", ["", '{"do": "block"}', '{"do": "steps", "count": 10**9}'])
async def test_a_parent_that_is_killed_leaves_nothing_behind(scratch: Path, payload: str) -> None:
    """Rows 18 and 19: no process, no socket folder, no shared memory, idle or at work."""
    shared = shared_memory()
    body = f"await runner.invoke({payload})\n    await asyncio.Event().wait()"
    async with program(body, scratch) as (process, ranks):
        process.kill()
        assert await all_end(ranks)
        assert await folder_empties(scratch)
    assert shared_memory() <= shared


async def test_a_parent_that_is_killed_while_its_ranks_are_frozen(scratch: Path) -> None:
    async with program("await asyncio.Event().wait()", scratch) as (process, ranks):
        ranks[0].suspend()
        process.kill()
        assert await all_end(ranks)
        assert await folder_empties(scratch)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_to_the_whole_process_group_ends_all(
    scratch: Path, signum: signal.Signals
) -> None:
    """Row 18: Ctrl-C in a terminal reaches the parent only, which takes its ranks along."""
    body = 'await runner.invoke({"do": "block"})'
    async with program(body, scratch) as (process, ranks):
        os.killpg(process.pid, signum)
        async with asyncio.timeout(60):
            await process.wait()
        assert await all_end(ranks)
        assert await folder_empties(scratch)


async def test_ctrl_c_lets_the_ranks_tear_down(scratch: Path, tmp_path: Path) -> None:
    """The signal does not reach the ranks: ``finally: await runner.stop()`` still works."""
    body = f"""
    await runner.invoke({{"do": "remember_goodbye", "folder": {str(tmp_path)!r}}})
    print("ready", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        await runner.stop()
"""
    async with program(body.strip(), scratch) as (process, ranks):
        assert process.stdout is not None
        await process.stdout.readline()
        os.killpg(process.pid, signal.SIGINT)
        async with asyncio.timeout(60):
            await process.wait()
        assert await all_end(ranks)
    assert sorted(os.listdir(tmp_path)) == ["0", "1"]


async def test_a_runner_that_starts_in_a_thread_outlives_the_thread_that_made_it(
    running: Callable[..., Any],
) -> None:
    """Ranks belong to the process, not to the thread in which they were started."""

    def start_in_a_thread() -> tuple[asyncio.AbstractEventLoop, DistributedRunner]:
        loop = asyncio.new_event_loop()
        runner = DistributedRunner(Playground, device="cpu")
        loop.run_until_complete(runner.start())
        return loop, runner

    loop, runner = await asyncio.to_thread(start_in_a_thread)
    asyncio.get_running_loop()._default_executor.shutdown()  # type: ignore[attr-defined]
    asyncio.get_running_loop()._default_executor = None  # type: ignore[attr-defined]
    with_thread = asyncio.get_running_loop().run_in_executor(
        None, loop.run_until_complete, runner.invoke({"do": "echo", "value": 1})
    )
    assert await with_thread == 1
    await asyncio.to_thread(loop.run_until_complete, runner.stop())
    loop.close()


async def test_the_keepalive_call_is_made_when_idle(
    running: Callable[..., Any], make_gate: Any
) -> None:
    """Row 13: it comes again and again, and still after a timeout and an error."""
    gates = [make_gate() for _ in range(3)]
    payload = {"do": "knock", "fifos": [gate.path for gate in gates]}
    async with running(keepalive_payload=payload, keepalive_interval=0.05) as runner:
        await gates[0].open()
        with pytest.raises(RequestTimeout):
            await runner.invoke({"do": "endless"}, timeout=0.05)
        await gates[1].open()
        with pytest.raises(RunnerError):
            await runner.invoke({"do": "fail", "ranks": [0]})
        await gates[2].open()


async def test_a_keepalive_call_that_fails_stops_nothing(
    running: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    failing = {"do": "fail", "ranks": [0]}
    async with running(keepalive_payload=failing, keepalive_interval=0.01) as runner:
        await runner.keepalive()
        assert await runner.invoke({"do": "echo", "value": 1}) == 1
    assert "keep-alive call failed" in caplog.text


async def test_a_request_does_not_wait_for_the_keepalive_call(
    running: Callable[..., Any], gate: Any
) -> None:
    """Row 23: a warm-up that has begun gives way at its next checkpoint."""
    payload = {"do": "knock_then_run", "fifo": gate.path}
    async with running(keepalive_payload=payload, keepalive_interval=0.05) as runner:
        await gate.open()
        assert await runner.invoke({"do": "echo", "value": 1}, timeout=30) == 1


async def test_what_a_start_took_is_told(running: Callable[..., Any]) -> None:
    """Phases per rank, in seconds."""
    async with running(world_size=2) as runner:
        assert [(row["group"], row["rank"]) for row in runner.timings] == [(0, 0), (0, 1)]
        for row in runner.timings:
            phases = ("spawn_s", "import_s", "process_group_s", "load_s", "setup_s")
            assert all(row[phase] >= 0 for phase in phases)
