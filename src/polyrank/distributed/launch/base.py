"""What a runner needs of whatever starts its ranks and carries what is said to them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from polyrank.distributed import wire


@dataclass(frozen=True)
class Exit:
    """How a rank process ended: by itself, by a signal, or lost with its machine (``reason``).

    All are unknown when its exit status was lost.
    """

    code: int | None = None
    signal: str | None = None
    reason: str | None = None

    def __str__(self) -> str:
        if self.reason is not None:
            return f"was lost: {self.reason}"
        if self.signal is not None:
            return f"was killed by {self.signal}"
        return "ended" if self.code is None else f"ended with exit code {self.code}"


@dataclass(frozen=True)
class Devices:
    """What ranks run on: "cuda" or "cpu", and the threads that each may use there."""

    kind: str
    threads: int


@dataclass(frozen=True)
class Store:
    """Where rank 0 listens for the rendezvous of its process group."""

    host: str
    port: int


class RankProcess(Protocol):
    """A started rank."""

    pid: int
    exited: asyncio.Future[Exit]

    def kill(self) -> None:
        """Ends the process at once, frozen or not."""

    def drain(self) -> None:
        """Hands on every line the rank has written so far."""

    def close(self) -> None:
        """Closes every descriptor; the process has ended."""


LineSink = Callable[[str, str], None]
FrameSink = Callable[[wire.FromRank, list[bytes]], None]


class Link(Protocol):
    """How a group starts its ranks and talks with them in one epoch."""

    async def open(self) -> Store:
        """Gets everything ready that ranks are started with."""

    async def launch(
        self, rank: int, environment: Mapping[str, str], on_frame: FrameSink, on_line: LineSink
    ) -> RankProcess:
        """Starts one rank. ``on_line(stream, line)`` gets its output, line by line."""

    def device(self, kind: str, rank: int) -> str:
        """The device of ``rank`` as torch calls it in its process."""

    def send(self, rank: int, frame: wire.ToRank, inline: Sequence[wire.Buffer] = ()) -> None:
        """Sends a frame to one rank. A rank that is gone gets nothing."""

    def call(self, frame: wire.Call, buffers: list[wire.Buffer]) -> None:
        """Sends a call to every rank; the buffers of its payload travel as is best."""

    def collect(
        self, rank: int, places: list[wire.Place], inline: Sequence[wire.Buffer]
    ) -> list[wire.Buffer]:
        """The buffers of a value that ``rank`` has sent."""

    def release(self, offsets: list[int]) -> None:
        """A rank no longer uses these blocks of the payload."""

    def give_credits(self, call: int, consumed: int) -> None:
        """Tells rank 0 how far the stream has been read."""

    def cancel(self, call: int) -> None:
        """Makes every rank of ``call`` leave at the same checkpoint."""

    def measure_idle(self, on_idle: Callable[[float], None]) -> None:
        """Tells ``on_idle`` for how many seconds some rank has made no progress."""

    def close(self) -> None:
        """Frees all of it; the ranks have ended. Closing twice is fine."""


class Launcher(Protocol):
    """Starts the ranks of one runner."""

    async def choose_devices(self, wanted: str, groups: int, world_size: int) -> Devices:
        """What ranks run on: ``wanted``, or what there is for "auto". Raises NotEnoughDevices."""

    async def start(self) -> dict[str, float]:
        """Gets ready to launch; returns the seconds of each phase."""

    def link(self, group: int, epoch: int, world_size: int) -> Link:
        """The link of a group's next epoch."""

    async def stop(self) -> None:
        """Ends every process that is left."""
