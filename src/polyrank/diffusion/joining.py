"""Pictures joined along their channels, in the layout that convolutions read."""

from __future__ import annotations

import torch
from torch import fx

cat = torch.ops.aten.cat.default
permute = torch.ops.aten.permute.default

CHANNELS_LAST = [0, 2, 3, 1]
CHANNELS_FIRST = [0, 3, 1, 2]


def join_channels_last(module: fx.GraphModule) -> None:
    """Rewrites the graph of ``module``: pictures are joined pixel by pixel.

    Inductor lays out what it joins by channels, then rows, whatever the layout of the parts. What
    follows a skip connection, a group norm and a convolution, reads it pixel by pixel: at a sixth
    of the memory's speed, on an H200 (PyTorch 2.11).
    """
    for node in module.graph.find_nodes(op="call_function", target=cat):
        if node.meta["val"].ndim != 4 or node.args[1:] not in ((1,), (-3,)):
            continue
        with module.graph.inserting_before(node):
            parts = [_call(module, permute, part, CHANNELS_LAST) for part in node.args[0]]
            joined = _call(module, cat, parts, 3)
            node.replace_all_uses_with(_call(module, permute, joined, CHANNELS_FIRST))
        module.graph.erase_node(node)
    module.recompile()


def _call(module: fx.GraphModule, operator: torch._ops.OpOverload, *arguments: object) -> fx.Node:
    node: fx.Node = module.graph.call_function(operator, arguments)
    return node
