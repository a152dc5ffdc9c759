"""Models of diffusers and transformers, built around weights that are read elsewhere."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from accelerate import init_empty_weights
from diffusers import ModelMixin
from packaging.version import Version
from torch import Tensor, nn
from transformers import PreTrainedModel

from polyrank.diffusion.checkpoint import StoredPart
from polyrank.diffusion.weights import Tensors
from polyrank.errors import AppError

log = logging.getLogger("polyrank.diffusion")

# What diffusers calls the type of the weights.
DTYPE = "dtype" if Version(diffusers.__version__) >= Version("0.40") else "torch_dtype"


def class_of(model: Any) -> Any:
    """A class of diffusers, by its name or as it is; raises AppError if there is none."""
    if not isinstance(model, str):
        return model
    found = getattr(diffusers, model, None)
    if not isinstance(found, type):
        raise AppError(f"diffusers {diffusers.__version__} has no class {model}")
    return found


def is_model(kind: Any) -> bool:
    """Whether a class is that of a model, and not of a pipeline or a tokenizer."""
    return isinstance(kind, type) and issubclass(kind, ModelMixin | PreTrainedModel)


@dataclass(frozen=True)
class Part:
    """A model that is to be built: its class, and what is stored of it."""

    kind: Any
    stored: StoredPart

    @classmethod
    def of(cls, stored: StoredPart) -> Part | None:
        """A part of a pipeline, None if it is no model."""
        kind = getattr(importlib.import_module(stored.library), stored.kind, None)
        return cls(kind, stored) if is_model(kind) else None

    def empty(self) -> nn.Module | None:
        """A diffusers model without its weights; transformers makes its own around them."""
        if not issubclass(self.kind, ModelMixin):
            return None
        with init_empty_weights():
            model: nn.Module = self.kind.from_config(self.kind.load_config(self.stored.folder))
        return model

    def fill(
        self, model: nn.Module | None, weights: Tensors, device: torch.device, dtype: torch.dtype
    ) -> nn.Module | None:
        """The model with its weights; None if they are not those that its class asks for."""
        if model is not None:
            return self._fill_empty(model, weights, dtype)
        config = self.kind.config_class.from_pretrained(self.stored.folder)
        # It knows the names that weights had in older checkpoints.
        model = self.kind.from_pretrained(
            None, config=config, state_dict=weights, torch_dtype=dtype, device_map={"": device}
        )
        model.config.name_or_path = str(self.stored.folder)
        return model

    def _fill_empty(
        self, model: nn.Module, weights: Tensors, dtype: torch.dtype
    ) -> nn.Module | None:
        if model.state_dict().keys() != weights.keys():
            return None
        exact = getattr(self.kind, "_keep_in_fp32_modules", None) or []

        def converted(name: str, weight: Tensor) -> Tensor:
            if not weight.is_floating_point():
                return weight
            kept = any(part in name.split(".") for part in exact)
            return weight.to(torch.float32 if kept else dtype)

        state = {name: converted(name, weight) for name, weight in weights.items()}
        model.load_state_dict(state, assign=True)
        model.register_to_config(_name_or_path=str(self.stored.folder))
        return model.eval()

    def from_pretrained(self, device: torch.device, dtype: torch.dtype) -> nn.Module:
        """The model as its own library loads it."""
        log.info("%s is loaded by %s.from_pretrained", self.stored.folder, self.kind.__name__)
        options = {"variant": self.stored.variant} if self.stored.variant else {}
        name = DTYPE if issubclass(self.kind, ModelMixin) else "torch_dtype"
        model: nn.Module = self.kind.from_pretrained(self.stored.folder, **{name: dtype}, **options)
        return model.to(device)


def build(
    parts: Mapping[str, Part],
    reading: Future[dict[str, Tensors]],
    device: torch.device,
    dtype: torch.dtype,
) -> dict[str, nn.Module]:
    """The models with the weights that ``reading`` brings, by the names of their parts."""
    empty = {name: part.empty() for name, part in parts.items() if part.stored.files()}
    read = reading.result()
    models = {}
    for name, part in parts.items():
        weights = read.get(name)
        model = part.fill(empty[name], weights, device, dtype) if weights else None
        models[name] = part.from_pretrained(device, dtype) if model is None else model
    return models
