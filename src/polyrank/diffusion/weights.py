"""Tensors of safetensors files, read by several ranks together: each a share, all get the whole."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor

from polyrank.errors import AppError

Tensors: TypeAlias = dict[str, Tensor]

# Bytes that one rank reads between two exchanges. Two such buffers of locked memory are made, which
# takes time of its own, so they are no larger than a copy needs to run at full speed.
SHARE_BYTES = 64 << 20
# One thread copies from the page cache at a fraction of what the bus to the GPU takes.
READERS = 8

# As the format names them.
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class Slot:
    """A tensor, and where its bytes are within those of all files."""

    name: str
    dtype: torch.dtype
    shape: list[int]
    start: int
    end: int


@dataclass(frozen=True)
class Header:
    """What a file says about its tensors; ``data`` is where the first of their bytes is."""

    text: bytes
    data: int

    @classmethod
    def of(cls, path: Path) -> Header:
        """Reads the header of a file: its length in eight bytes, then JSON."""
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            return cls(file.read(length), 8 + length)

    def slots(self, path: Path, base: int) -> list[Slot]:
        """The tensors in the order of their bytes, the first of which is the ``base``-th of all."""
        found = []
        for name, entry in json.loads(self.text).items():
            if name == "__metadata__":
                continue
            if entry["dtype"] not in DTYPES:
                raise AppError(f"{path}: {name} is of type {entry['dtype']}, which is not known")
            start, end = (base + offset for offset in entry["data_offsets"])
            found.append(Slot(name, DTYPES[entry["dtype"]], entry["shape"], start, end))
        return sorted(found, key=lambda slot: slot.start)


def read_together(
    paths: Sequence[Path], device: torch.device, group: dist.ProcessGroup | None = None
) -> list[Tensors]:
    """The tensors of each file, on ``device``, as they are in it.

    With a group, each of its ranks reads a part of the bytes and gets the others' from them; all
    call this at the same time, with the same files.
    """
    headers = [Header.of(path) for path in paths]
    if group is not None:
        _check_same(headers, group)
    slots: list[Slot] = []
    per_file: list[range] = []
    with _Bytes() as source, _current(device):
        for path, header in zip(paths, headers, strict=True):
            found = header.slots(path, source.size)
            source.add(path, header.data, max((slot.end for slot in found), default=source.size))
            per_file.append(range(len(slots), len(slots) + len(found)))
            slots += found
        raw = _fill(slots, source, device, group)
    typed = [each.view(slot.dtype).view(slot.shape) for slot, each in zip(slots, raw, strict=True)]
    return [{slots[index].name: typed[index] for index in part} for part in per_file]


def _current(device: torch.device) -> contextlib.AbstractContextManager[object]:
    # Each thread has a current device of its own, and collectives are issued there.
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


class _Bytes:
    """The data of several files as one range of bytes, read by threads."""

    def __init__(self) -> None:
        self.size = 0
        self._files: list[tuple[int, int, int]] = []  # first byte here, in the file, descriptor
        self._pool = ThreadPoolExecutor(READERS, "polyrank-read")

    def add(self, path: Path, data: int, end: int) -> None:
        """Appends what a file has from byte ``data`` on, so that all are ``end``."""
        descriptor = os.open(path, os.O_RDONLY)
        self._files.append((self.size, data, descriptor))
        if os.fstat(descriptor).st_size - data < end - self.size:
            raise AppError(f"{path} is shorter than its header says; copy it again")
        self.size = end

    def read(self, start: int, into: Tensor) -> None:
        """Fills ``into`` from byte ``start`` on."""
        memory = memoryview(into.numpy())
        step = -(-len(memory) // READERS)
        begins = range(0, len(memory), max(1, step))
        list(self._pool.map(lambda at: self._read(start + at, memory[at : at + step]), begins))

    def _read(self, start: int, memory: memoryview) -> None:
        ends = [first for first, _, _ in self._files[1:]] + [self.size]
        for (first, data, descriptor), end in zip(self._files, ends, strict=True):
            while first <= start < end and memory:
                count = os.preadv(descriptor, [memory[: end - start]], data + start - first)
                if count == 0:
                    raise AppError("a file of weights became shorter while it was read")
                start, memory = start + count, memory[count:]

    def __enter__(self) -> _Bytes:
        return self

    def __exit__(self, *exc: object) -> None:
        self._pool.shutdown()
        for _, _, descriptor in self._files:
            os.close(descriptor)


@dataclass
class _Buffers:
    """What a round is read into, sent from and gathered in."""

    host: Tensor
    own: Tensor
    all: Tensor
    sent: torch.cuda.Event | None = None

    @classmethod
    def make(cls, share: int, ranks: int, device: torch.device) -> _Buffers:
        on_gpu = device.type == "cuda"
        host = torch.empty(share, dtype=torch.uint8, pin_memory=on_gpu)
        own = torch.empty_like(host, device=device) if on_gpu else host
        together = own.new_empty(ranks * share) if ranks > 1 else own
        return cls(host, own, together)


def _fill(
    slots: list[Slot], source: _Bytes, device: torch.device, group: dist.ProcessGroup | None
) -> list[Tensor]:
    """The bytes of every slot, in memory of its own."""
    ranks, rank = (1, 0) if group is None else (dist.get_world_size(group), dist.get_rank(group))
    targets = [
        torch.empty(slot.end - slot.start, dtype=torch.uint8, device=device) for slot in slots
    ]
    largest = min(SHARE_BYTES, -(-source.size // ranks))
    buffers = [_Buffers.make(largest, ranks, device) for _ in range(2)]
    first = 0
    for number, start in enumerate(range(0, source.size, ranks * SHARE_BYTES)):
        share = min(SHARE_BYTES, -(-(source.size - start) // ranks))
        buffer = buffers[number % 2]
        mine = start + rank * share
        if buffer.sent is not None:
            buffer.sent.synchronize()
        count = max(0, min(share, source.size - mine))
        source.read(mine, buffer.host[:count])
        if device.type == "cuda":
            buffer.own[:count].copy_(buffer.host[:count], non_blocking=True)
            buffer.sent = torch.cuda.Event()
            buffer.sent.record()
        if ranks > 1:
            together = buffer.all[: ranks * share]
            dist.all_gather_into_tensor(together, buffer.own[:share], group=group)
        first = _spread(buffer.all, start, start + ranks * share, slots, targets, first)
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()  # before the buffers are gone
    return targets


def _spread(
    whole: Tensor, start: int, end: int, slots: list[Slot], targets: list[Tensor], first: int
) -> int:
    """Copies bytes ``start`` to ``end`` to the slots they belong to, the first of which is
    ``first``; returns the one that the next bytes belong to."""
    for index, slot, low, high in _parts(slots, first, start, end):
        part = whole[low - start : high - start]
        targets[index][low - slot.start : high - slot.start].copy_(part, non_blocking=True)
        first = index + (high == slot.end)
    return first


def _parts(
    slots: list[Slot], first: int, start: int, end: int
) -> Iterator[tuple[int, Slot, int, int]]:
    for index in range(first, len(slots)):
        slot = slots[index]
        if slot.start >= end:
            return
        low, high = max(slot.start, start), min(slot.end, end)
        if low < high or slot.start == slot.end:
            yield index, slot, low, high


def _check_same(headers: list[Header], group: dist.ProcessGroup) -> None:
    digest = hashlib.sha256(b"".join(header.text for header in headers)).hexdigest()
    everyone: list[str | None] = [None] * dist.get_world_size(group)
    dist.all_gather_object(everyone, digest, group=group)
    for rank, other in enumerate(everyone):
        if other != digest:
            raise AppError(
                f"rank {dist.get_rank(group)} and rank {rank} of the group have different files of "
                "weights; ranks that load together need the same checkpoint"
            )
