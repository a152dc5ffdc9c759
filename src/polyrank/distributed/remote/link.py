"""How a group talks with ranks on other machines: everything is a frame to a relay."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

import msgspec

from polyrank.distributed import wire
from polyrank.distributed.launch.base import Exit, FrameSink, LineSink, Store
from polyrank.distributed.remote import frames
from polyrank.distributed.router import Router
from polyrank.distributed.tasks import all_or_none
from polyrank.distributed.transport import place
from polyrank.errors import SetupFailed

T = TypeVar("T", bound=wire.Frame)


class Station(Protocol):
    """A place for one rank: something that starts a relay there, again if it is lost."""

    identity: bytes
    lost: asyncio.Future[Exit]

    async def start(self) -> None:
        """Returns once a relay is connected. Raises SetupFailed."""


class RemoteProcess:
    """A rank on another machine."""

    def __init__(self, kill: Callable[[], None]) -> None:
        self.pid = 0
        self.exited: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self.kill = kill

    def drain(self) -> None:
        """Nothing to do: what a rank prints arrives ahead of its report."""

    def close(self) -> None:
        """Nothing to do: the relay holds the descriptors."""

    def set_exit(self, ended: Exit) -> None:
        """The process has ended, and how."""
        if not self.exited.done():
            self.exited.set_result(ended)


class RemoteLink:
    """One epoch of a group whose ranks are at ``stations``."""

    def __init__(
        self, stations: Sequence[Station], router: Router[frames.FromRelay], group: int, epoch: int
    ) -> None:
        self._stations = stations
        self._router = router
        self._group = group
        self._epoch = epoch
        self._processes: dict[int, RemoteProcess] = {}
        self._sinks: dict[int, tuple[FrameSink, LineSink]] = {}
        self._replies: dict[int, asyncio.Future[wire.Frame]] = {}
        self._cancelled_call = 0
        self._steps: dict[int, int] = {}
        self._idle: dict[int, float] = {}
        self._on_idle: Callable[[float], None] | None = None

    # --- life -------------------------------------------------------------------------------

    async def open(self) -> Store:
        """Brings every relay up, and asks rank 0's for a place to meet."""
        await all_or_none(station.start() for station in self._stations)
        opening = []
        for rank, station in enumerate(self._stations):
            self._router.register(station.identity, functools.partial(self._on_frame, rank))
            station.lost.add_done_callback(functools.partial(self._on_lost, rank))
            frame = frames.Open(
                epoch=self._epoch, group=self._group, rank=rank, world_size=len(self._stations)
            )
            opening.append(self._ask(rank, frame, frames.Opened))
        opened = await all_or_none(opening)
        return Store(opened[0].host, opened[0].port)

    async def launch(
        self, rank: int, environment: Mapping[str, str], on_frame: FrameSink, on_line: LineSink
    ) -> RemoteProcess:
        """Has one rank started."""
        self._sinks[rank] = on_frame, on_line
        kill = functools.partial(self._send, rank, frames.Kill(epoch=self._epoch))
        process = self._processes[rank] = RemoteProcess(kill)
        frame = frames.Launch(epoch=self._epoch, environment=dict(environment))
        process.pid = (await self._ask(rank, frame, frames.Launched)).pid
        return process

    def close(self) -> None:
        """Ends what is left of the epoch; the relays stay for the next one."""
        for rank, station in enumerate(self._stations):
            self._send(rank, frames.Kill(epoch=self._epoch))
            self._router.forget(station.identity)

    async def _ask(self, rank: int, frame: wire.Frame, answer: type[T]) -> T:
        reply = self._replies[rank] = asyncio.get_running_loop().create_future()
        if (lost := self._stations[rank].lost).done():
            self._on_lost(rank, lost)
        self._send(rank, frame)
        replied = await reply
        if not isinstance(replied, answer):
            raise SetupFailed(f"rank {rank} cannot be started: {_reason(replied)}", rank=rank)
        return replied

    def _on_lost(self, rank: int, lost: asyncio.Future[Exit]) -> None:
        ended = lost.result()
        reply = self._replies.get(rank)
        if reply is not None and not reply.done():
            reply.set_exception(SetupFailed(f"rank {rank} {ended}", rank=rank))
        if rank in self._processes:
            self._processes[rank].set_exit(ended)

    # --- what is said -----------------------------------------------------------------------

    def device(self, kind: str, rank: int) -> str:
        """A rank sees its own GPU and no other."""
        return "cuda:0" if kind == "cuda" else kind

    def send(self, rank: int, frame: wire.ToRank, inline: Sequence[wire.Buffer] = ()) -> None:
        """Sends a frame to one rank."""
        self._send(rank, frame, inline)

    def call(self, frame: wire.Call, buffers: list[wire.Buffer]) -> None:
        """Sends a call to every rank, its buffers as parts of the message."""
        payload, inline = place(frame.payload.header, buffers, None)
        frame = msgspec.structs.replace(frame, payload=payload)
        for rank in range(len(self._stations)):
            self._send(rank, frame, inline)

    def collect(
        self, rank: int, places: list[wire.Place], inline: Sequence[wire.Buffer]
    ) -> list[wire.Buffer]:
        """The buffers of a value: all came with it."""
        return [bytearray(part) for part in inline]

    def release(self, offsets: list[int]) -> None:
        """Nothing to do: relays free their blocks themselves."""

    def give_credits(self, call: int, consumed: int) -> None:
        """Tells rank 0 how far the stream has been read."""
        self._send(0, frames.Credits(epoch=self._epoch, number=call, consumed=consumed))

    def cancel(self, call: int) -> None:
        """Holds every rank at its next checkpoint; the answers decide at which they leave."""
        if self._cancelled_call != call:
            self._cancelled_call = call
            self._steps.clear()
            self._send_all(frames.Halt(epoch=self._epoch, number=call))

    def measure_idle(self, on_idle: Callable[[float], None]) -> None:
        """Asks every relay."""
        self._on_idle = on_idle
        self._idle.clear()
        self._send_all(frames.AskIdle(epoch=self._epoch))

    def _send_all(self, frame: wire.Frame) -> None:
        for rank in range(len(self._stations)):
            self._send(rank, frame)

    def _send(self, rank: int, frame: wire.Frame, inline: Sequence[wire.Buffer] = ()) -> None:
        self._router.send(self._stations[rank].identity, frame, inline)

    # --- what is heard ----------------------------------------------------------------------

    def _on_frame(self, rank: int, frame: frames.FromRelay, inline: list[bytes]) -> None:
        if frame.epoch != self._epoch:
            return
        match frame:
            case frames.Opened() | frames.Launched() | frames.Refused():
                if not (reply := self._replies[rank]).done():
                    reply.set_result(frame)
            case frames.Output():
                self._sinks[rank][1](frame.stream, frame.line)
            case frames.Exited():
                self._processes[rank].set_exit(Exit(frame.code, frame.signal))
            case frames.Halted():
                self._on_halted(rank, frame)
            case frames.Idle():
                self._on_idle_answer(rank, frame)
            case frames.Connected():
                pass  # a matter of the station's
            case _:
                self._sinks[rank][0](frame, inline)

    def _on_halted(self, rank: int, frame: frames.Halted) -> None:
        if frame.number != self._cancelled_call:
            return
        self._steps[rank] = frame.step
        if len(self._steps) == len(self._stations):
            step = max(self._steps.values()) + 1
            self._send_all(frames.LeaveAt(epoch=self._epoch, number=frame.number, step=step))

    def _on_idle_answer(self, rank: int, frame: frames.Idle) -> None:
        self._idle[rank] = frame.seconds
        if len(self._idle) == len(self._stations) and self._on_idle is not None:
            on_idle, self._on_idle = self._on_idle, None
            on_idle(max(self._idle.values()))


def _reason(frame: wire.Frame) -> str:
    return frame.message if isinstance(frame, frames.Refused) else f"it answered {frame!r}"
