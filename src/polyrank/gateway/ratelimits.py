"""How often a key may call: a bucket of tokens for each, that fills at the key's rate.

The buckets are in this server's memory: of several servers each grants the whole rate.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from polyrank.errors import PolyrankError
from polyrank.store.keys import Rate

# Full buckets are forgotten when there are more than this.
MAX_BUCKETS = 10_000


class RateLimited(PolyrankError):
    """More calls than the key's rate. Details: ``retry_after_s``."""

    status = 429
    code = "rate_limited"


@dataclass
class _Bucket:
    rate: Rate
    tokens: float
    at: float

    def fill(self, now: float) -> None:
        """Adds what the time since the last look has brought."""
        gained = (now - self.at) * self.rate.calls / self.rate.period_s
        self.tokens = min(float(self.rate.calls), self.tokens + gained)
        self.at = now


class RateLimits:
    """The buckets by caller."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}

    def spend(self, name: str, rate: Rate) -> None:
        """Counts one call. Raises RateLimited if the caller has spent all that he may."""
        now = self._clock()
        bucket = self._buckets.get(name)
        if bucket is None or bucket.rate != rate:
            self._make_room(now)
            bucket = self._buckets[name] = _Bucket(rate, float(rate.calls), now)
        bucket.fill(now)
        if bucket.tokens < 1.0:
            wait_s = math.ceil((1.0 - bucket.tokens) * rate.period_s / rate.calls)
            raise RateLimited(
                f"the key's rate is {rate}; the next call is free in {wait_s} s",
                retry_after_s=wait_s,
            )
        bucket.tokens -= 1.0

    def _make_room(self, now: float) -> None:
        if len(self._buckets) < MAX_BUCKETS:
            return
        for name, bucket in list(self._buckets.items()):
            bucket.fill(now)
            if bucket.tokens >= bucket.rate.calls:
                del self._buckets[name]
