"""A checkpoint on disk: which models it holds, and in which files."""

from __future__ import annotations

import json
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path

from polyrank.errors import AppError

INDEX = "model_index.json"
# What files of weights are called, by the library of the model.
STEMS = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}


@dataclass(frozen=True)
class StoredPart:
    """A part of a pipeline, which need not be a model: its class by name, and its folder."""

    library: str
    kind: str
    folder: Path
    variant: str | None

    def files(self) -> Sequence[Path]:
        """The safetensors files of its weights; none if it has other ones, or no weights."""
        stem = STEMS[self.library]
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


def stored_parts(
    folder: Path, variant: str | None, but: Container[str] = ()
) -> dict[str, StoredPart]:
    """The parts of the pipeline in ``folder`` that are of diffusers or transformers.

    Raises AppError if there is none.
    """
    index = folder / INDEX
    if not index.is_file():
        raise AppError(
            f"{folder} has no {INDEX}; load() takes the folder of a pipeline, as save_pretrained() "
            "and huggingface_hub.snapshot_download() make it, or with the class of a model the "
            "folder of that"
        )
    return {
        name: StoredPart(entry[0], entry[1], folder / name, variant)
        for name, entry in json.loads(index.read_text()).items()
        if name not in but and isinstance(entry, list) and entry[0] in STEMS
    }
