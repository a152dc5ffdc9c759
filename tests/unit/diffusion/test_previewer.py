"""Previews: the picture that is being made, and no others."""

import threading
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from torch.utils._python_dispatch import TorchDispatchMode

from polyrank.diffusion import Previewer
from polyrank.diffusion.estimates import clean_estimate
from polyrank.errors import UnsupportedPipeline

SCHEDULERS = [EulerDiscreteScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler]


def watched(previewer: Previewer, paint: Any, pipeline: Any, steps: int, **options: Any) -> Any:
    """The final picture and the previews; the pipeline waits for each preview that it begins."""
    events: list[dict[str, Any]] = []
    arrived = threading.Semaphore(0)

    def emit(event: dict[str, Any]) -> None:
        events.append(event)
        arrived.release()

    with previewer.watch(steps, emit=emit, **options) as watch:
        assert watch is not None

        def on_step_end(*step: Any) -> dict[str, Any]:
            before = previewer._thread.put
            begun = []
            previewer._thread.put = lambda job: (begun.append(job), before(job))
            watch(*step)
            previewer._thread.put = before
            if begun:
                assert arrived.acquire(timeout=60)
            return {}

        picture = paint(pipeline, num_inference_steps=steps, callback_on_step_end=on_step_end)
    return picture, events


def likeness(one: Any, other: Any) -> float:
    """Correlation of two pictures of one size."""
    return float(
        np.corrcoef(np.asarray(one, float).ravel(), np.asarray(other, float).ravel())[0, 1]
    )


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_the_estimate_is_the_schedulers_own(scheduler: Any, plain: Any) -> None:
    """Checked against the definition: x = picture + sigma noise, or a x + b noise."""
    made = scheduler.from_config(plain.scheduler.config)
    made.set_timesteps(10)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 4, 8, 8, generator=generator) * made.init_noise_sigma
    estimate = clean_estimate(made)
    for timestep in made.timesteps[:4]:
        scaled = made.scale_model_input(latents, timestep)
        velocity = torch.randn(1, 4, 8, 8, generator=generator)
        alpha = made.alphas_cumprod[int(timestep)].clamp(min=1e-9)
        # What a model that predicts v says about the picture, whatever the scheduler.
        expected = alpha.sqrt() * scaled - (1 - alpha).sqrt() * velocity
        before = latents
        latents = made.step(velocity, timestep, latents, return_dict=False)[0]
        assert torch.allclose(estimate(made, before, latents), expected, atol=0.05)


class Operators(TorchDispatchMode):
    """Collects the names of the operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):  # type: ignore[no-untyped-def]
        self.names.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("scheduler", [EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler])
def test_an_estimate_copies_nothing_to_the_device(scheduler: Any) -> None:
    """Such a copy would wait for the step that has just been launched."""
    made = scheduler()
    made.set_timesteps(4)
    before, after = torch.empty(2, 1, 4, 8, 8, dtype=torch.float16, device="meta")
    made._step_index = 2
    with Operators() as called:
        estimate = clean_estimate(made)(made, before, after)
    assert (estimate.dtype, estimate.device.type) == (torch.float16, "meta")
    assert {"sub", "mul"} <= set(called.names)
    assert not {"_to_copy", "copy_", "_local_scalar_dense"} & set(called.names)


@pytest.mark.parametrize("scheduler", [EulerAncestralDiscreteScheduler, DDPMScheduler])
def test_a_scheduler_that_does_not_tell_is_refused(scheduler: Any, plain: Any) -> None:
    made = scheduler.from_config(plain.scheduler.config)
    with pytest.raises(UnsupportedPipeline, match=scheduler.__name__):
        clean_estimate(made)


def test_a_solver_that_keeps_noise_is_refused(plain: Any) -> None:
    made = DPMSolverMultistepScheduler.from_config(plain.scheduler.config)
    made.register_to_config(algorithm_type="dpmsolver")
    with pytest.raises(UnsupportedPipeline, match="DPMSolverMultistepScheduler, as it is"):
        clean_estimate(made)


def test_previews_come_closer_to_the_picture(plain: Any, decoder: Any, paint: Any) -> None:
    previewer = Previewer(plain, decoder)
    picture, events = watched(previewer, paint, plain, steps=9, every=3)
    previewer.close()
    assert [event["step"] for event in events] == [2, 3, 6]
    assert [event["progress"] for event in events] == [2 / 9, 3 / 9, 6 / 9]
    previews = [event["preview_image"] for event in events]
    assert {preview.size for preview in previews} == {picture.size}
    assert likeness(previews[-1], picture) > 0.97
    # Not the noisy latents: those show nothing yet after two of nine steps.
    assert likeness(previews[0], picture) > 0.8


def test_without_a_decoder_they_show_the_colours(plain: Any, paint: Any) -> None:
    previewer = Previewer(plain)
    picture, events = watched(previewer, paint, plain, steps=6, every=5)
    previewer.close()
    preview = events[-1]["preview_image"]
    assert preview.size == (16, 16)
    assert likeness(preview, picture.resize((16, 16))) > 0.9


def test_large_pictures_are_shown_smaller(plain: Any, decoder: Any) -> None:
    previewer = Previewer(plain, decoder, size=64)
    pixels = previewer._decode(torch.zeros(1, 4, 16, 24))
    assert pixels.shape == (1, 40, 64, 3)
    previewer.close()


def test_nothing_is_emitted_after_the_block(plain: Any, decoder: Any, paint: Any) -> None:
    previewer = Previewer(plain, decoder)
    held, at_work = threading.Event(), threading.Event()
    decode = previewer._decode

    def slowly(latents: torch.Tensor) -> torch.Tensor:
        at_work.set()
        assert held.wait(30)
        return decode(latents)

    previewer._decode = slowly  # type: ignore[method-assign]
    emitted: list[Any] = []
    with previewer.watch(4, every=1, emit=emitted.append) as watch:
        paint(plain, num_inference_steps=4, callback_on_step_end=lambda *a: watch(*a) or {})
        assert at_work.wait(30)
    held.set()
    previewer.close()  # after the jobs it has
    assert emitted == []


def test_too_many_previews_are_left_out(plain: Any, decoder: Any, paint: Any) -> None:
    previewer = Previewer(plain, decoder)
    held = threading.Event()
    decode = previewer._decode
    begun: list[int] = []

    def slowly(latents: torch.Tensor) -> torch.Tensor:
        begun.append(1)
        assert held.wait(30)
        return decode(latents)

    previewer._decode = slowly  # type: ignore[method-assign]
    with previewer.watch(12, every=1, emit=lambda event: None) as watch:
        # The pipeline does not wait for the previews that nobody takes.
        paint(plain, num_inference_steps=12, callback_on_step_end=lambda *a: watch(*a) or {})
    held.set()
    previewer.close()
    assert len(begun) == 3


def test_a_preview_that_fails_does_not_end_the_request(
    plain: Any, decoder: Any, paint: Any, caplog: pytest.LogCaptureFixture
) -> None:
    previewer = Previewer(plain, decoder)

    def broken(event: dict[str, Any]) -> None:
        raise RuntimeError("no ink")

    with previewer.watch(4, every=1, emit=broken) as watch:
        paint(plain, num_inference_steps=4, callback_on_step_end=lambda *a: watch(*a) or {})
    previewer.close()
    assert "a preview failed" in caplog.text and "no ink" in caplog.text


def test_no_callback_where_nobody_watches(plain: Any, decoder: Any) -> None:
    previewer = Previewer(plain, decoder)
    with previewer.watch(4, enabled=False) as watch:
        assert watch is None
    previewer.close()
