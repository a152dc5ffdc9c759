"""The models that are measured: SDXL's architecture, and models/shapes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from diffusers import AutoencoderTiny, StableDiffusionXLPipeline

SHAPES = Path(__file__).resolve().parent.parent / "models" / "shapes"
PROMPT = "a lighthouse by the sea at sunset"


def random_sdxl(device: torch.device) -> tuple[StableDiffusionXLPipeline, AutoencoderTiny]:
    """SDXL-base and TAESDXL as their public configurations have them, with random weights."""
    import torch
    from diffusers import (
        AutoencoderKL,
        AutoencoderTiny,
        EulerDiscreteScheduler,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )
    from transformers import (
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTextModelWithProjection,
        CLIPTokenizer,
    )

    tokenizer = CLIPTokenizer.from_pretrained(SHAPES / "tokenizer", model_max_length=77)
    torch.manual_seed(0)  # the same on every rank
    with device:
        unet = UNet2DConditionModel(
            sample_size=128,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(320, 640, 1280),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            sample_size=1024,
            scaling_factor=0.13025,
        )
        first = CLIPTextModel(
            CLIPTextConfig(
                hidden_size=768,
                intermediate_size=3072,
                num_hidden_layers=12,
                num_attention_heads=12,
                projection_dim=768,
            )
        )
        second = CLIPTextModelWithProjection(
            CLIPTextConfig(
                hidden_act="gelu",
                hidden_size=1280,
                intermediate_size=5120,
                num_hidden_layers=32,
                num_attention_heads=20,
                projection_dim=1280,
            )
        )
        preview_vae = AutoencoderTiny()
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
    )
    pipeline = StableDiffusionXLPipeline(
        vae, first, second, tokenizer, tokenizer, unet, scheduler, add_watermarker=False
    )
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    return pipeline.to(device, dtype), preview_vae.to(device, dtype)
