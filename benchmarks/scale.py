"""The fan-out example on more and more GPUs: a picture from each, and their grid.

    python -m benchmarks.scale --ranks 1 2 4
    python -m benchmarks.scale --model shapes --size 256 --device cpu --ranks 1 2

Runs the worker of examples/parallel_sdxl.py, with SDXL's architecture and random weights. The
largest number of ranks goes first: it compiles for all of them.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.floors import THROUGHPUT_ANCHOR, floor_s
from benchmarks.models import random_sdxl
from benchmarks.options import COMPILE_LIMIT_S, add_arguments, say
from examples.parallel_sdxl import Painter, Prompt
from polyrank.distributed import DistributedRunner, grid

# Of what comes after the last step: on rank 0, but for the last.
PARTS = (
    "decoder, and the picture in host memory",
    "its JPEG",
    "gathering and joining, slower ranks waited for",
    "the last steps of the first and the last rank apart",
)


class Clocked(Painter):
    """The example's worker, which also says when its last step of denoising was through."""

    def setup(self, model: str) -> None:
        """``model``: "random" for SDXL's architecture, "shapes" for models/shapes."""
        if model == "shapes":
            super().setup()
        else:
            self.pipeline, decoder = random_sdxl(self.device)
            self.make_fast(decoder)
        self.pipeline.set_progress_bar_config(disable=True)

    def make_fast(self, decoder: Any) -> None:
        """As the example does; keeps what ``optimize`` returns."""
        from polyrank.diffusion import Previewer, optimize

        self.optimized = optimize(self.pipeline)
        self.previewer = Previewer(self.pipeline, decoder, worker=self)

    def cancellable(self, callback: Callable[..., Any] | None = None) -> Callable[..., Any]:
        """The example's callback; notes the end of every step, so the last one stays."""
        inner = super().cancellable(callback)

        def on_step_end(*args: Any) -> Any:
            self.stepped = Moment(self.device)
            return inner(*args)

        return on_step_end

    def gather_grid(self, picture: Any, quality: int = grid.QUALITY) -> bytes | None:
        """The example's; notes when it began, and what it got."""
        self.gathered_at, self.picture = time.perf_counter(), picture
        if self.is_alone:
            return grid.encode(picture, quality)
        return super().gather_grid(picture, quality)

    def __call__(
        self,
        streaming: bool = False,
        *,
        wait: bool = False,
        timed: bool = False,
        alone: int | None = None,
        **payload: Any,
    ) -> Any:
        """The example's answer; if asked for, with what came after the last step.

        ``alone``: the only rank that paints.
        """
        if wait:
            ready = self.optimized.wait(COMPILE_LIMIT_S) and self.previewer.wait(COMPILE_LIMIT_S)
            return {"ready": ready}
        self.is_alone = alone is not None
        if alone not in (None, self.rank):
            return {}
        result = super().__call__(streaming, **payload)
        return {**result, **self.tail()} if timed else result

    def tail(self) -> dict[str, Any]:
        """Seconds from the last step of all ranks to the grid's bytes, and of PARTS."""
        import torch.distributed as dist

        end = Moment(self.device)
        last_step = end.at - self.stepped.until(end)
        last_steps: list[Any] = [None] * self.world_size
        dist.all_gather_object(last_steps, last_step)  # one machine's ranks have one clock
        begun = time.perf_counter()
        grid.encode(self.picture)
        encoding = time.perf_counter() - begun
        parts = [self.gathered_at - last_step, encoding, end.at - self.gathered_at - encoding]
        return {
            "tail_s": end.at - max(last_steps),
            "parts": [*parts, max(last_steps) - min(last_steps)],
        }


class Moment:
    """A point in the work of a device, or of the processor where there is none."""

    def __init__(self, device: Any) -> None:
        import torch

        self.event: Any = None
        if device.type == "cuda":
            self.event = torch.cuda.Event(enable_timing=True)
            self.event.record()
        self.at = time.perf_counter()

    def until(self, other: Moment) -> float:
        """Seconds to another moment."""
        if self.event is None:
            return other.at - self.at
        other.event.synchronize()
        milliseconds: float = self.event.elapsed_time(other.event)
        return milliseconds / 1e3


@dataclass
class Scaled:
    """Seconds on so many ranks, medians: a request, one with previews, its tail and its parts.

    And of each rank, a request that it answers while the others rest.
    """

    ranks: int
    alone_s: list[float]
    wall_s: float
    previews_s: float
    tail_s: float
    parts_s: list[float]


