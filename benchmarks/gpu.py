"""Everything that is measured of GPUs, as one page of Markdown: ``make bench-gpu``.

    python -m benchmarks.gpu --ranks 2 > build/gpu.md     # on any machine with two GPUs, offline
    python -m benchmarks.gpu --model shapes --size 64 --device cpu --ranks 2

Each part is a process of its own; one that fails leaves a line and the others go on. Weights and
compiled code are made once, for all parts, in memory.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.models import SHAPES
from benchmarks.options import add_arguments, say
from benchmarks.reference import MODULES, SDK


@dataclass
class Bench:
    """What the parts have in common."""

    args: argparse.Namespace
    folder: Path
    common: list[str] = field(init=False)

    def __post_init__(self) -> None:
        args = self.args
        self.common = ["--device", args.device, "--model", args.model, "--size", str(args.size)]
        self.cache = str(self.folder / "compiled")
        is_small = args.model == "shapes"
        self.checkpoint = str(SHAPES if is_small else self.folder / "sdxl")
        self.preview = str(SHAPES / "preview" if is_small else self.folder / "taesdxl")

    def part(self, module: str, *options: str) -> str:
        """What a benchmark prints, after a line that says how it was called."""
        command = ["-m", f"benchmarks.{module}", *options]
        told = " ".join(["python", *command]).replace(str(self.folder), "…")
        say(f"== {told}")
        environment = {
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "POLYRANK_COMPILED": self.cache,
        }
        ended = subprocess.run(
            [sys.executable, *command], stdout=subprocess.PIPE, text=True, env=environment
        )
        printed = (
            ended.stdout if ended.returncode == 0 else f"failed: it ended with {ended.returncode}"
        )
        return f"## `{told}`\n\n{printed.strip()}\n"

    def counts(self) -> list[str]:
        """1, 2, 4 … ranks."""
        powers = (2**power for power in range(10))
        return [str(count) for count in powers if count <= self.args.ranks]

    def reference(self, name: str) -> dict[str, float] | None:
        """Seconds of the tutorial's worker on a runner; None: not installed, {}: it failed."""
        args = self.args
        python = (
            os.environ.get("REFERENCE_PYTHON", sys.executable) if name == "fal" else sys.executable
        )
        command = [
            *(python, "-m", "benchmarks.reference", "--sdk", name, "--ranks", str(args.ranks)),
            *("--checkpoint", self.checkpoint, "--preview", self.preview),
            *("--size", str(args.size), "--steps", "20", "--repeats", str(args.repeats)),
        ]
        say(f"== the tutorial's worker on {name}")
        ended = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, env={**os.environ, SDK: name}
        )
        if ended.returncode != 0:
            return {}
        found: dict[str, float] | None = json.loads(ended.stdout.splitlines()[-1])
        return found

    def references(self) -> str:
        """Both runners, side by side."""
        columns = {name: self.reference(name) for name in MODULES}
        rows = columns["fal"] or columns["polyrank"] or {}
        lines = [
            "## The tutorial's worker, plain pipeline, on both runners",
            "",
            f"{self.args.ranks} ranks, {self.args.size}x{self.args.size}, 20 steps; seconds",
            "",
            f"| | {' | '.join(columns)} |",
            "|---|" + "---|" * len(columns),
        ]
        for row in rows:
            cells = " | ".join(cell(each, row) for each in columns.values())
            lines.append(f"| {row} | {cells} |")
        return "\n".join(lines) + "\n"


def cell(found: dict[str, float] | None, row: str) -> str:
    """A figure, or why there is none."""
    if found is None:
        return "not installed"
    return f"{found[row]:.4f}" if found else "failed"


def machine(device: str) -> str:
    """What the figures were measured on."""
    import torch

    what = f"{os.cpu_count()} cores"
    if device == "cuda":
        what = f"{torch.cuda.device_count()} {torch.cuda.get_device_name(0)}, {what}"
    day = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"{what}, Python {platform.python_version()}, torch {torch.__version__}, {day}."


def run(args: argparse.Namespace) -> None:
    """Prints part after part, as soon as each is there."""
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with contextlib.ExitStack() as stack:
        folder = args.folder or stack.enter_context(tempfile.TemporaryDirectory(dir=memory))
        bench = Bench(args, Path(folder))
        ranks, repeats = str(args.ranks), str(args.repeats)
        print(f"# GPUs\n\n{machine(args.device)}\n", flush=True)
        loading = [*bench.common, "--checkpoint", bench.checkpoint, "--cache", bench.cache]
        subprocess.run([sys.executable, "-m", "benchmarks.coldstart", "--write", *loading])
        parts = (
            (
                "diffusion",
                *bench.common,
                "--ranks",
                ranks,
                "--repeats",
                repeats,
                "--cache",
                bench.cache,
                "--profile",
            ),
            ("scale", *bench.common, "--repeats", repeats, "--ranks", *bench.counts()),
            *(("coldstart", *loading, "--ranks", count) for count in dict.fromkeys(["1", ranks])),
        )
        for module, *options in parts:
            print(bench.part(module, *options), flush=True)
        print(bench.references(), flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the arguments and measures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_arguments(parser)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--folder", help="keeps weights and compiled code here, for the next run")
    run(parser.parse_args(arguments))


if __name__ == "__main__":
    main()
