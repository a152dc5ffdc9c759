"""How many replicas an app should have: a pure function of what is asked for and what is there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from polyrank.scaler.states import ReplicaState

# How long a replica that has never had a request is kept, unless the app asks for spare ones.
UNUSED_S = 10.0
# Each crash in a row makes the pause before the next start longer by this, up to the longest.
FAILURE_STEP_S = 30.0
LONGEST_FAILURE_DELAY_S = 600.0
# A crash after this long in service is an accident, and no sign that the app cannot run.
PROVEN_S = 60.0


@dataclass(frozen=True)
class Scaling:
    """The options of an app that say how it is scaled; docs/scaling.md explains each."""

    min_concurrency: int = 0
    max_concurrency: int | None = None
    concurrency_buffer: int = 0
    concurrency_buffer_perc: int = 0
    scaling_delay: float = 0.0
    keep_alive: float = 60.0
    max_multiplexing: int = 1

    @classmethod
    def of(cls, *options: Mapping[str, Any]) -> Scaling:
        """Those among an app's options; a later mapping wins, and None is no value."""
        names = [each.name for each in fields(cls)]
        given = {key: value for each in options for key, value in each.items() if value is not None}
        return cls(**{name: given[name] for name in names if name in given})

    def needed(self, requests: int) -> int:
        """How many replicas it takes to work on so many requests at once."""
        return -(-requests // self.max_multiplexing)

    def spare(self, needed: int) -> int:
        """How many replicas are wanted beside the needed ones."""
        share = -(-needed * self.concurrency_buffer_perc // 100)
        return max(self.concurrency_buffer, share)

    def target(self, requests: int) -> int:
        """How many replicas the app should have with so many requests."""
        needed = self.needed(requests)
        target = max(self.min_concurrency, needed + self.spare(needed))
        return target if self.max_concurrency is None else min(target, self.max_concurrency)


@dataclass(frozen=True)
class Failures:
    """The crashes of an app's replicas that make the next start wait."""

    in_a_row: int = 0
    last_at: float = -math.inf
    accidents: int = 0
    """Those in a row of replicas that had been ready: the first of them costs no pause."""

    @property
    def delay_s(self) -> float:
        """How long the next start waits after the last crash."""
        return min(FAILURE_STEP_S * self.in_a_row, LONGEST_FAILURE_DELAY_S)

    @property
    def retry_at(self) -> float:
        """From when on a replica may be started again."""
        return self.last_at + self.delay_s

    def after_crash(self, now: float, ready_for_s: float | None) -> Failures:
        """The failures with one more: a replica that was ready for so long, None if it never was.

        Not for replicas that were told to end.
        """
        if ready_for_s is not None and ready_for_s >= PROVEN_S:
            return Failures(0, now)
        is_long_ago = now > self.retry_at + LONGEST_FAILURE_DELAY_S
        before = Failures() if is_long_ago else self
        if ready_for_s is None:
            return Failures(before.in_a_row + 1, now, before.accidents)
        if before.accidents == 0:
            return Failures(before.in_a_row, now, 1)
        return Failures(before.in_a_row + 1, now, before.accidents + 1)


class Mode(StrEnum):
    """What an app is meant to do."""

    ACTIVE = "active"
    PAUSED = "paused"
    """Nothing is started and nothing stopped."""
    DRAINING = "draining"
    """Nothing is started, and what has no work is stopped."""


@dataclass(frozen=True)
class Replica:
    """A replica as the policy sees it; times are on the clock of ``Seen.now``.

    ``since`` is when it came into its state; ``last_used`` when it ended its last request, None if
    it has never had one. For one that was taken over from an earlier server, that is when it was.
    """

    id: str
    state: ReplicaState
    since: float
    requests: int = 0
    last_used: float | None = None

    @property
    def is_free(self) -> bool:
        """Whether it is ready and works on nothing."""
        return self.state is ReplicaState.IDLE and self.requests == 0

    @property
    def idle_since(self) -> float:
        """When it had something to do, or came to be ready, last."""
        return self.since if self.last_used is None else self.last_used

    def expires_at(self, keep_alive: float, surplus_since: float) -> float:
        """Until when it is kept without work, if there are more than wanted since then."""
        if self.last_used is None and surplus_since < self.since + UNUSED_S:
            return self.since + UNUSED_S
        # One that stood by as a spare counts from when it was not wanted any more.
        return max(self.idle_since, surplus_since) + keep_alive


@dataclass(frozen=True)
class Seen:
    """All that a decision depends on, at one moment."""

    now: float
    replicas: Sequence[Replica] = ()
    waiting: int = 0
    """Requests that no replica works on yet."""
    waiting_since: float | None = None
    """When the first of them came."""
    failures: Failures = field(default_factory=Failures)
    room: int | None = None
    """How many more replicas there are GPUs or slots for; None for any number."""
    claimed: int = 0
    """How many of this app's replicas others could use the GPUs or slots of, and wait for them."""
    surplus_since: float | None = None
    """That of the decision before, None if this is the first."""
    mode: Mode = Mode.ACTIVE


@dataclass(frozen=True)
class Decision:
    """What to do now.

    ``look_again_at`` is when to decide again even if nothing has changed. ``surplus_since``, when
    there came to be more ready replicas than wanted, is for the next decision to know.
    """

    start: int
    stop: tuple[str, ...]
    look_again_at: float | None
    why: str
    surplus_since: float | None = None


def decide(scaling: Scaling, seen: Seen) -> Decision:
    """What the app needs now. Whenever something of ``seen`` changes, it is to be asked again."""
    if seen.mode is Mode.PAUSED:
        return Decision(0, (), None, "paused: nothing is started or stopped")
    if seen.mode is Mode.DRAINING:
        workless = (each.id for each in seen.replicas if each.state.is_starting or each.is_free)
        return Decision(0, tuple(workless), None, "ends: what has no work is stopped")
    crew = _Crew.of(seen)
    start, starts_at, hindrance = _starts(scaling, seen, crew)
    surplus_since = None
    if crew.ready > scaling.target(crew.requests + seen.waiting):
        surplus_since = seen.now if seen.surplus_since is None else seen.surplus_since
    stop, stops_at = _stops(scaling, seen, crew, surplus_since)
    times = [at for at in (starts_at, stops_at) if at is not None]
    why = _why(scaling, seen, crew, start, len(stop), hindrance)
    return Decision(start, stop, min(times, default=None), why, surplus_since)


@dataclass(frozen=True)
class _Crew:
    """The replicas that count, by what they do: those that leave have been replaced already."""

    pending: list[Replica]
    starting: list[Replica]  # beyond pending
    free: list[Replica]
    working: int
    requests: int

    @classmethod
    def of(cls, seen: Seen) -> _Crew:
        """Those that came into their state last are the first of each list."""
        newest_first = sorted(seen.replicas, key=lambda each: (-each.since, each.id))
        serving = [each for each in newest_first if each.state.is_serving]
        starting = [each for each in newest_first if each.state.is_starting]
        free = [each for each in serving if each.is_free]
        return cls(
            [each for each in starting if each.state is ReplicaState.PENDING],
            [each for each in starting if each.state is not ReplicaState.PENDING],
            free,
            len(serving) - len(free),
            sum(each.requests for each in serving),
        )

    @property
    def ready(self) -> int:
        return self.working + len(self.free)

    @property
    def alive(self) -> int:
        return self.ready + len(self.starting) + len(self.pending)


def _starts(scaling: Scaling, seen: Seen, crew: _Crew) -> tuple[int, float | None, str]:
    """How many to start; when that may change by itself; what is in the way of more."""
    missing = scaling.target(crew.requests + seen.waiting) - crew.alive
    if missing <= 0:
        return 0, None, ""
    if seen.now < (retry_at := seen.failures.retry_at):
        return 0, retry_at, _crashed(seen.failures)
    look_at, hindrance = None, ""
    if seen.waiting and seen.waiting_since is not None:
        due_at = seen.waiting_since + scaling.scaling_delay
        if seen.now < due_at:
            missing = max(0, scaling.target(crew.requests) - crew.alive)
            look_at = due_at
            hindrance = f"requests wait for {scaling.scaling_delay:g} s first (scaling_delay)"
    if seen.room is not None and seen.room < missing:
        return max(0, seen.room), look_at, f"{missing - max(0, seen.room)} more when there is room"
    return missing, look_at, hindrance


def _stops(
    scaling: Scaling, seen: Seen, crew: _Crew, surplus_since: float | None
) -> tuple[tuple[str, ...], float | None]:
    """Which to stop, the cheapest first, and when the next one's time is over."""
    target = scaling.target(crew.requests + seen.waiting)
    # One that waits for its place has cost nothing yet.
    stop = crew.pending[: max(0, crew.alive - target)]
    surplus: list[Replica] = []
    ends: dict[str, float] = {}
    # Only ready ones count as surplus: those that are starting up may fail.
    if surplus_since is not None:
        ends = {each.id: each.expires_at(scaling.keep_alive, surplus_since) for each in crew.free}
        by_end = sorted(crew.free, key=lambda each: (ends[each.id], each.idle_since))
        surplus = by_end[: crew.ready - target]
        expired = sum(ends[each.id] <= seen.now for each in surplus)
        stop += surplus[: max(expired, seen.claimed)]
    if (limit := scaling.max_concurrency) is not None:
        above = max(0, crew.alive - len(stop) - limit)
        rest = [*crew.pending, *crew.starting, *surplus]
        stop += [each for each in rest if each not in stop][:above]
    next_at = min((ends[each.id] for each in surplus if each not in stop), default=None)
    return tuple(each.id for each in stop), next_at


def _why(scaling: Scaling, seen: Seen, crew: _Crew, start: int, stop: int, hindrance: str) -> str:
    requests = crew.requests + seen.waiting
    needed = scaling.needed(requests)
    target = scaling.target(requests)
    parts = [f"{_count(needed, 'replica')} for {_count(requests, 'request')}"]
    if seen.waiting:
        parts[0] += f" ({seen.waiting} waiting)"
    if spare := scaling.spare(needed):
        parts.append(f"{spare} spare")
    wanted = needed + spare
    if target > wanted:
        parts.append(f"at least {target} (min_concurrency)")
    elif target < wanted:
        parts.append(f"at most {target} (max_concurrency)")
    told = [", ".join(parts) + f"; there {'is' if crew.alive == 1 else 'are'} {crew.alive}"]
    if start:
        told.append(f"starting {start}")
    if stop:
        told.append(f"stopping {stop}")
    if hindrance:
        told.append(hindrance)
    return "; ".join(told)


def _crashed(failures: Failures) -> str:
    times = "once" if failures.in_a_row == 1 else f"{failures.in_a_row} times in a row"
    return f"crashed {times}: the next start waits for {failures.delay_s:g} s"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
