"""CUDA graphs: a function of tensors recorded once per signature of its inputs, then replayed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

# Of tensors; its value is a tensor, or a structure of tensors.
TensorFunction: TypeAlias = Callable[..., Any]
Signature: TypeAlias = tuple[tuple[torch.Size, torch.dtype], ...]

# Lower is more urgent. Previews run at 0, so that they fill what the model leaves idle.
URGENT = -1
READY_AT_ONCE = [
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
# Graphs of one function; the one that was used longest ago goes first.
MAX_GRAPHS = 8


def signature(inputs: Sequence[Tensor]) -> Signature:
    """What a graph, or a compiled function, is made for."""
    return tuple((tensor.shape, tensor.dtype) for tensor in inputs)


def unplanned(function: TensorFunction) -> TensorFunction:
    """A function whose attention takes the kernels that are ready at once.

    cuDNN's are faster, but need a plan per shape, which keeps a first picture for a second.
    """

    def run(*inputs: Tensor) -> Any:
        with sdpa_kernel(READY_AT_ONCE, set_priority=True):
            return function(*inputs)

    return run


class Last:
    """Remembers the last tensor it was shown, to tell whether the next is that one, unchanged."""

    def __init__(self) -> None:
        self._tensor: Tensor | None = None
        self._version = 0

    def is_now(self, tensor: Tensor) -> bool:
        """Whether ``tensor`` is the last one; from now on it is."""
        version = 0 if tensor.is_inference() else tensor._version
        same = tensor is self._tensor and version == self._version
        self._tensor, self._version = tensor, version
        return same


class GraphedFunction:
    """A function of tensors that is recorded once per signature, and replayed after that."""

    def __init__(self, function: TensorFunction, priority: int = URGENT) -> None:
        self._function = function
        self._priority = priority
        self._graphs: OrderedDict[Signature, Graph] = OrderedDict()
        self._pool: Any = None

    def __call__(self, *inputs: Tensor) -> Any:
        """The function's value, in memory of its own."""
        key = signature(inputs)
        graph = self._graphs.get(key)
        if graph is None:
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            graph = Graph(self._function, inputs, self._priority, self._pool)
            self._graphs[key] = graph
            if len(self._graphs) > MAX_GRAPHS:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        return graph(*inputs)


class Graph:
    """One recorded call."""

    def __init__(
        self, function: TensorFunction, inputs: Sequence[Tensor], priority: int, pool: Any
    ) -> None:
        self._last = [Last() for _ in inputs]
        self._inputs = [tensor.clone() for tensor in inputs]
        stream = torch.cuda.Stream(priority=priority)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            function(*self._inputs)  # libraries make what they need in a first run
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(
                self._graph, pool=pool, stream=stream, capture_error_mode="thread_local"
            ):
                self._outputs, self._structure = pytree.tree_flatten(function(*self._inputs))
        torch.cuda.current_stream().wait_stream(stream)

    def __call__(self, *inputs: Tensor) -> Any:
        """Replays the call; an input that has not changed since the last one is not copied."""
        for own, last, tensor in zip(self._inputs, self._last, inputs, strict=True):
            if not last.is_now(tensor):
                own.copy_(tensor, non_blocking=True)
        self._graph.replay()
        return pytree.tree_unflatten([each.clone() for each in self._outputs], self._structure)
