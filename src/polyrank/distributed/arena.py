"""Shared memory for large buffers on one machine: written once, read in place, never pickled.

The memory is an anonymous memfd: it has no name, so nothing can be left behind, and it is not
part of /dev/shm, so a small /dev/shm cannot fail under it. Space is reserved before it is written
(``posix_fallocate``), so running out of memory is an ``ArenaFull``, never a SIGBUS.

A block belongs to its reader until the reader says it is released; a reader's view is a private,
copy-on-write mapping, so whatever a reader does to its value stays its own.
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from polyrank.distributed.wire import Buffer, Place

SMALLEST_BLOCK = 1 << 16
DEFAULT_LIMIT = 1 << 34
KEEP_FREE = 1 << 28


class ArenaFull(Exception):
    """No memory for another block; the buffer goes inline instead."""


def create_fd(name: str) -> int:
    """A new, empty memfd, inherited by nobody unless it is passed on."""
    return os.memfd_create(f"polyrank-{name}", os.MFD_CLOEXEC)


@dataclass(slots=True)
class _Block:
    mapping: mmap.mmap
    reserved_bytes: int = 0
    holders: int = 0


class Arena:
    """The writing side. Blocks have power-of-two sizes and are reused, warm, when released."""

    def __init__(self, fd: int, *, readers: int = 1, limit_bytes: int = DEFAULT_LIMIT) -> None:
        self.fd = fd
        self._readers = readers
        self._limit = limit_bytes
        self._end = 0
        self._blocks: dict[int, _Block] = {}
        self._free: dict[int, list[int]] = {}
        self._free_bytes = 0

    def write(self, data: Buffer) -> Place:
        """Copies ``data`` into a free block. Raises ArenaFull."""
        view = memoryview(data).cast("B")
        offset = self._take(view.nbytes)
        block = self._blocks[offset]
        block.mapping[: view.nbytes] = view
        block.holders = self._readers
        return Place(offset, view.nbytes)

    def release(self, offsets: Iterable[int]) -> None:
        """A reader is done with these blocks; a block is free once every reader is."""
        for offset in offsets:
            block = self._blocks[offset]
            block.holders -= 1
            if block.holders == 0:
                self._give_back(offset, block)

    def close(self) -> None:
        """Unmaps everything; views that readers still hold stay valid."""
        for block in self._blocks.values():
            block.mapping.close()
        self._blocks.clear()
        os.close(self.fd)

    def _take(self, size: int) -> int:
        block_size = max(SMALLEST_BLOCK, 1 << (size - 1).bit_length())
        free = self._free.get(block_size)
        try:
            offset = free[-1] if free else self._append(block_size)
            block = self._blocks[offset]
            if block.reserved_bytes < size:
                os.posix_fallocate(self.fd, offset, size)
                block.reserved_bytes = size
        except OSError as error:
            raise ArenaFull(str(error)) from error
        if free:
            free.pop()
            self._free_bytes -= block_size
        return offset

    def _append(self, block_size: int) -> int:
        offset = self._end
        if offset + block_size > self._limit:
            raise ArenaFull(f"{self._limit} bytes are in use")
        os.ftruncate(self.fd, offset + block_size)
        self._blocks[offset] = _Block(mmap.mmap(self.fd, block_size, offset=offset))
        self._end = offset + block_size
        return offset

    def _give_back(self, offset: int, block: _Block) -> None:
        size = len(block.mapping)
        if self._free_bytes + size > KEEP_FREE:
            block.mapping.madvise(mmap.MADV_REMOVE)  # pages back to the system, address kept
            block.reserved_bytes = 0
        self._free.setdefault(size, []).append(offset)
        self._free_bytes += size


class ArenaReader:
    """The reading side: views in place, and the list of blocks whose views are gone."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._released: deque[int] = deque()

    def view(self, place: Place) -> memoryview:
        """A writable, private view of the block, released when the last reference to it goes."""
        try:
            mapping = _Mapping(self.fd, place.size, access=mmap.ACCESS_COPY, offset=place.offset)
        except OSError:  # out of file descriptors or address space: a copy needs neither
            data = bytearray(place.size)
            os.preadv(self.fd, [data], place.offset)
            self._released.append(place.offset)
            return memoryview(data)
        weakref.finalize(mapping, self._released.append, place.offset).atexit = False
        return memoryview(mapping)

    def take_released(self) -> list[int]:
        """The blocks released since the last call."""
        taken = []
        while self._released:
            taken.append(self._released.popleft())
        return taken

    def close(self) -> None:
        """Closes the descriptor; views stay valid."""
        os.close(self.fd)


class _Mapping(mmap.mmap):
    """An mmap that can be referenced weakly, to learn when the last view of it is gone."""
