"""The replicas of one deployed app: as many as its policy wants, and each from start to end."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field

from polyrank import reports
from polyrank.errors import PolyrankError, StoreUnavailable
from polyrank.gateway.hosting import HostedApp
from polyrank.gateway.storing import PAUSE_S, stored
from polyrank.gateway.terms import Terms
from polyrank.scaler.gpus import Inventory, Lease, Wanted
from polyrank.scaler.health import HealthWatch
from polyrank.scaler.launch.base import Ended, Handle, Launcher, ReplicaSpec, Waiting
from polyrank.scaler.logs import Line, Logs
from polyrank.scaler.policy import Decision, Failures, Mode, Scaling, Seen, decide
from polyrank.scaler.policy import Replica as ReplicaSeen
from polyrank.scaler.states import ReplicaState
from polyrank.store.apps import Apps, ReplicaRow, Revision, new_id

log = logging.getLogger("polyrank.gateway")

# What happens within this time is looked at once.
SETTLE_S = 0.05
# How long a replica that is to end may work on what it has begun, unless its requests have a limit.
DRAIN_S = 3600.0
KEPT_LINES = 20
ASLEEP = "asleep: the next request starts a replica"


class ReplicaFailed(PolyrankError):
    """A replica ended before it was ready. Details: ``lines``, the last that it printed."""

    status = 503
    code = "runner_scheduling_failure"


@dataclass(eq=False)
class Kept:
    """A replica that was started and has not ended."""

    id: str
    revision: Revision
    wanted: Wanted
    state: ReplicaState = ReplicaState.PENDING
    since: float = field(default_factory=time.time)
    created_at: float = field(default_factory=time.time)
    ready_at: float | None = None
    # When it was taken over from an earlier server.
    adopted_at: float | None = None
    lease: Lease | None = None
    handle: Handle | None = None
    limits: reports.Limits | None = None
    # Done when it serves; failed if it ended before.
    ready: asyncio.Future[reports.Ready] = field(default_factory=asyncio.Future)
    # A rollout's replica is its own until it has taken over.
    is_candidate: bool = False
    is_ending: bool = False
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT_LINES))
    # There is a process.
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    watching: asyncio.Task[None] | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    on_enter: Callable[[], None] = lambda: None

    @property
    def gpus(self) -> tuple[str, ...]:
        """The GPUs that it has."""
        return () if self.lease is None else self.lease.gpus

    def enter(self, state: ReplicaState) -> None:
        """The replica is in another state from now on."""
        if state is not self.state:
            self.state, self.since = state, time.time()
            self.on_enter()


@dataclass(frozen=True)
class Ground:
    """What the fleets of all apps stand on.

    ``prepare`` makes what a replica of a revision is started with, from its lease; it may
    have to build an environment first, and tells how that goes line by line.
    """

    apps: Apps
    launcher: Launcher
    inventory: Inventory
    prepare: Callable[[Revision, Lease, Callable[[str], None]], Awaitable[ReplicaSpec]]
    forget: Callable[[str], Awaitable[None]]
    add_line: Callable[[reports.Line | reports.End], None]
    logs: Logs
    # A place is wanted, or is free again: other apps may give one back, or take it.
    on_places: Callable[[], None]
    # Something that people may want to see is different.
    on_change: Callable[[], None]
    server: str


class AppFleet:
    """One app's replicas. ``revision`` is the one that serves; ``count_queued`` tells how many
    requests wait in the store, and since when the first does."""

    def __init__(
        self,
        hosted: HostedApp,
        ground: Ground,
        changed: asyncio.Event,
        count_queued: Callable[[], Awaitable[tuple[int, float | None]]],
    ) -> None:
        self.hosted = hosted
        self.revision: Revision | None = None
        self.scaling = Scaling()
        self.wanted = Wanted.of()
        self.kept: dict[str, Kept] = {}
        self.why = ""
        self.is_paused = False
        self._ground = ground
        self._changed = changed
        self._count_queued = count_queued
        self._failures = Failures()
        self._surplus_since: float | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._is_leaving = False
        # Replicas can be started and ended from here on.
        self.begun = asyncio.Event()

    def __iter__(self) -> Iterator[Kept]:
        return iter(list(self.kept.values()))

    def state_of(self, kept: Kept) -> ReplicaState:
        """The state of a replica as it is now."""
        hosted = self.hosted.replicas.get(kept.id)
        if hosted is not None and not kept.is_ending:
            kept.enter(ReplicaState.RUNNING if hosted.running else ReplicaState.IDLE)
        return kept.state

    def census(self) -> list[tuple[str, str]]:
        """What each replica is at, as metrics have it, and the type of its machine."""
        states = [(self.state_of(kept), kept.wanted.machines[0].type) for kept in self]
        return [("pending" if state.is_starting else state.value, type) for state, type in states]

    def rescale(self, terms: Terms) -> None:
        """As many replicas as other ``terms`` want; the next ones on other machines."""
        self._take(terms)
        for replica in self.hosted.replicas:
            replica.limit = terms.scaling.max_multiplexing
        self.look()

    def look(self) -> None:
        """Something has changed that the policy may want to know."""
        self._changed.set()

    def serve(self, revision: Revision, terms: Terms) -> None:
        """New replicas are of this revision, as many as ``terms`` want."""
        self.revision = revision
        self._take(terms)
        self._failures = Failures()
        self.look()

    def _take(self, terms: Terms) -> None:
        self.scaling, self.wanted = terms.scaling, terms.wanted
        self.hosted.limits = terms.limit(self.hosted.limits)

    async def run(self) -> None:
        """Keeps as many replicas as are wanted, until cancelled; they run on then."""
        async with asyncio.TaskGroup() as self._tasks:
            for kept in self:
                self._begin(kept)
            self.begun.set()
            while True:
                self._changed.clear()
                decision = await self._decide()
                self.why, self._surplus_since = decision.why, decision.surplus_since
                self._ground.on_change()
                for id in decision.stop:
                    self.end(self.kept[id])
                for _ in range(decision.start):
                    assert self.revision is not None
                    self.start(self.revision)
                if not self.kept and self.revision is not None:
                    self.hosted.without_replica(ASLEEP)
                await self._wait(decision.look_again_at)

    def leave(self) -> None:
        """The server ends, and leaves its replicas to the next one."""
        self._is_leaving = True

    def has_room(self, wanted: Wanted | None = None) -> bool:
        """Whether one more replica would find its GPUs free now."""
        return self._ground.inventory.room(wanted or self.wanted) > 0

    def may_get_room(self, wanted: Wanted) -> bool:
        """Whether one more replica would find a place if other apps had none."""
        return self._ground.inventory.capacity(wanted) > len(self.kept)

    def explain_room(self, wanted: Wanted) -> str:
        """What is asked for and what there is, for people."""
        return f"it asks for {wanted}; {self._ground.inventory.describe()}"

    def follow_log(self, kept: Kept) -> AsyncIterator[Line]:
        """The lines of a replica's log, and those to come."""
        return self._ground.logs.read(kept.id, follow=True)

    def start(
        self, revision: Revision, wanted: Wanted | None = None, *, is_candidate: bool = False
    ) -> Kept:
        """Starts one more replica. A candidate gets no requests until it is admitted."""
        kept = Kept(new_id(), revision, wanted or self.wanted, is_candidate=is_candidate)
        self._add(kept)
        self._begin(kept)
        return kept

    def adopt(self, handle: Handle, revision: Revision, lease: Lease) -> None:
        """Goes on with a replica that a server before this one has started, once this runs."""
        kept = Kept(handle.spec.id, revision, self.wanted, ReplicaState.SETUP)
        kept.lease, kept.handle = lease, handle
        kept.adopted_at = time.time()
        self._add(kept)

    def _add(self, kept: Kept) -> None:
        kept.ready.add_done_callback(_seen)
        kept.on_enter = self._ground.on_change
        self.kept[kept.id] = kept
        self._ground.on_change()

    def end(self, kept: Kept, *, at_once: bool = False) -> asyncio.Task[None]:
        """Ends a replica, when it has done what it works on unless ``at_once``."""
        assert self._tasks is not None
        self._ground.inventory.expect_back(kept.id)
        return self._tasks.create_task(self._end(kept, at_once))

    async def end_all(self, *, at_once: bool = False) -> None:
        """Ends every replica, and waits for that."""
        for task in [self.end(kept, at_once=at_once) for kept in self]:
            await task

    def is_lost(self, id: str) -> None:
        """Nobody listens at a replica's address any more, or it asks to be replaced."""
        if (kept := self.kept.get(id)) is not None and not kept.is_ending:
            self.end(kept, at_once=True)

    def is_unfit(self, id: str) -> None:
        """A replica has answered that it cannot go on, or its health is bad: another takes its
        place once it has done what it works on."""
        if (kept := self.kept.get(id)) is not None and not kept.is_ending:
            log.warning("%s: replica %s is unfit; another takes its place", self.hosted.name, id)
            self.end(kept)

    # The policy.

    async def _decide(self) -> Decision:
        if self.revision is None or self._is_leaving:
            return Decision(0, (), None, "nothing is deployed")
        try:
            return decide(self.scaling, await self._see())
        except StoreUnavailable as error:
            log.error("%s; trying again", error)
            return Decision(0, (), time.time() + PAUSE_S, self.why)

    async def _see(self) -> Seen:
        waiting = self.hosted.replicas.waiting()
        queued, oldest = 0, None
        if self.hosted.replicas.is_busy:
            queued, oldest = await self._count_queued()
        now = time.time()
        since = [] if oldest is None else [oldest]
        since += [now - (time.monotonic() - at) for at in waiting[:1]]
        return Seen(
            now=now,
            replicas=[self._seen(kept) for kept in self if self._counts(kept)],
            waiting=queued + len(waiting),
            waiting_since=min(since, default=None),
            failures=self._failures,
            # Those that find no place wait for one, and so idle replicas of other apps learn of it.
            room=self._ground.inventory.capacity(self.wanted) - len(self.kept),
            claimed=self._ground.inventory.claims(self._by_use()),
            surplus_since=self._surplus_since,
            mode=Mode.PAUSED if self.is_paused else Mode.ACTIVE,
        )

    def _by_use(self) -> list[str]:
        """The replicas that hold a place, those first that can be spared most easily."""
        holding = [kept for kept in self if kept.lease is not None and not kept.is_ending]
        return [kept.id for kept in sorted(holding, key=lambda kept: self.state_of(kept) != "idle")]

    def _counts(self, kept: Kept) -> bool:
        return not kept.is_candidate and kept.revision is self.revision

    def _seen(self, kept: Kept) -> ReplicaSeen:
        hosted = self.hosted.replicas.get(kept.id)
        requests, last_used = 0, kept.adopted_at
        if hosted is not None:
            requests = hosted.running
            if hosted.used_at is not None:
                last_used = time.time() - (time.monotonic() - hosted.used_at)
        state = self.state_of(kept)
        return ReplicaSeen(kept.id, state, kept.since, requests=requests, last_used=last_used)

    async def _wait(self, until: float | None) -> None:
        left_s = None if until is None else max(0.0, until - time.time())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(left_s):
                await self._changed.wait()
        await asyncio.sleep(SETTLE_S)

    # One replica.

    def _begin(self, kept: Kept) -> None:
        assert self._tasks is not None
        kept.task = self._tasks.create_task(self._keep(kept))

    async def _keep(self, kept: Kept) -> None:
        reason = ""
        try:
            if kept.handle is None:
                await self._place(kept)
            reason = await self._follow(kept)
        except PolyrankError as error:
            reason = error.message
            log.error("%s: replica %s: %s", self.hosted.name, kept.id, error)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            log.exception("%s: replica %s", self.hosted.name, kept.id)
            if kept.handle is not None:
                kept.handle.kill()  # nobody follows it any more
        finally:
            if not self._is_leaving:
                await self._note_end(kept, reason)

    async def _place(self, kept: Kept) -> None:
        """Finds a place for the replica and starts it there."""
        ground, hosted = self._ground, self.hosted
        hosted.is_starting(kept.id, "waiting for a place on this machine")
        if not self.has_room(kept.wanted):
            ground.on_places()
        kept.lease = lease = await ground.inventory.lease(
            kept.wanted, kept.id, ahead=kept.is_candidate
        )
        row = ReplicaRow(kept.id, hosted.name, kept.revision.id, ground.server, lease.gpus)
        await stored(lambda: ground.apps.add_replica(row), f"replica {kept.id}")
        kept.enter(ReplicaState.BUILDING)
        hosted.is_starting(kept.id, "building its environment")
        spec = await stored(
            lambda: ground.prepare(kept.revision, lease, kept.lines.append), f"replica {kept.id}"
        )
        kept.enter(ReplicaState.SETUP)
        hosted.is_starting(kept.id)
        kept.handle = await ground.launcher.start(spec)
        kept.begun.set()

    async def _follow(self, kept: Kept) -> str:
        """Listens to what the replica reports, to its end; the reason of that."""
        assert kept.handle is not None
        async for report in kept.handle.follow():
            match report:
                case reports.Loaded():
                    kept.limits = report.limits
                    self.hosted.is_starting(kept.id)
                case Waiting():
                    self.hosted.is_starting(kept.id, report.reason)
                case reports.Loading():
                    self.hosted.is_loading(kept.id, report)
                case reports.Ready():
                    await self._is_ready(kept, report)
                case reports.Line() | reports.End():
                    self._ground.add_line(report)
                case Ended():
                    return report.reason
        return "the connection to its keeper was lost"

    async def _is_ready(self, kept: Kept, report: reports.Ready) -> None:
        kept.enter(ReplicaState.IDLE)
        kept.ready_at = time.time()
        if not kept.is_candidate:
            self.admit(kept, report)
        if not kept.ready.done():
            kept.ready.set_result(report)
        with contextlib.suppress(StoreUnavailable):  # it is noted at the replica's end, too
            await self._ground.apps.update_replica(kept.id, ready_at=kept.ready_at)

    def admit(self, kept: Kept, report: reports.Ready) -> None:
        """Gives the replica requests from now on."""
        kept.is_candidate = False
        self.hosted.is_ready(kept.id, report, kept.limits)
        if kept.limits is not None and kept.limits.health is not None:
            assert self._tasks is not None
            kept.watching = self._tasks.create_task(self._watch(kept, kept.limits.health))
        self.look()

    async def _watch(self, kept: Kept, check: reports.HealthCheck) -> None:
        """Calls the app's health check; a replica that fails it is replaced."""
        if (hosted := self.hosted.replicas.get(kept.id)) is None:
            return

        async def call(method: str, path: str) -> int:
            answer = await hosted.upstream.send(method, path.encode(), [], b"")
            answer.release()
            return answer.status

        watch = HealthWatch(check, call)
        hosted.on_check = watch.ask
        why = await watch.run()
        log.warning("%s: replica %s: %s", self.hosted.name, kept.id, why)
        self.is_unfit(kept.id)

    async def _end(self, kept: Kept, at_once: bool) -> None:
        if not kept.is_ending:
            kept.is_ending = True
            kept.enter(ReplicaState.DRAINING)
            if not at_once:
                await self._drain(kept)
            kept.enter(ReplicaState.TERMINATING)
            self.hosted.replicas.remove(kept.id)
            if kept.handle is not None:
                await kept.handle.terminate()
            elif kept.task is not None:
                kept.task.cancel()
        await kept.ended.wait()

    async def _drain(self, kept: Kept) -> None:
        limit_s = (kept.limits.request_timeout_s if kept.limits else None) or DRAIN_S
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self.hosted.replicas.drain(kept.id)

    async def _note_end(self, kept: Kept, reason: str) -> None:
        """The replica is no more: what it had is free, and who waited for it is told."""
        now = time.time()
        was_ready = kept.ready.done()
        if not was_ready:
            async for line in self._ground.logs.read(kept.id, limit=KEPT_LINES):
                kept.lines.append(line.message)
            kept.ready.set_exception(ReplicaFailed(reason, lines=list(kept.lines)))
        why, pause_s = "", 0.0
        if not (kept.is_ending or kept.is_candidate):
            ready_for_s = None if kept.ready_at is None else now - kept.ready_at
            self._failures = self._failures.after_crash(now, ready_for_s)
            if not was_ready:
                why, pause_s = reason, self._failures.retry_at - now
        if kept.watching is not None:
            kept.watching.cancel()
        del self.kept[kept.id]
        if kept.lease is not None:
            kept.lease.release()
            self._ground.on_places()
        self.hosted.is_gone(kept.id, why, pause_s)
        self.look()
        try:
            record = functools.partial(self._record_end, kept, now, reason)
            await stored(record, f"the end of {kept.id}", on_late=kept.ended.set)
        finally:
            kept.enter(ReplicaState.TERMINATED)
            kept.ended.set()

    async def _record_end(self, kept: Kept, now: float, reason: str) -> None:
        await self._ground.apps.update_replica(
            kept.id, ready_at=kept.ready_at, ended_at=now, reason=reason
        )
        await self._ground.forget(kept.id)


def _seen(future: asyncio.Future[reports.Ready]) -> None:
    """Nobody may be waiting for a replica's start; its failure is logged where it happens."""
    if not future.cancelled():
        future.exception()
