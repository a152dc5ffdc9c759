"""One group: ranks that work on one request together, live and die together.

A group has one request at a time. It is free again when every rank has reported; a rank that
dies, or does not report in time, costs the whole group, which is killed and started afresh in a
new epoch, while requests that wait keep waiting in the runner's queue.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from polyrank.distributed import values, wire
from polyrank.distributed.launch.base import Devices, Exit, Launcher, Link, RankProcess, Store
from polyrank.distributed.request import Request
from polyrank.distributed.tasks import all_or_none
from polyrank.distributed.transport import place
from polyrank.errors import (
    PolyrankError,
    RunnerStopped,
    SetupFailed,
    WorkerDied,
    WorkerError,
)

log = logging.getLogger("polyrank.distributed")
rank_log = logging.getLogger("polyrank.rank")

STDERR_LINES = 40
MAX_BACKOFF_S = 30.0
# How long a rank's error waits for the reports of its peers, or the news that one has died, which
# is then the reason. A machine under load, or another machine, takes its time to tell.
DEATH_NEWS_S = 1.0


class State(enum.Enum):
    """Where a group is in its life."""

    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"
    DOWN = "down"
    STOPPED = "stopped"


@dataclass(frozen=True)
class GroupConfig:
    """What every group of a runner has in common."""

    world_size: int
    devices: Devices
    process_group_timeout_s: float
    cwd: str | None
    cancel_grace_s: float
    peer_grace_s: float
    hang_timeout_s: float | None
    max_start_failures: int


@dataclass
class RankState:
    """What the group knows about one rank of the current epoch."""

    rank: int
    process: RankProcess
    stderr: deque[str]
    reported: bool = True
    phases: dict[str, float] = field(default_factory=dict)


class Group:
    """Starts the ranks, gives them one request after the other, and starts them again."""

    def __init__(
        self,
        index: int,
        config: GroupConfig,
        launcher: Launcher,
        on_change: Callable[[Group], None],
    ) -> None:
        self.index = index
        self.config = config
        self.state = State.STARTING
        self.epoch = 0
        self.ranks: list[RankState] = []
        self.last_error: PolyrankError | None = None
        self._launcher = launcher
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._worker: wire.WorkerSource
        self._setup_kwargs: dict[str, Any] = {}
        self._link: Link
        self._coming_up: asyncio.Future[None] | None = None
        self._call: RunningCall | None = None
        self._calls = 0
        self._restart_task: asyncio.Task[None] | None = None
        self._all_gone: asyncio.Future[None] | None = None

    # --- life -------------------------------------------------------------------------------

    async def start(self, worker: wire.WorkerSource, setup_kwargs: dict[str, Any]) -> None:
        """Brings the group up for the first time. Raises SetupFailed; nothing is left then."""
        self._worker = worker
        self._setup_kwargs = setup_kwargs
        await self._bring_up()
        self._become(State.IDLE)

    async def stop(self, timeout_s: float) -> None:
        """Ends the ranks: an orderly teardown within ``timeout_s``, then by force.

        By force at once if whoever waits for it is cancelled.
        """
        self._become(State.STOPPED)
        try:
            if self._restart_task is not None:
                self._restart_task.cancel()
                await asyncio.gather(self._restart_task, return_exceptions=True)
            if self._call is not None:
                await self._end_work(self._call, timeout_s / 2)
            for rank in self.ranks:
                self._link.send(rank.rank, wire.Stop(epoch=self.epoch))
            if not await self._ended(timeout_s):
                log.warning(
                    "group %d did not stop within %g s and was killed", self.index, timeout_s
                )
        finally:
            await self._clear()

    async def _end_work(self, call: RunningCall, timeout_s: float) -> None:
        call.request.fail(RunnerStopped("the runner was stopped while the request ran"))
        self._link.cancel(call.number)
        await asyncio.wait([call.all_reported], timeout=timeout_s)
        if self._call is call:
            self._end_call()

    async def _bring_up(self) -> None:
        """Launches every rank in a new epoch and waits until all are ready."""
        self.epoch += 1
        self._link = self._launcher.link(self.index, self.epoch, self.config.world_size)
        self._coming_up = self._loop.create_future()
        try:
            store = await self._link.open()
            await all_or_none(self._launch(rank, store) for rank in range(self.config.world_size))
            await self._coming_up
        except BaseException:
            await self._clear()
            raise
        finally:
            self._coming_up = None

    async def _launch(self, rank: int, store: Store) -> None:
        epoch, link = self.epoch, self._link
        stderr: deque[str] = deque(maxlen=STDERR_LINES)
        setup = self._setup_frame(rank, store)

        def on_frame(frame: wire.FromRank, inline: list[bytes]) -> None:
            if frame.epoch != self.epoch:
                return  # of a group that is gone
            if isinstance(frame, wire.Hello):
                link.send(rank, *setup)
            else:
                self._on_frame(self._rank(rank), frame, inline)

        def on_line(stream: str, line: str) -> None:
            if stream == "stderr":
                stderr.append(line)
            self._log_line(rank, stream, line)

        process = await link.launch(rank, self._environment(rank, store), on_frame, on_line)
        state = RankState(rank, process, stderr)
        self.ranks.append(state)
        process.exited.add_done_callback(lambda ended: self._on_exit(epoch, state, ended.result()))

    def _setup_frame(self, rank: int, store: Store) -> tuple[wire.Setup, list[wire.Buffer]]:
        config = self.config
        header, buffers = values.encode(self._setup_kwargs)
        kwargs, inline = place(header, buffers, None)
        setup = wire.Setup(
            epoch=self.epoch,
            worker=self._worker,
            kwargs=kwargs,
            device=self._link.device(config.devices.kind, rank),
            seed=random.SystemRandom().getrandbits(60),
            store_host=store.host,
            store_port=store.port,
            timeout_s=config.process_group_timeout_s,
            threads=config.devices.threads,
            cwd=config.cwd,
        )
        return setup, inline

    def _environment(self, rank: int, store: Store) -> dict[str, str]:
        return {
            "POLYRANK_RANK": f"{self.index}.{rank}",
            "RANK": str(rank),
            "WORLD_SIZE": str(self.config.world_size),
            "MASTER_ADDR": store.host,
            "MASTER_PORT": str(store.port),
        }

    # --- requests ---------------------------------------------------------------------------

    def submit(self, request: Request) -> None:
        """Gives the request to every rank. The group must be idle."""
        self._calls += 1
        call = RunningCall(self._calls, request, self._loop.create_future())
        self._call = call
        self._become(State.BUSY)
        header, buffers = request.take_buffers()
        for rank in self.ranks:
            rank.reported = False
        frame = wire.Call(
            epoch=self.epoch,
            number=call.number,
            request_id=request.request_id,
            streaming=request.streaming,
            text_events=request.text_events,
            payload=wire.Value(header),
        )
        self._link.call(frame, buffers)
        if request.streaming:
            request.on_consumed = lambda count: self._link.give_credits(call.number, count)
            self._link.give_credits(call.number, 0)
        if self.config.hang_timeout_s is not None:
            call.hang_timer = self._loop.call_later(self.config.hang_timeout_s, self._check_hang)

    def cancel(self, request: Request) -> None:
        """The request's caller has gone: its ranks leave at their next common checkpoint."""
        call = self._call
        if call is None or call.request is not request or self.state is not State.BUSY:
            return
        self._link.cancel(call.number)
        self._arm_grace(call, self.config.cancel_grace_s, "after it was cancelled")

    def _arm_grace(self, call: RunningCall, seconds: float, why: str) -> None:
        if call.grace_timer is not None:
            call.grace_timer.cancel()
        call.grace_timer = self._loop.call_later(seconds, self._on_grace_over, call, seconds, why)

    def _on_grace_over(self, call: RunningCall, seconds: float, why: str) -> None:
        if self._call is call:
            stuck = ", ".join(str(rank.rank) for rank in self.ranks if not rank.reported)
            self._give_up(
                call,
                WorkerDied(
                    f"rank {stuck} had not left the request {seconds:g} s {why}; the group was "
                    "killed and is started again"
                ),
            )

    def _check_hang(self) -> None:
        """Asks for the progress of the ranks; a machine that does not answer hangs, too."""
        call, limit = self._call, self.config.hang_timeout_s
        if call is None or limit is None:
            return
        call.hang_timer = self._loop.call_later(limit, self._on_hang, call, limit)
        self._link.measure_idle(lambda idle_s: self._on_idle(call, limit, idle_s))

    def _on_idle(self, call: RunningCall, limit: float, idle_s: float) -> None:
        if self._call is not call or call.hang_timer is None:
            return
        call.hang_timer.cancel()
        idle_s = min(idle_s, time.monotonic() - call.begun_s)
        if idle_s < limit:
            call.hang_timer = self._loop.call_later(limit - idle_s, self._check_hang)
        else:
            self._on_hang(call, limit)

    def _on_hang(self, call: RunningCall, limit: float) -> None:
        if self._call is call:
            error = WorkerDied(f"no progress for {limit:g} s: a rank hangs", stderr="")
            self._give_up(call, error)

    def _give_up(self, call: RunningCall, error: WorkerDied) -> None:
        """No rank has died; if one has raised, that is what the caller is told."""
        if call.error is not None:
            call.request.fail(call.error)
        self._lose(error)

    # --- frames -----------------------------------------------------------------------------

    def _on_frame(self, rank: RankState, frame: wire.FromRank, inline: list[bytes]) -> None:
        match frame:
            case wire.Ready():
                rank.phases = frame.phases
                self._on_ready()
            case wire.Failure(number=0):
                self._on_setup_failure(rank, frame)
            case wire.Settled():
                self._on_report(rank)
            case wire.Event() | wire.Done() | wire.Left() | wire.Failure():
                call = self._call
                if call is None or frame.number != call.number:
                    return
                match frame:
                    case wire.Event():
                        self._on_event(call, rank, frame, inline)
                    case wire.Done():
                        self._on_done(call, rank, frame, inline)
                    case wire.Left():
                        call.left[rank.rank] = frame.step
                        self._link.release(frame.released)
                        self._on_report(rank)
                    case wire.Failure():
                        self._on_failure(call, rank, frame)

    def _on_ready(self) -> None:
        coming_up = self._coming_up
        if (
            coming_up is not None
            and not coming_up.done()
            and len(self.ranks) == self.config.world_size
            and all(rank.phases for rank in self.ranks)
        ):
            coming_up.set_result(None)

    def _on_setup_failure(self, rank: RankState, frame: wire.Failure) -> None:
        self._fail_start(
            SetupFailed(
                f"setup failed on rank {rank.rank}: {frame.error_type}: {frame.message}",
                rank=rank.rank,
                error_type=frame.error_type,
                traceback=frame.traceback,
            )
        )

    def _on_event(
        self, call: RunningCall, rank: RankState, frame: wire.Event, inline: list[bytes]
    ) -> None:
        if frame.value is None:
            event: Any = inline[0]
        else:
            event = self._decode(rank, frame.value, inline)
        call.request.add_event(event)

    def _on_done(
        self, call: RunningCall, rank: RankState, frame: wire.Done, inline: list[bytes]
    ) -> None:
        self._link.release(frame.released)
        if frame.result is not None:
            try:
                call.result = self._decode(rank, frame.result, inline)
            except Exception as error:
                call.error = call.error or _as_error(error, rank.rank)
        self._on_report(rank)

    def _on_failure(self, call: RunningCall, rank: RankState, frame: wire.Failure) -> None:
        self._link.release(frame.released)
        error = WorkerError(
            f"rank {rank.rank} raised {frame.error_type}: {frame.message}",
            rank=rank.rank,
            error_type=frame.error_type,
            traceback=frame.traceback,
        )
        log.error("request %s: %s\n%s", call.request.request_id, error, frame.traceback)
        call.error = call.error or error
        if frame.fatal:
            call.request.fail(call.error)
            self._lose(WorkerDied(f"rank {rank.rank} lost its device: {frame.message}"))
            return
        # A rank often fails because another one died, and the news of the death is on its way.
        self._loop.call_later(DEATH_NEWS_S, call.request.fail, call.error)
        # Peers may be stuck in a collective that this rank will never join.
        self._link.cancel(call.number)
        self._arm_grace(call, self.config.peer_grace_s, "after another rank had failed")
        self._on_report(rank)

    def _on_report(self, rank: RankState) -> None:
        rank.reported = True
        call = self._call
        if call is None or not all(state.reported for state in self.ranks):
            return  # no call: the group was given up a moment ago
        if call.error is not None and not call.settled:
            # What the failed ranks left queued on their devices must end before the next call.
            call.settled = True
            for state in self.ranks:
                state.reported = False
                self._link.send(state.rank, wire.Settle(epoch=self.epoch))
            return
        for state in self.ranks:
            state.process.drain()  # log lines of this request still carry its id
        request = self._end_call()
        if call.error is not None:
            request.fail(call.error)
        elif len(call.left) == 0:
            request.succeed(call.result)
        self._become(State.IDLE)

    def _end_call(self) -> Request:
        call = self._call
        assert call is not None
        self._call = None
        call.request.on_consumed = None
        for timer in (call.grace_timer, call.hang_timer):
            if timer is not None:
                timer.cancel()
        if not call.all_reported.done():
            call.all_reported.set_result(None)
        return call.request

    # --- death and restart ------------------------------------------------------------------

    def _on_exit(self, epoch: int, rank: RankState, ended: Exit) -> None:
        if epoch != self.epoch or self.state in (State.STOPPED, State.DOWN):
            return
        tail = "\n".join(rank.stderr)
        message = f"rank {rank.rank} {ended}"
        details = {
            "rank": rank.rank,
            "exit_code": ended.code,
            "signal": ended.signal,
            "stderr": tail,
        }
        if self._coming_up is not None:
            self._fail_start(
                SetupFailed(f"{message} before it was ready" + _quoted(tail), **details)
            )
        elif self.state in (State.IDLE, State.BUSY):
            self._lose(WorkerDied(message + _quoted(tail), **details))

    def _fail_start(self, error: SetupFailed) -> None:
        if self._coming_up is not None and not self._coming_up.done():
            self._coming_up.set_exception(error)

    def _lose(self, error: WorkerDied) -> None:
        """The group is lost: fail what runs, kill what is left, start again."""
        log.error("group %d: %s", self.index, error)
        self.last_error = error
        if self._call is not None:
            self._end_call().fail(error)
        if self.state is State.STOPPED:
            return self._kill()  # ``stop`` waits for their end
        self._become(State.STARTING)
        self._restart_task = self._loop.create_task(
            self._restart(), name=f"polyrank-restart-group-{self.index}"
        )

    async def _restart(self) -> None:
        await self._clear()
        for failures in range(self.config.max_start_failures):
            if failures:
                await asyncio.sleep(min(2.0 ** (failures - 1), MAX_BACKOFF_S))
            try:
                await self._launcher.start()
                await self._bring_up()
            except SetupFailed as error:
                self.last_error = error
                log.error("group %d did not come up again: %s", self.index, error)
            else:
                log.info("group %d is up again", self.index)
                self._become(State.IDLE)
                return
        log.error("group %d failed in every start and is left down", self.index)
        self._become(State.DOWN)

    async def _clear(self) -> None:
        """Kills what is left of this epoch and frees its memory."""
        self._kill()
        await self._ended()
        for rank in self.ranks:
            rank.process.close()
        self.ranks = []
        self._link.close()

    def _kill(self) -> None:
        for rank in self.ranks:
            rank.process.kill()

    async def _ended(self, timeout_s: float | None = None) -> bool:
        """Waits until every rank process has ended; false if some have not within the time."""
        if not self.ranks:
            return True
        exits = [rank.process.exited for rank in self.ranks]
        _, running = await asyncio.wait(exits, timeout=timeout_s)
        return not running

    # --- helpers ----------------------------------------------------------------------------

    def _become(self, state: State) -> None:
        if self.state is State.STOPPED:
            return
        self.state = state
        self._on_change(self)

    def _rank(self, rank: int) -> RankState:
        return next(state for state in self.ranks if state.rank == rank)

    def _decode(self, rank: RankState, value: wire.Value, inline: list[bytes]) -> Any:
        return values.decode(value.header, self._link.collect(rank.rank, value.places, inline))

    def _log_line(self, rank: int, stream: str, line: str) -> None:
        request_id = self._call.request.request_id if self._call is not None else None
        level = logging.INFO if stream == "stdout" else logging.WARNING
        rank_log.log(
            level,
            "[rank %d] %s",
            rank,
            line,
            extra={
                "rank": rank,
                "group": self.index,
                "request_id": request_id,
                "stream": stream,
            },
        )


@dataclass
class RunningCall:
    """A group's bookkeeping of the request it is working on."""

    number: int
    request: Request
    all_reported: asyncio.Future[None]
    result: Any = None
    error: PolyrankError | None = None
    settled: bool = False
    left: dict[int, int] = field(default_factory=dict)
    begun_s: float = field(default_factory=time.monotonic)
    grace_timer: asyncio.TimerHandle | None = None
    hang_timer: asyncio.TimerHandle | None = None


def _as_error(error: Exception, rank: int) -> PolyrankError:
    if isinstance(error, PolyrankError):
        return error
    return WorkerError(
        f"the result of rank {rank} cannot be read: {error}",
        rank=rank,
        error_type=type(error).__name__,
        traceback="",
    )


def _quoted(stderr: str) -> str:
    return f"; its last lines were:\n{stderr}" if stderr else ""
