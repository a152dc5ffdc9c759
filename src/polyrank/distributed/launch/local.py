"""Ranks on this machine: forked, spoken to over a socket in a private folder, and shared memory."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from polyrank.distributed import arena, devices, wire
from polyrank.distributed.control import ControlBlock
from polyrank.distributed.launch.base import Devices, FrameSink, LineSink, RankProcess, Store
from polyrank.distributed.launch.forks import Forks
from polyrank.distributed.launch.preload import Preload
from polyrank.distributed.rankspec import RankSpec
from polyrank.distributed.router import Router
from polyrank.distributed.transport import collect, place
from polyrank.errors import NotEnoughDevices

log = logging.getLogger("polyrank.distributed")

# A socket's path has at most 107 bytes.
LONGEST_FOLDER = 90


class LocalLauncher:
    """A fork server, a socket and a private folder for them."""

    def __init__(self, preload: Preload) -> None:
        self._folder = _private_folder()
        self._forks = Forks(self._folder, preload)
        self._router = Router(f"ipc://{self._folder}/runner", wire.decode_from_rank)

    async def choose_devices(self, wanted: str, groups: int, world_size: int) -> Devices:
        """The GPUs of this machine, or its CPU where there is none or it is wanted."""
        ranks = groups * world_size
        gpus = devices.visible_gpus() if wanted != "cpu" else []
        if wanted == "auto":
            wanted = "cuda" if gpus else "cpu"
            if not gpus:
                log.info("this machine has no GPU: %d rank(s) run on the CPU", ranks)
        if wanted == "cuda" and len(gpus) < ranks:
            raise NotEnoughDevices(
                f"{groups} group(s) of {world_size} rank(s) need {ranks} GPUs; "
                f"this machine has {len(gpus)}"
                + (f" ({', '.join(gpus)})" if gpus else "")
                + "; ask for fewer ranks, or run on the CPU with device='cpu'",
                needed=ranks,
                found=len(gpus),
            )
        return Devices(wanted, max(1, len(os.sched_getaffinity(0)) // ranks))

    async def start(self) -> dict[str, float]:
        """Starts the fork server, unless it runs."""
        return await self._forks.start()

    def link(self, group: int, epoch: int, world_size: int) -> LocalLink:
        """A link to a whole group."""
        first = group * world_size
        return self.partial_link(group, epoch, world_size, range(world_size), first_device=first)

    def partial_link(
        self,
        group: int,
        epoch: int,
        world_size: int,
        ranks: Sequence[int],
        *,
        first_device: int = 0,
        host: str = "127.0.0.1",
        interface: str = "lo",
    ) -> LocalLink:
        """A link to those ranks of a group that are on this machine, ``host`` to the others."""
        link = LocalLink(self._forks, self._router, group, epoch, world_size, ranks)
        link.first_device, link.host, link.interface = first_device, host, interface
        return link

    async def stop(self) -> None:
        """Ends the fork server and what is left of its ranks; removes the folder."""
        await self._forks.stop()
        self._router.close()
        shutil.rmtree(self._folder, ignore_errors=True)


class LocalLink:
    """Shared memory for large buffers and control words, the runner's socket for the rest."""

    host = "127.0.0.1"
    # All ranks are here: gloo need not resolve the host's name, which fails on many laptops.
    interface = "lo"
    first_device = 0

    def __init__(
        self,
        forks: Forks,
        router: Router[wire.FromRank],
        group: int,
        epoch: int,
        world_size: int,
        ranks: Sequence[int],
    ) -> None:
        self._forks = forks
        self._router = router
        self._group = group
        self._epoch = epoch
        self._world_size = world_size
        self._ranks = ranks
        self._memory = SharedMemory(world_size, ranks)
        self._listener: socket.socket | None = None

    async def open(self) -> Store:
        """Listens for the rendezvous, where rank 0 is here; rank 0 inherits the socket."""
        if 0 not in self._ranks:
            return Store("", 0)
        self._listener = socket.create_server((self.host, 0), backlog=128)
        return Store(self.host, self._listener.getsockname()[1])

    async def launch(
        self, rank: int, environment: Mapping[str, str], on_frame: FrameSink, on_line: LineSink
    ) -> RankProcess:
        """Forks one rank."""
        memory = self._memory
        here = {
            "LOCAL_RANK": str(self._ranks.index(rank)),
            "LOCAL_WORLD_SIZE": str(len(self._ranks)),
            "GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", self.interface),
        }
        listener = self._listener if rank == 0 else None
        spec = RankSpec(
            address=self._router.address,
            identity=self._identity(rank),
            epoch=self._epoch,
            group=self._group,
            rank=rank,
            world_size=self._world_size,
            environment={**environment, **here},
            ranks_here=len(self._ranks),
            inbox_fd=memory.inbox.fd,
            outbox_fd=memory.outboxes[rank].fd,
            control_fd=memory.control.fd,
            credit_fd=memory.credit_fd,
            store_fd=-1 if listener is None else listener.fileno(),
        )
        self._router.register(spec.identity, on_frame)
        try:
            return await self._forks.launch(spec, on_line)
        finally:
            if listener is not None:
                listener.close()

    def device(self, kind: str, rank: int) -> str:
        """GPUs are counted on from the group's first."""
        return f"cuda:{self.first_device + self._ranks.index(rank)}" if kind == "cuda" else kind

    def send(self, rank: int, frame: wire.ToRank, inline: Sequence[wire.Buffer] = ()) -> None:
        """Sends a frame to one rank."""
        self._router.send(self._identity(rank), frame, inline)

    def call(self, frame: wire.Call, buffers: list[wire.Buffer]) -> None:
        """Sends a call to every rank; large buffers are written to shared memory once."""
        payload, inline = place(frame.payload.header, buffers, self._memory.inbox)
        for rank, outbox in self._memory.outboxes.items():
            released = outbox.take_released()
            self.send(
                rank, msgspec.structs.replace(frame, payload=payload, released=released), inline
            )

    def collect(
        self, rank: int, places: list[wire.Place], inline: Sequence[wire.Buffer]
    ) -> list[wire.Buffer]:
        """The buffers of a value that ``rank`` has sent."""
        return collect(places, inline, self._memory.outboxes[rank])

    def release(self, offsets: list[int]) -> None:
        """A rank no longer uses these blocks of the payload."""
        self._memory.inbox.release(offsets)

    def give_credits(self, call: int, consumed: int) -> None:
        """Tells rank 0 how far the stream has been read."""
        self._memory.control.give_credits(call, consumed)
        self._memory.wake()

    def cancel(self, call: int) -> None:
        """Cancels ``call``, and wakes rank 0 if it waits for the stream's reader."""
        self._memory.control.cancel(call)
        self._memory.wake()

    def halt(self, call: int) -> int:
        """The first half of ``cancel``: the furthest step that a rank here has passed."""
        furthest = self._memory.control.halt(call)
        self._memory.wake()
        return furthest

    def leave_at(self, call: int, step: int) -> None:
        """The second half: the step at which all leave."""
        self._memory.control.leave_at(call, step)

    def measure_idle(self, on_idle: Callable[[float], None]) -> None:
        """Tells for how long some rank has made no progress."""
        on_idle(time.monotonic() - self._memory.control.latest_progress_s(self._ranks))

    def close(self) -> None:
        """Frees the memory, but for what readers still hold."""
        for rank in self._ranks:
            self._router.forget(self._identity(rank))
        if self._listener is not None:
            self._listener.close()
        self._memory.close()

    def _identity(self, rank: int) -> bytes:
        return f"{self._group}.{rank}.{self._epoch}".encode()


