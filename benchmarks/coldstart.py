"""From the start of a process to its first picture, phase by phase.

    python -m benchmarks.coldstart --ranks 1          # on a GPU
    python -m benchmarks.coldstart --ranks 4          # all ranks load together
    python -m benchmarks.coldstart --model shapes --size 256 --device cpu

Each start is a process of its own, which runs the engine. The weights are SDXL's, random, 6.9 GB in
float16, written before; they are in memory (``--checkpoint``, by default below /dev/shm), as after
the first start on a machine. ``--cache`` keeps compiled code; the first start makes it if need be.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.models import PROMPT, SHAPES, random_sdxl
from benchmarks.options import COMPILE_LIMIT_S, add_arguments, say
from polyrank.distributed import DistributedRunner, DistributedWorker
from polyrank.errors import WorkerDied

WAYS = ("from_pretrained", "load")


class Starter(DistributedWorker):
    """A worker that notes the time of each phase of its setup."""

    preload = ("diffusers:StableDiffusionXLPipeline", "polyrank.diffusion")

    def setup(self, folder: str, way: str, cache: str) -> None:
        """``way``: one of WAYS."""
        self.phases: dict[str, float] = {}
        self.mark = time.perf_counter()
        import torch
        from diffusers import StableDiffusionXLPipeline

        from polyrank.diffusion import load, optimize

        dtype = torch.float16 if self.device.type == "cuda" else torch.float32
        if way == "load":
            group = torch.distributed.group.WORLD if self.world_size > 1 else None
            self.pipeline = load(
                StableDiffusionXLPipeline, folder, device=self.device, dtype=dtype, group=group
            )
        else:
            self.pipeline = StableDiffusionXLPipeline.from_pretrained(folder, torch_dtype=dtype)
            self.pipeline.to(self.device)
        self.note("weights to the device, models built")
        self.pipeline.set_progress_bar_config(disable=True)
        self.optimized = optimize(self.pipeline, cache=cache)
        self.note("optimize")

    def note(self, phase: str) -> None:
        """Ends a phase."""
        import torch

        if self.device.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.phases[phase] = now - self.mark
        self.mark = now

    def __call__(self, streaming: bool = False, *, act: str, **options: Any) -> Any:
        """Calls the method ``act``."""
        return getattr(self, act)(**options)

    def paint(self, steps: int, size: int) -> list[dict[str, float]]:
        """A picture on every rank; all ranks' phases so far."""
        import torch
        import torch.distributed as dist

        self.mark = time.perf_counter()
        self.pipeline(
            PROMPT, num_inference_steps=steps, guidance_scale=5.0, width=size, height=size,
            generator=torch.Generator().manual_seed(self.rank),
        )  # fmt: skip
        self.note("picture")
        everyone: list[Any] = [None] * self.world_size
        dist.all_gather_object(everyone, self.phases)
        return everyone

    def die(self) -> None:
        """The last rank is gone, as if the kernel had taken it for its memory."""
        if self.rank == self.world_size - 1:
            os.kill(os.getpid(), signal.SIGKILL)

    def wait(self) -> dict[str, Any]:
        """Until the compiler is through."""
        self.optimized.wait(COMPILE_LIMIT_S)
        return self.optimized.state()

    def read(self, folder: str) -> list[float]:
        """Seconds of reading all weights together, of the slowest rank, several times."""
        import torch
        import torch.distributed as dist

        from polyrank.diffusion.weights import read_together

        paths = sorted(Path(folder).rglob("*.safetensors"))
        seconds = []
        for _ in range(4):
            dist.barrier()
            begun = time.perf_counter()
            group = dist.group.WORLD if self.world_size > 1 else None
            tensors = read_together(paths, self.device, group)
            spent = torch.tensor(time.perf_counter() - begun)
            del tensors
            dist.all_reduce(spent, dist.ReduceOp.MAX)
            seconds.append(spent.item())
        return seconds


