"""``parallelize``: one picture on several ranks, and it is the picture of one."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist

from polyrank.diffusion.context import share_transformer
from polyrank.diffusion.optimize import FastDecoder, FastUNet
from polyrank.errors import UnsupportedPipeline


def parallelize(
    pipeline: Any, group: dist.ProcessGroup | None = None, *, symmetric: bool = True
) -> None:
    """Lets 2, 4 or 8 ranks make each picture of a pipeline together.

    A pipeline with a UNet is given to ``optimize`` first. The ranks share the batch, so that with
    classifier-free guidance half of them compute one branch and half the other, and those that are
    left share the rows of its pictures; all of them share the rows that the VAE decodes.

    In a pipeline with a transformer the ranks share the batch too, and then the tokens, for which
    diffusers' own context parallelism is used where diffusers has it for that transformer.

    All ranks have the picture in the end. Every rank of ``group`` calls the pipeline at the same
    time, with the same arguments and seed.

    Args:
        pipeline: the diffusers pipeline.
        group: the ranks, by default all; a transformer is shared by all.
        symmetric: let GPUs of one host write into each other's memory, where they can, instead of
            calling NCCL; the pictures are the same.

    Raises UnsupportedPipeline if the pipeline is of another kind, is not optimized or has layers
    whose rows cannot be divided. The call of a size that does not divide raises it too.
    """
    unet, transformer = getattr(pipeline, "unet", None), getattr(pipeline, "transformer", None)
    if unet is None and transformer is not None:
        share_transformer(transformer)
        return
    fast_unet = getattr(unet, "forward", None)
    if unet is None or not isinstance(fast_unet, FastUNet):
        raise UnsupportedPipeline("parallelize() needs a pipeline that optimize() was called on")
    team = fast_unet.team(group, symmetric=symmetric)
    for part in (fast_unet, getattr(pipeline.vae, "decode", None)):
        if isinstance(part, FastUNet | FastDecoder):
            part.share(team)


def separate(pipeline: Any) -> None:
    """Undoes ``parallelize`` of a pipeline with a UNet: each rank makes pictures of its own."""
    for part in (pipeline.unet.forward, getattr(pipeline.vae, "decode", None)):
        if isinstance(part, FastUNet | FastDecoder):
            part.share(None)
