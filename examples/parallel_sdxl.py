"""One prompt, a picture from every rank, previews on the way.

    polyrank run examples/parallel_sdxl.py
    polyrank demo

Every rank holds the whole pipeline and paints the prompt with a seed of its own; the pictures
come back as one grid. Uses Stable Diffusion XL when its weights are in the Hugging Face cache,
and the small model in ``models/shapes`` otherwise.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from polyrank import App, endpoint
from polyrank.distributed import DistributedRunner, DistributedWorker
from polyrank.toolkit import Image

if TYPE_CHECKING:  # torch is needed in the ranks only; the app itself starts without it
    from diffusers import AutoencoderTiny

SDXL = ("stabilityai/stable-diffusion-xl-base-1.0", "madebyollin/taesdxl")
SHAPES = Path(__file__).resolve().parent.parent / "models" / "shapes"


class Painter(DistributedWorker):
    """Paints on one GPU; rank 0 puts the grid together."""

    # Takes seconds, and is the same for all ranks.
    preload = (
        "diffusers:StableDiffusionXLPipeline",
        "diffusers:AutoencoderTiny",
        "polyrank.diffusion",
    )

    def setup(self) -> None:
        import torch
        from diffusers import AutoencoderTiny, StableDiffusionXLPipeline

        model, preview_model = find_weights()
        dtype = torch.float16 if self.device.type == "cuda" else torch.float32
        self.pipeline = StableDiffusionXLPipeline.from_pretrained(model, torch_dtype=dtype)
        self.pipeline.to(self.device).set_progress_bar_config(disable=True)
        decoder = AutoencoderTiny.from_pretrained(preview_model, torch_dtype=dtype)
        self.make_fast(decoder.to(self.device))

    def make_fast(self, decoder: AutoencoderTiny) -> None:
        from polyrank.diffusion import Previewer, optimize

        optimize(self.pipeline)
        self.previewer = Previewer(self.pipeline, decoder, worker=self)

    def __call__(
        self,
        streaming: bool = False,
        *,
        prompt: str,
        negative_prompt: str | None,
        steps: int,
        guidance: float,
        seed: int,
        size: int | None,
        preview_every: int,
    ) -> dict[str, Any]:
        import torch

        generator = torch.Generator("cpu").manual_seed(seed + self.rank)
        with self.previewer.watch(steps, preview_every, enabled=streaming) as watch:
            picture = self.pipeline(
                prompt,
                negative_prompt=negative_prompt,
                num_inference_steps=steps,
                guidance_scale=guidance,
                width=size,
                height=size,
                generator=generator,
                callback_on_step_end=self.cancellable(watch),
            ).images[0]
        grid = self.gather_grid(picture)
        if grid is None:
            return {}
        # Encoded here, in the ranks: the app's process only passes it on.
        seeds = [seed + rank for rank in range(self.world_size)]
        result = {"image": Image.from_bytes(grid, "jpeg"), "seeds": seeds}
        # As the last event of a stream it says how far the painting is, like those before it.
        return result | {"step": steps, "progress": 1.0} if streaming else result


def find_weights() -> tuple[str, str]:
    """SDXL and its preview decoder if they are on this machine, else the model shipped here."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        model, preview = (snapshot_download(name, local_files_only=True) for name in SDXL)
    except LocalEntryNotFoundError:
        return str(SHAPES), str(SHAPES / "preview")
    return model, preview


class Prompt(BaseModel):
    """What to paint."""

    prompt: str = Field(min_length=1, examples=["a red star over the sea at sunset"])
    negative_prompt: str | None = None
    num_inference_steps: int = Field(default=20, ge=1, le=150)
    guidance_scale: float = Field(default=3.5, ge=0, le=30)
    size: int | None = Field(default=None, ge=64, le=2048, multiple_of=8)
    seed: int | None = Field(default=None, ge=0, lt=2**48, description="Same seed, same pictures")
    preview_every: int = Field(default=4, ge=1, description="Steps between two previews")

    def to_payload(self) -> dict[str, Any]:
        """The worker's arguments."""
        return {
            "prompt": self.prompt,
            "negative_prompt": self.negative_prompt,
            "steps": self.num_inference_steps,
            "guidance": self.guidance_scale,
            "seed": random.randrange(2**32) if self.seed is None else self.seed,
            "size": self.size,
            "preview_every": self.preview_every,
        }


class Pictures(BaseModel):
    """The grid, one picture per rank, and the seed of each."""

    image: Image
    seeds: list[int]


class ParallelSDXL(App):
    num_gpus = 2
    machine_type = "GPU-H100"
    requirements = ["accelerate", "diffusers>=0.34", "torch>=2.6", "transformers"]

    async def setup(self) -> None:
        self.runner = DistributedRunner(Painter, world_size=self.num_gpus)
        await self.runner.start()
        await self.runner.invoke(Prompt(prompt="warm-up", num_inference_steps=2).to_payload())

    async def teardown(self) -> None:
        await self.runner.stop()

    def health(self) -> dict[str, Any]:
        """What each rank's start took, beside being alive."""
        return {"status": "ok", "ranks": self.runner.timings}

    @endpoint("/")
    async def paint(self, request: Prompt) -> Pictures:
        result = await self.runner.invoke(request.to_payload())
        return Pictures(**result)

    @endpoint("/stream")
    async def stream(self, request: Prompt) -> StreamingResponse:
        events = self.runner.stream(request.to_payload(), as_text_events=True)
        return StreamingResponse(events, media_type="text/event-stream")
