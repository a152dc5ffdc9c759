"""``load``: a pipeline from a folder, its weights read by all ranks together."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from polyrank.diffusion.checkpoint import INDEX, StoredPart, stored_parts
from polyrank.diffusion.weights import Tensors, read_together
from polyrank.errors import AppError

# The part of a folder with a single model.
WHOLE = "model"


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
        model: a diffusers pipeline class, or the class of one of its models. By its name, where
            diffusers has not been imported yet: that takes seconds, in which the weights are read.
        folder: a checkpoint as ``save_pretrained`` writes it; for a name on the Hugging Face Hub,
            what ``huggingface_hub.snapshot_download(name)`` returns.
        device: where the weights go.
        dtype: what they are converted to there.
        group: ranks that call this at the same time with the same folder, such as
            ``torch.distributed.group.WORLD``. None: this process reads everything.
        variant: as for ``from_pretrained``: "fp16" takes the files so named.
        components: as for ``from_pretrained``: parts of the pipeline that are there already.

    Raises AppError for a folder that holds no checkpoint, a class that diffusers does not have,
    and files that are cut off or differ between the ranks.

    Example::

        self.pipeline = load(
            "StableDiffusionXLPipeline", folder, device=self.device, dtype=torch.float16,
            group=torch.distributed.group.WORLD,
        )
    """
    folder, device = Path(folder), torch.device(device)
    is_single = not (folder / INDEX).is_file() and (folder / "config.json").is_file()
    if is_single:
        stored = {WHOLE: StoredPart("diffusers", "", folder, variant)}
    else:
        stored = stored_parts(folder, variant, but=components)
    with _switching_often(), ThreadPoolExecutor(1, "polyrank-load") as thread:
        reading = thread.submit(_read, stored, device, group)
        # Not at the top: this imports diffusers, and the weights are read meanwhile.
        from polyrank.diffusion import models

        kind = models.class_of(model)
        _check_folder(folder, kind.__name__, models.is_model(kind), is_single)
        if is_single:
            whole = models.Part(kind, stored[WHOLE])
            return models.build({WHOLE: whole}, reading, device, dtype)[WHOLE]
        found = {name: models.Part.of(each) for name, each in stored.items()}
        parts = {name: part for name, part in found.items() if part is not None}
        components |= models.build(parts, reading, device, dtype)
    options = {"variant": variant} if variant else {}
    pipeline = kind.from_pretrained(folder, **{models.DTYPE: dtype}, **options, **components)
    return pipeline.to(device)


@contextlib.contextmanager
def _switching_often() -> Iterator[None]:
    """Threads that read take a moment of Python after every wait, which they get at once.

    By default they would wait 5 ms for it each time, as long as the import beside them computes.
    """
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        yield
    finally:
        sys.setswitchinterval(usual)


def _check_folder(folder: Path, kind: str, is_model: bool, is_single: bool) -> None:
    if is_model and not is_single:
        raise AppError(
            f"{folder} is the folder of a pipeline; the weights of a {kind} are in a folder of it"
        )
    if is_single and not is_model:
        raise AppError(
            f"{folder} has no {INDEX}: it is the folder of a model; {kind} is a pipeline"
        )


def _read(
    stored: Mapping[str, StoredPart], device: torch.device, group: dist.ProcessGroup | None
) -> dict[str, Tensors]:
    """The weights of each part that has any."""
    files = {name: part.files() for name, part in stored.items()}
    read = iter(read_together([path for each in files.values() for path in each], device, group))
    weights: dict[str, Tensors] = {}
    for name, paths in files.items():
        for _ in paths:
            weights.setdefault(name, {}).update(next(read))
    return weights
