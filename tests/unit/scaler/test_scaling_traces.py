"""The policy over whole traces, in a simulated world: what it costs, and who waits."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.scaling import oracle, traces
from benchmarks.scaling.simulator import Outcome, Simulation, World
from benchmarks.scaling.traces import Trace
from polyrank.scaler.policy import UNUSED_S, Decision, Scaling, Seen


def run(trace: Trace, scaling: Scaling, world: World | None = None) -> tuple[Outcome, float]:
    """What came of it, and its cost as a multiple of the oracle's."""
    world = world or World()
    outcome = Simulation(trace, scaling, world).run()
    return outcome, outcome.cost / oracle.cost(trace, world.startup_s, scaling.max_multiplexing)


def test_the_oracle_keeps_a_replica_over_a_short_gap_and_not_over_a_long_one() -> None:
    trace = Trace("three", np.array([0.0, 15.0, 1000.0]), np.array([10.0, 10.0, 10.0]))
    # Two starts, three times work, and a gap of five seconds.
    assert oracle.cost(trace, startup_s=20.0) == 20 + 10 + 5 + 10 + 20 + 10


def test_the_oracle_counts_each_replica_that_is_needed_at_once() -> None:
    trace = Trace("two", np.array([0.0, 5.0]), np.array([10.0, 10.0]))
    assert oracle.cost(trace, startup_s=20.0) == 2 * (20 + 10)
    assert oracle.cost(trace, startup_s=20.0, max_multiplexing=2) == 20 + 15


def test_one_request_costs_a_start_its_work_and_the_time_that_the_replica_is_kept() -> None:
    trace = Trace("one", np.array([100.0]), np.array([5.0]))
    outcome, _ = run(trace, Scaling(keep_alive=60))
    assert (outcome.starts, outcome.wait(1.0)) == (1, 20.0)
    assert outcome.cost == pytest.approx(20 + 5 + 60)


def test_a_steady_load_costs_little_more_than_the_oracle_and_hardly_anyone_waits() -> None:
    outcome, ratio = run(traces.steady(rate=1, length_s=7200, service_s=5), Scaling())
    assert ratio < 1.25
    assert outcome.wait(0.95) < 1.5
    # A buffer buys shorter waits.
    buffered, dearer = run(
        traces.steady(rate=1, length_s=7200, service_s=5), Scaling(concurrency_buffer=2)
    )
    assert buffered.waits.mean() < outcome.waits.mean() * 0.7
    assert ratio < dearer < 1.5


def test_a_scaling_delay_spares_starts_for_a_little_waiting() -> None:
    trace = traces.steady(rate=1, length_s=7200, service_s=5)
    outcome, ratio = run(trace, Scaling())
    patient, cheaper = run(trace, Scaling(scaling_delay=5))
    assert patient.starts < outcome.starts * 0.6
    assert cheaper < ratio
    assert patient.waits.mean() < 1


def test_of_a_burst_nobody_waits_longer_than_a_start() -> None:
    trace = traces.bursts(size=50, every_s=600, times=12, service_s=5)
    outcome, _ = run(trace, Scaling())
    assert outcome.wait(1.0) <= 20
    assert outcome.most == 50
    # Between bursts nothing is kept: the next one finds the app cold again.
    assert outcome.starts == 12 * 50
    limited, ratio = run(trace, Scaling(max_concurrency=8))
    assert limited.most == 8
    assert ratio < 1 < limited.wait(0.5) / outcome.wait(0.5)


def test_rare_requests_cost_little_each_and_a_minimum_spares_them_the_start() -> None:
    trace = traces.rare(every_s=300, count=300, service_s=5)
    cold, cheap = run(trace, Scaling())
    warm, dear = run(trace, Scaling(min_concurrency=1))
    assert cheap < 4 < dear
    assert warm.wait(0.95) < 1 < cold.wait(0.5) <= 20


def test_a_day_of_a_million_requests() -> None:
    trace = traces.daily(count=1_000_000, service_s=1)
    outcome, ratio = run(trace, Scaling())
    assert ratio < 1.1
    assert outcome.wait(0.99) < 0.1
    assert outcome.wait(1.0) <= 20
    # The policy is asked when something is to be decided, not for each request.
    assert outcome.decisions < len(trace) / 20


