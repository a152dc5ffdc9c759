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
# How many queries of a head, and keys, FlashAttention's kernel for Hopper may take at a time.
QUERIES = (192, 128, 64)
KEYS = (80, 128)


def fitting(choices: Sequence[Block], rows: int, columns: int, processors: int) -> Block:
    """The blocks with which a product is done first, if a block takes as long as it is large.

    Of several, the first.
    """

    def time(block: Block) -> int:
        count = math.ceil(rows / block.rows) * math.ceil(columns / block.columns)
        return math.ceil(count / processors) * block.rows * block.columns

    return min(choices, key=time)


def tile_of(queries: int, keys: int, heads: int, processors: int) -> tuple[int, int]:
    """How many queries and keys a processor takes at a time, for the heads of all pictures.

    As few queries as let all be taken at once, or the most, for which keys are read least often;
    no more keys than there are, where they are the few of a text.
    """
    at_once = (most for most in QUERIES if heads * math.ceil(queries / most) <= processors)
    holding = (most for most in KEYS if keys <= most)
    return min(at_once, default=QUERIES[0]), next(holding, KEYS[-1])


def processors_of(device: torch.device) -> int:
    """How many streaming multiprocessors a GPU has."""
    count: int = torch.cuda.get_device_properties(device).multi_processor_count
    return count