async def start_once(args: argparse.Namespace) -> dict[str, Any]:
    """One start in this process; phases of the slowest rank, and seconds since it was born."""
    phases = {"Python and polyrank's own imports": time.time() - args.born}
    runner = DistributedRunner(Starter, args.ranks, device=args.device)
    begun = time.perf_counter()
    await runner.start(timeout=600, folder=args.checkpoint, way=args.once, cache=args.cache)
    started = time.perf_counter() - begun
    try:
        paint = {"act": "paint", "steps": args.steps, "size": args.size}
        ranks = await runner.invoke(paint)
        total = time.time() - args.born
        for name in ("spawn_s", "import_s", "preload_s", "load_s", "process_group_s"):
            phases[f"ranks: {name.removesuffix('_s').replace('_', ' ')}"] = max(
                row[name] for row in runner.timings
            )
        for name in ranks[0]:
            phases[name] = max(rank[name] for rank in ranks)
        phases["first picture"] = phases.pop("picture")
        phases["process start to ready"] = started + phases["Python and polyrank's own imports"]
        phases["process start to first picture"] = total
        state = await runner.invoke({"act": "wait"})
        await runner.invoke(paint)
        phases["a later picture"] = (await runner.invoke(paint))[0]["picture"]
        reading = await runner.invoke({"act": "read", "folder": args.checkpoint})
        begun = time.perf_counter()
        with contextlib.suppress(WorkerDied):
            await runner.invoke({"act": "die"})
        await runner.invoke(paint)
        phases["a rank is killed, to the next picture"] = time.perf_counter() - begun
    finally:
        await runner.stop()
    return {"phases": phases, "state": state, "reading": reading}


def start_afresh(way: str, args: argparse.Namespace) -> dict[str, Any]:
    """One start in a process of its own."""
    command = [
        *(sys.executable, "-m", "benchmarks.coldstart", "--once", way),
        *("--born", repr(time.time()), "--ranks", str(args.ranks), "--device", args.device),
        *("--model", args.model, "--size", str(args.size), "--steps", str(args.steps)),
        *("--checkpoint", args.checkpoint, "--cache", args.cache),
    ]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    started: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    say(f"{way}: {started}")
    return started


def write_checkpoint(args: argparse.Namespace) -> None:
    """Writes the weights that are loaded, unless they are there."""
    if args.model == "shapes" or (Path(args.checkpoint) / "model_index.json").is_file():
        return
    import torch

    pipeline, preview = random_sdxl(torch.device(args.device))
    pipeline.save_pretrained(args.checkpoint)
    preview.save_pretrained(Path(args.checkpoint).with_name("taesdxl"))


def table(starts: dict[str, dict[str, Any]], args: argparse.Namespace) -> str:
    """The phases as Markdown, a column per way."""
    size = sum(file.stat().st_size for file in Path(args.checkpoint).rglob("*.safetensors"))
    lines = [
        f"{args.ranks} ranks ({args.device}), {args.model}, {size / 1e9:.2f} GB of weights in "
        f"memory, {args.steps} steps at {args.size}x{args.size}; seconds, of the slowest rank",
        "",
        f"| phase | {' | '.join(f'`{way}`' for way in starts)} |",
        "|---|" + "---|" * len(starts),
    ]
    for phase in next(iter(starts.values()))["phases"]:
        cells = [f"{start['phases'][phase]:.2f}" for start in starts.values()]
        lines.append(f"| {phase} | {' | '.join(cells)} |")
    seconds = sorted(starts["load"]["reading"][1:])[1]
    lines += [
        "",
        f"The weights alone, read together (goal: 1 s): {seconds:.3f} s, "
        f"{size / seconds / 1e9:.1f} GB/s to each of {args.ranks}.",
    ]
    return "\n".join(lines)


def run(args: argparse.Namespace) -> str:
    """Starts in every way; the table."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        if args.model == "shapes":
            args.checkpoint = str(SHAPES)
        args.checkpoint = args.checkpoint or str(Path(folder) / "sdxl")
        args.cache = args.cache or str(Path(folder) / "compiled")
        write = [sys.executable, "-m", "benchmarks.coldstart", "--write", "--model", args.model]
        write += ["--device", args.device, "--checkpoint", args.checkpoint]
        subprocess.run(write, check=True)
        if not any(Path(args.cache).glob("unet-*")):
            start_afresh("load", args)  # compiles
        return table({way: start_afresh(way, args) for way in WAYS}, args)


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the arguments and measures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_arguments(parser)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--checkpoint", default="", help="folder of the weights")
    parser.add_argument("--cache", default="", help="folder of compiled code")
    parser.add_argument("--once", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--write", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--born", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.write:
        write_checkpoint(args)
    elif args.once:
        print(json.dumps(asyncio.run(start_once(args))))
    else:
        print(run(args))


if __name__ == "__main__":
    main()
