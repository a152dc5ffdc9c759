"""One rank process: one loop over frames.

Started by a launcher, which hands in a ``RankSpec``; nobody else imports this module. The main
thread receives a frame, does what it says and answers; the worker's code runs in this thread, so
the current GPU set here is the one it sees.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import os
import random
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import zmq

from polyrank import compat, modules
from polyrank.distributed import events, values, wire
from polyrank.distributed.arena import Arena, ArenaReader
from polyrank.distributed.control import ControlBlock
from polyrank.distributed.halves import widen_convolutions
from polyrank.distributed.rankspec import RankSpec
from polyrank.distributed.transport import collect, place
from polyrank.distributed.worker import DistributedWorker
from polyrank.errors import RequestCancelled

# Events a rank may be ahead of the one who reads the stream.
EVENT_WINDOW = 256
# Of pictures in the result of a caller who reads text events.
FINAL_QUALITY = 95
TRACEBACK_CHARS = 64_000


class Rank:
    """The rank's ends of every channel, and its worker."""

    def __init__(self, spec: RankSpec) -> None:
        self.spec = spec
        self.epoch = spec.epoch
        self.channel = Channel(spec)
        self.control = ControlBlock(spec.control_fd, spec.world_size)
        self.event_thread = events.EventThread()
        self.loop = asyncio.new_event_loop()
        self.worker: DistributedWorker
        self.synchronize: Callable[[], None] = lambda: None

    def serve(self) -> None:
        """Answers frames until ``Stop``."""
        self.channel.send(wire.Hello(epoch=self.epoch))
        while True:
            frame, inline = self.channel.receive()
            if frame.epoch != self.epoch:
                continue
            match frame:
                case wire.Setup():
                    self._setup(frame, inline)
                case wire.Call():
                    self._call(frame, inline)
                case wire.Settle():
                    self.synchronize()
                    self.channel.send(wire.Settled(epoch=self.epoch))
                case wire.Stop():
                    return self._teardown()

    def _setup(self, frame: wire.Setup, inline: list[bytes]) -> None:
        phases: dict[str, float] = {}
        try:
            with _timed(phases, "load"):
                if frame.cwd is not None:
                    os.chdir(frame.cwd)
                worker_cls = load_worker(frame.worker)
                kwargs = self.channel.decode(frame.kwargs, inline)
            with _timed(phases, "process_group"):
                device = self._join_group(frame)
            with _timed(phases, "setup"):
                self.worker = make_worker(worker_cls, self.spec.rank, self.spec.world_size)
                self.worker._device = device
                self.worker._runner_folder = Path(self.spec.address.removeprefix("ipc://")).parent
                if self.spec.ranks_here < self.spec.world_size:
                    self.worker._group_host = frame.store_host
                self.worker.running = True
                self._await(self.worker.setup(**kwargs))
        except BaseException as error:
            self.channel.send(self._failure(error, number=0))
            return
        self.channel.send(wire.Ready(epoch=self.epoch, phases=phases))

    def _join_group(self, frame: wire.Setup) -> Any:
        import torch
        import torch.distributed as dist

        spec = self.spec
        seed = frame.seed + spec.rank
        random.seed(seed)
        torch.manual_seed(seed)
        if (numpy := sys.modules.get("numpy")) is not None:
            numpy.random.seed(seed % 2**32)
        device = torch.device(frame.device)
        if device.type == "cuda":
            torch.cuda.set_device(device)
            self.synchronize = torch.cuda.synchronize
        else:
            torch.set_num_threads(frame.threads)
            widen_convolutions()
        is_master = spec.rank == 0
        timeout = dt_timeout(frame.timeout_s)
        store = dist.TCPStore(
            frame.store_host,
            frame.store_port,
            spec.world_size,
            is_master,
            timeout,
            wait_for_workers=False,
            master_listen_fd=spec.store_fd if is_master else None,
        )
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        # With the device, NCCL connects the ranks at once. One by itself has nobody to connect to.
        at_once = device if device.type == "cuda" and spec.world_size > 1 else None
        dist.init_process_group(
            backend,
            store=store,
            rank=spec.rank,
            world_size=spec.world_size,
            timeout=timeout,
            device_id=at_once,
        )
        return device

    def _call(self, frame: wire.Call, inline: list[bytes]) -> None:
        self.channel.release(frame.released)
        call = CallInRank(self, frame)
        report: wire.Frame
        result: wire.Value | None = None
        parts: list[wire.Buffer] = []
        try:
            outcome = self._run(call, frame.payload, inline)
            self.event_thread.flush()
            if self.spec.rank == 0:
                if frame.text_events:
                    outcome = events.text_event(outcome, call.image_format, FINAL_QUALITY)
                result, parts = self.channel.encode(outcome)
            del outcome
            report = wire.Done(
                epoch=self.epoch,
                number=frame.number,
                events=call.events_sent,
                released=self.channel.take_released(),
                result=result,
            )
        except RequestCancelled as error:
            self._drop_events()
            if not self.control.is_cancelled(frame.number):  # raised by the worker itself
                return self.channel.send(self._failure(error, frame.number))
            report = wire.Left(
                epoch=self.epoch,
                number=frame.number,
                step=call.step,
                released=self.channel.take_released(),
            )
        except BaseException as error:
            self._drop_events()
            report = self._failure(error, frame.number)
        sys.stdout.flush()
        sys.stderr.flush()
        self.channel.send(report, parts)

    def _run(self, call: CallInRank, payload: wire.Value, inline: list[bytes]) -> Any:
        kwargs = self.channel.decode(payload, inline)
        self.worker._context = call
        try:
            call.begin()
            outcome = self.worker(**{**kwargs, "streaming": call.frame.streaming})
            if inspect.isgenerator(outcome):
                return self._drain(call, outcome)
            if inspect.isasyncgen(outcome):
                return self.loop.run_until_complete(self._drain_async(call, outcome))
            return self._await(outcome)
        finally:
            self.worker._context = None

    def _drain(self, call: CallInRank, generator: Any) -> Any:
        while True:
            try:
                call.add_event(next(generator), "jpeg", None)
            except StopIteration as stop:
                return stop.value

    async def _drain_async(self, call: CallInRank, generator: Any) -> None:
        # An async generator cannot return a value: its last one is an event like the others.
        async for item in generator:
            call.add_event(item, "jpeg", None)

    def _await(self, outcome: Any) -> Any:
        if inspect.isawaitable(outcome):
            return self.loop.run_until_complete(_as_coroutine(outcome))
        return outcome

    def _drop_events(self) -> None:
        with contextlib.suppress(BaseException):
            self.event_thread.flush()

    def _failure(self, error: BaseException, number: int) -> wire.Failure:
        return wire.Failure(
            epoch=self.epoch,
            number=number,
            error_type=type(error).__name__,
            message=_message(error),
            traceback=_traceback(error),
            fatal=_is_fatal(error),
            released=self.channel.take_released(),
        )

    def _teardown(self) -> None:
        try:
            if hasattr(self, "worker"):
                self.worker.running = False
                self._await(self.worker.teardown())
        except BaseException:
            traceback.print_exc()
        if (dist := sys.modules.get("torch.distributed")) is not None and dist.is_initialized():
            with contextlib.suppress(Exception):
                dist.destroy_process_group()