class SharedMemory:
    """What the ranks of one epoch on one machine share with whoever forked them."""

    def __init__(self, world_size: int, ranks: Sequence[int]) -> None:
        self.inbox = arena.Arena(arena.create_fd("inbox"), readers=len(ranks))
        self.outboxes = {
            rank: arena.ArenaReader(arena.create_fd(f"outbox{rank}")) for rank in ranks
        }
        self.control = ControlBlock(arena.create_fd("control"), world_size)
        self.credit_fd = os.eventfd(0, os.EFD_CLOEXEC)
        self._closed = False

    def wake(self) -> None:
        """Wakes rank 0 if it waits for the stream's reader."""
        os.eventfd_write(self.credit_fd, 1)

    def close(self) -> None:
        """Frees all of it. Closing twice is fine."""
        if self._closed:
            return
        self._closed = True
        self.inbox.close()
        self.control.close()
        os.close(self.credit_fd)
        for outbox in self.outboxes.values():
            outbox.close()


def _private_folder() -> Path:
    """A folder for the runner's socket, of mode 0700 and with a path that a socket may have."""
    folder = Path(tempfile.mkdtemp(prefix="polyrank-"))
    if len(os.fsencode(folder)) > LONGEST_FOLDER:
        folder.rmdir()
        folder = Path(tempfile.mkdtemp(prefix="polyrank-", dir="/tmp"))
    return folder
