"""SDXL with polyrank.diffusion against the plain pipeline, in one run.

    python -m benchmarks.diffusion --ranks 1              # on GPUs
    python -m benchmarks.diffusion --ranks 2              # and both GPUs on one picture (or 4, 8)
    python -m benchmarks.diffusion --ranks 4 --together   # one GPU and four on one picture only
    python -m benchmarks.diffusion --model shapes --size 256 --device cpu

SDXL's architecture with random weights: what a step costs does not depend on what it paints. A
picture's seconds are those from the call of the pipeline to the picture in host memory, of the
slowest rank; the walls are those of the caller of the runner.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import re
import statistics
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.floors import Picture
from benchmarks.models import PROMPT, SHAPES, random_sdxl
from benchmarks.options import COMPILE_LIMIT_S, add_arguments, say
from polyrank.distributed import DistributedRunner, DistributedWorker

# What kernels do, by their names; the first that fits counts.
KERNELS = {
    "exchanges, waiting included": r"_exchange|nccl",
    "attention": r"sdpa|flash|fmha",
    "convolutions": r"implicit_gemm|fprop|conv2d|cudnn.*conv|Convolution_object",
    "products": r"nvjet|gemm|quack|cublas|splitK",
    "norms, activations, sums": r"triton|layer_norm",
    "memsets and copies": r"Memset|Memcpy",
}
PROFILED_STEPS = (4, 12)
LARGE_STEPS = 50


class Bench(DistributedWorker):
    """One pipeline per rank; ``act`` says what to do with it."""

    def setup(self, model: str, size: int, cache: str) -> None:
        """``model``: "random" for SDXL's architecture, "shapes" for models/shapes."""
        from diffusers import AutoencoderTiny, StableDiffusionXLPipeline

        self.size, self.cache = size, cache
        if model == "shapes":
            self.pipeline = StableDiffusionXLPipeline.from_pretrained(SHAPES).to(self.device)
            self.tiny = AutoencoderTiny.from_pretrained(SHAPES / "preview").to(self.device)
        else:
            self.pipeline, self.tiny = random_sdxl(self.device)
        self.pipeline.set_progress_bar_config(disable=True)
        self.pictures: dict[str, Any] = {}

    def __call__(self, streaming: bool = False, *, act: str, **options: Any) -> Any:
        """Calls the method ``act``."""
        return getattr(self, act)(**options)

    def paint(
        self,
        name: str,
        steps: int,
        every: int = 0,
        same_seed: bool = False,
        size: int | None = None,
        batch: int = 1,
    ) -> float:
        """Seconds of a batch, of the slowest rank; its first picture is kept under ``name``."""
        import contextlib

        import torch

        watching = (
            self.previewer.watch(steps, every) if every else contextlib.nullcontext(lambda *a: {})
        )
        seed = 0 if same_seed else self.rank
        begun = time.perf_counter()
        with watching as watch:
            picture = self.pipeline(
                PROMPT,
                num_inference_steps=steps,
                guidance_scale=5.0,
                width=size or self.size,
                height=size or self.size,
                num_images_per_prompt=batch,
                generator=[torch.Generator().manual_seed(seed + each) for each in range(batch)],
                callback_on_step_end=self.cancellable(watch),
            ).images[0]
        seconds = time.perf_counter() - begun
        self.pictures[name] = picture
        return self.slowest(seconds)

    def slowest(self, seconds: float) -> float:
        """The largest of all ranks' seconds."""
        import torch
        import torch.distributed as dist

        spent = torch.tensor(seconds)
        dist.all_reduce(spent, dist.ReduceOp.MAX)
        return spent.item()

    def compare(self, one: str, other: str) -> tuple[int, float]:
        """Largest difference of a channel and PSNR of two kept pictures of rank 0."""
        import numpy as np

        left, right = (np.asarray(self.pictures[name], int) for name in (one, other))
        mean = float(((left - right) ** 2).mean())
        psnr = math.inf if mean == 0 else 10 * math.log10(255**2 / mean)
        return int(np.abs(left - right).max()), psnr

    def optimize(self, compile_previews: bool = True) -> float:
        """``optimize`` and a previewer; seconds of the call and of a first picture's two steps."""
        from polyrank.diffusion import Previewer, optimize

        begun = time.perf_counter()
        self.optimized = optimize(self.pipeline, cache=self.cache)
        self.previewer = Previewer(
            self.pipeline, self.tiny, worker=self, cache=self.cache, compile=compile_previews
        )
        self.paint("first", 2)
        self.previewer.warm_up(self.size, self.size)
        return self.slowest(time.perf_counter() - begun)

    def compiled(self) -> tuple[float, float, str]:
        """Seconds until the compiler was through, those of the next two steps, and the state."""
        begun = time.perf_counter()
        ready = self.optimized.wait(COMPILE_LIMIT_S) and self.previewer.wait(COMPILE_LIMIT_S)
        waited = self.slowest(time.perf_counter() - begun)
        begun = time.perf_counter()
        self.paint("first", 2)
        with self.previewer.watch(2, 1):
            self.previewer.warm_up(self.size, self.size)
        state = f"{'' if ready else 'not '}ready, {self.optimized.state()}"
        return waited, self.slowest(time.perf_counter() - begun), state

    def together(self, on: bool, symmetric: bool = True) -> None:
        """All ranks on one picture, or each on its own."""
        from polyrank.diffusion import parallelize, separate

        if on:
            parallelize(self.pipeline, symmetric=symmetric)
        else:
            separate(self.pipeline)

    def profile(self, size: int | None = None, same_seed: bool = False) -> str:
        """Kernels of one picture's two steps, the longest first."""
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CUDA]) as profiled:
            self.paint("profile", 2, size=size, same_seed=same_seed)
        return profiled.key_averages().table(
            sort_by="self_device_time_total", row_limit=40, max_name_column_width=70
        )

    def spent(self, size: int) -> list[dict[str, tuple[float, float]]]:
        """For every rank and kind of kernel: microseconds of a step, and of all but the steps."""
        import torch.distributed as dist

        self.kernels(size, 1)  # starting the profiler takes each rank another while
        mine = split(*(self.kernels(size, steps) for steps in PROFILED_STEPS))
        everyone: list[Any] = [None] * self.world_size
        dist.all_gather_object(everyone, mine)
        return everyone

    def waits(self) -> dict[str, tuple[float, float]]:
        """Where the host waits for the GPU: how often in a step, and in all but the steps."""
        return split(*(self.waits_of(steps) for steps in PROFILED_STEPS))

    def waits_of(self, steps: int) -> Counter[str]:
        """Where the host waited in a picture with previews of every step, and how often."""
        import torch

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            self.paint("waits", steps, every=1)
            torch.cuda.set_sync_debug_mode("default")
        found = [each for each in caught if "synchronizing" in str(each.message)]
        return Counter(f"{'/'.join(Path(w.filename).parts[-2:])}:{w.lineno}" for w in found)

    def kernels(self, size: int, steps: int) -> dict[str, float]:
        """Microseconds of a picture's kernels by what they do, and of the whole."""
        import torch
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CUDA]) as profiled:
            self.slowest(0)  # all profilers are on: no rank waits for another's within a step
            self.paint("profile", steps, size=size, same_seed=True)
            torch.cuda.synchronize()
        found = [each for each in profiled.events() if each.device_type.name == "CUDA"]
        spent = dict.fromkeys([*KERNELS, "other kernels"], 0.0)
        for each in found:
            fits = (kind for kind, names in KERNELS.items() if re.search(names, each.name))
            spent[next(fits, "other kernels")] += each.time_range.elapsed_us()
        begin = min(each.time_range.start for each in found)
        spent["between kernels"] = (
            max(each.time_range.end for each in found) - begin - sum(spent.values())
        )
        spent["together"] = sum(spent.values())
        spent["(how many kernels)"] = len(found)
        return spent


