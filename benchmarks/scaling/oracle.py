"""What replicas would cost at least, for somebody who knows every request in advance."""

from __future__ import annotations

import numpy as np

from benchmarks.scaling.traces import Trace


def cost(trace: Trace, startup_s: float, max_multiplexing: int = 1) -> float:
    """The fewest replica-seconds with which no request waits, start-ups included.

    The k-th replica is needed whenever k are; between two such times it is kept, or ended and
    started anew, whichever is cheaper. Whoever lets requests wait may need less.
    """
    times = np.concatenate([trace.arrivals, trace.arrivals + trace.service])
    steps = np.concatenate([np.ones(len(trace)), -np.ones(len(trace))])
    # Where one ends as another comes, the end is first.
    order = np.lexsort((steps, times))
    times = times[order]
    needed = -(-np.cumsum(steps[order]).astype(np.int64) // max_multiplexing)
    before = np.concatenate([[0], needed[:-1]])
    total = 0.0
    for level in range(1, int(needed.max(initial=0)) + 1):
        begins = times[(before < level) & (needed >= level)]
        ends = times[(before >= level) & (needed < level)]
        gaps = begins[1:] - ends[:-1]
        total += startup_s + float(np.sum(ends - begins) + np.sum(np.minimum(gaps, startup_s)))
    return total
