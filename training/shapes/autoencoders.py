"""Trains the two autoencoders: the model's own, and the quick one that decodes previews."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor, nn

from training.shapes import networks, scenes
from training.shapes.steps import Trainer

# Weight of the divergence from a normal distribution, summed over a latent.
KL_WEIGHT = 3e-7
RENDER_BATCH = 64


class Pictures:
    """A pool of rendered pictures, kept as bytes, dealt in random batches."""

    def __init__(self, count: int, size: int, seed: int, device: torch.device) -> None:
        self._generator = torch.Generator(device).manual_seed(seed)
        self._pool = torch.empty(count, 3, size, size, dtype=torch.uint8, device=device)
        drawn = scenes.sample(count, torch.Generator().manual_seed(seed))
        for first in range(0, count, RENDER_BATCH):
            some = drawn[first : first + RENDER_BATCH]
            # Every fourth batch is a close-up: figures at twice the size, cut by the frame.
            close = first // RENDER_BATCH % 4 == 3
            images = scenes.render(some, size * (2 if close else 1), self._generator, device)
            if close:
                left, top = torch.randint(
                    size, (2,), generator=torch.Generator().manual_seed(first)
                )
                images = images[:, :, top : top + size, left : left + size]
            self._pool[first : first + len(some)] = ((images + 1) * 127.5).round().byte()

    def batch(self, count: int) -> Tensor:
        """``count`` pictures, some of them mirrored, as (count, 3, size, size) from -1 to 1."""
        pool, generator = self._pool, self._generator
        rows = torch.randint(len(pool), (count,), device=pool.device, generator=generator)
        images = pool[rows].float() / 127.5 - 1
        mirrored = torch.rand(count, 1, 1, 1, device=pool.device, generator=generator) < 0.5
        images = torch.where(mirrored, images.flip(-1), images)
        return images.contiguous(memory_format=torch.channels_last)


class _Reconstruction(nn.Module):
    """An autoencoder as one function, so that it compiles to one graph."""

    def __init__(self, autoencoder: AutoencoderKL) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The pictures again, and the divergence of their latents from a normal distribution."""
        moments = self.autoencoder.encoder(images)
        mean, logvar = self.autoencoder.quant_conv(moments).float().chunk(2, dim=1)
        logvar = logvar.clamp(-30, 20)
        latents = mean + torch.exp(0.5 * logvar) * noise
        decoded = self.autoencoder.decoder(self.autoencoder.post_quant_conv(latents))
        divergence = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum((1, 2, 3)).mean()
        return decoded.float(), divergence


def picture_loss(made: Tensor, wanted: Tensor) -> Tensor:
    """Absolute and squared error, and the absolute error of the edges."""

    def edges(images: Tensor) -> tuple[Tensor, Tensor]:
        return images.diff(dim=-1), images.diff(dim=-2)

    across, down = (
        (ours - theirs).abs().mean()
        for ours, theirs in zip(edges(made), edges(wanted), strict=True)
    )
    return (made - wanted).abs().mean() + ((made - wanted) ** 2).mean() + across + down


def train_autoencoder(
    pictures: Pictures, steps: int, batch: int, device: torch.device
) -> AutoencoderKL:
    """The autoencoder, its ``scaling_factor`` set so that latents have unit variance."""
    model = _Reconstruction(networks.autoencoder()).to(device, memory_format=torch.channels_last)
    trainer = Trainer(model, "autoencoder", steps, peak=1e-3)
    if device.type == "cuda":
        model.compile()
    side = networks.NATIVE_SIZE // networks.FACTOR
    for _ in trainer.steps():
        images = pictures.batch(batch)
        noise = torch.randn(batch, 4, side, side, device=device)
        with torch.autocast(device.type, torch.bfloat16):
            decoded, divergence = model(images, noise)
        trainer.learn(picture_loss(decoded, images) + KL_WEIGHT * divergence)
    trained: AutoencoderKL = trainer.average.module.autoencoder
    trained.eval().requires_grad_(False)
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
        spread = torch.stack(
            [
                trained.encode(pictures.batch(batch)).latent_dist.sample().float().std()
                for _ in range(8)
            ]
        )
    trained.register_to_config(scaling_factor=float(1 / spread.mean()))
    return trained


def train_preview(
    pictures: Pictures, autoencoder: AutoencoderKL, steps: int, batch: int, device: torch.device
) -> AutoencoderTiny:
    """The preview's autoencoder, taught by the finished one."""
    model = networks.preview_autoencoder().to(device, memory_format=torch.channels_last)
    trainer = Trainer(model, "preview", steps, peak=1e-3)
    if device.type == "cuda":
        model.encoder.compile()
        model.decoder.compile()
    for _ in trainer.steps():
        images = pictures.batch(batch)
        with torch.autocast(device.type, torch.bfloat16):
            with torch.no_grad():
                latents = autoencoder.encode(images).latent_dist.sample()
                latents = latents.float() * autoencoder.config.scaling_factor
            decoded, encoded = model.decoder(latents), model.encoder(images)
        loss = picture_loss(decoded.float(), images)
        trainer.learn(loss + 0.1 * (encoded.float() - latents).abs().mean())
    trained: AutoencoderTiny = trainer.average.module
    return trained.eval().requires_grad_(False)


def reconstruction_psnr(model: AutoencoderKL, pictures: Pictures, device: torch.device) -> float:
    """Peak signal-to-noise ratio of encoding and decoding, in dB, over 256 pictures."""
    errors = []
    for _ in range(8):
        images = pictures.batch(32)
        with torch.no_grad():
            decoded = model.decode(model.encode(images).latent_dist.mode()).sample
        errors.append(((decoded.clamp(-1, 1) - images) ** 2).mean())
    return float(10 * torch.log10(4 / torch.stack(errors).mean()))
