"""What every training loop here shares: the optimizer's schedule, the average of the weights, a
line of progress."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

log = logging.getLogger("training.shapes")

LOG_EVERY = 250


class Trainer:
    """AdamW over one module, by a fixed number of steps; ``average`` is what to keep."""

    def __init__(self, module: nn.Module, name: str, steps: int, peak: float) -> None:
        self._name = name
        self._steps = steps
        self._peak = peak
        self._parameters = [p for p in module.parameters() if p.requires_grad]
        on_gpu = self._parameters[0].is_cuda
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=peak, betas=(0.9, 0.99), weight_decay=0.01, fused=on_gpu
        )
        self.average = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(0.999))
        self._module = module
        self._step = 0
        self._loss: Tensor | None = None
        self._begun = time.perf_counter()

    def steps(self) -> Iterator[int]:
        """The numbers of the steps; the learning rate follows them."""
        for step in range(self._steps):
            for group in self._optimizer.param_groups:
                group["lr"] = self._peak * schedule(step, self._steps)
            yield step

    def learn(self, loss: Tensor) -> None:
        """One step against ``loss``."""
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimizer.step()
        self._step += 1
        if self._step > self._steps // 10:  # the first weights are not worth averaging
            self.average.update_parameters(self._module)
        value = loss.detach()
        self._loss = value if self._loss is None else torch.lerp(self._loss, value, 0.02)
        if self._step % LOG_EVERY == 0 or self._step == self._steps:
            seconds = time.perf_counter() - self._begun
            message = "%s: step %d of %d, loss %.4f, %.0f s"
            log.info(message, self._name, self._step, self._steps, self._loss.item(), seconds)


def schedule(step: int, steps: int) -> float:
    """Warm-up, then flat for 60 % of the steps, then a cosine down to a hundredth."""
    warm = min(1.0, (step + 1) / min(300, max(1, steps // 10)))
    late = max(0.0, (step / steps - 0.6) / 0.4)
    return warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * late)))
