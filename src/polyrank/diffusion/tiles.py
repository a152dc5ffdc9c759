"""The pictures of all ranks side by side, put together in rank 0 and outside of every rank's loop.

Each rank pushes its picture into a socket when it has one and goes on. A thread of rank 0 takes
what has arrived: as soon as every rank has sent its picture of a step, or one has gone on to the
next, the grid is handed out. Nobody waits for a rank, and nothing runs on the GPU.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import torch
import torch.distributed as dist
import zmq
from PIL import Image

from polyrank.distributed.grid import paste

# Pictures of one rank that may wait at either end of its socket.
UNDER_WAY = 4

# Gets a step and the grid of that step.
Show: TypeAlias = Callable[[int, Image.Image], None]


class Tile(msgspec.Struct, frozen=True, array_like=True):
    """One rank's picture at one step of one call."""

    call: int
    rank: int
    step: int
    width: int
    height: int


class Board:
    """Rank 0's collection of tiles; decides when a grid is shown. No I/O, no threads."""

    def __init__(self, world_size: int) -> None:
        self._world_size = world_size
        self._call = 0
        self._step = 0
        self._shown = True
        self._steps: dict[int, int] = {}
        self._pictures: dict[int, Image.Image] = {}
        # From ranks that have begun a call before rank 0 has.
        self._early: deque[tuple[Tile, Image.Image]] = deque(maxlen=UNDER_WAY * world_size)

    def begin(self, call: int) -> list[tuple[int, Image.Image]]:
        """What belongs to earlier calls is of no interest any more; what to show at once."""
        self._call, self._step, self._shown = call, 0, True
        self._steps.clear()
        self._pictures.clear()
        early = [self._early.popleft() for _ in range(len(self._early))]
        return [ready for each in early if (ready := self.add(*each)) is not None]

    def add(self, tile: Tile, picture: Image.Image) -> tuple[int, Image.Image] | None:
        """Takes a tile; the step and the grid to show now, if any."""
        if tile.call > self._call:
            self._early.append((tile, picture))
        if tile.call != self._call:
            return None
        ready = None
        if tile.step > self._step:
            if not self._shown:
                ready = self._step, self._grid()
            self._step, self._shown = tile.step, False
        self._steps[tile.rank] = tile.step
        self._pictures[tile.rank] = picture
        complete = len(self._steps) == self._world_size and min(self._steps.values()) >= self._step
        if complete and not self._shown:
            self._shown = True
            ready = self._step, self._grid()
        return ready

    def _grid(self) -> Image.Image:
        tiles = [self._pictures.get(rank) for rank in range(self._world_size)]
        return paste(tiles)


class TileExchange:
    """Brings the tiles of a group of ranks to rank 0. Every rank makes one, at the same time.

    Through a socket in ``folder`` where all ranks are on one machine, else at the address ``host``
    of rank 0's: encrypted, for a key that only the ranks know.
    """

    def __init__(self, rank: int, world_size: int, folder: Path, host: str | None = None) -> None:
        self._rank = rank
        self._board = Board(world_size)
        self._show: Show | None = None
        self._lock = threading.Lock()
        self._context = zmq.Context()
        self._push = self._context.socket(zmq.PUSH)
        self._push.setsockopt(zmq.LINGER, 0)
        self._push.setsockopt(zmq.SNDHWM, UNDER_WAY)
        where: list[Any] = [None]
        if rank == 0:
            pull = self._context.socket(zmq.PULL)
            pull.setsockopt(zmq.RCVHWM, UNDER_WAY)
            key = b""
            if host is not None:
                key, pull.curve_secretkey = zmq.curve_keypair()
                pull.curve_server = True
            name = f"ipc://{folder}/p{secrets.token_hex(4)}"
            pull.bind(name if host is None else f"tcp://{host}:*")
            where = [(pull.getsockopt_string(zmq.LAST_ENDPOINT), key)]
            threading.Thread(
                target=self._collect, args=(pull,), name="polyrank-tiles", daemon=True
            ).start()
        # The only collective; it runs on the CPU and before the first call.
        dist.broadcast_object_list(where, src=0, device=torch.device("cpu"))
        address, key = where[0]
        if key:
            self._push.curve_serverkey = key
            self._push.curve_publickey, self._push.curve_secretkey = zmq.curve_keypair()
        self._push.connect(address)

    def begin(self, call: int, show: Show) -> None:
        """From now on tiles of this call count, and rank 0's ``show`` gets the grids."""
        with self._lock:
            self._show = show
            for step, picture in self._board.begin(call):
                show(step, picture)

    def end(self) -> None:
        """Nothing is shown any more once this returns."""
        with self._lock:
            self._show = None

    def send(self, call: int, step: int, picture: Image.Image) -> None:
        """Sends this rank's picture to rank 0, unless it is far behind. For one thread only."""
        tile = Tile(call, self._rank, step, *picture.size)
        with contextlib.suppress(zmq.Again):
            message = [msgspec.msgpack.encode(tile), picture.tobytes()]
            self._push.send_multipart(message, zmq.NOBLOCK)

    def _collect(self, pull: zmq.Socket[bytes]) -> None:
        while True:
            try:
                header, pixels = pull.recv_multipart()
            except zmq.ContextTerminated:
                pull.close(linger=0)
                return
            tile = msgspec.msgpack.decode(header, type=Tile)
            picture = Image.frombuffer("RGB", (tile.width, tile.height), pixels, "raw", "RGB", 0, 1)
            with self._lock:
                ready = self._board.add(tile, picture)
                if ready is not None and self._show is not None:
                    self._show(*ready)

    def close(self) -> None:
        """Closes the sockets and ends the thread."""
        self._push.close()
        self._context.term()