class CallInRank:
    """One call on one rank: its checkpoints and its events."""

    def __init__(self, rank: Rank, frame: wire.Call) -> None:
        self.frame = frame
        self.step = 0
        self.events_sent = 0
        self.image_format = "jpeg"
        self._adding = threading.Lock()  # previews are added from a thread
        self._rank = rank
        self._streams = frame.streaming and rank.spec.rank == 0

    def begin(self) -> None:
        """The call has reached the worker."""
        self._rank.control.publish_step(self._rank.spec.rank, self.frame.number, 0)

    def checkpoint(self) -> None:
        """Ends the call here if it is cancelled: raises RequestCancelled."""
        self.step += 1
        control, rank = self._rank.control, self._rank.spec.rank
        control.publish_step(rank, self.frame.number, self.step)
        if control.must_leave(self.frame.number, self.step):
            raise RequestCancelled

    def add_event(self, result: Any, image_format: str, quality: int | None) -> None:
        """Hands a copy of ``result`` to the thread that encodes and sends it."""
        self._rank.control.publish_progress(self._rank.spec.rank)
        if not self._streams:
            return
        copy = events.snapshot(result)
        with self._adding:
            self.events_sent += 1
            self.image_format = image_format
            index = self.events_sent
            self._rank.event_thread.put(lambda: self._send(copy, index, image_format, quality))

    def _send(self, copy: Any, index: int, image_format: str, quality: int | None) -> None:
        if not self._may_send(index):
            return
        rank = self._rank
        value: wire.Value | None = None
        parts: list[wire.Buffer]
        ready = events.arrived(copy)
        if self.frame.text_events:
            parts = [events.text_event(ready, image_format, quality)]
        else:
            value, parts = rank.channel.encode(ready)
        event = wire.Event(epoch=rank.epoch, number=self.frame.number, value=value)
        rank.channel.send(event, parts)

    def _may_send(self, index: int) -> bool:
        """Waits until the reader is at most EVENT_WINDOW behind; false once it has gone."""
        number, control = self.frame.number, self._rank.control
        while index - control.credits(number) > EVENT_WINDOW:
            if control.is_cancelled(number):
                return False
            os.eventfd_read(self._rank.spec.credit_fd)  # written with every credit
        return True


