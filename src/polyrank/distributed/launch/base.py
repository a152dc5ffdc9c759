"""What a runner needs of whatever starts its rank processes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from polyrank.distributed.rankspec import RankSpec


@dataclass(frozen=True)
class Exit:
    """How a rank process ended; both unknown when its exit status was lost."""

    code: int | None = None
    signal: str | None = None

    def __str__(self) -> str:
        if self.signal is not None:
            return f"killed by {self.signal}"
        return "ended" if self.code is None else f"ended with exit code {self.code}"


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


class Launcher(Protocol):
    """Starts rank processes."""

    async def start(self) -> dict[str, float]:
        """Gets ready to launch; returns the seconds of each phase."""

    async def launch(self, spec: RankSpec, on_line: LineSink) -> RankProcess:
        """Starts one rank. ``on_line(stream, line)`` gets its output, line by line."""

    async def stop(self) -> None:
        """Ends every process that is left."""
