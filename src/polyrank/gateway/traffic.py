"""How many requests of an app come, how they end and how long they take.

What happens for each request is a few additions; what they mean is worked out when somebody asks.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Hashable
from typing import Generic, NamedTuple, TypeVar

K = TypeVar("K", bound=Hashable)

# The last minute is that of the last twelve slots, the current one included.
SLOT_S = 5
SLOTS = 12
# Upper ends of the buckets that durations are counted in; the last bucket has none.
BOUNDS_S = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
    *(120.0, 300.0, 600.0, 1800.0),
)


class Tally(Generic[K]):
    """Counts by key: since the start, and in the last minute."""

    def __init__(self) -> None:
        self._slot = 0
        self._current: defaultdict[K, int] = defaultdict(int)
        self._recent: deque[tuple[int, defaultdict[K, int]]] = deque()
        self._past: Counter[K] = Counter()

    def add(self, key: K, now: float) -> None:
        """Counts one more, at ``now`` on the monotonic clock."""
        slot = int(now) // SLOT_S
        if slot != self._slot:
            self._turn(slot)
        self._current[key] += 1

    def all(self) -> Counter[K]:
        """The counts since the start."""
        return self._held() + self._past

    def minute(self, now: float) -> Counter[K]:
        """The counts of the minute that ends now."""
        self._turn(int(now) // SLOT_S)
        return self._held()

    def _held(self) -> Counter[K]:
        found = Counter(self._current)
        for _, counts in self._recent:
            found.update(counts)
        return found

    def _turn(self, slot: int) -> None:
        """Begins a slot, and forgets when the counts of those of a minute ago were."""
        if self._current:
            self._recent.append((self._slot, self._current))
            self._current = defaultdict(int)
        self._slot = slot
        while self._recent and self._recent[0][0] <= slot - SLOTS:
            self._past.update(self._recent.popleft()[1])


class Completed(NamedTuple):
    """What completed requests are counted by; ``bucket`` is None for those that never ran."""

    method: str
    status: int
    bucket: int | None


class Traffic:
    """The requests of one app. A duration is in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.received: Tally[str] = Tally()
        self.completed: Tally[tuple[str, int, int | None]] = Tally()
        self.waited = [0] * (len(BOUNDS_S) + 1)
        self.waited_s = 0.0
        self.ran_s = 0.0
        self._clock = clock

    def note_received(self, method: str) -> None:
        """A request was taken in."""
        self.received.add(method, self._clock())

    def note_completed(
        self, method: str, status: int, waited_s: float, ran_s: float | None
    ) -> None:
        """A request has ended: how long it waited for a replica, and how long one worked on it."""
        self.waited[bisect_left(BOUNDS_S, waited_s)] += 1
        self.waited_s += waited_s
        bucket = None
        if ran_s is not None:
            bucket = bisect_left(BOUNDS_S, ran_s)
            self.ran_s += ran_s
        self.completed.add((method, status, bucket), self._clock())

    def minute(self) -> tuple[Counter[str], Counter[Completed]]:
        """What was received and what was completed in the last minute."""
        now = self._clock()
        return self.received.minute(now), _named(self.completed.minute(now))

    def all(self) -> tuple[Counter[str], Counter[Completed]]:
        """What was received and what was completed since the start."""
        return self.received.all(), _named(self.completed.all())


def _named(counts: Counter[tuple[str, int, int | None]]) -> Counter[Completed]:
    return Counter({Completed(*key): count for key, count in counts.items()})


def cumulated(counts: list[int]) -> list[int]:
    """For each bucket, how many are in it or in one before it."""
    total = 0
    return [total := total + count for count in counts]


def by_bucket(completed: Counter[Completed]) -> list[int]:
    """How many of the requests that ran are in each bucket."""
    counts = [0] * (len(BOUNDS_S) + 1)
    for key, count in completed.items():
        if key.bucket is not None:
            counts[key.bucket] += count
    return counts
