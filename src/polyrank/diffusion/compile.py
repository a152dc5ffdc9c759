"""Compiles one core in a process of its own: ``python -m polyrank.diffusion.compile FOLDER``.

Reads a recipe from stdin, builds the core it describes with weights that do not matter, and writes
code that is called with the weights into the artifact cache. Ends at once when its stdin closes
after the recipe: the process that asked has gone. Nobody imports this module.
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
import torch._inductor
from torch.export.graph_signature import InputKind
from torch.nn.attention import SDPBackend, sdpa_kernel

from polyrank.diffusion.artifacts import CODE, TUNING, WEIGHTS, ArtifactCache, Recipe
from polyrank.diffusion.cores import build, lend_weights

# The first that can take a shape is taken.
BACKENDS = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


def compile_artifact(recipe: Recipe, folder: Path) -> None:
    """Writes the artifact of ``recipe``: code, and the names of the weights it is called with."""
    device = torch.device(recipe.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with torch.no_grad(), sdpa_kernel(BACKENDS, set_priority=True):
        with device, _default_dtype(getattr(torch, recipe.dtype)):
            core = build(recipe.kind, recipe.config, tuple(recipe.added), recipe.ranks).eval()
        inputs = tuple(
            torch.zeros(shape, dtype=getattr(torch, name), device=device)
            for shape, name in recipe.inputs
        )
        exported = torch.export.export(core, inputs, strict=False)
        specs = exported.graph_signature.input_specs
        names = [spec.target for spec in specs if spec.kind is not InputKind.USER_INPUT]
        arguments = [*lend_weights(core, names), *inputs]
        artifact = torch._inductor.standalone_compile(
            exported.graph_module, arguments, dynamic_shapes="from_example_inputs"
        )
        # Kernels are tuned in their first run: here, and not in the process that serves.
        artifact(*arguments)
    folder.mkdir()
    artifact.save(path=str(folder / CODE), format="binary")
    if (tuning := torch.compiler.save_cache_artifacts()) is not None:
        (folder / TUNING).write_bytes(tuning[0])
    (folder / WEIGHTS).write_text(json.dumps(names))


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
