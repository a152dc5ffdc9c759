"""``parallelize``: one picture on several ranks, and it is the picture of one."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist

from polyrank.diffusion.optimize import FastDecoder, FastUNet
from polyrank.diffusion.team import Team
from polyrank.errors import UnsupportedPipeline


def parallelize(
    pipeline: Any, group: dist.ProcessGroup | None = None, *, symmetric: bool = True
) -> None:
    """Lets 2, 4 or 8 ranks make each picture of an optimized pipeline together.

    The ranks share the batch first, so that with classifier-free guidance half of them compute one
    branch and half the other, and among those that are left the rows of the pictures; all of them
    share the rows that the VAE decodes. All have the picture in the end. Every rank of ``group``
    (by default all) calls the pipeline at the same time, with the same arguments and seed.

    Args:
        pipeline: the diffusers pipeline.
        group: the ranks, by default all.
        symmetric: let GPUs of one host write into each other's memory, where they can, instead of
            calling NCCL; the pictures are the same.

    Raises UnsupportedPipeline if the pipeline is not optimized or has layers whose rows cannot be
    divided. The call of a size that does not divide raises it too.
    """
    unet, vae = getattr(pipeline, "unet", None), getattr(pipeline, "vae", None)
    fast_unet, fast_decoder = getattr(unet, "forward", None), getattr(vae, "decode", None)
    if unet is None or not isinstance(fast_unet, FastUNet):
        raise UnsupportedPipeline("parallelize() needs a pipeline that optimize() was called on")
    team = Team(group, unet.device, symmetric=symmetric)
    fast_unet.share(team)
    if isinstance(fast_decoder, FastDecoder):
        fast_decoder.share(team)


def separate(pipeline: Any) -> None:
    """Undoes ``parallelize``: each rank makes pictures of its own again."""
    for part in (pipeline.unet.forward, getattr(pipeline.vae, "decode", None)):
        if isinstance(part, FastUNet | FastDecoder):
            part.share(None)
