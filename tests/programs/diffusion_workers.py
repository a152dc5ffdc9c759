"""Workers for the tests of polyrank.diffusion on several ranks."""

from __future__ import annotations

import queue
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import (
    AutoencoderTiny,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusionXLPipeline,
)
from PIL import Image

from polyrank.diffusion import Previewer, optimize, parallelize, separate
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

    def join(self, together: bool) -> None:
        """All ranks on one picture, or each on its own."""
        self.together = together
        if together:
            parallelize(self.pipeline)
        else:
            separate(self.pipeline)

    def exchange(self, host: str) -> list[Any]:
        """Rank 1 sends rank 0 a picture as between machines, rank 0's at ``host``."""
        exchange = TileExchange(self.rank, self.world_size, self.runner_folder, host)
        shown: queue.Queue[tuple[int, Image.Image]] = queue.Queue()
        exchange.begin(1, lambda step, picture: shown.put((step, picture)))
        exchange.send(1, 3, Image.new("RGB", (4, 4), (self.rank, 0, 0)))
        seen = [shown.get(timeout=60)] if self.rank == 0 else []
        torch.distributed.barrier()
        exchange.close()
        return seen

    def __call__(
        self,
        streaming: bool = False,
        *,
        steps: int = 8,
        guidance: float = 4.0,
        height: int = 128,
        tiles_over: str | None = None,
        join: bool | None = None,
        **options: Any,
    ) -> Any:
        if tiles_over is not None:
            return self.exchange(tiles_over)
        if join is not None:
            self.join(join)
        seed = 0 if self.together else self.rank
        with self.previewer.watch(steps, every=3, enabled=streaming) as watch:
            picture = self.pipeline(
                PROMPT,
                num_inference_steps=steps,
                guidance_scale=guidance,
                height=height,
                width=128,
                generator=torch.Generator().manual_seed(seed),
                callback_on_step_end=self.cancellable(watch),
                **options,
            ).images[0]
            # Within the block: rank 0 does not stop watching before rank 1 is done.
            everyone: list[Any] = [None] * self.world_size
            torch.distributed.all_gather_object(everyone, picture)
        return everyone


class Transformers(DistributedWorker):
    """Calls tiny transformers with random weights, alone and shared by all ranks."""

    def setup(self) -> None:
        torch.set_num_threads(1)
        # diffusers counts accelerators to place a rank, and divides by their number.
        torch.accelerator.device_count = lambda: 1

    def __call__(self, streaming: bool = False, *, name: str, batch: int, tokens: int = 64) -> Any:
        """The largest difference between what this rank computes alone and with all."""
        pipeline = SimpleNamespace(transformer=getattr(self, name)())
        inputs = self.inputs(name, batch, tokens)
        with torch.no_grad():
            expected = pipeline.transformer(**inputs).sample
            parallelize(pipeline)
            shared = pipeline.transformer(**inputs).sample
            again = pipeline.transformer(**inputs, return_dict=False)[0]
        assert torch.equal(shared, again)
        return (shared - expected).abs().max().item()

    def flux(self) -> FluxTransformer2DModel:
        torch.manual_seed(0)
        return FluxTransformer2DModel(
            in_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            axes_dims_rope=(4, 4, 8),
        ).eval()

    def sd3(self) -> SD3Transformer2DModel:
        torch.manual_seed(0)
        return SD3Transformer2DModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            caption_projection_dim=32,
            pooled_projection_dim=32,
            pos_embed_max_size=8,
        ).eval()

    def inputs(self, name: str, batch: int, tokens: int) -> dict[str, torch.Tensor]:
        noise = torch.Generator().manual_seed(1)
        latents = (batch, tokens, 4) if name == "flux" else (batch, 4, 8, 8)
        given = {
            "hidden_states": torch.randn(latents, generator=noise),
            "encoder_hidden_states": torch.randn(batch, 16, 32, generator=noise),
            "pooled_projections": torch.randn(batch, 32, generator=noise),
            "timestep": torch.ones(batch),
        }
        if name == "flux":
            given["img_ids"] = torch.randn(tokens, 3, generator=noise)
            given["txt_ids"] = torch.zeros(16, 3)
        return given
