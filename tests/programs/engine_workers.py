"""Workers and value types for the engine's tests; every action is one thing a worker can do."""

from __future__ import annotations

import enum
import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image
from pydantic import BaseModel

from polyrank.distributed import DistributedRunner, DistributedWorker
from polyrank.errors import RequestCancelled


class Colour(enum.Enum):
    RED = "red"


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Style(BaseModel):
    name: str
    weight: float = 1.0
    tags: set[str] = set()


class Job(BaseModel):
    style: Style
    when: datetime = datetime(2026, 1, 2, tzinfo=UTC)
    picture: Any = None


@dataclass
class Box:
    left: int
    inner: Any = None
    tags: list[str] = field(default_factory=list)


class Unsendable:
    """Has no data form."""


class EmptyError(Exception):
    """An exception without a message."""


class UnspeakableError(Exception):
    """An exception whose message cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


def wait_for(fifo: str) -> None:
    """Blocks until the test opens the other end of ``fifo``."""
    with open(fifo) as gate:
        gate.read()


class Playground(DistributedWorker):
    """Does what the request says; ``setup(do=…, **arguments)`` does so at setup, too."""

    def setup(self, do: str | None = None, **arguments: Any) -> None:
        self.calls: list[Any] = []
        self.left: int | None = None
        if do is not None:
            getattr(self, do)(**arguments)

    def __call__(self, streaming: bool = False, *, do: str = "nothing", **arguments: Any) -> Any:
        return getattr(self, do)(**arguments)

    def teardown(self) -> None:
        if hasattr(self, "goodbye"):
            Path(self.goodbye).joinpath(f"{self.rank}").write_text("teardown ran")

    # --- answers

    def nothing(self) -> None:
        """The shortest request."""

    def echo(self, value: Any) -> Any:
        return value

    def everyone(self, value: Any = None) -> list[Any]:
        """What every rank says, asked over the process group."""
        said: list[Any] = [None] * self.world_size
        dist.all_gather_object(said, value)
        return said

    def pids(self) -> list[int]:
        return self.everyone(os.getpid())

    def who(self) -> dict[str, Any]:
        return {
            "rank": self.rank,
            "world_size": self.world_size,
            "device": str(self.device),
            "thread": threading.current_thread() is threading.main_thread(),
            "folder": os.getcwd(),
            "args": sys.argv,
        }

    def environment(self, name: str) -> list[Any]:
        return self.everyone(os.environ.get(name))

    def host_of_group(self) -> list[Any]:
        return self.everyone(self.group_host)

    def types(self, value: Any) -> Any:
        return self.everyone(repr(type(value)))

    def record(self, item: Any) -> None:
        self.calls.append(item)

    def recorded(self) -> list[Any]:
        return self.calls

    def remember_goodbye(self, folder: str) -> None:
        self.goodbye = folder

    def sleep(self, seconds: float) -> tuple[int, float, float]:
        begun = time.monotonic()
        time.sleep(seconds)
        return os.getpid(), begun, time.monotonic()

    def mutate(self, value: Any) -> Any:
        """Spoils its copy of the payload in turn and tells what every rank saw before."""
        seen = []
        for turn in range(self.world_size):
            if turn == self.rank:
                seen = [int(part[0]) for part in value]
                for part in value:
                    part[0] = 99
            dist.barrier()
        return self.everyone(seen)

    def keep_and_spoil(self, size: int) -> torch.Tensor:
        """Returns a tensor and goes on writing to it in later requests."""
        if not hasattr(self, "kept"):
            self.kept = torch.zeros(size, dtype=torch.uint8)
        self.kept += 1
        return self.kept

    def big(self, kind: str, size: int) -> Any:
        if kind == "bytes":
            return bytes(size)
        if kind == "array":
            return np.arange(size, dtype=np.uint8)
        return torch.arange(size, dtype=torch.uint8)

    def nested(self, depth: int) -> Any:
        value: Any = "core"
        for _ in range(depth):
            value = [value]
        return value

    def unsendable(self) -> Any:
        return {"fine": 1, "pictures": [0, Unsendable()]}

    # --- events

    def events(self, owner: Any, count: int, pause: bool = False) -> dict[str, Any]:
        for number in range(count):
            if pause:
                self.checkpoint()
            self.add_streaming_result({"owner": owner, "number": number})
        return {"owner": owner, "count": count}

    def picture_events(self, image_format: str, quality: int | None = None) -> str:
        picture = Image.new("RGBA", (8, 8), (200, 30, 30, 128))
        self.add_streaming_result({"preview": picture}, image_format, quality=quality)
        return "done"

    def reused_buffer(self, count: int) -> None:
        """Streams one tensor and one picture again and again, changed in place."""
        tensor, picture = torch.zeros(64), Image.new("L", (8, 8))
        for number in range(count):
            tensor.fill_(number)
            picture.paste(number, (0, 0, 8, 8))
            self.add_streaming_result({"tensor": tensor, "picture": picture})

    def event_then_error(self) -> None:
        self.add_streaming_result("one")
        self.add_streaming_error(ValueError("a soft one"))
        raise ValueError("boom")

    def unsendable_event(self) -> None:
        self.add_streaming_result(Unsendable())

    def stream_until(self, fifo: str) -> str:
        self.add_streaming_result("begun")
        wait_for(fifo)
        return "ended"

    # --- failures

    def fail(self, ranks: list[int], kind: str = "ValueError", message: str = "boom") -> str:
        if self.rank in ranks:
            kinds = {
                "ValueError": ValueError,
                "empty": EmptyError,
                "unspeakable": UnspeakableError,
                "exit": SystemExit,
                "interrupt": KeyboardInterrupt,
                "cancelled": RequestCancelled,
            }
            raise kinds[kind](message) if kind != "empty" else EmptyError
        return "fine"

    def fail_before_collective(self, rank: int) -> list[int]:
        if self.rank == rank:
            raise ValueError("not today")
        return self.pids()

    # --- death

    def die(self, rank: int, how: str, place: str = "running") -> Any:
        """Rank ``rank`` ends: at once, after three events, or while its peers are in a
        collective."""
        if place == "streaming":
            for number in range(3):
                self.add_streaming_result(number)
        if self.rank == rank:
            print(f"last words of rank {rank}", file=sys.stderr, flush=True)
            end(how)
        if place == "collective":
            dist.all_reduce(torch.ones(1))
        elif place != "setup":
            threading.Event().wait()

    def die_if(self, flag: str, rank: int, how: str) -> None:
        """Dies if the file ``flag`` exists."""
        if os.path.exists(flag):
            self.die(rank, how, "setup")

    def die_once(self, flag: str, rank: int) -> None:
        """Removes the file ``flag`` and dies, if it exists."""
        if self.rank == rank and os.path.exists(flag):
            os.remove(flag)
            end("exit")

    def start_child(self) -> int:
        """Starts a process that does not end by itself."""
        return subprocess.Popen(["sleep", "1000"]).pid

    def die_when(self, rank: int, fifo: str, how: str) -> None:
        """Rank ``rank`` dies after this request, once the test opens ``fifo``."""
        if self.rank == rank:

            def wait_and_end() -> None:
                wait_for(fifo)
                end(how)

            self.run_in_worker(wait_and_end)

    def block(self) -> None:
        threading.Event().wait()

    # --- cancellation

    def steps(self, count: int, hold_at: int | None = None, fifo: str = "") -> str:
        """A job of ``count`` collective steps, each ended by an event and a checkpoint.

        With ``hold_at`` rank 0 waits there until the test opens ``fifo``. ``left`` remembers the
        step at which this rank left.
        """
        self.left = None
        for step in range(count):
            try:
                dist.all_reduce(torch.ones(16))
                self.add_streaming_result(step)
                if step == hold_at and self.rank == 0:
                    wait_for(fifo)
                self.checkpoint()
            except RequestCancelled:
                self.left = step
                raise
        return "completed"

    def left_at(self) -> list[int | None]:
        return self.everyone(self.left)

    def endless(self) -> None:
        """Runs until it is cancelled."""
        self.record("begun")
        self.add_streaming_result("begun")
        while True:
            self.checkpoint()
            os.sched_yield()

    def hold(self, fifo: str, result: Any = None) -> Any:
        """Never calls checkpoint; ends once the test opens ``fifo``."""
        self.add_streaming_result("begun")
        if self.rank == 0:
            wait_for(fifo)
        dist.barrier()
        return result

    def stubborn(self) -> None:
        """Catches Exception, as careless code does, around its checkpoint."""
        self.add_streaming_result("begun")
        while True:
            try:
                self.checkpoint()
            except Exception:
                pass

    def fail_and_go_on(self, rank: int) -> None:
        """Rank ``rank`` raises while the others go from checkpoint to checkpoint."""
        if self.rank == rank:
            raise ValueError("without me")
        self.endless()

    def denoise(self, steps: int) -> list[Any]:
        """Calls back after every step, as a diffusers pipeline does."""
        seen = []

        def preview(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> None:
            if steps < 100:
                seen.append((step, tensors))
            elif step == 0:
                self.add_streaming_result("begun")

        on_step_end = self.cancellable(preview)
        for step in range(steps):
            tensors = {"latents": step}
            assert on_step_end(self, step, step, tensors) is tensors
        return seen

    def die_when_cancelled(self, rank: int) -> None:
        try:
            self.endless()
        finally:
            if self.rank == rank:
                end("kill")

    def knock(self, fifos: list[str]) -> None:
        """Waits at the first of ``fifos`` in its first call, at the second in its second, …"""
        turn = sum(item == "knock" for item in self.calls)
        self.record("knock")
        if turn < len(fifos):
            wait_for(fifos[turn])

    def knock_then_run(self, fifo: str) -> None:
        wait_for(fifo)
        self.endless()

    async def start_a_runner(self) -> None:
        await DistributedRunner(Playground, device="cpu").start()

    # --- output

    def say(self, text: str, ranks: list[int]) -> None:
        if self.rank in ranks:
            self.rank_print(text)
            print(f"{text} on stderr", file=sys.stderr)
            os.write(1, f"{text} from C\n".encode())

    def say_much(self, size: int) -> None:
        print("x" * size)

    def say_unfinished(self, text: str) -> None:
        os.write(1, text.encode())

    def say_bytes(self, data: bytes) -> None:
        os.write(1, data)

    # --- collectives

    def total(self, values: list[int]) -> int:
        """Every rank adds its own value."""
        mine = torch.tensor(values[self.rank])
        dist.all_reduce(mine)
        return int(mine)

    def gather(self) -> list[Any] | None:
        """The tutorial's way: rank 0 gathers a tensor of every rank."""
        mine = torch.full((2, 2), float(self.rank))
        into = [torch.zeros_like(mine) for _ in range(self.world_size)] if self.rank == 0 else None
        dist.gather(mine, into, dst=0)
        return into

    def draw(self) -> list[Any]:
        return self.everyone((torch.rand(1).item(), np.random.rand(), random.random()))


