"""A pipeline that does not ask each of its modules, again and again, whether it is offloaded.

Diffusers walks through all modules of a model to find out where its inputs belong, several times
in a call and before the GPU has work. In SDXL's text encoders that are 544 modules, twice.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

TEXT_ENCODERS = ("text_encoder", "text_encoder_2")


def quicken(pipeline: Any, on_end: Callable[[], None]) -> None:
    """Spares the pipeline those walks, and calls ``on_end`` after every picture."""
    stock: Any = type(pipeline)

    class Quick(stock):
        @functools.wraps(stock.__call__)
        def __call__(self, *arguments: Any, **named: Any) -> Any:
            try:
                return super().__call__(*arguments, **named)
            finally:
                on_end()

        @property
        def _execution_device(self) -> torch.device:
            if _is_offloaded(self.unet):
                device: torch.device = super()._execution_device
                return device
            return _place(self.unet)

        if hasattr(stock, "encode_prompt"):

            @functools.wraps(stock.encode_prompt)
            def encode_prompt(self, *arguments: Any, **named: Any) -> Any:
                # LoRAs, too, are looked for in all modules.
                walks = _is_offloaded(self.unet) or named.get("lora_scale") is not None
                with contextlib.nullcontext() if walks else _whole_encoders(self):
                    return super().encode_prompt(*arguments, **named)

    Quick.__name__, Quick.__qualname__ = stock.__name__, stock.__qualname__
    Quick.__module__, Quick.__doc__ = stock.__module__, stock.__doc__
    pipeline.__class__ = Quick


def _is_offloaded(unet: nn.Module) -> bool:
    """Whether modules of the pipeline are: if the UNet is not, none is."""
    return hasattr(unet, "_hf_hook") or hasattr(unet, "_diffusers_hook")


def _place(model: nn.Module) -> torch.device:
    """Where a model is; its own ``device`` may walk, too."""
    return next(model.parameters()).device


class _Whole:
    """A text encoder with nothing inside that could be asked."""

    def __init__(self, encoder: nn.Module) -> None:
        self._encoder = encoder

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._encoder(*arguments, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def modules(self) -> Iterator[nn.Module]:
        return iter(())


@contextlib.contextmanager
def _whole_encoders(pipeline: Any) -> Iterator[None]:
    """Puts those encoders in the place of the pipeline's, for a while.

    One that is not where the UNet is may be offloaded by itself, and is asked as before.
    """
    parts = vars(pipeline)  # setting an attribute would write it into the pipeline's configuration
    found = {name: parts.get(name) for name in TEXT_ENCODERS}
    at = _place(pipeline.unet)
    encoders = {
        name: each for name, each in found.items() if each is not None and _place(each) == at
    }
    parts.update({name: _Whole(encoder) for name, encoder in encoders.items()})
    try:
        yield
    finally:
        parts.update(encoders)
