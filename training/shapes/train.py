"""Trains models/shapes from nothing: ``python -m training.shapes.train OUT``.

Renders its own data, trains on one GPU, saves the pipeline in half precision, and says what each
stage cost. A finished stage is kept below OUT/stages and not run again.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, StableDiffusionXLPipeline
from transformers import CLIPTokenizer

from training.shapes import autoencoders, captions, networks, scenes
from training.shapes.diffusion import LatentScenes, Painter, train_painter

log = logging.getLogger("training.shapes")

# Pixels of a side, number of scenes, scenes in a batch.
POOLS = ((256, 160_000, 384), (512, 12_000, 96), (1024, 2_000, 24))


def main() -> None:
    """Parses the command line and runs the stages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--autoencoder-steps", type=int, default=4500)
    parser.add_argument("--preview-steps", type=int, default=2500)
    parser.add_argument("--painter-steps", type=int, default=9000)
    parser.add_argument(
        "--scale", type=float, default=1.0, help="of batches and pools, for a trial"
    )
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    begun = time.perf_counter()
    Run(args).stages()
    log.info("all: %.1f minutes on one %s", (time.perf_counter() - begun) / 60, _device_name())


class Run:
    """The stages in order, each with what the one before made."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.device = torch.device(args.device)
        self.folder: Path = args.out
        self.kept = self.folder / "stages"
        self.kept.mkdir(parents=True, exist_ok=True)

    def stages(self) -> None:
        """Tokenizer, both autoencoders, latents, painter, export."""
        tokenizer = self.tokenizer()
        autoencoder, preview = self.autoencoders()
        painter = self.painter(tokenizer, autoencoder)
        save(self.folder, tokenizer, autoencoder, preview, painter)

    def scaled(self, count: int) -> int:
        """A count at the scale of this run."""
        return max(4, int(count * self.args.scale))

    def tokenizer(self) -> CLIPTokenizer:
        """The tokenizer, from the captions of some scenes."""
        generator = torch.Generator().manual_seed(self.args.seed)
        texts = captions.Captions(self.args.seed).of(scenes.sample(20_000, generator))
        return captions.train_tokenizer(texts, self.kept / "tokenizer")

    def autoencoders(self) -> tuple[AutoencoderKL, AutoencoderTiny]:
        """Both autoencoders, trained if no earlier run kept them."""
        folder, small = self.kept / "autoencoder", self.kept / "preview"
        if not small.exists():
            with stage("pictures"):
                pool = autoencoders.Pictures(
                    self.scaled(60_000), networks.NATIVE_SIZE, self.args.seed, self.device
                )
            batch = self.scaled(48)
            with stage("autoencoder"):
                model = autoencoders.train_autoencoder(
                    pool, self.args.autoencoder_steps, batch, self.device
                )
                model.save_pretrained(folder)
                psnr = autoencoders.reconstruction_psnr(model, pool, self.device)
                log.info("autoencoder: reconstruction at %.1f dB", psnr)
            with stage("preview"):
                autoencoders.train_preview(
                    pool, model, self.args.preview_steps, batch, self.device
                ).save_pretrained(small)
        model = AutoencoderKL.from_pretrained(folder).to(self.device)
        return model.requires_grad_(False), AutoencoderTiny.from_pretrained(small)

    def painter(self, tokenizer: CLIPTokenizer, autoencoder: AutoencoderKL) -> Painter:
        """The UNet and text encoders, trained on encoded scenes of three sizes."""
        with stage("latents"):
            pools = [self.latents(tokenizer, autoencoder, *pool) for pool in POOLS]
        with stage("painter"):
            return train_painter(
                pools, tokenizer, self.args.painter_steps, self.args.seed, self.device
            )

    def latents(
        self,
        tokenizer: CLIPTokenizer,
        autoencoder: AutoencoderKL,
        size: int,
        count: int,
        batch: int,
    ) -> LatentScenes:
        """Encoded scenes of one size, from an earlier run if it kept them."""
        kept = self.kept / f"latents-{size}.pt"
        if not kept.exists():
            LatentScenes.encode(
                autoencoder,
                tokenizer,
                count=self.scaled(count),
                size=size,
                seed=self.args.seed + size,
                device=self.device,
            ).save(kept)
        return LatentScenes.load(kept, batch=self.scaled(batch), device=self.device)


def save(
    folder: Path,
    tokenizer: CLIPTokenizer,
    autoencoder: AutoencoderKL,
    preview: AutoencoderTiny,
    painter: Painter,
) -> None:
    """Writes the pipeline's folder in half precision, the preview's autoencoder inside it."""
    pipeline = StableDiffusionXLPipeline(
        vae=autoencoder,
        text_encoder=painter.first,
        text_encoder_2=painter.second,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=painter.unet,
        scheduler=networks.scheduler(),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )
    pipeline.to("cpu", torch.float16).save_pretrained(folder)
    preview.to("cpu", torch.float16).save_pretrained(folder / "preview")
    for config in folder.glob("*/config.json"):
        tidy(config)


def tidy(config: Path) -> None:
    """Removes from a part's configuration what gets in the way of whoever loads it."""
    entries = json.loads(config.read_text())
    entries.pop("_name_or_path", None)  # a folder of this machine
    if config.parent.name == "preview":
        entries.pop("block_out_channels")  # diffusers writes it, and warns when it reads it
    if "dtype" in entries:
        # Without a dtype of the caller's, transformers would load this one and diffusers float32.
        entries["dtype"] = "float32"
    config.write_text(json.dumps(entries, indent=2) + "\n")


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Says what a stage cost."""
    begun = time.perf_counter()
    yield
    log.info("%s took %.1f minutes", name, (time.perf_counter() - begun) / 60)


def _device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


if __name__ == "__main__":
    main()
