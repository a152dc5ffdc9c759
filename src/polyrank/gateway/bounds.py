"""How many requests may wait for an app: nothing that callers fill grows without a limit."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from polyrank.errors import QueueFull
from polyrank.store.requests import Requests

# How long a count is believed; what is submitted meanwhile is added to it.
BELIEVED_S = 1.0
# The same for a count that keeps everybody out.
FULL_S = 0.05


class Bounds:
    """Counts the waiting requests of each app, at most once a second: counting them for every
    submit would cost more the fuller the queue is. So the limit is kept to within what other
    servers of one database take in a second."""

    def __init__(
        self, requests: Requests, limit: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._requests = requests
        self._limit = limit
        self._clock = clock
        self._counted: dict[str, _Count] = {}

    async def check(self, app: str) -> int:
        """Counts one more request of ``app``; about how many wait before it. Raises QueueFull if as
        many wait as may."""
        count = self._counted.get(app)
        now = self._clock()
        if count is None or not count.holds(now, self._limit):
            count = _Count(now, await self._requests.count_queued(app))
            self._counted[app] = count
        if count.waiting + count.added >= self._limit:
            raise QueueFull(
                f"{count.waiting} requests wait for {app}, as many as this server lets wait",
                waiting=count.waiting,
                limit=self._limit,
            )
        count.added += 1
        return count.waiting + count.added - 1


@dataclass
class _Count:
    """How many waited at a time, and how many were let in since."""

    at: float
    waiting: int
    added: int = 0

    def holds(self, now: float, limit: int) -> bool:
        """Whether it is good enough to go by."""
        if self.waiting + self.added < limit:
            return now - self.at < BELIEVED_S
        # Those let in may have been started since: nobody is refused for a guess.
        return self.added == 0 and now - self.at < FULL_S
