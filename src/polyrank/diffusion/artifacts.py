"""Compiled cores on disk, found by what they were made from.

A recipe names everything that decides the machine code: the model's configuration, the inputs, the
GPU, the versions of the libraries and polyrank's own code. The same recipe finds the same file in
every process and after every restart; anything else is another file.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor

from polyrank.diffusion import hopper

# The files of an artifact.
CODE = "code"
TUNING = "tuning"
WEIGHTS = "weights.json"
KERNELS = "kernels"
# The modules whose code ends up in one.
CODE_FILES = (
    "attention.py",
    "blocks.py",
    "borders.py",
    "compile.py",
    "convolutions.py",
    "cores.py",
    "divided.py",
    "exchange.py",
    "flash.py",
    "hopper.py",
    "joining.py",
    "layers.py",
    "norms.py",
    "pictures.py",
    "products.py",
    "rows.py",
    "shrunk.py",
    "timesteps.py",
    "upsampling.py",
)


@dataclass(frozen=True)
class Recipe:
    """What a core is compiled from; JSON can say all of it."""

    kind: str
    config: dict[str, Any]
    added: list[str]
    dtype: str
    device: str
    inputs: list[tuple[list[int], str]]
    versions: dict[str, str]
    # Among which the rows of a picture are divided.
    ranks: int = 1

    @classmethod
    def of(
        cls,
        kind: str,
        config: dict[str, Any],
        added: Sequence[str],
        dtype: torch.dtype,
        inputs: Sequence[Tensor],
        ranks: int = 1,
    ) -> Recipe:
        """The recipe for a core of this configuration and for inputs like these, on this GPU."""
        # Keys with an underscore say where the model came from, not what it is.
        plain = {key: value for key, value in config.items() if not key.startswith("_")}
        device = inputs[0].device
        used = hopper.packages(device, dtype) if kind == "unet" else {}
        return cls(
            kind=kind,
            config=json.loads(json.dumps(plain, default=str)),
            added=list(added),
            dtype=name_of(dtype),
            device=str(device),
            inputs=[(list(each.shape), name_of(each.dtype)) for each in inputs],
            versions={**versions(device), **used},
            ranks=ranks,
        )

    def to_json(self) -> str:
        """The recipe as text."""
        return json.dumps(asdict(self), sort_keys=True)

    @property
    def on_hopper(self) -> bool:
        """Whether it is compiled with the kernels of hopper.py."""
        return all(name in self.versions for name in hopper.PACKAGES)

    def without_kernels(self) -> Recipe:
        """The same, for a machine where the kernels of hopper.py do not work."""
        others = {key: value for key, value in self.versions.items() if key not in hopper.PACKAGES}
        return replace(self, versions=others)

    @property
    def key(self) -> str:
        """Names the recipe's artifact."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:32]


class ArtifactCache:
    """A folder of artifacts, each a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def kernels(self) -> Path:
        """Where kernels are kept that several artifacts use; they, too, are polyrank's code."""
        return self.folder / f"{KERNELS}-{_digest_of_package()}"

    def path(self, recipe: Recipe) -> Path:
        """Where the recipe's artifact is, or would be."""
        return self.folder / f"{recipe.kind}-{recipe.key}"

    @contextlib.contextmanager
    def making(self, recipe: Recipe) -> Iterator[Path | None]:
        """The path to write a missing artifact to, or None if it is there by now.

        Processes that want the same one wait for the first. What is written becomes visible whole,
        when the block ends without an error.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.path(recipe)
        with open(path.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.exists():
                yield None
                return
            unfinished = path.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
            try:
                yield unfinished
            except BaseException:
                shutil.rmtree(unfinished, ignore_errors=True)
                raise
            os.replace(unfinished, path)


def versions(device: torch.device) -> dict[str, str]:
    """What besides the model decides the code that a compiler makes."""
    found = {
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "polyrank": _digest_of_package(),
    }
    if device.type == "cuda":
        found["cuda"] = str(torch.version.cuda)
        found["gpu"] = torch.cuda.get_device_name(device)
        found["cudnn"] = str(torch.backends.cudnn.version())
    return found


def name_of(dtype: torch.dtype) -> str:
    """``float16`` and the like."""
    return str(dtype).removeprefix("torch.")


@functools.cache
def _digest_of_package() -> str:
    digest = hashlib.sha256()
    for name in CODE_FILES:
        digest.update(Path(__file__).with_name(name).read_bytes())
    return digest.hexdigest()[:16]
