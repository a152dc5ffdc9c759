"""Traces: when requests come, and how long each takes. All are the same in every run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DAY_S = 86_400.0
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Trace:
    """Requests in the order of their arrival; times in seconds."""

    name: str
    arrivals: Floats
    service: Floats

    def __len__(self) -> int:
        return len(self.arrivals)


def steady(rate: float, length_s: float, service_s: float, seed: int = 1) -> Trace:
    """Independent requests at one rate."""
    random = np.random.default_rng(seed)
    count = random.poisson(rate * length_s)
    arrivals = np.sort(random.uniform(0, length_s, count))
    return Trace("steady", arrivals, random.exponential(service_s, count))


def bursts(
    size: int, every_s: float, times: int, service_s: float, within_s: float = 1.0, seed: int = 2
) -> Trace:
    """Nothing, and then many at once, again and again."""
    random = np.random.default_rng(seed)
    offsets = np.repeat(np.arange(times) * every_s, size)
    arrivals = np.sort(offsets + random.uniform(0, within_s, size * times))
    return Trace("bursts", arrivals, random.exponential(service_s, size * times))


def rare(every_s: float, count: int, service_s: float, seed: int = 3) -> Trace:
    """One request now and then."""
    random = np.random.default_rng(seed)
    arrivals = np.cumsum(random.exponential(every_s, count))
    return Trace("rare", arrivals, random.exponential(service_s, count))


def daily(count: int, service_s: float, night: float = 0.1, seed: int = 4) -> Trace:
    """A day: the rate follows the sun, and is by night the given share of that at noon."""
    random = np.random.default_rng(seed)
    hours = np.linspace(0, DAY_S, 1441)
    rate = night + (1 - night) * (1 - np.cos(2 * np.pi * hours / DAY_S)) / 2
    share = np.concatenate([[0.0], np.cumsum((rate[1:] + rate[:-1]) / 2)])
    arrivals = np.interp(np.sort(random.uniform(0, share[-1], count)), share, hours)
    return Trace("daily", arrivals, random.exponential(service_s, count))
