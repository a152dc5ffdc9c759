"""One app under a trace of requests, its replicas started and stopped by the policy."""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from benchmarks.scaling.traces import Floats, Trace
from polyrank.scaler.policy import UNUSED_S, Decision, Failures, Replica, Scaling, Seen, decide
from polyrank.scaler.states import ReplicaState

READY, LOOK, CRASH = range(3)


@dataclass(frozen=True)
class World:
    """What the policy does not choose."""

    startup_s: float = 20.0
    room: int | None = None
    """How many replicas there is room for at all."""
    failing_starts: float = 0.0
    """The share of starts that end in a crash."""
    life_s: float = math.inf
    """How long a replica serves on average until it crashes."""
    seed: int = 0


@dataclass
class Outcome:
    """What came of it."""

    waits: Floats
    cost: float = 0.0
    """Replica-seconds, from a start to its end."""
    starts: int = 0
    crashes: int = 0
    most: int = 0
    decisions: int = 0

    def wait(self, share: float) -> float:
        """The time within which this share of the requests began."""
        return float(np.quantile(self.waits, share))


@dataclass(eq=False)
class _Simulated:
    id: str
    number: int
    started_at: float
    state: ReplicaState
    since: float
    ready_at: float | None = None
    last_used: float | None = None
    # Its requests, by their number in the trace.
    works_on: set[int] = field(default_factory=set)

    def seen(self) -> Replica:
        return Replica(self.id, self.state, self.since, len(self.works_on), self.last_used)


