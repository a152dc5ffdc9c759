"""A worker may live anywhere and be written in any style."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine_workers import AsyncGenerator, AsyncWorker, Generator, Outer, OwnInit

from polyrank.distributed import DistributedRunner, DistributedWorker
from polyrank.errors import SetupFailed, WorkerError

PROGRAMS = Path(__file__).parents[2] / "programs"

SCRIPT = """
import asyncio
import dataclasses

from polyrank.distributed import DistributedRunner, DistributedWorker

OFFSET = 100


@dataclasses.dataclass
class Scale:
    factor: int


def scaled(number):
    return number * Scale(2).factor + OFFSET


class Scaler(DistributedWorker):
    def setup(self, shift):
        self.shift = shift

    def __call__(self, streaming=False, *, number):
        return [scaled(number) + self.shift, self.world_size]


async def main():
    runner = DistributedRunner(Scaler, world_size=2, device="cpu")
    await runner.start(shift=1)
    print(await runner.invoke({"number": 5}))
    await runner.stop()

"""


def run(*arguments: str, stdin: str | None = None, cwd: Path | None = None) -> str:
    """Runs Python to its end and gives what it printed."""
    done = subprocess.run(
        [sys.executable, *arguments],
        input=stdin,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "PYTHONPATH": str(PROGRAMS)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_in_a_script(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT + 'if __name__ == "__main__":\n    asyncio.run(main())\n')
    assert run(str(script)) == "[111, 2]\n"


def test_in_a_script_without_a_guard(tmp_path: Path) -> None:
    """The script does not run again in the ranks."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT + 'print("once")\nasyncio.run(main())\n')
    assert run(str(script)) == "once\n[111, 2]\n"


def test_in_a_module_run_with_m(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    (tmp_path / "package" / "helper.py").write_text("NUMBER = 5\n")
    (tmp_path / "package" / "__main__.py").write_text(
        "from .helper import NUMBER\n"
        + SCRIPT.replace("OFFSET = 100", "OFFSET = 20 * NUMBER")
        + "asyncio.run(main())\n"
    )
    assert run("-m", "package", cwd=tmp_path) == "[111, 2]\n"


def test_typed_at_a_prompt() -> None:
    """No file at all: the class travels by value."""
    assert run("-", stdin=SCRIPT + "asyncio.run(main())\n") == "[111, 2]\n"


def test_in_a_notebook_cell(tmp_path: Path) -> None:
    """A cell is code run in a ``__main__`` whose names come from many cells."""
    cells = SCRIPT.split("\n\n\n")
    notebook = tmp_path / "kernel.py"
    notebook.write_text(
        "import sys, types\n"
        "main = types.ModuleType('__main__')\n"
        "sys.modules['__main__'] = main\n"
        f"for number, cell in enumerate({[*cells, 'asyncio.run(main())']!r}):\n"
        "    exec(compile(cell, f'<cell {number}>', 'exec'), main.__dict__)\n"
    )
    assert run(str(notebook)) == "[111, 2]\n"


def test_in_a_folder_that_is_not_the_current_one(tmp_path: Path) -> None:
    """Modules beside the script are found in the ranks, too."""
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "sibling.py").write_text(SCRIPT)
    script = tmp_path / "app" / "script.py"
    script.write_text("import asyncio, sibling\nasyncio.run(sibling.main())\n")
    (tmp_path / "elsewhere").mkdir()
    assert run(str(script), cwd=tmp_path / "elsewhere") == "[111, 2]\n"


def test_a_file_here_named_like_a_library_does_no_harm(tmp_path: Path) -> None:
    """People do call their files random.py."""
    (tmp_path / "app").mkdir()
    script = tmp_path / "app" / "script.py"
    script.write_text(SCRIPT + "asyncio.run(main())\n")
    (tmp_path / "select.py").write_text("raise RuntimeError('not this one')\n")
    (tmp_path / "torch.py").write_text("raise RuntimeError('not this one')\n")
    assert run(str(script), cwd=tmp_path) == "[111, 2]\n"


async def test_in_a_function(running: Callable[..., Any]) -> None:
    factor = 3

    class Local(DistributedWorker):
        def __call__(self, streaming: bool = False, *, number: int) -> int:
            return number * factor

    async with running(Local) as runner:
        assert await runner.invoke({"number": 5}) == 15


