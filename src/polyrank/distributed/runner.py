"""The object in the app's process that drives the groups: start, invoke, stream, stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import cloudpickle

from polyrank import compat, modules
from polyrank.distributed import wire
from polyrank.distributed.group import Group, GroupConfig, State
from polyrank.distributed.launch import LAUNCHERS, make_launcher
from polyrank.distributed.launch.base import Launcher
from polyrank.distributed.launch.preload import Preload
from polyrank.distributed.request import Request
from polyrank.distributed.tasks import all_or_none
from polyrank.distributed.worker import DistributedWorker
from polyrank.errors import (
    RequestTimeout,
    RunnerError,
    RunnerStopped,
    SetupFailed,
    ValueNotSendable,
    WorkerDied,
)
from polyrank.settings import EngineSettings

log = logging.getLogger("polyrank.distributed")


class DistributedRunner:
    """Runs a worker on ``groups`` independent groups of ``world_size`` ranks each.

    Requests wait in one first-in, first-out queue and go to the next free group. A request has
    every rank of its group; a group has one request at a time.

    Args:
        worker_cls: the worker; may live in a module, a script, ``__main__`` or a notebook cell.
        world_size: ranks per group, one per GPU.
        groups: independent groups behind the queue.
        device: "cuda", "cpu", or "auto": the GPUs that there are, the CPU where there is none.
        launcher: where ranks are started: "local", on this machine, or "ray", on the machines of a
            Ray cluster; POLYRANK_RANK_LAUNCHER unless given.
        timeout: process-group timeout in seconds, as ``torch.distributed`` understands it.
        keepalive_payload: payload of the call that is made after ``keepalive_interval`` idle
            seconds, to keep the model warm.
        cwd: working folder of the ranks.
        cancel_grace_s: how long a cancelled request may run on before its group is killed.
        peer_grace_s: how long ranks may run on after another rank raised.
        hang_timeout_s: kill a group in which a rank makes no progress (call begun, checkpoint,
            streamed result) for this long; off by default.
        max_start_failures: a group that fails this many starts in a row is left down.

    ``master_addr``, ``master_port``, ``worker_addr``, ``worker_port`` and ``set_device`` are
    accepted for code written for other runners and ignored: there are no fixed ports here.

    Example::

        async with DistributedRunner(Square, world_size=2) as runner:
            print(await runner.invoke({"number": 3}))
    """

    def __init__(
        self,
        worker_cls: type[DistributedWorker] = DistributedWorker,
        world_size: int = 1,
        master_addr: str | None = None,
        master_port: int | None = None,
        worker_addr: str | None = None,
        worker_port: int | None = None,
        timeout: float = 86400,
        keepalive_payload: dict[str, Any] | None = None,
        keepalive_interval: float | None = None,
        cwd: str | Path | None = None,
        set_device: bool | None = None,
        *,
        groups: int = 1,
        device: str = "auto",
        launcher: str | None = None,
        cancel_grace_s: float = 30.0,
        peer_grace_s: float = 2.0,
        hang_timeout_s: float | None = None,
        max_start_failures: int = 3,
    ) -> None:
        if world_size < 1 or groups < 1:
            raise ValueError(f"world_size and groups are at least 1, not {world_size}, {groups}")
        if device not in ("auto", "cpu", "cuda"):
            raise ValueError(f"device is 'auto', 'cpu' or 'cuda', not {device!r}")
        if launcher is not None and launcher not in LAUNCHERS:
            raise ValueError(f"launcher is {' or '.join(map(repr, LAUNCHERS))}, not {launcher!r}")
        self.worker_cls = worker_cls
        self.world_size = world_size
        self.group_count = groups
        self.timings: list[dict[str, Any]] = []
        self._device = device
        self._launcher_name = launcher
        self._options: dict[str, Any] = {
            "process_group_timeout_s": timeout,
            "cwd": None if cwd is None else str(Path(cwd).resolve()),
            "cancel_grace_s": cancel_grace_s,
            "peer_grace_s": peer_grace_s,
            "hang_timeout_s": hang_timeout_s,
            "max_start_failures": max_start_failures,
        }
        self._keepalive_payload = keepalive_payload or {}
        self._keepalive_interval = keepalive_interval
        self._keepalive_timer: asyncio.TimerHandle | None = None
        self._keepalive_task: asyncio.Task[Any] | None = None
        self._groups: list[Group] = []
        self._queue: deque[Request] = deque()
        self._running: dict[Request, Group] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._launcher: Launcher | None = None

    # --- life -------------------------------------------------------------------------------

    async def start(self, timeout: float = 1800, **kwargs: Any) -> None:
        """Starts every rank, calls ``setup(**kwargs)`` on each and waits until all are ready.

        Raises SetupFailed with the rank and its traceback, NotEnoughDevices, or RunnerError if
        the runner has been started already. A failed start leaves nothing behind.
        """
        if "POLYRANK_RANK" in os.environ:
            raise RunnerError(
                "a runner was started inside a rank; put the code that starts it under "
                "`if __name__ == '__main__':`"
            )
        if self._loop is not None:
            raise RunnerError("this runner has been started already")
        self._loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout):
                await self._start(kwargs)
        except BaseException as error:
            await self._tear_down(0)
            if isinstance(error, TimeoutError):
                raise SetupFailed(f"the ranks were not ready within {timeout:g} s") from None
            raise
        self._arm_keepalive()

    async def _start(self, kwargs: dict[str, Any]) -> None:
        source = describe_worker(self.worker_cls)
        self._launcher = launcher = make_launcher(
            self._launcher_name or EngineSettings().rank_launcher,
            Preload(preload_of(self.worker_cls), source.path),
        )
        wanted = self._device if self._device != "auto" else EngineSettings().device
        devices = await launcher.choose_devices(wanted, self.group_count, self.world_size)
        config = GroupConfig(world_size=self.world_size, devices=devices, **self._options)
        phases = await launcher.start()
        self._groups = [
            Group(index, config, launcher, self._on_group_change)
            for index in range(self.group_count)
        ]
        await all_or_none(group.start(source, kwargs) for group in self._groups)
        self.timings = [
            {"group": group.index, "rank": rank.rank, **phases, **rank.phases}
            for group in self._groups
            for rank in sorted(group.ranks, key=lambda rank: rank.rank)
        ]
        for row in self.timings:
            spent = ", ".join(
                f"{name.removesuffix('_s')} {seconds:.2f} s"
                for name, seconds in row.items()
                if isinstance(seconds, float)
            )
            log.info("group %d rank %d is ready: %s", row["group"], row["rank"], spent)

    async def stop(self, timeout: float = 10) -> None:
        """Fails what waits, ends what runs at its next checkpoint, tears down, ends the ranks.

        Whatever is left after ``timeout`` seconds is killed, and at once if this is cancelled.
        Stopping twice is fine.
        """
        await self._tear_down(timeout)

    async def terminate(self, timeout: float = 10) -> None:
        """The same as ``stop``."""
        await self.stop(timeout)

    async def _tear_down(self, timeout: float) -> None:
        self._disarm_keepalive()
        if self._keepalive_task is not None:
            self._keepalive_task.cancel()
        while self._queue:
            self._queue.popleft().fail(RunnerStopped("the runner was stopped"))
        groups, self._groups = self._groups, []
        try:
            await asyncio.gather(*(group.stop(timeout) for group in groups))
        finally:
            launcher, self._launcher = self._launcher, None
            if launcher is not None:
                await launcher.stop()
            self._loop = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        await self.stop()

    def is_alive(self) -> bool:
        """Whether every group can take requests now."""
        return bool(self._groups) and all(
            group.state in (State.IDLE, State.BUSY) for group in self._groups
        )

    async def ensure_alive(self) -> None:
        """Raises RunnerStopped unless a request would be served."""
        if not self._groups:
            raise RunnerStopped("the runner is not running; await start() first")
        if all(group.state is State.DOWN for group in self._groups):
            raise RunnerStopped(f"every group is down; the last error: {self._last_error()}")

    def gather_errors(self) -> list[Exception]:
        """The last error of each group that has had one."""
        return [group.last_error for group in self._groups if group.last_error is not None]

    @property
    def queued(self) -> int:
        """How many requests wait for a group."""
        return len(self._queue)

    # --- requests ---------------------------------------------------------------------------

    async def invoke(
        self,
        payload: dict[str, Any] | None = None,
        timeout: float | None = None,
        *,
        retries: int = 0,
    ) -> Any:
        """Calls the worker on every rank of a group and returns rank 0's result.

        ``timeout`` counts from now, waiting included; past it the work is stopped and
        RequestTimeout raised. Cancelling the awaiting task stops the work too. WorkerError names
        the rank that raised; WorkerDied the rank that ended, after up to ``retries`` more tries.
        """
        try:
            async with asyncio.timeout(timeout):
                for left in range(retries, -1, -1):
                    try:
                        return await self._invoke_once(payload)
                    except WorkerDied:
                        if left == 0:
                            raise
        except TimeoutError as error:
            if isinstance(error, RequestTimeout):
                raise
            raise RequestTimeout(f"the request did not end within {timeout:g} s") from None

    async def _invoke_once(self, payload: dict[str, Any] | None) -> Any:
        request = Request(_checked(payload))
        await self._enqueue(request)
        try:
            return await request.outcome
        finally:
            self._leave(request)

    async def stream(
        self,
        payload: dict[str, Any] | None = None,
        timeout: float | None = None,
        streaming_timeout: float | None = None,
        as_text_events: bool = False,
    ) -> AsyncIterator[Any]:
        """Calls the worker and yields rank 0's streamed results, then the result.

        ``as_text_events`` yields server-sent events as bytes instead of values. ``timeout``
        bounds the whole request, ``streaming_timeout`` the wait for each next item. Closing the
        iterator stops the work on every rank.
        """
        request = Request(_checked(payload), streaming=True, text_events=as_text_events)
        deadline = None if timeout is None else asyncio.get_running_loop().time() + timeout
        await self._enqueue(request)
        try:
            more = True
            while more:
                more, event = await _next_event(request, deadline, timeout, streaming_timeout)
                if more:
                    yield event
            yield await request.outcome
        finally:
            self._leave(request)

    async def keepalive(self, timeout: float | None = 60) -> None:
        """Makes the keep-alive call now; its failure is logged, not raised."""
        try:
            await self.invoke(self._keepalive_payload, timeout=timeout)
        except RunnerError as error:
            log.warning("the keep-alive call failed: %s", error)
        except RequestTimeout:
            log.warning("the keep-alive call took longer than %s s", timeout)

    async def _enqueue(self, request: Request) -> None:
        await self.ensure_alive()
        if asyncio.get_running_loop() is not self._loop:
            raise RunnerError(
                "the runner belongs to another event loop; call it from the loop that started it"
            )
        self._disarm_keepalive()
        self._interrupt_keepalive()
        self._queue.append(request)
        self._dispatch()
        if request in self._queue:
            request.keep_payload()

    def _dispatch(self) -> None:
        for group in self._groups:
            if not self._queue:
                break
            if group.state is State.IDLE:
                request = self._queue.popleft()
                self._running[request] = group
                group.submit(request)

    def _leave(self, request: Request) -> None:
        """The caller is done with the request, whether or not the request is done."""
        group = self._running.pop(request, None)
        if not request.done or request.outcome.cancelled():
            request.abandon()
            if group is not None:
                group.cancel(request)
            else:
                with contextlib.suppress(ValueError):
                    self._queue.remove(request)
        self._arm_keepalive()

    def _on_group_change(self, group: Group) -> None:
        if group.state is State.IDLE:
            self._dispatch()
        elif group.state is State.DOWN and all(g.state is State.DOWN for g in self._groups):
            error = RunnerStopped(f"every group is down; the last error: {self._last_error()}")
            while self._queue:
                self._queue.popleft().fail(error)

    def _last_error(self) -> str:
        errors = self.gather_errors()
        return str(errors[-1]) if errors else "none"

    # --- keep-alive -------------------------------------------------------------------------

    def _arm_keepalive(self) -> None:
        if self._keepalive_interval is None or self._loop is None or not self._groups:
            return
        self._disarm_keepalive()
        self._keepalive_timer = self._loop.call_later(self._keepalive_interval, self._when_idle)

    def _disarm_keepalive(self) -> None:
        if self._keepalive_timer is not None:
            self._keepalive_timer.cancel()
            self._keepalive_timer = None

    def _interrupt_keepalive(self) -> None:
        """A request has come: it does not wait for the keep-alive call."""
        task = self._keepalive_task
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    def _when_idle(self) -> None:
        if self._running or self._queue:
            self._arm_keepalive()
            return
        assert self._loop is not None
        self._keepalive_task = self._loop.create_task(self.keepalive(), name="polyrank-keepalive")


async def _next_event(
    request: Request,
    deadline: float | None,
    timeout: float | None,
    streaming_timeout: float | None,
) -> tuple[bool, Any]:
    loop = asyncio.get_running_loop()
    step = None if streaming_timeout is None else loop.time() + streaming_timeout
    when = min((t for t in (deadline, step) if t is not None), default=None)
    try:
        async with asyncio.timeout_at(when):
            return await request.next_event()
    except TimeoutError:
        if when == deadline:
            raise RequestTimeout(f"the request did not end within {timeout:g} s") from None
        raise RequestTimeout(f"nothing was streamed for {streaming_timeout:g} s") from None


def _checked(payload: dict[str, Any] | None) -> dict[str, Any]:
    if payload is None:
        return {}
    if not isinstance(payload, dict):
        raise ValueNotSendable(
            f"the payload is a {type(payload).__name__}; it becomes the worker's keyword "
            "arguments, so it must be a dict"
        )
    return payload


def preload_of(cls: type[DistributedWorker]) -> tuple[str, ...]:
    """What ``cls`` wants imported once. Raises ValueError for a string, as names are in a tuple.

    Anything else than names is a member of the user's that happens to be called so.
    """
    names: Any = cls.preload
    if isinstance(names, str):
        raise ValueError(f"{cls.__name__}.preload is a tuple of names: ({names!r},)")
    is_ours = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    return tuple(names) if is_ours else ()


def describe_worker(cls: type[DistributedWorker]) -> wire.WorkerSource:
    """How ranks get at ``cls``: by module name, by file, or by value where neither works."""
    module, qualname = cls.__module__, cls.__qualname__
    file = modules.loaded_from(module)
    by_value = module == "__main__" or "<locals>" in qualname or module not in sys.modules
    pickled: bytes | None = None
    if by_value:
        try:
            pickled = cloudpickle.dumps(cls)
        except Exception as error:
            raise SetupFailed(
                f"worker class {qualname} of {module} cannot be sent to the ranks by value "
                f"({type(error).__name__}: {error}); put it at the top of a module of its own"
            ) from error
    return wire.WorkerSource(
        module=module,
        qualname=qualname,
        file=None if file is None else str(file),
        pickled=pickled,
        path=[os.path.abspath(entry) for entry in sys.path],
        compat=compat.installed(),
    )
