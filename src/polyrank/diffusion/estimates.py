"""Clean pictures while they are being made: what the latents of a step are heading for.

The latents of a step are noisy. What they become is known all the same: from two latents in a row
where the scheduler walks a straight line between picture and noise, and from the scheduler itself
where it keeps its last estimate. Neither costs a call of the model, nor waits for the GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from torch import Tensor

from polyrank.errors import UnsupportedPipeline

# The scheduler, the latents before its last step, and after it.
Estimate: TypeAlias = Callable[[Any, Tensor, Tensor], Tensor]


def clean_estimate(scheduler: Any) -> Estimate:
    """How to estimate with this scheduler; raises UnsupportedPipeline if it is not known."""
    name = type(scheduler).__name__
    if name in _STRAIGHT and not scheduler.config.get("stochastic_sampling", False):
        return _along_noise
    if name in _KEEPERS and _keeps_pictures(scheduler):
        return _kept
    raise UnsupportedPipeline(
        f"previews need a scheduler that tells what its latents are heading for; {name}, as it is "
        f"configured, does not. These do: {', '.join(_STRAIGHT)} without stochastic sampling, "
        f"{', '.join(_KEEPERS)} with predict_x0 or a 'dpmsolver++' algorithm"
    )


def _along_noise(scheduler: Any, before: Tensor, after: Tensor) -> Tensor:
    """Euler's step goes along the noise e: x' = x + (s' - s) e, and the picture is x' - s' e."""
    index = scheduler.step_index
    old, new = scheduler.sigmas[index - 1], scheduler.sigmas[index]
    # The schedule is in host memory and goes to the kernel as a number: a copy of it to the device
    # would wait for the step, and leave the GPU without work until the next one is launched.
    return after - new / (new - old) * (after - before)


def _kept(scheduler: Any, before: Tensor, after: Tensor) -> Tensor:
    """Multistep solvers keep the pictures that their last steps estimated."""
    estimate: Tensor = scheduler.model_outputs[-1]
    return estimate


def _keeps_pictures(scheduler: Any) -> bool:
    config = scheduler.config
    if "predict_x0" in config:
        return bool(config.predict_x0)
    return config.algorithm_type in ("dpmsolver++", "sde-dpmsolver++")


# By name: a subclass may step otherwise.
_STRAIGHT = ("EulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler")
_KEEPERS = (
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "UniPCMultistepScheduler",
)
