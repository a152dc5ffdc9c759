"""Pictures leave a device as bytes: converted there, copied into pinned memory."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor


def to_bytes(images: Tensor) -> Tensor:
    """[n, channels, height, width] in 0…1 as [n, height, width, channels] of uint8."""
    return (images.permute(0, 2, 3, 1).float() * 255).round().to(torch.uint8).contiguous()


def to_host(pixels: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """A copy in host memory, and the event after which it is there (None: it is there)."""
    if pixels.device.type != "cuda":
        return pixels, None
    host = torch.empty(pixels.shape, dtype=pixels.dtype, pin_memory=True)
    host.copy_(pixels, non_blocking=True)
    # Blocking: the thread that waits leaves the processor to others.
    arrived = torch.cuda.Event(blocking=True)
    arrived.record()
    return host, arrived


def to_pictures(images: Tensor) -> list[Image.Image]:
    """Tensors in 0…1 as pictures."""
    pixels, arrived = to_host(to_bytes(images))
    if arrived is not None:
        arrived.synchronize()
    return [Image.fromarray(each.squeeze(-1).numpy()) for each in pixels]
