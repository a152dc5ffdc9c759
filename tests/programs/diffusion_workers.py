"""Workers for the tests of polyrank.diffusion on several ranks."""

from __future__ import annotations

import queue
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny, StableDiffusionXLPipeline
from PIL import Image

from polyrank.diffusion import Previewer, optimize, parallelize
from polyrank.diffusion.tiles import TileExchange
from polyrank.distributed import DistributedWorker

MODEL = Path(__file__).resolve().parents[2] / "models" / "shapes"
PROMPT = "a yellow star on a blue background"


class Painter(DistributedWorker):
    def setup(self, together: bool = False) -> None:
        torch.set_num_threads(1)
        self.pipeline = StableDiffusionXLPipeline.from_pretrained(MODEL)
        self.pipeline.set_progress_bar_config(disable=True)
        self.together = together
        if together:
            optimize(self.pipeline)
            parallelize(self.pipeline)
        decoder = AutoencoderTiny.from_pretrained(MODEL / "preview")
        self.previewer = Previewer(self.pipeline, decoder, worker=self)

    def exchange(self, host: str) -> list[Any]:
        """Rank 1 sends rank 0 a picture as between machines, rank 0's at ``host``."""
        exchange = TileExchange(self.rank, self.world_size, self.runner_folder, host)
        shown: queue.Queue[tuple[int, Image.Image]] = queue.Queue()
        exchange.begin(1, lambda step, picture: shown.put((step, picture)))
        exchange.send(1, 3, Image.new("RGB", (4, 4), (self.rank, 0, 0)))
        seen = [shown.get(timeout=10)] if self.rank == 0 else []
        torch.distributed.barrier()
        exchange.close()
        return seen

    def __call__(
        self,
        streaming: bool = False,
        *,
        steps: int = 8,
        guidance: float = 4.0,
        tiles_over: str | None = None,
        **options: Any,
    ) -> Any:
        if tiles_over is not None:
            return self.exchange(tiles_over)
        seed = 0 if self.together else self.rank
        with self.previewer.watch(steps, every=3, enabled=streaming) as watch:
            picture = self.pipeline(
                PROMPT,
                num_inference_steps=steps,
                guidance_scale=guidance,
                height=128,
                width=128,
                generator=torch.Generator().manual_seed(seed),
                callback_on_step_end=self.cancellable(watch),
                **options,
            ).images[0]
            # Within the block: rank 0 does not stop watching before rank 1 is done.
            everyone: list[Any] = [None, None]
            torch.distributed.all_gather_object(everyone, picture)
        return everyone
