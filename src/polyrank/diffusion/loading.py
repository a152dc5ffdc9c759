"""``load``: a pipeline from a folder, its weights read by all ranks together."""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
import torch.distributed as dist
from accelerate import init_empty_weights
from diffusers import ModelMixin
from packaging.version import Version
from torch import Tensor, nn
from transformers import PreTrainedModel

from polyrank.diffusion.weights import Tensors, read_together
from polyrank.errors import AppError

try:
    from transformers.initialization import no_init_weights
except ImportError:  # transformers 4
    from transformers.modeling_utils import no_init_weights

log = logging.getLogger("polyrank.diffusion")

INDEX = "model_index.json"
CONFIG = "config.json"
# What diffusers calls the type of the weights.
DTYPE = "dtype" if Version(diffusers.__version__) >= Version("0.40") else "torch_dtype"


def load(
    model: Any,
    folder: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    group: dist.ProcessGroup | None = None,
    variant: str | None = None,
    **components: Any,
) -> Any:
    """What ``model.from_pretrained(folder)`` gives, on its device and in much less time.

    The safetensors files are read by threads into locked memory while what was read before goes to
    the device, and models are built around the tensors. With a ``group`` each of its ranks reads
    its share and gets the rest from the others, over NVLink where there is one. Models that come in
    another form are loaded by ``from_pretrained``.

    Args:
        model: a diffusers pipeline class, or the class of one of its models.
        folder: a checkpoint as ``save_pretrained`` writes it; for a name on the Hugging Face Hub,
            what ``huggingface_hub.snapshot_download(name)`` returns.
        device: where the weights go.
        dtype: what they are converted to there.
        group: ranks that call this at the same time with the same folder, such as
            ``torch.distributed.group.WORLD``. None: this process reads everything.
        variant: as for ``from_pretrained``: "fp16" takes the files so named.
        components: as for ``from_pretrained``: parts of the pipeline that are there already.

    Raises AppError for a folder that holds no checkpoint of that class, and for files that are cut
    off or differ between the ranks.

    Example::

        self.pipeline = load(
            StableDiffusionXLPipeline, folder, device=self.device, dtype=torch.float16,
            group=torch.distributed.group.WORLD,
        )
    """
    folder, device = Path(folder), torch.device(device)
    is_model = issubclass(model, ModelMixin)
    _check_folder(folder, model.__name__, is_model)
    if is_model:
        return _load_models({"model": Part(model, folder, variant)}, device, dtype, group)["model"]
    parts = _parts_of(folder, variant, but=components)
    models = _load_models(parts, device, dtype, group)
    options = {"variant": variant} if variant else {}
    pipeline = model.from_pretrained(folder, **{DTYPE: dtype}, **options, **models, **components)
    return pipeline.to(device)


