"""The reference platform's runner and polyrank's with the same worker, as tutorials have it.

    BENCHMARK_SDK=fal python -m benchmarks.reference --sdk fal --ranks 2 …
    BENCHMARK_SDK=polyrank python -m benchmarks.reference --sdk polyrank --ranks 2 …

Every rank paints with the plain pipeline; previews are gathered by all ranks, decoded on the way
and shown as one grid. Needs torch and diffusers, and the runner under test; where that is not
installed it prints null. ``benchmarks.gpu`` runs it, ``fal`` with the Python that the variable
``REFERENCE_PYTHON`` names.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import statistics
import time
from typing import Any

# In the environment, since the processes of the ranks import this file again.
SDK = "BENCHMARK_SDK"
MODULES = {"fal": "fal.distributed", "polyrank": "polyrank.distributed"}

try:
    sdk: Any = importlib.import_module(MODULES[os.environ.get(SDK, "polyrank")])
    Base: Any = sdk.DistributedWorker
except ImportError:
    sdk, Base = None, object


class Tutorial(Base):  # type: ignore[misc]
    """The worker."""

    def setup(self, checkpoint: str, preview: str, **_kwargs: Any) -> None:
        """Loads the pipeline and the previews' decoder."""
        import torch
        from diffusers import AutoencoderTiny, StableDiffusionXLPipeline

        dtype = torch.float16 if torch.cuda.is_available() else torch.float32
        self.pipeline = StableDiffusionXLPipeline.from_pretrained(checkpoint, torch_dtype=dtype)
        self.pipeline.to(self.device).set_progress_bar_config(disable=True)
        self.tiny = AutoencoderTiny.from_pretrained(preview, torch_dtype=dtype).to(self.device)

    def __call__(
        self, streaming: bool = False, *, steps: int = 0, size: int = 0, every: int = 0, **_: Any
    ) -> dict[str, Any]:
        """A grid of all ranks' pictures; nothing for no steps."""
        import torch

        if steps == 0:
            return {}

        def on_step_end(pipeline: Any, step: int, _timestep: Any, tensors: Any) -> Any:
            if streaming and 0 < step + 1 < steps and (step + 1) % every == 0:
                latents = tensors["latents"]
                with torch.no_grad():
                    shown = self.tiny.decode(latents / self.tiny.config.scaling_factor).sample
                grid = self.grid((shown / 2 + 0.5).clamp(0, 1))
                if grid is not None:
                    self.add_streaming_result({"preview_image": grid, "sent": time.time()})
            return tensors

        begun = time.perf_counter()
        pictures = self.pipeline(
            "a lighthouse by the sea at sunset",
            num_inference_steps=steps,
            guidance_scale=5.0,
            width=size,
            height=size,
            generator=torch.Generator().manual_seed(self.rank),
            output_type="pt",
            callback_on_step_end=on_step_end,
        ).images
        spent = time.perf_counter() - begun
        grid = self.grid(pictures)
        return {} if grid is None else {"image": grid, "pipeline_s": spent}

    def grid(self, pictures: Any) -> Any:
        """All ranks' first pictures side by side, on rank 0."""
        import torch
        import torch.distributed as dist
        from PIL import Image

        pixels = (pictures[0].float() * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()
        ranks = dist.get_world_size()
        everyone = [torch.empty_like(pixels) for _ in range(ranks)] if self.rank == 0 else None
        dist.gather(pixels, everyone)
        if everyone is None:
            return None
        return Image.fromarray(torch.cat(everyone, 1).cpu().numpy())


async def measure(args: argparse.Namespace) -> dict[str, float]:
    """Medians of what a caller waits for."""
    begun = time.perf_counter()
    runner = sdk.DistributedRunner(Tutorial, world_size=args.ranks)
    await runner.start(checkpoint=args.checkpoint, preview=args.preview)
    start_s = time.perf_counter() - begun
    payload = {"steps": args.steps, "size": args.size, "every": args.every}
    nothing, whole, own, streamed = [], [], [], []
    try:
        for _ in range(args.repeats):
            begun = time.perf_counter()
            await runner.invoke({"steps": 0})
            nothing.append(time.perf_counter() - begun)
        for _ in range(args.repeats + 1):
            begun = time.perf_counter()
            result = await runner.invoke(payload)
            whole.append(time.perf_counter() - begun)
            own.append(result["pipeline_s"])
            begun = time.perf_counter()
            async for _event in runner.stream(payload):
                pass
            streamed.append(time.perf_counter() - begun)
    finally:
        await runner.stop()
    return {
        "start to ready": start_s,
        "a call that does nothing": statistics.median(nothing),
        "a grid": statistics.median(whole[1:]),
        "of which the pipeline on rank 0": statistics.median(own[1:]),
        "a grid, with previews": statistics.median(streamed[1:]),
    }


def main() -> None:
    """Prints the medians as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sdk", choices=list(MODULES), default="polyrank")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--preview", required=True)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--every", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    if os.environ.get(SDK) != args.sdk:
        parser.error(f"set {SDK}={args.sdk}: the processes of the ranks read it")
    if sdk is None:
        print(json.dumps(None))
    else:
        print(json.dumps(asyncio.run(measure(args))))


if __name__ == "__main__":
    main()
