"""Workers to measure the engine with."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from PIL import Image

from polyrank.distributed import DistributedWorker


class Echo(DistributedWorker):
    """Answers at once, with what was asked for."""

    def setup(self, **kwargs: Any) -> None:
        """Makes the picture that ``do="picture"`` answers."""
        noise = np.random.default_rng(self.rank).integers(0, 255, (1024, 1024, 3), np.uint8)
        self.picture = Image.fromarray(noise)

    def __call__(
        self, streaming: bool = False, *, do: str = "nothing", array: Any = None, events: int = 0
    ) -> Any:
        """``do``: "nothing", "picture" (1024x1024 RGB), "echo" (``array``), "events"."""
        if do == "picture":
            return self.picture
        if do == "echo":
            return array
        for _ in range(events):
            self.add_streaming_result({"sent": time.monotonic()})
            time.sleep(0.005)  # as a model's step would; the event is on its way meanwhile
        return None