class Simulation:
    """Goes from event to event; ``watch`` is shown each decision with what it was made on.

    Requests go to the replica with the least to do, the oldest of several, as the server's do. A
    request whose replica crashes waits again, in front.
    """

    def __init__(
        self,
        trace: Trace,
        scaling: Scaling,
        world: World | None = None,
        watch: Callable[[Seen, Decision], None] | None = None,
    ) -> None:
        self._trace = trace
        self._scaling = scaling
        self._world = world or World()
        self._watch = watch
        self._random = random.Random(self._world.seed)
        self._outcome = Outcome(np.zeros(len(trace)))
        self._replicas: dict[str, _Simulated] = {}
        self._idle: list[tuple[int, _Simulated]] = []
        self._waiting: deque[int] = deque()
        # (when, number, replica, its request)
        self._working: list[tuple[float, int, _Simulated, int]] = []
        self._timers: list[tuple[float, int, int, _Simulated | None]] = []
        self._sequence = 0
        self._look_at = math.inf
        self._surplus_since: float | None = None
        self._failures = Failures()
        self._arrivals: list[float] = trace.arrivals.tolist()
        self._service: list[float] = trace.service.tolist()

    def run(self) -> Outcome:
        """The whole trace, and on until those replicas are stopped that nobody wants."""
        arrivals, working, timers = self._arrivals, self._working, self._timers
        now, following = 0.0, 0
        self._decide(now)
        horizon = math.inf
        while now <= horizon:
            arrival = arrivals[following] if following < len(arrivals) else math.inf
            end = working[0][0] if working else math.inf
            timer = timers[0][0] if timers else math.inf
            if (event_at := min(arrival, end, timer)) == math.inf:
                break
            now = event_at
            if now == end:
                self._finish(*heapq.heappop(working))
            elif now == timer:
                self._ring(*heapq.heappop(timers))
            else:
                self._arrive(now, following)
                following += 1
            if horizon == math.inf and self._is_done(following):
                horizon = now + self._scaling.keep_alive + self._world.startup_s + UNUSED_S
        for each in self._replicas.values():  # kept by min_concurrency or as spare
            self._outcome.cost += now - each.started_at
        assert not self._waiting or self._cannot_serve(), "requests wait, and nothing will happen"
        return self._outcome

    def _is_done(self, following: int) -> bool:
        return following == len(self._arrivals) and not self._waiting and not self._working

    def _cannot_serve(self) -> bool:
        return self._scaling.max_concurrency == 0 or self._world.room == 0

    def _arrive(self, now: float, request: int) -> None:
        self._waiting.append(request)
        self._assign(now)
        # Where a request is served at once and nobody wants spares, nothing else is decided.
        if self._waiting or self._has_spares():
            self._decide(now)

    def _finish(self, now: float, _: int, replica: _Simulated, request: int) -> None:
        if request not in replica.works_on:
            return  # it has crashed
        replica.works_on.remove(request)
        replica.last_used = now
        if not replica.works_on:
            replica.state, replica.since = ReplicaState.IDLE, now
        self._offer(replica)
        self._assign(now)
        if self._look_at == math.inf or self._has_spares():
            self._decide(now)

    def _has_spares(self) -> bool:
        return bool(self._scaling.concurrency_buffer or self._scaling.concurrency_buffer_perc)

    def _offer(self, replica: _Simulated) -> None:
        if self._scaling.max_multiplexing == 1:
            heapq.heappush(self._idle, (replica.number, replica))

    def _assign(self, now: float) -> None:
        while self._waiting and (replica := self._least_busy()) is not None:
            request = self._waiting.popleft()
            replica.works_on.add(request)
            if replica.state is ReplicaState.IDLE:
                replica.state, replica.since = ReplicaState.RUNNING, now
            self._outcome.waits[request] = now - self._arrivals[request]
            self._sequence += 1
            end = now + self._service[request]
            heapq.heappush(self._working, (end, self._sequence, replica, request))

    def _least_busy(self) -> _Simulated | None:
        if self._scaling.max_multiplexing > 1:
            free = [
                each
                for each in self._replicas.values()
                if each.state.is_serving and len(each.works_on) < self._scaling.max_multiplexing
            ]
            return min(free, key=lambda each: (len(each.works_on), each.number), default=None)
        while self._idle:
            _, replica = heapq.heappop(self._idle)
            if replica.id in self._replicas:
                return replica
        return None

    def _ring(self, now: float, _: int, kind: int, replica: _Simulated | None) -> None:
        if replica is None:
            if now != self._look_at:
                return  # another time has been set since
            self._look_at = math.inf
        elif replica.id not in self._replicas:
            return  # it was stopped meanwhile
        elif kind == READY and self._random.random() >= self._world.failing_starts:
            replica.state, replica.since, replica.ready_at = ReplicaState.IDLE, now, now
            if self._world.life_s < math.inf:
                life_s = self._random.expovariate(1 / self._world.life_s)
                self._set(now + life_s, CRASH, replica)
            self._offer(replica)
            self._assign(now)
        else:
            self._crash(now, replica)
        self._decide(now)

    def _crash(self, now: float, replica: _Simulated) -> None:
        self._outcome.crashes += 1
        ready_for_s = None if replica.ready_at is None else now - replica.ready_at
        self._failures = self._failures.after_crash(now, ready_for_s)
        self._waiting.extendleft(sorted(replica.works_on, reverse=True))
        replica.works_on.clear()
        self._end(now, replica)

    def _end(self, now: float, replica: _Simulated) -> None:
        del self._replicas[replica.id]
        self._outcome.cost += now - replica.started_at

    def _set(self, at: float, kind: int, replica: _Simulated | None) -> None:
        self._sequence += 1
        heapq.heappush(self._timers, (at, self._sequence, kind, replica))

    def _decide(self, now: float) -> None:
        room = self._world.room
        seen = Seen(
            now=now,
            replicas=[each.seen() for each in self._replicas.values()],
            waiting=len(self._waiting),
            waiting_since=self._arrivals[self._waiting[0]] if self._waiting else None,
            failures=self._failures,
            room=None if room is None else room - len(self._replicas),
            surplus_since=self._surplus_since,
        )
        decision = decide(self._scaling, seen)
        self._outcome.decisions += 1
        if self._watch is not None:
            self._watch(seen, decision)
        self._surplus_since = decision.surplus_since
        for id in decision.stop:
            self._end(now, self._replicas[id])
        for _ in range(decision.start):
            self._start(now)
        self._outcome.most = max(self._outcome.most, len(self._replicas))
        self._look_at = math.inf
        if decision.look_again_at is not None:
            self._look_at = decision.look_again_at
            self._set(decision.look_again_at, LOOK, None)

    def _start(self, now: float) -> None:
        number = self._outcome.starts = self._outcome.starts + 1
        replica = _Simulated(f"{number:06}", number, now, ReplicaState.SETUP, now)
        self._replicas[replica.id] = replica
        self._set(now + self._world.startup_s, READY, replica)
