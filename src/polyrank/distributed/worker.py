"""What a user subclasses: one instance per rank, called on every rank for every request."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from polyrank.distributed import grid
from polyrank.distributed.gather import gather_bytes

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

T = TypeVar("T")


class CallContext(Protocol):
    """What a rank gives its worker for the length of one call."""

    def checkpoint(self) -> None: ...  # noqa: D102

    def add_event(self, result: Any, image_format: str, quality: int | None) -> None: ...  # noqa: D102


class DistributedWorker:
    """Runs on every rank of a group. Subclass it and define ``setup`` and ``__call__``.

    ``setup(**kwargs)`` gets what was passed to ``DistributedRunner.start``; ``__call__`` gets the
    request's payload as keyword arguments, and ``streaming``, true when the caller streams. Rank
    0's return value is the result. ``setup``, ``teardown`` and ``__call__`` may be coroutines;
    ``__call__`` may also be a generator, plain or async: what it yields on rank 0 is streamed,
    what it returns is the result.

    ``torch.distributed`` is initialized before ``setup``, the rank's GPU is the current device,
    and random numbers are seeded differently on every rank.

    ``preload`` names what all ranks import, such as ``"diffusers:StableDiffusionXLPipeline"``. It
    is imported once, before they are forked: many ranks start as fast as one, and those that take
    the place of dead ones have it already.

    Example::

        class Square(DistributedWorker):
            def __call__(self, streaming=False, *, number):
                return {"square": number * number, "ranks": self.world_size}
    """

    preload: ClassVar[Sequence[str]] = ()

    def __init__(self, rank: int = 0, world_size: int = 1) -> None:
        self.rank = rank
        self.world_size = world_size
        self.running = False
        self._device: torch.device | None = None
        self._runner_folder: Path | None = None
        self._group_host: str | None = None
        self._context: CallContext | None = None

    @property
    def device(self) -> torch.device:
        """The rank's device: ``cuda:i``, or ``cpu`` where there is no GPU."""
        if self._device is None:
            raise RuntimeError("the device is known once the worker runs in a rank")
        return self._device

    @property
    def runner_folder(self) -> Path:
        """A private folder, gone with the runner. The ranks share it if ``group_host`` is None."""
        if self._runner_folder is None:
            raise RuntimeError("the folder is known once the worker runs in a rank")
        return self._runner_folder

    @property
    def group_host(self) -> str | None:
        """The address of rank 0's machine; None where all ranks are on one machine."""
        return self._group_host

    def setup(self, **kwargs: Any) -> Any:
        """Called once per rank before the first request; load the model here."""

    def teardown(self) -> Any:
        """Called once per rank at an orderly stop."""

    def __call__(self, streaming: bool = False, **payload: Any) -> Any:
        """Handles one request on this rank; rank 0's return value is the result."""
        raise NotImplementedError(f"{type(self).__name__} must define __call__")

    def add_streaming_result(
        self,
        result: Any,
        image_format: str = "jpeg",
        as_text_event: bool = False,
        *,
        quality: int | None = None,
    ) -> None:
        """Streams an intermediate result; copies what it must and returns at once.

        Encoding happens in a thread of the rank. Only rank 0's results are streamed, and only
        when the caller streams; elsewhere the call costs nothing. ``image_format`` ("jpeg", "png",
        "webp") and ``quality`` say how pictures are written for callers who read text events;
        others get the very pixels. Any thread may call it until the request's call ends.
        ``as_text_event`` is accepted and decides nothing: the caller of ``stream`` says in which
        form it wants the events.
        """
        if self._context is not None:
            self._context.add_event(result, image_format, quality)

    def add_streaming_error(self, error: BaseException | str) -> None:
        """Streams ``{"error": …}``; the request goes on."""
        self.add_streaming_result({"error": str(error) or type(error).__name__})

    def gather_grid(self, picture: Image, quality: int = grid.QUALITY) -> bytes | None:
        """All ranks' pictures side by side as one JPEG, on rank 0; None on all others.

        Each rank encodes its own at the same time, so that a grid takes as long as one picture.
        Every rank calls it, with pictures of one size. Raises ValueError for different ones.
        """
        if self.world_size == 1:
            return grid.encode(picture, quality)
        everyone = gather_bytes(grid.encode(picture, quality, index=True), self.device)
        return None if everyone is None else grid.join(everyone, quality)

    def checkpoint(self) -> None:
        """Call it once per step: ends the request here if the caller has gone.

        Raises RequestCancelled on every rank at the same step, so no collective is torn. Costs
        about a microsecond and never waits for another rank. Call it from ``__call__`` only, the
        same number of times on every rank.
        """
        if self._context is not None:
            self._context.checkpoint()

    def cancellable(self, callback: Callable[..., Any] | None = None) -> Callable[..., Any]:
        """A ``callback_on_step_end`` for any diffusers pipeline that is a checkpoint.

        It calls ``callback``, if given, after the checkpoint.

        Example: ``self.pipeline(prompt, callback_on_step_end=self.cancellable())``.
        """

        def on_step_end(
            pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]
        ) -> dict[str, Any]:
            self.checkpoint()
            if callback is None:
                return tensors
            returned = callback(pipeline, step, timestep, tensors)
            return tensors if returned is None else returned

        return on_step_end

    def rank_print(self, message: Any, debug: bool = False) -> None:
        """Prints a line to the rank's log; the runner tags it with the rank and the request."""
        print(f"[debug] {message}" if debug else message, flush=True)  # noqa: T201

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Runs a coroutine in a thread of its own beside the current call."""
        return self.run_in_worker(asyncio.run, coroutine)

    def run_in_worker(
        self, function: Callable[..., T], *args: Any, **kwargs: Any
    ) -> concurrent.futures.Future[T]:
        """Runs a function in a thread of this rank."""
        future: concurrent.futures.Future[T] = concurrent.futures.Future()

        def run() -> None:
            try:
                future.set_result(function(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=run, name=f"rank{self.rank}-worker", daemon=True).start()
        return future
