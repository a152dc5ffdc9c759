"""What the benchmarks of GPUs are told, and how they tell how far they are."""

from __future__ import annotations

import argparse
import sys

COMPILE_LIMIT_S = 420


def say(text: str) -> None:
    """Tells how far the run is."""
    print(text, file=sys.stderr, flush=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What all of the GPU benchmarks take."""
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--model", choices=["random", "shapes"], default="random")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5)