def test_crashes_of_replicas_delay_requests_and_lose_none() -> None:
    trace = traces.daily(count=20_000, service_s=5)
    world = World(failing_starts=0.1, life_s=3600)
    outcome, ratio = run(trace, Scaling(), world)
    assert outcome.crashes > 100
    assert ratio < 1.3
    assert outcome.wait(0.95) < 10


def test_an_app_that_cannot_start_is_tried_ever_less_often() -> None:
    trace = Trace("one", np.array([0.0]), np.array([1.0]))
    times: list[float] = []

    def watch(seen: Seen, decision: Decision) -> None:
        times.extend([seen.now] * decision.start)
        if len(times) > 25:
            raise StopIteration

    with pytest.raises(StopIteration):
        Simulation(trace, Scaling(), World(failing_starts=1.0), watch).run()
    pauses = [round(later - earlier) for earlier, later in pairwise(times)]
    assert pauses[:4] == [50, 80, 110, 140]
    assert pauses[-1] == 620


def test_a_load_that_goes_up_and_down_does_not_start_replicas_again_and_again() -> None:
    # Two requests always run, and for half of the time four: the wanted spares change all along.
    length = np.concatenate([np.full(2, 1200.0), np.full(240, 5.0)])
    begin = np.concatenate([np.zeros(2), np.repeat(np.arange(120) * 10.0, 2)])
    order = np.argsort(begin, kind="stable")
    trace = Trace("up and down", begin[order], length[order])
    starts: list[float] = []

    def watch(seen: Seen, decision: Decision) -> None:
        starts.extend([seen.now] * decision.start)

    outcome = Simulation(trace, Scaling(concurrency_buffer_perc=50), watch=watch).run()
    # All of the cold start's.
    assert max(starts) <= 20
    assert outcome.most == len(starts)


def test_with_multiplexing_fewer_replicas_do_the_same() -> None:
    trace = traces.steady(rate=1, length_s=3600, service_s=5)
    alone, _ = run(trace, Scaling())
    shared, _ = run(trace, Scaling(max_multiplexing=4))
    assert shared.cost < alone.cost * 0.6


@st.composite
def small_traces(draw: st.DrawFn) -> Trace:
    arrivals = sorted(draw(st.lists(st.floats(0, 500), min_size=1, max_size=30)))
    service = draw(st.lists(st.floats(0.1, 100), min_size=30, max_size=30))
    return Trace("drawn", np.array(arrivals), np.array(service[: len(arrivals)]))


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    small_traces(),
    st.builds(
        Scaling,
        min_concurrency=st.integers(0, 2),
        max_concurrency=st.none() | st.integers(2, 4),
        concurrency_buffer=st.integers(0, 2),
        concurrency_buffer_perc=st.sampled_from([0, 50]),
        scaling_delay=st.sampled_from([0.0, 15.0]),
        keep_alive=st.sampled_from([0.0, 30.0, 60.0]),
        max_multiplexing=st.integers(1, 3),
    ),
    st.builds(
        World,
        startup_s=st.sampled_from([1.0, 20.0]),
        room=st.none() | st.integers(1, 5),
        failing_starts=st.sampled_from([0.0, 0.3]),
        life_s=st.sampled_from([float("inf"), 200.0]),
    ),
)
def test_in_every_world_all_requests_are_served_within_the_limits(
    trace: Trace, scaling: Scaling, world: World
) -> None:
    def watch(seen: Seen, decision: Decision) -> None:
        after = len(seen.replicas) - len(decision.stop) + decision.start
        assert scaling.max_concurrency is None or after <= scaling.max_concurrency
        assert world.room is None or after <= world.room
        if decision.start:
            assert seen.now >= seen.failures.retry_at
        for each in seen.replicas:
            if each.id in decision.stop:
                assert each.requests == 0
                kept = UNUSED_S if each.last_used is None else scaling.keep_alive
                since = each.since if each.last_used is None else each.last_used
                assert seen.now >= since + min(kept, scaling.keep_alive)

    outcome = Simulation(trace, scaling, world, watch).run()
    assert len(outcome.waits) == len(trace)
    assert outcome.waits.min() >= 0