@dataclass(frozen=True)
class Part:
    """A model of a pipeline: its class and its folder."""

    kind: Any
    folder: Path
    variant: str | None

    def files(self) -> Sequence[Path]:
        """The safetensors files of its weights; none if it has other ones."""
        stem = "diffusion_pytorch_model" if issubclass(self.kind, ModelMixin) else "model"
        middle = f".{self.variant}" if self.variant else ""
        for name in (stem + middle, stem):
            whole = self.folder / f"{name}.safetensors"
            if whole.is_file():
                return [whole]
            for index in (
                f"{stem}.safetensors.index{middle}.json",
                f"{name}.safetensors.index.json",
            ):
                if (self.folder / index).is_file():
                    weights = json.loads((self.folder / index).read_text())["weight_map"]
                    return [self.folder / file for file in sorted(set(weights.values()))]
        return []

    def empty(self) -> nn.Module:
        """The model without its weights."""
        model: nn.Module
        # Drawing numbers for weights that have no memory takes most of the time.
        with init_empty_weights(), no_init_weights():
            if issubclass(self.kind, ModelMixin):
                model = self.kind.from_config(self.kind.load_config(self.folder))
            else:
                model = self.kind(self.kind.config_class.from_pretrained(self.folder))
        return model

    def fill(
        self, model: nn.Module, weights: Tensors, device: torch.device, dtype: torch.dtype
    ) -> nn.Module | None:
        """The model with its weights; None if they are not those that its class asks for."""
        fitting = _fit(weights, model.state_dict().keys())
        from_transformers = isinstance(model, PreTrainedModel)
        # Models that write text have more files than their weights.
        if fitting is not None and not (from_transformers and model.can_generate()):
            return self._assign(model, fitting, dtype)
        if not from_transformers:
            return None
        # It knows the names that weights had in older checkpoints.
        model = self.kind.from_pretrained(
            None,
            config=model.config,
            state_dict=weights,
            torch_dtype=dtype,
            device_map={"": device},
        )
        model.config.name_or_path = str(self.folder)
        return model

    def _assign(self, model: nn.Module, weights: Tensors, dtype: torch.dtype) -> nn.Module:
        exact = getattr(self.kind, "_keep_in_fp32_modules", None) or []

        def converted(name: str, weight: Tensor) -> Tensor:
            if not weight.is_floating_point():
                return weight
            kept = any(part in name.split(".") for part in exact)
            return weight.to(torch.float32 if kept else dtype)

        state = {name: converted(name, weight) for name, weight in weights.items()}
        model.load_state_dict(state, assign=True)
        if isinstance(model, PreTrainedModel):
            model.config.name_or_path, model.config.dtype = str(self.folder), dtype
        else:
            model.register_to_config(_name_or_path=str(self.folder))
        return model.eval()


def _fit(weights: Tensors, names: Collection[str]) -> Tensors | None:
    """The weights under these names; None if they are others.

    A model that was part of a larger one may have been saved with that one's name before its own.
    """
    if weights.keys() == names:
        return weights
    prefix = next(iter(weights)).partition(".")[0] + "."
    short = {name.removeprefix(prefix): weight for name, weight in weights.items()}
    is_prefix = all(name.startswith(prefix) for name in weights)
    return short if is_prefix and short.keys() == names else None


def _check_folder(folder: Path, kind: str, is_model: bool) -> None:
    has_index = (folder / INDEX).is_file()
    if is_model and has_index:
        raise AppError(
            f"{folder} is the folder of a pipeline; the weights of a {kind} are in a folder of it"
        )
    if not has_index and not (is_model and (folder / CONFIG).is_file()):
        raise AppError(
            f"{folder} has no {INDEX}; load() takes the folder of a pipeline, as save_pretrained() "
            "and huggingface_hub.snapshot_download() make it, or with the class of a model the "
            "folder of that"
        )


def _parts_of(folder: Path, variant: str | None, but: dict[str, Any]) -> dict[str, Part]:
    parts = {}
    for name, entry in json.loads((folder / INDEX).read_text()).items():
        if (
            name in but
            or not isinstance(entry, list)
            or entry[0] not in ("diffusers", "transformers")
        ):
            continue
        kind = getattr(importlib.import_module(entry[0]), entry[1], None)
        if isinstance(kind, type) and issubclass(kind, ModelMixin | PreTrainedModel):
            parts[name] = Part(kind, folder / name, variant)
    return parts


def _load_models(
    parts: dict[str, Part],
    device: torch.device,
    dtype: torch.dtype,
    group: dist.ProcessGroup | None,
) -> dict[str, nn.Module]:
    files = {name: part.files() for name, part in parts.items()}
    with ThreadPoolExecutor(1, "polyrank-load") as thread:
        paths = [path for each in files.values() for path in each]
        reading = thread.submit(read_together, paths, device, group)
        empty = {name: part.empty() if files[name] else None for name, part in parts.items()}
        read = iter(reading.result())
    models = {}
    for name, part in parts.items():
        weights: Tensors = {}
        for _ in files[name]:
            weights |= next(read)
        model = part.fill(empty[name], weights, device, dtype) if weights else None
        if model is None:
            log.info("%s is loaded by %s.from_pretrained", part.folder, part.kind.__name__)
            options = {"variant": part.variant} if part.variant else {}
            named = DTYPE if issubclass(part.kind, ModelMixin) else "torch_dtype"
            model = part.kind.from_pretrained(part.folder, **{named: dtype}, **options).to(device)
        models[name] = model
    return models
