"""Scores a model: ``python -m training.shapes.evaluate MODEL`` prints the table of its card.

Paints captions that name every attribute, with the stock pipeline, and lets an independent judge
(judge.py) say what is in the pictures.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image
from torch import Tensor
from torch.nn import functional

from training.shapes import scenes
from training.shapes.captions import Captions
from training.shapes.judge import train_judge

STEPS = 20
AT_ONCE = 100
# A row of the samples' grid each.
PROMPTS = (
    "a red circle on a blue background",
    "a small yellow star at the top on a purple background",
    "a green triangle left of a white square on a black background",
    "an orange heart above a blue ring on a grey background",
    "a serene mountain landscape at sunset",
    "a fantasy landscape with mountains at night",
    "a lighthouse by the sea at dawn",
    "a red hot air balloon over the desert",
    "a cottage in the forest in winter",
    "an orange cat wearing a blue hat",
)


@dataclass(frozen=True)
class Row:
    """A line of the table: which scenes it counts, and which attributes must all be right."""

    title: str
    counts: Callable[[scenes.Scenes], Tensor]
    names: tuple[str, ...]


def _kind(name: str) -> Callable[[scenes.Scenes], Tensor]:
    return lambda batch: batch.kind == scenes.KINDS.index(name)


def _with_subject(batch: scenes.Scenes) -> Tensor:
    return _kind("landscape")(batch) & (batch.subject != scenes.SUBJECTS.index("none"))


def _hatted(batch: scenes.Scenes) -> Tensor:
    return _kind("cat")(batch) & (batch.hat == 1)


ROWS = (
    Row("one shape: which shape", _kind("one"), ("shape",)),
    Row("one shape: colour", _kind("one"), ("colour",)),
    Row("one shape: position", _kind("one"), ("place",)),
    Row("one shape: size", _kind("one"), ("size",)),
    Row("one shape: background", _kind("one"), ("ground",)),
    Row("one shape: all five", _kind("one"), ("shape", "colour", "place", "size", "ground")),
    Row("two shapes: both shapes", _kind("two"), ("shape", "other_shape")),
    Row("two shapes: both colours", _kind("two"), ("colour", "other_colour")),
    Row("two shapes: which is left or above", _kind("two"), ("relation",)),
    Row("two shapes: background", _kind("two"), ("ground",)),
    Row(
        "two shapes: all six",
        _kind("two"),
        ("shape", "other_shape", "colour", "other_colour", "relation", "ground"),
    ),
    Row("landscape: terrain", _kind("landscape"), ("terrain",)),
    Row("landscape: time of day", _kind("landscape"), ("time",)),
    Row("landscape: weather", _kind("landscape"), ("weather",)),
    Row("landscape: what stands in it", _with_subject, ("subject",)),
    Row("cat: it is one", _kind("cat"), ("kind",)),
    Row("cat: its colour", _kind("cat"), ("colour",)),
    Row("cat: its hat", _hatted, ("hat",)),
)


def main() -> None:
    """Parses the command line, paints, judges and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--guidance", type=float, default=5.0)
    parser.add_argument("--negative-prompt", default=None)
    parser.add_argument("--judge-steps", type=int, default=3000)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=1_000_003, help="never one of the training's")
    parser.add_argument("--samples", type=Path, help="write a grid of pictures here")
    args = parser.parse_args()
    device = torch.device(args.device)
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    pipeline = StableDiffusionXLPipeline.from_pretrained(args.model, torch_dtype=dtype)
    pipeline.to(device).set_progress_bar_config(disable=True)
    if args.samples:
        gallery(pipeline, args.guidance, args.samples)
    if not args.pictures:
        return
    judge = train_judge(args.judge_steps, args.seed, device)
    truth = scenes.sample(args.pictures, torch.Generator().manual_seed(args.seed + 1)).to(device)
    real = judge.name(_rendered(truth, args.seed + 2, device))
    begun = time.perf_counter()
    made = judge.name(_painted(pipeline, truth, args))
    seconds = time.perf_counter() - begun
    print(table(truth, made, real))
    print(
        f"\n{args.pictures} pictures, {STEPS} steps, guidance {args.guidance}, "
        f"negative prompt {args.negative_prompt!r}, {dtype}, {seconds:.0f} s"
    )


def table(truth: scenes.Scenes, made: dict[str, Tensor], real: dict[str, Tensor]) -> str:
    """The scores as Markdown; the last column is the judge's own share on rendered scenes."""
    lines = ["| what | pictures | right | judge on renders |", "| --- | ---: | ---: | ---: |"]
    for row in ROWS:
        counted = row.counts(truth)
        shares = [
            torch.stack([named[name] == getattr(truth, name) for name in row.names]).all(0)[counted]
            for named in (made, real)
        ]
        right, own = (f"{100 * share.float().mean():.1f} %" for share in shares)
        lines.append(f"| {row.title} | {int(counted.sum())} | {right} | {own} |")
    return "\n".join(lines)


def gallery(pipeline: StableDiffusionXLPipeline, guidance: float, path: Path) -> None:
    """Four seeds of each prompt, a row a prompt."""
    rows = []
    for prompt in PROMPTS:
        seeds = [torch.Generator().manual_seed(seed) for seed in range(4)]
        rows.append(
            pipeline(
                [prompt] * 4,
                generator=seeds,
                num_inference_steps=STEPS,
                guidance_scale=guidance,
            ).images
        )
    width, height = rows[0][0].size
    grid = Image.new("RGB", (4 * width, len(rows) * height))
    for down, row in enumerate(rows):
        for across, picture in enumerate(row):
            grid.paste(picture, (across * width, down * height))
    grid.save(path)


def _rendered(truth: scenes.Scenes, seed: int, device: torch.device) -> Tensor:
    generator = torch.Generator(device).manual_seed(seed)
    parts = [
        _small(scenes.render(truth[first : first + AT_ONCE], 256, generator, device))
        for first in range(0, len(truth), AT_ONCE)
    ]
    return torch.cat(parts)


def _painted(
    pipeline: StableDiffusionXLPipeline, truth: scenes.Scenes, args: argparse.Namespace
) -> Tensor:
    prompts = Captions(args.seed, complete=True).of(truth)
    parts = []
    for first in range(0, len(prompts), AT_ONCE):
        some = prompts[first : first + AT_ONCE]
        negative = None if args.negative_prompt is None else [args.negative_prompt] * len(some)
        images = pipeline(
            some,
            negative_prompt=negative,
            generator=torch.Generator().manual_seed(args.seed + first),
            num_inference_steps=STEPS,
            guidance_scale=args.guidance,
            output_type="pt",
        ).images
        parts.append(_small(images.float() * 2 - 1))
    return torch.cat(parts)


def _small(pictures: Tensor) -> Tensor:
    return functional.interpolate(pictures, 128, mode="area")


if __name__ == "__main__":
    main()