class Channel:
    """The rank's socket, and shared memory in both directions."""

    def __init__(self, spec: RankSpec) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.IDENTITY, spec.identity)
        self._socket.setsockopt(zmq.LINGER, 2000)
        self._socket.setsockopt(zmq.SNDHWM, 0)  # credits bound what is under way
        self._socket.connect(spec.address)
        self._inbox = ArenaReader(spec.inbox_fd)
        self._outbox = Arena(spec.outbox_fd)

    def send(self, frame: wire.Frame, parts: list[wire.Buffer] | None = None) -> None:
        """Sends a frame. The main thread and the event thread never send at the same time."""
        self._socket.send_multipart(wire.encode(frame, parts or ()), copy=True)

    def receive(self) -> tuple[wire.ToRank, list[bytes]]:
        """Waits for the next frame."""
        frame, inline = wire.decode_to_rank(self._socket.recv_multipart())
        return frame, list(inline)  # type: ignore[arg-type]

    def encode(self, value: Any) -> tuple[wire.Value, list[wire.Buffer]]:
        """A value and its inline parts, large buffers placed in shared memory."""
        header, buffers = values.encode(value)
        return place(header, buffers, self._outbox)

    def decode(self, value: wire.Value, inline: list[bytes]) -> Any:
        """The value again."""
        return values.decode(value.header, collect(value.places, inline, self._inbox))

    def take_released(self) -> list[int]:
        """Blocks of the runner's arena that this rank no longer uses."""
        return self._inbox.take_released()

    def release(self, offsets: list[int]) -> None:
        """The runner no longer uses these blocks of this rank's arena."""
        self._outbox.release(offsets)

    def close(self) -> None:
        """Sends what is queued and closes."""
        self._socket.close()
        self._context.term()


def load_worker(source: wire.WorkerSource) -> type[DistributedWorker]:
    """The worker class that ``source`` names."""
    modules.extend_path(source.path)
    if source.compat:
        compat.install()
    if source.pickled is not None:
        found = cloudpickle.loads(source.pickled)
    else:
        if source.file is not None:
            module = modules.load_file(Path(source.file), source.module)
        else:
            module = importlib.import_module(source.module)
        found = module
        for name in source.qualname.split("."):
            found = getattr(found, name)
    return found  # type: ignore[no-any-return]


def make_worker(cls: type[Any], rank: int, world_size: int) -> Any:
    """An instance, whether or not the subclass's own ``__init__`` takes arguments."""
    worker = object.__new__(cls)
    DistributedWorker.__init__(worker, rank, world_size)
    if cls.__init__ is not DistributedWorker.__init__:
        accepts = inspect.signature(cls).parameters
        if "rank" in accepts or any(p.kind is p.VAR_KEYWORD for p in accepts.values()):
            worker.__init__(rank=rank, world_size=world_size)
        else:
            worker.__init__()
            worker.rank, worker.world_size = rank, world_size
    return worker


def dt_timeout(seconds: float) -> Any:
    """A timedelta, as torch wants it."""
    import datetime

    return datetime.timedelta(seconds=seconds)


async def _as_coroutine(awaitable: Any) -> Any:
    return await awaitable


@contextlib.contextmanager
def _timed(phases: dict[str, float], name: str) -> Any:
    start = time.perf_counter()
    yield
    phases[f"{name}_s"] = time.perf_counter() - start


def _message(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception as broken:
        text = f"(its message cannot be shown: {type(broken).__name__})"
    return _sendable(text[:TRACEBACK_CHARS])


def _traceback(error: BaseException) -> str:
    try:
        text = "".join(traceback.format_exception(error))
    except Exception:
        text = "".join(traceback.format_tb(error.__traceback__)) + type(error).__name__
    return _sendable(text if len(text) <= TRACEBACK_CHARS else f"…{text[-TRACEBACK_CHARS:]}")


def _sendable(text: str) -> str:
    """``text`` without what UTF-8 cannot say."""
    return text.encode("utf-8", "backslashreplace").decode()


def _is_fatal(error: BaseException) -> bool:
    """Whether the device or the process group is lost with this error; out of memory is not."""
    torch = sys.modules.get("torch")
    if torch is None or isinstance(error, torch.OutOfMemoryError):
        return False
    lost = [getattr(torch, "AcceleratorError", None), getattr(torch.distributed, "DistError", None)]
    return isinstance(error, tuple(cls for cls in lost if cls is not None))


def main(spec: RankSpec) -> None:
    """Runs a rank to its end in this process."""
    os.environ.update(spec.environment)
    rank = Rank(spec)
    rank.serve()
    rank.channel.close()
