"""Blocks of products and tiles of attention: all processors of a GPU are to be done at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Block:
    """A part of a product that one processor computes at a time.

    ``turns``: two groups of warps take turns, each with a block of its own; else both share one.
    ``cluster``: blocks above and beside each other that read what they have in common once.
    """

    rows: int
    columns: int
    turns: bool = True
    cluster: tuple[int, int] = (2, 1)


# The fastest of 67 of quack's configurations, or within 2 % of it, for the shapes of SDXL with one
# picture or two, whole or halved, on an H200; the faster of two that should be as fast comes first.
PRODUCTS = (Block(128, 160), Block(128, 128))
CONVOLUTIONS = (
    Block(128, 160),
    Block(128, 80, turns=False, cluster=(1, 2)),
    Block(64, 80, turns=False),
)
# Queries of a head that FlashAttention's kernel for Hopper can take at a time.
TILES = (192, 128, 64)


def fitting(choices: Sequence[Block], rows: int, columns: int, processors: int) -> Block:
    """The blocks with which a product is done first, if a block takes as long as it is large.

    Of several, the first.
    """

    def time(block: Block) -> int:
        count = math.ceil(rows / block.rows) * math.ceil(columns / block.columns)
        return math.ceil(count / processors) * block.rows * block.columns

    return min(choices, key=time)


def tile_of(queries: int, heads: int, processors: int) -> int:
    """How many queries a processor takes at a time, for so many heads of all pictures.

    As few as let all be taken at once; the most, which are read with the fewest keys, if none do.
    """
    at_once = (rows for rows in TILES if heads * math.ceil(queries / rows) <= processors)
    return min(at_once, default=TILES[0])


def processors_of(device: torch.device) -> int:
    """How many streaming multiprocessors a GPU has."""
    count: int = torch.cuda.get_device_properties(device).multi_processor_count
    return count
