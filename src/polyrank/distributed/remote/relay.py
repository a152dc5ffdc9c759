"""The runner's stand-in beside a rank on another machine.

Between relay and rank all is as on one machine: a local socket, shared memory, control words. Each
frame goes on to the runner, or comes from it, over TCP, with large buffers as parts of a message.
A relay lives as long as its connection: when that breaks, it ends its rank and itself.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import msgspec
import zmq
from zmq.utils.monitor import parse_monitor_message

from polyrank.distributed import wire
from polyrank.distributed.guard import Keys, use_keys
from polyrank.distributed.launch.base import Exit, RankProcess
from polyrank.distributed.launch.local import LocalLauncher, LocalLink
from polyrank.distributed.launch.preload import Preload
from polyrank.distributed.remote import frames
from polyrank.distributed.transport import place
from polyrank.errors import SetupFailed

# A connection is lost when its other end has been silent for so long.
HEARTBEAT_S = 5
SILENCE_S = 20
SIOCGIFADDR = 0x8915


class Relay:
    """Starts one rank after the other here, one per epoch, for a runner elsewhere."""

    def __init__(
        self,
        address: str,
        server_key: bytes,
        keys: Keys,
        identity: bytes,
        host: str,
        preload: Preload,
    ) -> None:
        self._host = host
        self._launcher = LocalLauncher(preload)
        self._line = Line(address, server_key, keys, identity, self._on_frame)
        self._epoch = 0
        self._rank = 0
        self._link: LocalLink | None = None
        self._process: RankProcess | None = None
        self._starting: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Works until the connection to the runner ends."""
        self._send(frames.Connected(epoch=0))
        try:
            await self._line.closed
        finally:
            self._line.close()
            if self._starting is not None:
                self._starting.cancel()
                await asyncio.gather(self._starting, return_exceptions=True)
            await self._launcher.stop()
            if self._link is not None:
                self._link.close()

    def _send(self, frame: wire.Frame, inline: Sequence[wire.Buffer] = ()) -> None:
        self._line.send(frame, inline)

    # --- from the runner --------------------------------------------------------------------

    def _on_frame(self, frame: frames.ToRelay, inline: list[wire.Buffer]) -> None:
        if isinstance(frame, frames.Open):
            return self._start(self._open(frame, self._starting))
        link = self._link
        if frame.epoch != self._epoch or link is None:
            return
        match frame:
            case frames.Launch():
                self._start(self._launch(frame, link))
            case frames.Kill():
                if self._process is not None:
                    self._process.kill()
            case frames.Credits():
                link.give_credits(frame.number, frame.consumed)
            case frames.Halt():
                step = link.halt(frame.number)
                self._send(frames.Halted(epoch=frame.epoch, number=frame.number, step=step))
            case frames.LeaveAt():
                link.leave_at(frame.number, frame.step)
            case frames.AskIdle():
                link.measure_idle(
                    lambda seconds: self._send(frames.Idle(epoch=frame.epoch, seconds=seconds))
                )
            case wire.Call():
                link.call(frame, inline)
            case _:
                link.send(self._rank, frame, inline)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        self._starting = asyncio.get_running_loop().create_task(work)

    async def _open(self, frame: frames.Open, before: asyncio.Task[None] | None) -> None:
        """Ends what an earlier epoch has left, and prepares this one."""
        if before is not None:
            await asyncio.gather(before, return_exceptions=True)
        if self._process is not None:
            self._process.kill()
            await self._process.exited
            self._process.close()
            self._process = None
        if self._link is not None:
            self._link.close()
            self._link = None
        self._epoch, self._rank = frame.epoch, frame.rank
        try:
            await self._launcher.start()
            self._link = link = self._launcher.partial_link(
                frame.group,
                frame.epoch,
                frame.world_size,
                [frame.rank],
                host=self._host,
                interface=interface_of(self._host),
            )
            store = await link.open()
        except (SetupFailed, OSError) as error:
            return self._send(frames.Refused(epoch=frame.epoch, message=str(error)))
        self._send(frames.Opened(epoch=frame.epoch, host=store.host, port=store.port))

    async def _launch(self, frame: frames.Launch, link: LocalLink) -> None:
        epoch = frame.epoch

        def on_line(stream: str, line: str) -> None:
            self._send(frames.Output(epoch=epoch, stream=stream, line=line))

        def on_exit(ended: asyncio.Future[Exit]) -> None:
            how = ended.result()
            self._send(frames.Exited(epoch=epoch, code=how.code, signal=how.signal))

        try:
            process = await link.launch(self._rank, frame.environment, self._on_rank_frame, on_line)
        except (SetupFailed, OSError) as error:
            return self._send(frames.Refused(epoch=epoch, message=str(error)))
        self._process = process
        self._send(frames.Launched(epoch=epoch, pid=process.pid))
        process.exited.add_done_callback(on_exit)

    # --- from the rank ----------------------------------------------------------------------

    def _on_rank_frame(self, frame: wire.FromRank, inline: list[bytes]) -> None:
        link, process = self._link, self._process
        if link is None or frame.epoch != self._epoch:
            return
        parts: Sequence[wire.Buffer] = inline
        match frame:
            case wire.Event(value=wire.Value() as value):
                value, parts = self._unplaced(link, value, inline)
                frame = msgspec.structs.replace(frame, value=value)
            case wire.Done(result=wire.Value() as value):
                value, parts = self._unplaced(link, value, inline)
                frame = msgspec.structs.replace(frame, result=value)
        if isinstance(frame, wire.Done | wire.Left | wire.Failure):
            link.release(frame.released)
            frame = msgspec.structs.replace(frame, released=[])
            if process is not None:
                process.drain()  # what was printed goes ahead of the report
        self._send(frame, parts)

    def _unplaced(
        self, link: LocalLink, value: wire.Value, inline: list[bytes]
    ) -> tuple[wire.Value, list[wire.Buffer]]:
        """The value with all its buffers inline."""
        return place(value.header, link.collect(self._rank, value.places, inline), None)


