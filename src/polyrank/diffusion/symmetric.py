"""An exchange through memory that the GPUs of one host see of each other: one kernel, no NCCL.

Each rank writes its share into the memory of the others and then raises a flag there; it waits for
their flags in its own memory. A block of the kernel does so for a piece of the share by itself, so
blocks never wait for each other. Two buffers take turns: whoever writes into one for the second
time has seen its owner finish with the first.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.distributed._symmetric_memory as symmetric_memory
import triton
import triton.language as tl
from torch import Tensor

from polyrank.diffusion.exchange import Exchange

# A word is 4 bytes; larger shares than BLOCKS x PIECE words take several kernels.
PIECE = 1 << 15
BLOCKS = 128
LARGEST = BLOCKS * PIECE
# Words that a block copies at a time, and those for which another block is worth it.
STEP = 4096
SMALL = 1024
WARPS = 16
# Bytes that a thread copies at once.
ALIGNED = 16


class SymmetricExchange:
    """Among the GPUs of one host; shares that are not a multiple of 16 bytes go to ``others``."""

    def __init__(self, group: dist.ProcessGroup, device: torch.device, others: Exchange) -> None:
        self._ranks: int = dist.get_world_size(group)
        self._rank: int = dist.get_rank(group)
        self._others = others
        words = 2 * self._ranks * BLOCKS * PIECE + self._ranks * BLOCKS
        self._memory = symmetric_memory.empty(words, dtype=torch.int32, device=device)
        self._memory.zero_()
        seen = symmetric_memory.rendezvous(self._memory, group)
        self._memories = torch.tensor(list(seen.buffer_ptrs), dtype=torch.int64, device=device)
        self._turns = torch.zeros(BLOCKS, dtype=torch.int32, device=device)
        # Nobody writes before everybody's memory is zero.
        dist.all_reduce(torch.zeros(1, device=device), group=group)
        torch.cuda.synchronize(device)

    def __call__(self, share: Tensor) -> Tensor:
        """[ranks, *share.shape]."""
        size = share.numel() * share.element_size()
        if size % ALIGNED:
            return self._others(share)
        row, pitch = _rows_of(share)
        if row % ALIGNED or pitch % ALIGNED or share.data_ptr() % ALIGNED:
            share, row, pitch = share.clone(memory_format=torch.contiguous_format), 0, 0
        everyone = share.new_empty((self._ranks, *share.shape))
        source = (share if row else share.view(-1)).view(torch.int32)
        target = everyone.view(-1).view(torch.int32)
        words = size // 4
        for start in range(0, words, LARGEST):
            count = min(LARGEST, words - start)
            blocks = min(BLOCKS, triton.cdiv(count, SMALL))
            _exchange[(blocks,)](
                source,
                target,
                self._memories,
                self._turns,
                start,
                count,
                words,
                triton.cdiv(triton.cdiv(count, blocks), SMALL) * SMALL,
                self._rank,
                ROW=row // 4,
                PITCH=pitch // 4,
                RANKS=self._ranks,
                PIECE=PIECE,
                BLOCKS=BLOCKS,
                STEP=STEP,
                num_warps=WARPS,
            )
        return everyone


def _rows_of(share: Tensor) -> tuple[int, int]:
    """Bytes of a row of ``share``, and from one row to the next.

    (0, 0): it is contiguous; (1, 1): it has no rows at equal distances.
    """
    if share.is_contiguous():
        return 0, 0
    strides = share.stride()
    even = all(strides[at] == share.shape[at + 1] * strides[at + 1] for at in range(share.ndim - 2))
    if share.ndim < 2 or strides[-1] != 1 or not even:
        return 1, 1
    return share.shape[-1] * share.element_size(), strides[-2] * share.element_size()


@triton.jit(do_not_specialize=["rank"])
def _exchange(
    share,
    everyone,
    memories,
    turns,
    start,
    words,
    apart,
    piece,
    rank,
    ROW: tl.constexpr,
    PITCH: tl.constexpr,
    RANKS: tl.constexpr,
    PIECE: tl.constexpr,
    BLOCKS: tl.constexpr,
    STEP: tl.constexpr,
):
    """Writes the words from ``start`` of the share to all others and, into ``everyone``, what all
    others wrote here.

    There the words of one rank are ``apart`` from those of the next. In the share a row of ROW
    words begins PITCH words after the one before; without ROW it is one row.
    """
    block = tl.program_id(0)
    turn = tl.load(turns + block) + 1
    begin = block * piece
    count = min(begin + piece, words) - begin
    first = start + begin
    # Where the piece of a rank lies in the memory of all others.
    buffer = ((turn & 1) * RANKS * BLOCKS + block) * PIECE
    flags = 2 * RANKS * BLOCKS * PIECE + block
    for step in tl.static_range(1, RANKS):
        other = (rank + step) % RANKS
        memory = tl.load(memories + other).to(tl.pointer_type(tl.int32))
        place = memory + buffer + rank * BLOCKS * PIECE
        _copy(share, first, place, count, ROW, PITCH, STEP)
    tl.debug_barrier()
    for step in tl.static_range(1, RANKS):
        other = (rank + step) % RANKS
        memory = tl.load(memories + other).to(tl.pointer_type(tl.int32))
        tl.atomic_xchg(memory + flags + rank * BLOCKS, turn, sem="release", scope="sys")
    _copy(share, first, everyone + rank * apart + first, count, ROW, PITCH, STEP)
    own = tl.load(memories + rank).to(tl.pointer_type(tl.int32))
    for step in tl.static_range(1, RANKS):
        other = (rank + step) % RANKS
        flag = own + flags + other * BLOCKS
        # Turns are compared by their difference: they may wrap around.
        while tl.atomic_add(flag, 0, sem="acquire", scope="sys") - turn < 0:
            pass
    tl.debug_barrier()
    for step in tl.static_range(1, RANKS):
        other = (rank + step) % RANKS
        piece_of_other = own + buffer + other * BLOCKS * PIECE
        _copy(piece_of_other, 0, everyone + other * apart + first, count, 0, 0, STEP)
    tl.store(turns + block, turn)


@triton.jit
def _copy(
    source,
    first,
    target,
    words,
    ROW: tl.constexpr,
    PITCH: tl.constexpr,
    STEP: tl.constexpr,
):
    source = tl.multiple_of(source, 16)
    target = tl.multiple_of(target, 16)
    each = tl.arange(0, STEP)
    for at in range(0, words, STEP):
        mask = at + each < words
        word = first + at + each
        if ROW:
            word = word // ROW * PITCH + word % ROW
        # Past the nearest cache, which does not see what other GPUs write.
        value = tl.load(source + word, mask=mask, cache_modifier=".cg")
        tl.store(target + at + each, value, mask=mask)
