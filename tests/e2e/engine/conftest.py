"""A runner that a module's tests share, and a limit for every test: a hang fails with a name."""

import asyncio
import contextlib
import functools
import inspect
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from engine_workers import Playground, Preloaded

from polyrank.distributed import DistributedRunner

PROGRAMS = Path(__file__).parents[2] / "programs"

LIMIT_S = 120


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents and isinstance(item, pytest.Function):
            if inspect.iscoroutinefunction(item.obj):
                item.obj = limited(item.obj)


def limited(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    @functools.wraps(test)
    async def run(*args: Any, **kwargs: Any) -> None:
        async with asyncio.timeout(LIMIT_S):
            await test(*args, **kwargs)

    return run


@contextlib.asynccontextmanager
async def running(
    worker: type = Playground,
    world_size: int = 1,
    *,
    setup: dict[str, Any] | None = None,
    start_timeout: float = 60,
    **options: Any,
) -> AsyncIterator[DistributedRunner]:
    """A started runner on the CPU."""
    options.setdefault("device", "cpu")
    runner = DistributedRunner(worker, world_size, **options)
    await runner.start(timeout=start_timeout, **(setup or {}))
    try:
        yield runner
    finally:
        async with asyncio.timeout(60):
            await runner.stop()


@pytest.fixture(scope="session", name="running")
def running_fixture() -> Callable[..., Any]:
    return running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair() -> AsyncIterator[DistributedRunner]:
    """Two ranks that work together."""
    async with running(world_size=2, cancel_grace_s=10) as runner:
        yield runner


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def solo() -> AsyncIterator[DistributedRunner]:
    """One rank."""
    async with running(cancel_grace_s=10) as runner:
        yield runner


@pytest.fixture
def preloading(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Has the worker ``Preloaded`` preload a module that keeps the pid of who imports it."""

    def preload(name: str = "preloaded_module", more: str = "") -> None:
        text = f"import os\nIMPORTED_BY = os.getpid()\n{more}"
        (tmp_path / "preloaded_module.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(Preloaded, "preload", (name,))

    return preload


class Gate:
    """Something a worker waits at (``wait_for``) until the test opens it."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        os.mkfifo(path)

    async def open(self) -> None:
        """Lets the worker through; waits until it is there."""
        await asyncio.to_thread(lambda: open(self.path, "w").close())


@pytest.fixture
def make_gate(tmp_path: Path) -> Iterator[Callable[[], Gate]]:
    gates: list[Gate] = []

    def make() -> Gate:
        gates.append(Gate(tmp_path / f"gate{len(gates)}"))
        return gates[-1]

    yield make
    # Nobody waits for ever at a gate that a failed test left shut.
    for gate in gates:
        with contextlib.suppress(OSError):
            os.close(os.open(gate.path, os.O_WRONLY | os.O_NONBLOCK))


@pytest.fixture
def gate(make_gate: Callable[[], Gate]) -> Gate:
    return make_gate()
