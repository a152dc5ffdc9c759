"""The model's parts: SDXL's architecture at a thousandth of its cost.

The stock ``StableDiffusionXLPipeline`` and ``AutoencoderTiny`` load them; nothing here is special
but the sizes.
"""

from __future__ import annotations

from typing import Any

from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    EulerDiscreteScheduler,
    UNet2DConditionModel,
)
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

WIDTH = 128
# Pixels of a latent's side.
FACTOR = 8
NATIVE_SIZE = 256

# v-prediction down to no signal at all: otherwise the mean colour of a picture is given away by
# the noise it starts from, and plain backgrounds come out grey (https://arxiv.org/abs/2305.08891).
SCHEDULE: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "rescale_betas_zero_snr": True,
}


def autoencoder() -> AutoencoderKL:
    """Picture to latent and back: 8 times smaller, 4 channels. No attention, so any size costs
    what its area costs."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 64, 96, 96),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=16,
        sample_size=NATIVE_SIZE,
        force_upcast=False,
        mid_block_add_attention=False,
    )


def preview_autoencoder() -> AutoencoderTiny:
    """The quick one for previews: decodes what the UNet works on, unscaled."""
    return AutoencoderTiny(
        encoder_block_out_channels=(32,) * 4,
        decoder_block_out_channels=(32,) * 4,
        latent_channels=4,
        scaling_factor=1.0,
    )


def text_encoders(tokenizer: CLIPTokenizer) -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    """Both text encoders, their embeddings wide enough to learn from scratch."""
    common: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "projection_dim": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": tokenizer.model_max_length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    first = CLIPTextModel(CLIPTextConfig(**common))
    second = CLIPTextModelWithProjection(CLIPTextConfig(hidden_act="gelu", **common))
    for model in (first, second):
        for module in model.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.3)
    return first, second


def denoiser() -> UNet2DConditionModel:
    """The UNet, with SDXL's text and size conditioning."""
    return UNet2DConditionModel(
        sample_size=NATIVE_SIZE // FACTOR,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(64, 128, 160),
        layers_per_block=1,
        transformer_layers_per_block=[1, 1, 2],
        attention_head_dim=[2, 4, 5],  # the number of heads, for historical reasons
        cross_attention_dim=2 * WIDTH,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=6 * 32 + WIDTH,
    )


def scheduler() -> EulerDiscreteScheduler:
    """The sampler that ships with the model."""
    return EulerDiscreteScheduler(**SCHEDULE)