def end(how: str) -> None:
    """Ends, or freezes, this process."""
    if how == "exit":
        os._exit(3)
    os.kill(os.getpid(), signal.SIGKILL if how == "kill" else signal.SIGSTOP)


class AsyncWorker(DistributedWorker):
    """Everything is a coroutine."""

    async def setup(self, base: int, folder: str) -> None:
        self.base, self.folder = base, folder

    async def teardown(self) -> None:
        Path(self.folder, f"async-{self.rank}").touch()

    async def __call__(
        self, streaming: bool = False, *, number: int = 0, fail: bool = False
    ) -> int:
        if fail:
            raise ValueError("in a coroutine")
        return self.base + number


class Generator(DistributedWorker):
    """Yields events and returns the result."""

    def __call__(self, streaming: bool = False, *, count: int, fail: bool = False) -> Any:
        for number in range(count):
            yield {"number": number, "streaming": streaming}
        if fail:
            raise ValueError("in a generator")
        return "the result"


class AsyncGenerator(DistributedWorker):
    """Yields events; an async generator has no result of its own."""

    async def __call__(self, streaming: bool = False, *, count: int, fail: bool = False) -> Any:
        for number in range(count):
            yield number
        if fail:
            raise ValueError("in an async generator")


class OwnInit(DistributedWorker):
    """A worker with an ``__init__`` of its own."""

    def __init__(self, rank: int = 0, world_size: int = 1) -> None:
        super().__init__(rank, world_size)
        self.started_with = (rank, world_size)

    def __call__(self, streaming: bool = False, **payload: Any) -> Any:
        return self.started_with


class Outer:
    """A worker may live inside a class."""

    class Inner(DistributedWorker):
        def __call__(self, streaming: bool = False, **payload: Any) -> str:
            return type(self).__qualname__


class Preloaded(DistributedWorker):
    """Tells of every rank which process imported ``preloaded_module``, and what forked it."""

    def __call__(self, streaming: bool = False, *, killed: bool = False) -> list[list[int | None]]:
        if killed:
            os.kill(os.getpid(), signal.SIGKILL)
        module = sys.modules.get("preloaded_module")
        everyone: list[Any] = [None] * self.world_size
        dist.all_gather_object(everyone, [getattr(module, "IMPORTED_BY", None), os.getppid()])
        return everyone