class Line:
    """The relay's socket; ``closed`` is done when the connection has ended."""

    def __init__(
        self,
        address: str,
        server_key: bytes,
        keys: Keys,
        identity: bytes,
        on_frame: Callable[[frames.ToRelay, list[wire.Buffer]], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self._on_frame = on_frame
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        use_keys(self._socket, keys, server_key)
        self._socket.setsockopt(zmq.IDENTITY, identity)
        for option, value in {
            zmq.LINGER: 0,
            zmq.SNDHWM: 0,  # credits bound what is under way
            zmq.RCVHWM: 0,
            zmq.RECONNECT_IVL: -1,  # what a broken connection had under way is lost
            zmq.HEARTBEAT_IVL: 1000 * HEARTBEAT_S,
            zmq.HEARTBEAT_TIMEOUT: 1000 * SILENCE_S,
        }.items():
            self._socket.setsockopt(option, value)
        self._monitor = self._socket.get_monitor_socket(
            zmq.EVENT_DISCONNECTED
            | zmq.EVENT_CLOSED
            | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
            | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
            | zmq.EVENT_HANDSHAKE_FAILED_AUTH
        )
        self._fds = (self._socket.FD, self._monitor.FD)
        self._loop.add_reader(self._fds[0], self._drain)
        self._loop.add_reader(self._fds[1], self._on_event)
        self._socket.connect(address)
        self._on_event()  # a descriptor tells of what comes after a first look

    def send(self, frame: wire.Frame, inline: Sequence[wire.Buffer] = ()) -> None:
        """Sends a frame; large buffers are not copied."""
        if self._socket.closed:
            return
        self._socket.send_multipart(wire.encode(frame, inline), zmq.NOBLOCK, copy=False)
        # The descriptor is edge-triggered: sending may have swallowed the edge of an arrival.
        if int(self._socket.EVENTS) & zmq.POLLIN:
            self._loop.call_soon(self._drain)

    def close(self) -> None:
        """Closes the socket at once."""
        for fd in self._fds:
            self._loop.remove_reader(fd)
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close()
        self._context.term()

    def _drain(self) -> None:
        while not self._socket.closed:
            try:
                parts = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            frame, inline = frames.decode_to_relay([part.buffer for part in parts])
            self._on_frame(frame, list(inline))

    def _on_event(self) -> None:
        while not self._monitor.closed:
            try:
                parse_monitor_message(self._monitor.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                return
            if not self.closed.done():
                self.closed.set_result(None)


def interface_of(host: str) -> str:
    """The network interface that has the address ``host``; gloo wants its name."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            try:
                answer = fcntl.ioctl(probe, SIOCGIFADDR, request)
            except OSError:  # it has no address
                continue
            if socket.inet_ntoa(answer[20:24]) == host:
                return name
    raise OSError(f"no network interface of this machine has the address {host}")
