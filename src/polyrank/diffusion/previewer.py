"""``Previewer``: pictures of a request while it runs, at no cost to it."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from PIL import Image
from torch import Tensor

from polyrank.diffusion.accelerated import AcceleratedCore, Compiler
from polyrank.diffusion.colours import Colours
from polyrank.diffusion.cores import fast_preview
from polyrank.diffusion.estimates import clean_estimate
from polyrank.diffusion.pictures import to_host
from polyrank.diffusion.tiles import TileExchange

if TYPE_CHECKING:
    from polyrank.distributed import DistributedWorker

# Gets {"step", "progress", "preview_image"}, from a thread.
Emit: TypeAlias = Callable[[dict[str, Any]], None]
StepCallback: TypeAlias = Callable[[Any, int, Any, dict[str, Any]], None]

log = logging.getLogger("polyrank.diffusion")

# Previews that may be on their way; past that new ones are left out.
MAX_BEHIND = 3
IDLE = 0


class Previewer:
    """Shows what a pipeline is making, every few steps, without holding it up.

    A preview is the picture that the latents are heading for, not the noisy latents. It is decoded
    on a stream that yields to the model, copied and sent from a thread, and left out when an older
    one is still on its way. In a worker, rank 0 streams the grid of all ranks' pictures.

    Args:
        pipeline: a diffusers pipeline with a VAE. Its scheduler must be one whose estimate is
            known (see docs/diffusion.md); UnsupportedPipeline says which.
        decoder: the AutoencoderTiny that belongs to the model, on the pipeline's device. Without
            one, previews show colours at an eighth of the size, which costs next to nothing.
        worker: the DistributedWorker whose ranks all make a Previewer at the same place.
        size: the longest side of a preview, at most; pictures are shrunk by whole numbers.
        compile: as for ``optimize``, for the decoder.
        cache: as for ``optimize``.

    Example::

        self.previewer = Previewer(self.pipeline, tiny_vae, worker=self)
        ...
        with self.previewer.watch(steps, every=5, enabled=streaming) as watch:
            self.pipeline(prompt, callback_on_step_end=self.cancellable(watch))
    """

    def __init__(
        self,
        pipeline: Any,
        decoder: AutoencoderTiny | None = None,
        *,
        worker: DistributedWorker | None = None,
        size: int = 512,
        compile: bool = True,
        cache: str | Path | None = None,
    ) -> None:
        clean_estimate(pipeline.scheduler)
        self._pipeline = pipeline
        self._size = size
        self._scale = 2 ** (len(pipeline.vae.config.block_out_channels) - 1)
        self._enlarges = 1 if decoder is None else self._scale
        self._device: torch.device = pipeline.vae.device
        self._calls = 0
        self._worker = worker
        self._exchange: TileExchange | None = None
        if worker is not None and worker.world_size > 1:
            self._exchange = TileExchange(
                worker.rank, worker.world_size, worker.runner_folder, worker.group_host
            )
        self._stream: torch.cuda.Stream | None = None
        if self._device.type == "cuda":
            self._stream = torch.cuda.Stream(priority=IDLE)
        self._compiler: Compiler | None = None
        self._render: AcceleratedCore | Colours
        if decoder is None:
            self._render = Colours(pipeline.vae)
        else:
            if compile and self._stream is not None:
                self._compiler = Compiler.in_folder(cache)
            self._render = AcceleratedCore(
                "preview",
                fast_preview(decoder),
                dict(decoder.config),
                compiler=self._compiler,
                priority=IDLE,
            )
        self._thread = _Thread(room=MAX_BEHIND)

    @contextlib.contextmanager
    def watch(
        self, steps: int, every: int = 5, *, emit: Emit | None = None, enabled: bool = True
    ) -> Iterator[StepCallback | None]:
        """A ``callback_on_step_end`` for one call of the pipeline; None unless ``enabled``.

        The first preview is of step 2, the next of every ``every``-th step but the last. Each goes
        to ``emit`` as ``{"step", "progress", "preview_image"}``, from a thread; in a worker it is
        streamed unless ``emit`` is given. When the block ends nothing is emitted any more. In a
        worker with several ranks every rank watches, with the same arguments.
        """
        if not enabled:
            yield None
            return
        if emit is None and self._worker is not None:
            emit = self._worker.add_streaming_result
        if isinstance(self._render, AcceleratedCore):
            self._render.refresh()
        self._calls += 1
        watching = _Watching(self, self._calls, steps, every, emit)
        if self._exchange is not None:
            self._exchange.begin(self._calls, watching.show)
        try:
            yield watching.on_step_end
        finally:
            watching.close()
            if self._exchange is not None:
                self._exchange.end()
            self._request_compiled()

    def warm_up(self, height: int, width: int) -> None:
        """Makes ready for pictures of this size; the first preview would, and would take longer."""
        channels = self._pipeline.vae.config.latent_channels
        latents = torch.zeros(1, channels, height // self._scale, width // self._scale)
        self._start(lambda: latents.to(self._device, self._pipeline.unet.dtype), [])()
        self._request_compiled()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Waits until what is being compiled is ready; false if the time was not enough."""
        self._request_compiled()
        return self._compiler is None or self._compiler.wait(timeout_s)

    def close(self) -> None:
        """Ends the threads, and what still compiles."""
        if self._compiler is not None:
            self._compiler.close()
        self._thread.close()
        if self._exchange is not None:
            self._exchange.close()

    def _request_compiled(self) -> None:
        if isinstance(self._render, AcceleratedCore):
            self._render.request_compiled()

    def _start(self, clean: Callable[[], Tensor], read: list[Tensor]) -> Callable[[], Image.Image]:
        """Begins a preview; what this returns waits for its picture, in another thread.

        ``read`` are the tensors that ``clean`` reads: the model may have their memory back when
        the stream is through with them.
        """
        stream = self._stream
        if stream is None:
            latents = clean()
            return lambda: _to_picture(self._decode(latents))
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            pixels, arrived = to_host(self._decode(clean()))

        def wait() -> Image.Image:
            if arrived is not None:
                arrived.synchronize()
            read.clear()
            return _to_picture(pixels)

        return wait

    def _decode(self, latents: Tensor) -> Tensor:
        """The first picture of ``latents``, no longer than ``size``, as bytes."""
        longest = max(latents.shape[-2:]) * self._enlarges
        shrink = -(-longest // self._size)
        with torch.no_grad():
            first = F.avg_pool2d(latents[:1], shrink) if shrink > 1 else latents[:1]
            pixels: Tensor = self._render(first)
            return pixels


class _Watching:
    """One call of the pipeline and its previews."""

    def __init__(
        self, previewer: Previewer, call: int, steps: int, every: int, emit: Emit | None
    ) -> None:
        self.call = call
        self._previewer = previewer
        self._steps = steps
        self._every = every
        self._emit = emit
        self._estimate = clean_estimate(previewer._pipeline.scheduler)
        self._before: Tensor | None = None
        self._lock = threading.Lock()
        self._open = True

    def on_step_end(self, pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> None:
        """Called by the pipeline after every step, ahead of the GPU."""
        done, latents = step + 1, tensors["latents"]
        before, self._before = self._before, latents
        is_due = done == 2 or done % self._every == 0
        if before is None or not is_due or done >= self._steps:
            return
        previewer = self._previewer
        if not previewer._thread.has_room():
            return
        read = [before, latents]

        def clean() -> Tensor:
            estimate = self._estimate(pipeline.scheduler, before, latents)
            read.append(estimate)
            return estimate

        wait = previewer._start(clean, read)
        previewer._thread.put(lambda: self._deliver(done, wait()))

    def _deliver(self, step: int, picture: Image.Image) -> None:
        exchange = self._previewer._exchange
        if exchange is not None:
            exchange.send(self.call, step, picture)
        else:
            self.show(step, picture)

    def show(self, step: int, picture: Image.Image) -> None:
        """Hands a picture out, unless the call is over."""
        with self._lock:
            if self._open and self._emit is not None:
                self._emit({"step": step, "progress": step / self._steps, "preview_image": picture})

    def close(self) -> None:
        """Nothing is handed out any more once this returns."""
        with self._lock:
            self._open = False


class _Thread:
    """Runs jobs in order, few of them at a time; a job that fails is logged and forgotten."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._jobs: deque[Callable[[], None] | None] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def has_room(self) -> bool:
        """Whether a job may be put."""
        return len(self._jobs) < self._room

    def put(self, job: Callable[[], None] | None) -> None:
        """Queues a job; None ends the thread."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="polyrank-previews", daemon=True)
            self._thread.start()
        with self._changed:
            self._jobs.append(job)
            self._changed.notify()

    def close(self) -> None:
        """Ends the thread after the jobs it has."""
        if self._thread is not None:
            self.put(None)
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs)
                job = self._jobs[0]
            if job is None:
                return
            try:
                job()
            except Exception:
                log.warning("a preview failed", exc_info=True)
            del job
            self._jobs.popleft()  # it took room until now


def _to_picture(pixels: Tensor) -> Image.Image:
    return Image.fromarray(pixels[0].numpy())
