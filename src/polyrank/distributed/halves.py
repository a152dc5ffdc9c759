"""float16 convolutions on CPUs that have none.

Code written for a GPU casts its model to float16. Most CPUs multiply such matrices well enough,
but PyTorch falls back to a scalar loop for their convolutions, some hundred times slower than
float32: a picture of a second takes a minute. CPU ranks therefore compute them in float32 and
round the result, which is also a little more exact.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

NAMES = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")


def widen_convolutions() -> None:
    """Replaces the functions of ``torch.nn.functional`` in this process, a rank on the CPU."""
    import torch
    from torch.nn import functional

    if torch.ops.mkldnn._is_mkldnn_fp16_supported():
        return
    for name in NAMES:
        setattr(functional, name, _widened(getattr(functional, name)))


def _widened(convolve: Callable[..., Any]) -> Callable[..., Any]:
    import torch

    @functools.wraps(convolve)
    def widened(input: Any, weight: Any, bias: Any = None, *args: Any, **options: Any) -> Any:
        if input.dtype is not torch.float16 or input.device.type != "cpu":
            return convolve(input, weight, bias, *args, **options)
        bias = None if bias is None else bias.float()
        return convolve(input.float(), weight.float(), bias, *args, **options).half()

    return widened
