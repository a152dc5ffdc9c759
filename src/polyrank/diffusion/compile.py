"""Compiles one core in a process of its own: ``python -m polyrank.diffusion.compile FOLDER``.

Reads a recipe from stdin, builds the core it describes with weights that do not matter, and writes
machine code without weights into the artifact cache. Ends at once when its stdin closes after the
recipe: the process that asked has gone. Nobody imports this module.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from polyrank.diffusion.artifacts import ArtifactCache, Recipe
from polyrank.diffusion.cores import build

# The first that can take a shape is taken.
BACKENDS = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
OPTIONS = {
    # Weights stay where they are; the loading process lends its own.
    "aot_inductor.package_constants_in_so": False,
    "coordinate_descent_tuning": True,
}


def compile_artifact(recipe: Recipe, path: Path) -> None:
    """Writes the artifact of ``recipe`` to ``path``."""
    device = torch.device(recipe.device)
    dtype = getattr(torch, recipe.dtype)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with torch.no_grad():
        with device, _default_dtype(dtype):
            core = build(recipe.kind, recipe.config, tuple(recipe.added)).eval()
        inputs = tuple(
            torch.zeros(shape, dtype=getattr(torch, name), device=device)
            for shape, name in recipe.inputs
        )
        with sdpa_kernel(BACKENDS, set_priority=True):
            exported = torch.export.export(core, inputs, strict=False)
            torch._inductor.aoti_compile_and_package(
                exported, package_path=str(path), inductor_configs=OPTIONS
            )


@contextlib.contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


def main() -> None:
    """Compiles the recipe on stdin."""
    recipe = Recipe(**json.loads(sys.stdin.readline()))
    threading.Thread(target=_end_with_parent, name="end-with-parent", daemon=True).start()
    with ArtifactCache(Path(sys.argv[1])).making(recipe) as path:
        if path is not None:
            compile_artifact(recipe, path)


if __name__ == "__main__":
    main()
