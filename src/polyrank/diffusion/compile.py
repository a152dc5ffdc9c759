"""Compiles one core in a process of its own: ``python -m polyrank.diffusion.compile FOLDER``.

Reads a recipe from stdin, builds the core it describes with weights that do not matter, and writes
code that is called with the weights into the artifact cache. Ends at once when its stdin closes
after the recipe: the process that asked has gone. Nobody imports this module.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch._inductor
from torch._inductor.choices import InductorChoices
from torch._inductor.runtime.hints import ReductionHint
from torch._inductor.virtualized import V
from torch.export.graph_signature import InputKind
from torch.nn.attention import SDPBackend, sdpa_kernel

from polyrank.diffusion import hopper
from polyrank.diffusion.artifacts import CODE, TUNING, WEIGHTS, ArtifactCache, Recipe
from polyrank.diffusion.cores import build, lend_weights
from polyrank.diffusion.joining import join_channels_last

# The first that can take a shape is taken.
BACKENDS = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
# Numbers of a row that a kernel may hold while it normalizes them.
WIDEST = 2048


class WideNorms(InductorChoices):
    """Kernels that normalize a row read it once, where the compiler's own choice, beyond 1024
    numbers, reads it twice: layer norms of 1280 channels take 6 to 8 instead of 10 to 12 us.
    """

    @staticmethod
    def should_use_persistent_reduction(features: Any, cooperative_reduction: bool) -> bool:
        """Whether a kernel holds all that it sums up."""
        sums_rows = features.get_reduction_hint() == ReductionHint.INNER
        if sums_rows and not cooperative_reduction:
            return bool(V.graph.sizevars.statically_known_leq(features.reduction_numel, WIDEST))
        stock: bool = InductorChoices.should_use_persistent_reduction(
            features, cooperative_reduction
        )
        return stock


def compile_artifact(recipe: Recipe, folder: Path) -> None:
    """Writes the artifact of ``recipe``: code, and the names of the weights it is called with."""
    device = torch.device(recipe.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    V.set_choices_handler(WideNorms())
    folder.mkdir()
    with (
        _empty_cache(folder / "cache"),
        torch.no_grad(),
        sdpa_kernel(BACKENDS, set_priority=True),
    ):
        with device, _default_dtype(getattr(torch, recipe.dtype)):
            core = build(
                recipe.kind,
                recipe.config,
                tuple(recipe.added),
                recipe.ranks,
                hopper=recipe.on_hopper,
            ).eval()
        inputs = tuple(
            torch.zeros(shape, dtype=getattr(torch, name), device=device)
            for shape, name in recipe.inputs
        )
        exported = torch.export.export(core, inputs, strict=False)
        join_channels_last(exported.graph_module)
        specs = exported.graph_signature.input_specs
        names = [spec.target for spec in specs if spec.kind is not InputKind.USER_INPUT]
        arguments = [*lend_weights(core, names), *inputs]
        artifact = torch._inductor.standalone_compile(
            exported.graph_module, arguments, dynamic_shapes="from_example_inputs"
        )
        # Kernels are tuned in their first run: here, and not in the process that serves.
        artifact(*arguments)
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


@contextlib.contextmanager
def _empty_cache(folder: Path) -> Iterator[None]:
    """Within the block the compiler finds nothing that was compiled before: it would take code
    for the same graph that was made by other choices.
    """
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


def main() -> None:
    """Compiles the recipe on stdin."""
    recipe = Recipe(**json.loads(sys.stdin.readline()))
    threading.Thread(target=_end_with_parent, name="end-with-parent", daemon=True).start()
    cache = ArtifactCache(Path(sys.argv[1]))
    with cache.making(recipe) as path:
        if path is not None:
            hopper.keep_in(cache.kernels)
            # Triton's are found by their own source, whatever the choices that led to it.
            os.environ.setdefault("TRITON_CACHE_DIR", str(cache.kernels / "triton"))
            compile_artifact(recipe, path)


if __name__ == "__main__":
    main()
