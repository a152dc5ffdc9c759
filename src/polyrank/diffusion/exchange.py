"""What several ranks have, for each of them: one operator that graphs and compilers can hold."""

from __future__ import annotations

import itertools
from typing import Protocol
from weakref import WeakValueDictionary

import torch
import torch.distributed as dist
from torch import Tensor

# Renamed in torch 2.13.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


class Exchange(Protocol):
    """A way in which ranks show each other tensors of one shape."""

    def __call__(self, share: Tensor) -> Tensor:
        """[ranks, *share.shape]: what every rank gave, in the order of the ranks."""


class GroupExchange:
    """Over a process group: NCCL between GPUs, gloo between processes on CPUs."""

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        self._group = group
        self._ranks: int = dist.get_world_size(group)

    def __call__(self, share: Tensor) -> Tensor:
        """[ranks, *share.shape]."""
        everyone = share.new_empty((self._ranks, *share.shape))
        _all_gather(everyone.view(-1), share.contiguous().view(-1), group=self._group)
        return everyone


# Compiled code can be handed tensors, not objects: it is handed the number of an exchange.
NOBODY = 0
_numbers = itertools.count(NOBODY + 1)
_open: WeakValueDictionary[int, Exchange] = WeakValueDictionary()


def announce(exchange: Exchange) -> int:
    """The number under which ``gather`` finds the exchange, for as long as somebody holds it."""
    number = next(_numbers)
    _open[number] = exchange
    return number


@torch.library.custom_op("polyrank::gather", mutates_args=())
def gather(share: Tensor, number: Tensor, ranks: int) -> Tensor:
    """[ranks, *share.shape]: what every rank gave to the exchange of this number.

    ``number`` is a tensor on the CPU. NOBODY is for the process that compiles: its own share
    stands for those of all.
    """
    which = int(number)
    if which == NOBODY:
        return torch.stack([share] * ranks)
    return _open[which](share)


@gather.register_fake
def _shape_of_gather(share: Tensor, number: Tensor, ranks: int) -> Tensor:
    return share.new_empty((ranks, *share.shape))
