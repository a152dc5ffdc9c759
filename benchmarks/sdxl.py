"""One SDXL picture per rank through the engine, with and without previews.

    python -m benchmarks.sdxl --ranks 2                   # on GPUs
    python -m benchmarks.sdxl --model shapes --size 256   # anywhere

Runs the worker of examples/parallel_sdxl.py on SDXL's architecture with random weights: what a
step costs does not depend on what it paints. Set against the pipeline's own time, measured in the
rank from the call to the last kernel of the slowest rank.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.models import PROMPT, random_sdxl
from benchmarks.runner import slowest_phases
from examples.parallel_sdxl import Painter
from polyrank.distributed import DistributedRunner

WARM_UP = 2


class TimedPainter(Painter):
    """The example's worker; says how long its pipeline ran."""

    def setup(self, model: str) -> None:
        """``model``: "random" for SDXL's architecture, "shapes" for models/shapes."""
        if model == "shapes":
            super().setup()
        else:
            self.pipeline, decoder = random_sdxl(self.device)
            self.make_fast(decoder)
        self.pipeline.set_progress_bar_config(disable=True)

    def __call__(
        self, streaming: bool = False, *, steps: int, size: int, every: int
    ) -> dict[str, Any]:
        """The grid, and the slowest rank's seconds in the pipeline."""
        import torch
        import torch.distributed as dist

        begun = time.perf_counter()
        with self.previewer.watch(steps, every, enabled=streaming) as watch:
            picture = self.pipeline(
                PROMPT,
                num_inference_steps=steps,
                guidance_scale=5.0,
                width=size,
                height=size,
                generator=torch.Generator().manual_seed(self.rank),
                callback_on_step_end=self.cancellable(watch),
            ).images[0]
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        spent = torch.tensor(time.perf_counter() - begun, device=self.device)
        dist.all_reduce(spent, dist.ReduceOp.MAX)
        return {"image": self.gather_grid(picture), "pipeline_s": spent.item()}


@dataclass
class Measured:
    """One request: seconds to its answer, in its pipeline, and to its first preview."""

    wall_s: float
    pipeline_s: float
    first_preview_s: float = float("nan")


async def whole(runner: DistributedRunner, payload: dict[str, Any]) -> Measured:
    """A request without previews."""
    begun = time.perf_counter()
    result = await runner.invoke(payload)
    return Measured(time.perf_counter() - begun, result["pipeline_s"])


async def streamed(runner: DistributedRunner, payload: dict[str, Any]) -> Measured:
    """A request with previews."""
    begun = time.perf_counter()
    first = float("nan")
    result: dict[str, Any] = {}
    async for item in runner.stream(payload):
        if "preview_image" not in item:
            result = item
        elif first != first:
            first = time.perf_counter() - begun
    return Measured(time.perf_counter() - begun, result["pipeline_s"], first)


async def measure(args: argparse.Namespace) -> None:
    """Prints the table; plain and streamed requests take turns, so that both see one machine."""
    begun = time.perf_counter()
    runner = DistributedRunner(TimedPainter, args.ranks, device=args.device)
    await runner.start(timeout=600, model=args.model)
    start_s = time.perf_counter() - begun
    payload = {"steps": args.steps, "size": args.size, "every": args.every}
    plain, previews = [], []
    for number in range(WARM_UP + args.repeats):
        one, other = await whole(runner, payload), await streamed(runner, payload)
        if number >= WARM_UP:
            plain.append(one)
            previews.append(other)
    phases = slowest_phases(runner)
    await runner.stop()
    own = median(plain, lambda m: m.pipeline_s)
    wall = median(plain, lambda m: m.wall_s)
    with_previews = median(previews, lambda m: m.wall_s)
    first = median(previews, lambda m: m.first_preview_s)
    print(
        f"{args.ranks} ranks ({args.device}), {args.model}, {args.size}x{args.size}, "
        f"{args.steps} steps with guidance; medians of {args.repeats}\n\n"
        "| measured | seconds | against the pipeline |\n|---|---|---|\n"
        f"| the pipeline itself, slowest rank | {own:.3f} | |\n"
        f"| `invoke`, a grid of {args.ranks} | {wall:.3f} | {wall / own:.3f} |\n"
        f"| `stream`, previews every {args.every} steps | {with_previews:.3f} "
        f"| {with_previews / own:.3f} |\n"
        f"| first preview at the caller | {first:.3f} | |\n"
        f"| start to ready | {start_s:.2f} | |\n\n"
        f"slowest rank's phases: {phases}"
    )


def median(rows: Sequence[Measured], of: Callable[[Measured], float]) -> float:
    """Median of one column."""
    return statistics.median(of(row) for row in rows)


def main() -> None:
    """Reads the arguments and measures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default=None)
    parser.add_argument("--model", choices=["random", "shapes"], default="random")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--every", type=int, default=5, help="steps between previews")
    parser.add_argument("--repeats", type=int, default=10)
    args = parser.parse_args()
    if args.device is None:
        args.device = "cpu" if args.model == "shapes" else "cuda"
    asyncio.run(measure(args))


if __name__ == "__main__":
    main()
