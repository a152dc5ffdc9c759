"""Where the buffers of a value travel: shared memory for large ones, message parts for the rest."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from polyrank.distributed import wire
from polyrank.distributed.arena import Arena, ArenaFull, ArenaReader

# Larger buffers go through shared memory.
ARENA_BYTES = 1 << 16


def place(
    header: bytes, buffers: list[wire.Buffer], arena: Arena | None
) -> tuple[wire.Value, list[wire.Buffer]]:
    """Puts large buffers into the arena; small ones, and all where it is full, go inline."""
    places: list[wire.Place] = []
    inline: list[wire.Buffer] = []
    for buffer in buffers:
        size = memoryview(buffer).nbytes
        if arena is not None and size >= ARENA_BYTES:
            with contextlib.suppress(ArenaFull):
                places.append(arena.write(buffer))
                continue
        places.append(wire.Place(-1, size))
        inline.append(buffer)
    return wire.Value(header, places), inline


def collect(
    places: list[wire.Place], inline: Sequence[wire.Buffer], arena: ArenaReader
) -> list[wire.Buffer]:
    """The buffers of a value, each the receiver's own: views of the arena, copies of parts."""
    parts = iter(inline)
    return [bytearray(next(parts)) if place.offset < 0 else arena.view(place) for place in places]
