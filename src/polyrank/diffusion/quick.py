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
            at: torch.device = next(self.unet.parameters()).device  # its own `device` walks too
            return at

        if hasattr(stock, "encode_prompt"):

            @functools.wraps(stock.encode_prompt)
            def encode_prompt(self, *arguments: Any, **named: Any) -> Any:
                # LoRAs, too, are looked for in all modules.
                if _is_offloaded(self.unet) or named.get("lora_scale") is not None:
                    return super().encode_prompt(*arguments, **named)
                with _whole_encoders(self):
                    return super().encode_prompt(*arguments, **named)

    Quick.__name__, Quick.__qualname__ = stock.__name__, stock.__qualname__
    Quick.__module__, Quick.__doc__ = stock.__module__, stock.__doc__
    pipeline.__class__ = Quick


def _is_offloaded(unet: nn.Module) -> bool:
    """Whether modules of the pipeline are: if the UNet is not, none is."""
    return hasattr(unet, "_hf_hook") or hasattr(unet, "_diffusers_hook")


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
    parts = vars(pipeline)  # setting an attribute would write it into the pipeline's configuration
    encoders = {name: parts[name] for name in TEXT_ENCODERS if parts.get(name) is not None}
    parts.update({name: _Whole(encoder) for name, encoder in encoders.items()})
    try:
        yield
    finally:
        parts.update(encoders)
