"""Workers for the tests of polyrank.diffusion on several ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny, StableDiffusionXLPipeline

from polyrank.diffusion import Previewer, optimize, parallelize
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

    def __call__(
        self, streaming: bool = False, *, steps: int = 8, guidance: float = 4.0, **options: Any
    ) -> Any:
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