async def measure(ranks: int, args: argparse.Namespace) -> Scaled:
    """Plain requests and streamed ones, in turn."""
    runner = DistributedRunner(Clocked, ranks, device=args.device)
    payload = Prompt(
        prompt="a lighthouse by the sea at sunset",
        num_inference_steps=args.steps,
        guidance_scale=5.0,
        size=args.size,
        seed=0,
        preview_every=args.every,
    ).to_payload()
    await runner.start(timeout=600, model=args.model)
    try:
        await request(runner, {**payload, "steps": 2})
        await stream(runner, payload)  # makes the previews' shapes known
        say(f"{ranks} ranks: {await runner.invoke({'wait': True})}")
        walls, streamed = [], []
        for number in range(args.warm_up + args.repeats):
            wall = await request(runner, payload)
            previews = await stream(runner, payload)
            if number >= args.warm_up:
                walls.append(wall)
                streamed.append(previews)
        alone = [
            [await request(runner, {**payload, "alone": rank}) for _ in range(args.repeats)]
            for rank in range(ranks)
        ]
        timed = [await runner.invoke({**payload, "timed": True}) for _ in range(args.repeats)]
    finally:
        await runner.stop()
    tails = [each["tail_s"] for each in timed]
    medians = [statistics.median(each) for each in (walls, streamed, tails)]
    alone_s = [statistics.median(each) for each in alone]
    say(f"{ranks} ranks: alone {alone_s}, wall, with previews, tail {medians}")
    parts = zip(*(each["parts"] for each in timed), strict=True)
    return Scaled(ranks, alone_s, *medians, [statistics.median(each) for each in parts])


async def request(runner: DistributedRunner, payload: dict[str, Any]) -> float:
    """Seconds of a request."""
    begun = time.perf_counter()
    await runner.invoke(payload)
    return time.perf_counter() - begun


async def stream(runner: DistributedRunner, payload: dict[str, Any]) -> float:
    """Seconds of a request with previews, as a browser would read it."""
    begun = time.perf_counter()
    async for _event in runner.stream(payload, as_text_events=True):
        pass
    return time.perf_counter() - begun


def table(rows: Sequence[Scaled], args: argparse.Namespace) -> str:
    """The rows as Markdown, the fewest ranks first."""
    rows = sorted(rows, key=lambda row: row.ranks)
    one, is_sdxl = rows[0], args.model == "random"
    lines = [
        f"{args.device}, {args.model}, {args.size}x{args.size}, {args.steps} steps with guidance, "
        f"previews every {args.every} steps; medians of {args.repeats}",
        "",
        "| GPUs | pictures/s | times that of one (goal 0.98) "
        "| times those of its GPUs, each alone | pictures/s at the floor "
        "| fan-out with previews, s | times one picture on one GPU (goal 1.03) "
        "| last step to the grid's JPEG, ms (goal 40) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        share = one.wall_s / row.wall_s  # each rank paints one picture per request
        own_share = row.ranks / row.wall_s / sum(1 / seconds for seconds in row.alone_s)
        floor = f"{row.ranks / floor_s(args.steps, args.size):.2f}" if is_sdxl else ""
        lines.append(
            f"| {row.ranks} | {row.ranks / row.wall_s:.2f} "
            f"| {share:.3f} | {own_share:.3f} | {floor} "
            f"| {row.previews_s:.3f} | {row.previews_s / one.wall_s:.3f} "
            f"| {row.tail_s * 1e3:.1f} |"
        )
    lines += ["", f"Anchor, pictures/s and GPU: {THROUGHPUT_ANCHOR}.", ""]
    lines += [f"| after the last step, ms | {' | '.join(PARTS)} |", "|---|" + "---|" * len(PARTS)]
    for row in rows:
        cells = " | ".join(f"{part * 1e3:.1f}" for part in row.parts_s)
        lines.append(f"| {row.ranks} | {cells} |")
    return "\n".join(lines)


def run(args: argparse.Namespace) -> str:
    """Measures on every number of ranks; the table."""
    rows = [asyncio.run(measure(ranks, args)) for ranks in sorted(args.ranks, reverse=True)]
    return table(rows, args)


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the arguments and measures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_arguments(parser)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--every", type=int, default=5, help="steps between previews")
    parser.add_argument("--warm-up", type=int, default=2)
    print(run(parser.parse_args(arguments)))


if __name__ == "__main__":
    main()