def split(few: Mapping[str, float], many: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """What was counted in pictures of PROFILED_STEPS, as that of a step and that of the rest."""
    steps = PROFILED_STEPS[1] - PROFILED_STEPS[0]
    found = {}
    for kind in {**few, **many}:
        begin = few.get(kind, 0)
        each = (many.get(kind, 0) - begin) / steps
        found[kind] = (each, begin - PROFILED_STEPS[0] * each)
    return found


@dataclass
class Row:
    """A line of the table."""

    name: str
    seconds: float
    against: float
    note: str = ""
    picture: Picture | None = None

    def __str__(self) -> str:
        times = f"{self.against / self.seconds:.2f}" if self.against else ""
        floor = self.picture.columns(self.seconds) if self.picture else " | | "
        return f"| {self.name} | {self.seconds:.3f} | {times} | {self.note} | {floor} |"


class Table:
    """Measures through a runner and collects rows."""

    def __init__(self, runner: DistributedRunner, repeats: int) -> None:
        self.runner = runner
        self.repeats = repeats
        self.rows: list[Row] = []
        # By who paints: for every rank, where a step's microseconds go.
        self.spent: dict[str, list[dict[str, tuple[float, float]]]] = {}
        self.waits: dict[str, tuple[float, float]] = {}

    async def do(self, act: str, **options: Any) -> Any:
        """Has every rank do something; rank 0's answer."""
        return await self.runner.invoke({"act": act, **options})

    async def median(self, name: str, steps: int, **options: Any) -> float:
        """Median seconds of a picture, of the slowest rank."""
        seconds = [
            await self.do("paint", name=name, steps=steps, **options) for _ in range(self.repeats)
        ]
        say(f"{name}: {', '.join(f'{each:.4f}' for each in sorted(seconds))}")
        return statistics.median(seconds)

    def add(
        self,
        name: str,
        seconds: float,
        against: float = 0,
        note: str = "",
        picture: Picture | None = None,
    ) -> None:
        """Adds a row; ``against``: the seconds it is compared with, ``picture``: what was made."""
        self.rows.append(Row(name, seconds, against, note, picture))
        say(str(self.rows[-1]))


async def previews(table: Table, steps: int, every: int) -> tuple[float, float, float, int]:
    """Medians of the walls without and with previews, taken in turn, and of the first preview."""
    plain, watched, firsts, count = [], [], [], 0
    payload = {"act": "paint", "name": "previews", "steps": steps}
    for _ in range(2 * table.repeats):
        begun = time.perf_counter()
        await table.runner.invoke(payload)
        plain.append(time.perf_counter() - begun)
        begun, count = time.perf_counter(), 0
        async for _event in table.runner.stream({**payload, "every": every}, as_text_events=True):
            if count == 0:
                firsts.append(time.perf_counter() - begun)
            count += 1
        watched.append(time.perf_counter() - begun)
    medians = [statistics.median(each) for each in (plain, watched, firsts)]
    return medians[0], medians[1], medians[2], count - 1


async def measure(args: argparse.Namespace) -> None:
    """Runs everything and prints the table."""
    runner = DistributedRunner(Bench, args.ranks, device=args.device)
    with tempfile.TemporaryDirectory() as folder:
        cache = args.cache or folder
        await runner.start(timeout=600, model=args.model, size=args.size, cache=cache)
        table = Table(runner, args.repeats)
        try:
            await (fill_together_only if args.together else fill)(table, args)
        finally:
            await runner.stop()
            report(table, args)


async def fill(table: Table, args: argparse.Namespace) -> None:
    """The rows, in the order in which one pipeline can give them."""
    few, many = args.steps
    await table.do("paint", name="warm-up", steps=2)
    plain = {steps: await table.median(f"plain{steps}", steps) for steps in (few, many)}
    for steps in (few, many):
        picture = picture_of(args, steps)
        table.add(f"plain pipeline, {steps} steps", plain[steps], plain[steps], picture=picture)
    first = await table.do("optimize")
    table.add("`optimize` and the first picture (2 steps)", first)
    seconds = await table.median("graphs", few)
    note = likeness(*await table.do("compare", one=f"plain{few}", other="graphs"))
    table.add(f"graphs, while it compiles, {few} steps", seconds, plain[few], note)
    await compile_together(table, args, args.size)
    waited, swap, state = await table.do("compiled")
    say(state)
    table.add("the compiler, meanwhile", waited, note="once per GPU and shape")
    table.add("first picture from compiled code (2 steps)", swap)
    for steps in (few, many):
        await table.do("paint", name="warm-up", steps=2)
        seconds = await table.median(f"fast{steps}", steps)
        most, psnr = await table.do("compare", one=f"plain{steps}", other=f"fast{steps}")
        note, picture = likeness(most, psnr), picture_of(args, steps)
        table.add(f"optimized, {steps} steps", seconds, plain[steps], note, picture)
    for every in (5, 1):
        without, walls, seen, count = await previews(table, few, every)
        note = f"{(walls / without - 1) * 100:+.1f} % for {count} previews of all ranks"
        table.add(f"wall of a request, {few} steps", without, plain[few])
        table.add(f"the same, previews every {every} steps", walls, plain[few], note)
        table.add("first preview at the caller", seen)
    if args.profile and args.device == "cuda":
        table.spent["one GPU"] = await table.do("spent", size=args.size)
        table.waits = await table.do("waits")
    await fill_together(table, args, plain)
    # The last, as it has another shape compiled; the first call records it.
    await table.do("paint", name="batch", steps=2, batch=2)
    seconds = await table.do("paint", name="batch", steps=few, batch=2)
    note = "the first against one alone: " + likeness(
        *await table.do("compare", one=f"fast{few}", other="batch")
    )
    table.add(f"a batch of two from graphs, {few} steps", seconds, note=note)


async def compile_together(table: Table, args: argparse.Namespace, size: int) -> None:
    """Has what the ranks need together compiled at the same time as what each needs by itself."""
    if args.ranks > 1:
        await table.do("together", on=True, symmetric="memory" in args.exchange)
        await table.do("paint", name="together", steps=2, same_seed=True, size=size)
        await table.do("together", on=False)


async def fill_together(
    table: Table, args: argparse.Namespace, against: dict[int, float], symmetric: bool = True
) -> None:
    """The rows of all GPUs on one picture; "one" is the picture of one, of the fewer steps."""
    if args.ranks == 1:
        return
    few, many = args.steps
    await table.do("paint", name="one", steps=few, same_seed=True)
    await table.do("together", on=True, symmetric=symmetric)
    await table.do("paint", name="warm-up", steps=2, same_seed=True)
    say(str(await table.do("compiled")))
    how = "" if symmetric else " over NCCL"
    for steps in (few, many):
        seconds = await table.median(f"together{steps}", steps, same_seed=True)
        note = ""
        if steps == few:
            note = "against one GPU: " + likeness(
                *await table.do("compare", one="one", other=f"together{steps}")
            )
        name = f"{args.ranks} GPUs{how} on one picture, {steps} steps"
        table.add(name, seconds, against[steps], note, picture_of(args, steps, args.ranks))
    if args.profile and args.device == "cuda":
        table.spent[f"{args.ranks} GPUs{how}"] = await table.do("spent", size=args.size)
        say(await table.do("profile", same_seed=True))
    await table.do("together", on=False)


async def fill_together_only(table: Table, args: argparse.Namespace) -> None:
    """One optimized GPU, then all on one picture."""
    await table.do("optimize", compile_previews=False)
    await compile_together(table, args, args.size)
    for size in args.large:
        await compile_together(table, args, size)
    say(str(await table.do("compiled")))
    if args.compile_only:
        return
    one = {}
    for steps in args.steps:
        one[steps] = await table.median(f"one{steps}", steps, same_seed=True)
        picture = picture_of(args, steps)
        table.add(f"one GPU, {steps} steps", one[steps], one[steps], picture=picture)
    for exchange in args.exchange:
        await fill_together(table, args, one, exchange == "memory")
    await fill_large(table, args)


async def fill_large(table: Table, args: argparse.Namespace) -> None:
    """The rows of the larger pictures, which only all ranks together paint."""
    await table.do("together", on=True, symmetric="memory" in args.exchange)
    for size in args.large:
        await table.do("paint", name="warm-up", steps=2, same_seed=True, size=size)
        say(str(await table.do("compiled")))
        await table.do("paint", name="warm-up", steps=2, same_seed=True, size=size)
        seconds = [
            await table.do("paint", name="large", steps=LARGE_STEPS, same_seed=True, size=size)
            for _ in range(2)
        ]
        say(f"{size}: {seconds}")
        name = f"{args.ranks} GPUs on one picture of {size}x{size}, {LARGE_STEPS} steps"
        picture = picture_of(args, LARGE_STEPS, args.ranks, size)
        table.add(name, min(seconds), note="the better of two", picture=picture)
    await table.do("together", on=False)


def picture_of(
    args: argparse.Namespace, steps: int, gpus: int = 1, size: int | None = None
) -> Picture | None:
    """What a row's floor is computed from; only SDXL's operations are counted."""
    return Picture(steps, size or args.size, gpus) if args.model == "random" else None


def likeness(most: int, psnr: float) -> str:
    """How two pictures compare, in words."""
    return f"largest difference {most}/255, PSNR {psnr:.1f} dB"


def report(table: Table, args: argparse.Namespace) -> None:
    """Prints the table."""
    print(
        f"{args.ranks} ranks ({args.device}), {args.model}, {args.size}x{args.size}, guidance 5, "
        f"medians of {args.repeats}\n\n| measured | seconds "
        f"| times as fast as {'one GPU' if args.together else 'plain'} | "
        "| floor, s | over the floor | others |\n|---|---|---|---|---|---|---|"
    )
    print(*table.rows, sep="\n")
    for who, ranks in table.spent.items():
        print(f"\nMicroseconds of a step of {who}, and of a picture's rest:\n")
        print("| kernels |", *(f" rank {rank} | rest |" for rank in range(len(ranks))))
        print("|---|" + "---|---|" * len(ranks))
        for kind in ranks[0]:
            cells = (f" {each[kind][0]:.0f} | {each[kind][1]:.0f} |" for each in ranks)
            print(f"| {kind} |", *cells)
    if table.waits:
        print("\nWhere the host of rank 0 waits for its GPU, with previews of every step:\n")
        print("| where | times in a step | in a picture's rest |\n|---|---|---|")
        for where, (each, rest) in sorted(table.waits.items()):
            print(f"| {where} | {each:.2f} | {rest:.0f} |")


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the arguments and measures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_arguments(parser)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--steps", type=int, nargs=2, default=[20, 30])
    parser.add_argument("--cache", help="folder of compiled code; by default a fresh one")
    parser.add_argument(
        "--together", action="store_true", help="measure one GPU and all on one picture, no more"
    )
    parser.add_argument(
        "--exchange",
        nargs="+",
        choices=["memory", "nccl"],
        default=["memory"],
        help="with --together: how the ranks exchange what they need of each other",
    )
    parser.add_argument(
        "--large",
        type=int,
        nargs="*",
        default=[],
        help=f"with --together: larger sizes, painted by all ranks in {LARGE_STEPS} steps",
    )
    parser.add_argument(
        "--compile-only", action="store_true", help="with --together: fill the cache and stop"
    )
    parser.add_argument(
        "--profile", action="store_true", help="say where a step's microseconds go, on GPUs"
    )
    asyncio.run(measure(parser.parse_args(arguments)))


if __name__ == "__main__":
    main()
