"""The work that every peer serves: a sampler's loop, in sync code. Every app imports it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

STEP_S = 0.05

# What benchmarks.peers asks of a server: its port, and its limit on a request, set each peer's way.
PORT = int(os.environ.get("PORT", "8080"))
TIMEOUT_S = float(os.environ.get("REQUEST_TIMEOUT_S", "60"))


def sample(steps: int, log: str) -> Iterator[int]:
    """``steps`` steps of 50 ms. Each leaves a line in ``log``: the process that makes it."""
    for step in range(steps):
        with open(log, "a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(STEP_S)
        yield step
