"""Transformers on several ranks: the batch shared first, then the tokens, as diffusers does it."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig, ModelMixin
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

from polyrank.diffusion.exchange import GroupExchange
from polyrank.errors import UnsupportedPipeline


class SharedTransformer:
    """Stands in for a transformer's ``forward``.

    The first call decides how: as many parts as its batch and the ranks have in common (with
    guidance that is two), and the tokens of each among the ranks that are left.
    """

    def __init__(self, transformer: ModelMixin) -> None:
        self._transformer = transformer
        self._stock = self._inner = transformer.forward
        self._named = inspect.signature(transformer.forward)
        self._ranks: int = dist.get_world_size()
        self._everyone = GroupExchange(dist.group.WORLD)
        self._parts = 0
        transformer.forward = self

    @property
    def _sharers(self) -> int:
        """Ranks that share the tokens of a part."""
        return self._ranks // self._parts

    def __call__(self, *arguments: Any, return_dict: bool = True, **named: Any) -> Any:
        """The transformer's output."""
        given = self._named.bind(*arguments, **named).arguments
        batch = given["hidden_states"].shape[0]
        if not self._parts:
            self._divide(batch)
        self._check(given)
        if batch % self._parts:
            mine, part = given, None
        else:
            part = dist.get_rank() // self._sharers
            mine = {name: self._mine(value, batch, part) for name, value in given.items()}
        output = self._inner(**mine, return_dict=False)[0]
        if part is not None and self._parts > 1:
            # Those that share the tokens of a part all have all of it.
            parts = self._everyone(output.contiguous())[:: self._sharers]
            output = parts.flatten(0, 1)
        return Transformer2DModelOutput(sample=output) if return_dict else (output,)

    def _divide(self, batch: int) -> None:
        parts = math.gcd(batch, self._ranks)
        sharers = self._ranks // parts
        if sharers > 1:
            self._divide_tokens(parts, sharers)
        self._parts = parts

    def _divide_tokens(self, parts: int, sharers: int) -> None:
        model = self._transformer
        name, heads = type(model).__name__, getattr(model.config, "num_attention_heads", None)
        if model._cp_plan is None:
            raise UnsupportedPipeline(
                f"diffusers cannot divide the tokens of {name}, so only as many ranks as there are "
                f"pictures (with guidance: twice as many) can share a call, not {self._ranks}"
            )
        if heads is None or heads % sharers:
            raise UnsupportedPipeline(
                f"{sharers} ranks cannot share the {heads} attention heads of {name}; their number "
                "has to divide the heads'"
            )
        kind = next(model.parameters()).device.type
        mesh = init_device_mesh(
            kind, (parts, 1, sharers), mesh_dim_names=("parts", "ring", "ulysses")
        )
        model.forward = self._stock  # what diffusers wraps
        try:
            model.enable_parallelism(
                config=ContextParallelConfig(ulysses_degree=sharers, mesh=mesh)
            )
            self._inner = model.forward
        finally:
            model.forward = self

    def _check(self, given: dict[str, Any]) -> None:
        if self._sharers == 1:
            return
        for name, split in self._transformer._cp_plan.get("", {}).items():
            tensor, dimension = given.get(name), getattr(split, "split_dim", None)
            if not isinstance(tensor, Tensor) or dimension is None:
                continue
            if tensor.shape[dimension] % self._sharers:
                raise UnsupportedPipeline(
                    f"{self._sharers} ranks cannot share {tensor.shape[dimension]} tokens "
                    f"({name}); choose a size of pictures whose tokens they can share"
                )

    def _mine(self, value: Any, batch: int, part: int) -> Any:
        if isinstance(value, Tensor) and value.ndim and value.shape[0] == batch:
            return value.chunk(self._parts)[part]
        return value


def share_transformer(transformer: torch.nn.Module) -> None:
    """Has all ranks compute a part of every call."""
    if not isinstance(transformer, ModelMixin):
        raise UnsupportedPipeline(
            f"parallelize() knows transformers of diffusers, not {type(transformer).__name__}"
        )
    SharedTransformer(transformer)