async def test_in_a_class(running: Callable[..., Any]) -> None:
    async with running(Outer.Inner) as runner:
        assert await runner.invoke() == "Outer.Inner"


async def test_a_class_that_cannot_travel_is_refused_by_name(
    running: Callable[..., Any],
) -> None:
    generator = (number for number in range(3))

    class Holder(DistributedWorker):
        def __call__(self, streaming: bool = False) -> int:
            return next(generator)

    with pytest.raises(SetupFailed, match=r"Holder.*cannot be sent.*module of its own"):
        async with running(Holder):
            pass


async def test_with_an_init_of_its_own(running: Callable[..., Any]) -> None:
    async with running(OwnInit, world_size=2) as runner:
        assert await runner.invoke() == (0, 2)


async def test_as_coroutines(running: Callable[..., Any], tmp_path: Path) -> None:
    """setup, ``__call__`` and teardown may all be async."""
    setup = {"base": 40, "folder": str(tmp_path)}
    async with running(AsyncWorker, world_size=2, setup=setup) as runner:
        assert await runner.invoke({"number": 2}) == 42
    assert sorted(os.listdir(tmp_path)) == ["async-0", "async-1"]


async def test_as_a_generator(running: Callable[..., Any]) -> None:
    """Row 20: what it yields is streamed, what it returns is the result."""
    async with running(Generator, world_size=2) as runner:
        streamed = [item async for item in runner.stream({"count": 3})]
        assert streamed == [
            *({"number": number, "streaming": True} for number in range(3)),
            "the result",
        ]
        assert await runner.invoke({"count": 3}) == "the result"


async def test_as_an_async_generator(running: Callable[..., Any]) -> None:
    """Row 20, async: an async generator has events and the result None."""
    async with running(AsyncGenerator) as runner:
        assert [item async for item in runner.stream({"count": 3})] == [0, 1, 2, None]
        assert await runner.invoke({"count": 3}) is None


async def test_setup_gets_the_arguments_of_start(running: Callable[..., Any]) -> None:
    setup = {"do": "record", "item": {"path": "/models/x", "sizes": (1, 2)}}
    async with running(setup=setup) as runner:
        assert await runner.invoke({"do": "recorded"}) == [setup["item"]]


async def test_a_worker_without_call_says_so(running: Callable[..., Any]) -> None:
    async with running(DistributedWorker) as runner:
        with pytest.raises(WorkerError, match="must define __call__"):
            await runner.invoke()


async def test_teardown_runs_on_every_rank(running: Callable[..., Any], tmp_path: Path) -> None:
    async with running(world_size=2) as runner:
        await runner.invoke({"do": "remember_goodbye", "folder": str(tmp_path)})
    assert [path.read_text() for path in sorted(tmp_path.iterdir())] == ["teardown ran"] * 2


async def test_ranks_work_in_the_folder_they_are_given(
    running: Callable[..., Any], tmp_path: Path
) -> None:
    async with running(cwd=tmp_path) as runner:
        assert (await runner.invoke({"do": "who"}))["folder"] == str(tmp_path)
    async with running() as runner:
        assert (await runner.invoke({"do": "who"}))["folder"] == os.getcwd()


async def test_runner_and_worker_are_the_documented_names() -> None:
    """Row 20: the words of the tutorial."""
    for name in ("start", "invoke", "stream", "stop", "terminate", "keepalive", "ensure_alive"):
        assert callable(getattr(DistributedRunner, name))
    for name in ("setup", "teardown", "add_streaming_result", "add_streaming_error", "rank_print"):
        assert callable(getattr(DistributedWorker, name))
    assert asyncio.iscoroutinefunction(DistributedRunner.start)


class HalfConvolution(DistributedWorker):
    """Written for a GPU: everything is float16."""

    def __call__(self, streaming: bool = False) -> Any:
        import torch
        from torch import nn

        torch.manual_seed(3)
        convolution, inputs = nn.Conv2d(8, 8, 3), torch.randn(1, 8, 16, 16)
        exact = convolution.half().float()(inputs.half().float())
        halves = convolution.half()(inputs.half())
        return halves, exact.half()


async def test_float16_convolutions_on_the_cpu_are_float32_ones_rounded() -> None:
    async with DistributedRunner(HalfConvolution, world_size=1, device="cpu") as runner:
        halves, exact = await runner.invoke({})
    assert halves.dtype.itemsize == 2
    assert (halves == exact).all()
