"""Trains the UNet and both text encoders together, on latents of rendered scenes."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from training.shapes import networks, scenes
from training.shapes.captions import Captions
from training.shapes.steps import Trainer

# Captions per scene, so that the same scene is called by several names.
CAPTIONS = 3
# Share of samples whose text is dropped to zeros, as SDXL's pipeline does for an empty prompt.
DROPPED = 0.1
# Share of samples whose caption says nothing: negative prompts then mean nothing too.
NOISE = 0.05


@dataclass(frozen=True)
class LatentScenes:
    """Encoded scenes of one size, with the tokens of their captions."""

    size: int
    latents: Tensor
    tokens: Tensor
    batch: int = 1

    @classmethod
    def encode(
        cls,
        autoencoder: AutoencoderKL,
        tokenizer: CLIPTokenizer,
        *,
        count: int,
        size: int,
        seed: int,
        device: torch.device,
    ) -> LatentScenes:
        """Renders and encodes ``count`` scenes."""
        drawn = scenes.sample(count, torch.Generator().manual_seed(seed))
        generator = torch.Generator(device).manual_seed(seed)
        at_once = max(1, 512 * networks.NATIVE_SIZE**2 // size**2)
        latents = []
        for first in range(0, count, at_once):
            images = scenes.render(drawn[first : first + at_once], size, generator, device)
            with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
                encoded = autoencoder.encode(images).latent_dist.sample(generator)
            latents.append((encoded.float() * autoencoder.config.scaling_factor).half())
        writer = Captions(seed)
        tokens = torch.stack([tokenize(tokenizer, writer.of(drawn)) for _ in range(CAPTIONS)], 1)
        return cls(size, torch.cat(latents), tokens)

    def save(self, path: Path) -> None:
        """Writes the scenes to a file."""
        torch.save({"size": self.size, "latents": self.latents.cpu(), "tokens": self.tokens}, path)

    @classmethod
    def load(cls, path: Path, *, batch: int, device: torch.device) -> LatentScenes:
        """Reads what ``save`` wrote; ``batch`` is how many scenes are dealt at once."""
        kept = torch.load(path)
        return cls(kept["size"], kept["latents"].to(device), kept["tokens"].to(device), batch)

    def deal(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A random batch of latents and tokens."""
        device = self.latents.device
        rows = torch.randint(len(self.latents), (self.batch,), device=device, generator=generator)
        which = torch.randint(CAPTIONS, (self.batch,), device=device, generator=generator)
        latents = self.latents[rows].float().contiguous(memory_format=torch.channels_last)
        return latents, self.tokens[rows, which].long()


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Token numbers, (n, length), as the pipeline makes them."""
    encoded = tokenizer(
        texts,
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    return encoded["input_ids"].to(torch.int16)


class Painter(nn.Module):
    """The UNet with its text encoders, wired as ``StableDiffusionXLPipeline`` wires them."""

    def __init__(
        self,
        unet: UNet2DConditionModel,
        first: CLIPTextModel,
        second: CLIPTextModelWithProjection,
    ) -> None:
        super().__init__()
        self.unet = unet
        self.first = first
        self.second = second

    def forward(
        self, noisy: Tensor, times: Tensor, tokens: Tensor, keep: Tensor, sizes: Tensor
    ) -> Tensor:
        """The predicted velocity; ``keep`` (n,) is 0 where the text is dropped."""
        one = self.first(tokens, output_hidden_states=True).hidden_states[-2]
        two = self.second(tokens, output_hidden_states=True)
        text = torch.cat([one, two.hidden_states[-2]], -1) * keep[:, None, None]
        added = {"text_embeds": two.text_embeds * keep[:, None], "time_ids": sizes}
        velocity: Tensor = self.unet(noisy, times, text, added_cond_kwargs=added).sample
        return velocity


def train_painter(
    pools: list[LatentScenes], tokenizer: CLIPTokenizer, steps: int, seed: int, device: torch.device
) -> Painter:
    """A painter trained on the first pool, and late in the schedule on the larger sizes too."""
    model = Painter(networks.denoiser(), *networks.text_encoders(tokenizer))
    model = model.to(device, memory_format=torch.channels_last)
    trainer = Trainer(model, "painter", steps, peak=1e-3)
    if device.type == "cuda":
        model.unet.compile(dynamic=False)
    generator = torch.Generator(device).manual_seed(seed)
    writer = Captions(seed)
    nothing = tokenize(tokenizer, [writer.noise() for _ in range(4096)]).to(device)
    kept = DDPMScheduler(**networks.SCHEDULE).alphas_cumprod.to(device)
    for step in trainer.steps():
        pool = pools[_pool_of(step, steps, len(pools))]
        latents, tokens = pool.deal(generator)
        count = len(latents)

        def draw(high: int, count: int = count) -> Tensor:
            return torch.randint(high, (count,), device=device, generator=generator)

        chance = torch.rand(count, device=device, generator=generator)
        meaningless = (chance >= DROPPED) & (chance < DROPPED + NOISE)
        tokens = torch.where(meaningless[:, None], nothing[draw(len(nothing))].long(), tokens)
        times = draw(len(kept))
        signal = kept[times].sqrt()[:, None, None, None]
        spread = (1 - kept[times]).sqrt()[:, None, None, None]
        noise = torch.randn(latents.shape, device=device, generator=generator)
        noisy, velocity = signal * latents + spread * noise, signal * noise - spread * latents
        sizes = torch.tensor([pool.size, pool.size, 0, 0, pool.size, pool.size], device=device)
        # Compiling for the larger sizes as well would cost more than it brings.
        stance = nullcontext() if pool is pools[0] else torch.compiler.set_stance("force_eager")
        with stance, torch.autocast(device.type, torch.bfloat16):
            made = model(
                noisy.contiguous(memory_format=torch.channels_last),
                times,
                tokens,
                (chance >= DROPPED).float(),
                sizes.float().expand(count, -1),
            )
        trainer.learn(((made.float() - velocity) ** 2).mean())
    trained: Painter = trainer.average.module
    return trained.eval().requires_grad_(False)


def _pool_of(step: int, steps: int, pools: int) -> int:
    """Mostly the native size; in the last 45 % every fourth step a larger one, in turn."""
    if pools == 1 or step < 0.55 * steps or step % 4:
        return 0
    return 1 + step // 4 % (pools - 1)
