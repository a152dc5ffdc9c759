"""float16 convolutions on CPUs.

Code written for a GPU casts its model to float16. Most CPUs multiply such matrices well enough,
but PyTorch falls back to a scalar loop for their convolutions, some hundred times slower than
float32: a picture of a second takes a minute. Where a CPU has instructions for them they still took
1.7 times as long as float32's (AVX512-FP16, PyTorch 2.13). CPU ranks therefore compute them in
float32 and round the result, which is also a little more exact, and the same on every CPU.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

NAMES = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")


def widen_convolutions() -> None:
    """Replaces the functions of ``torch.nn.functional`` in this process, a rank on the CPU."""
    from torch.nn import functional

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
