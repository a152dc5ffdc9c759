"""What the policy decides, by example and by rule."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyrank.scaler.policy import (
    Decision,
    Failures,
    Mode,
    Replica,
    Scaling,
    Seen,
    decide,
)
from polyrank.scaler.states import ReplicaState

NOW = 1000.0
S = ReplicaState


def idle(id: str, last_used: float | None = NOW, since: float = 0.0) -> Replica:
    return Replica(id, S.IDLE, since, 0, last_used)


def running(id: str, requests: int = 1) -> Replica:
    return Replica(id, S.RUNNING, 0.0, requests, NOW)


def starting(id: str, state: ReplicaState = S.SETUP, since: float = NOW) -> Replica:
    return Replica(id, state, since)


def seen(*replicas: Replica, waiting: int = 0, **rest: Any) -> Seen:
    waiting_since = rest.pop("waiting_since", NOW if waiting else None)
    return Seen(NOW, replicas, waiting, waiting_since, **rest)


# By example


def test_an_app_without_requests_needs_nothing() -> None:
    decision = decide(Scaling(), seen())
    assert (decision.start, decision.stop, decision.look_again_at) == (0, (), None)
    assert decision.why == "0 replicas for 0 requests; there are 0"


def test_the_first_request_of_a_cold_app_starts_a_replica_at_once() -> None:
    decision = decide(Scaling(), seen(waiting=1))
    assert decision.start == 1
    assert decision.why == "1 replica for 1 request (1 waiting); there are 0; starting 1"


def test_a_replica_that_starts_already_is_not_started_twice() -> None:
    for state in (S.PENDING, S.BUILDING, S.SETUP):
        assert decide(Scaling(), seen(starting("a", state), waiting=1)).start == 0


def test_one_that_leaves_or_has_ended_is_replaced() -> None:
    for state in (S.DRAINING, S.TERMINATING, S.TERMINATED, S.FAILURE_DELAY):
        assert decide(Scaling(), seen(Replica("a", state, 0.0, 1), waiting=1)).start == 1


def test_each_replica_works_on_as_many_requests_as_it_may() -> None:
    decision = decide(Scaling(max_multiplexing=4), seen(running("a", 4), waiting=5))
    assert decision.start == 2


def test_with_a_scaling_delay_a_request_waits_so_long_before_a_replica_is_started_for_it() -> None:
    patient = Scaling(scaling_delay=5)
    first = seen(waiting=1, waiting_since=NOW - 2)
    decision = decide(patient, first)
    assert (decision.start, decision.look_again_at) == (0, NOW + 3)
    assert "requests wait for 5 s first (scaling_delay)" in decision.why
    assert decide(patient, replace(first, now=NOW + 3)).start == 1


def test_what_is_always_wanted_does_not_wait_for_the_scaling_delay() -> None:
    options = Scaling(min_concurrency=2, scaling_delay=5)
    assert decide(options, seen(waiting=3)).start == 2


def test_a_buffer_is_kept_beside_what_is_needed() -> None:
    assert decide(Scaling(concurrency_buffer=2), seen()).start == 2
    decision = decide(Scaling(concurrency_buffer=2), seen(running("a"), waiting=1))
    assert decision.start == 3
    assert decision.why.startswith("2 replicas for 2 requests (1 waiting), 2 spare; there is 1;")


@pytest.mark.parametrize(("busy", "spare"), [(0, 1), (3, 1), (5, 2), (10, 3), (11, 4)])
def test_the_larger_of_buffer_and_percentage_counts(busy: int, spare: int) -> None:
    options = Scaling(concurrency_buffer=1, concurrency_buffer_perc=30)
    assert decide(options, seen(*(running(f"{n}") for n in range(busy)))).start == spare


def test_max_concurrency_limits_all_of_it() -> None:
    options = Scaling(min_concurrency=9, max_concurrency=3, concurrency_buffer=2)
    decision = decide(options, seen(running("a"), waiting=7))
    assert decision.start == 2
    assert "at most 3 (max_concurrency)" in decision.why


def test_no_more_is_started_than_there_is_room_for() -> None:
    decision = decide(Scaling(), seen(waiting=5, room=2))
    assert decision.start == 2
    assert decision.why.endswith("starting 2; 3 more when there is room")


def test_a_replica_is_kept_alive_after_its_last_request() -> None:
    used = seen(idle("a", last_used=NOW - 20), surplus_since=NOW - 20)
    decision = decide(Scaling(keep_alive=60), used)
    assert (decision.stop, decision.look_again_at) == ((), NOW + 40)
    assert decide(Scaling(keep_alive=60), replace(used, now=NOW + 40)).stop == ("a",)


def test_one_that_never_had_a_request_is_stopped_after_ten_seconds() -> None:
    unused = seen(idle("a", last_used=None, since=NOW - 4), surplus_since=NOW - 4)
    decision = decide(Scaling(keep_alive=300), unused)
    assert (decision.stop, decision.look_again_at) == ((), NOW + 6)
    assert decide(Scaling(keep_alive=300), replace(unused, now=NOW + 6)).stop == ("a",)


def test_unless_it_is_wanted_as_a_minimum_or_a_spare() -> None:
    unused = seen(idle("a", last_used=None))
    for options in (Scaling(min_concurrency=1), Scaling(concurrency_buffer=1)):
        decision = decide(options, unused)
        assert (decision.stop, decision.look_again_at) == ((), None)


def test_a_spare_that_is_not_wanted_any_more_is_kept_alive_from_then_on() -> None:
    # It was ready for long, and the percentage of less load has just become smaller.
    spare = seen(running("a"), idle("b", last_used=None))
    first = decide(Scaling(), spare)
    assert (first.stop, first.surplus_since, first.look_again_at) == ((), NOW, NOW + 60)
    later = replace(spare, now=NOW + 60, surplus_since=first.surplus_since)
    assert decide(Scaling(), later).stop == ("b",)


def test_the_longest_unused_go_first_and_of_equal_ones_the_newest() -> None:
    options = Scaling(min_concurrency=1)
    old = [idle("a", NOW - 90), idle("b", NOW - 80), idle("c", NOW - 80, since=5.0)]
    assert decide(options, seen(*old, surplus_since=NOW - 80)).stop == ("a", "c")


def test_ready_replicas_are_not_given_up_for_such_as_may_yet_fail() -> None:
    options = Scaling(min_concurrency=1)
    ready = seen(idle("a", NOW - 90), starting("b"), surplus_since=NOW - 90)
    assert decide(options, ready).stop == ()


def test_one_that_waits_for_its_place_is_given_up_as_soon_as_it_is_not_needed() -> None:
    pending = [starting("a", S.PENDING, NOW - 5), starting("b", S.PENDING, NOW - 1)]
    assert decide(Scaling(), seen(*pending, waiting=1)).stop == ("b",)
    # Its start has cost nothing yet; that of others has.
    assert decide(Scaling(), seen(starting("a"), starting("b", S.BUILDING))).stop == ()


def test_with_a_lower_limit_those_go_that_work_least() -> None:
    crew = [running("a"), idle("b"), starting("c"), starting("d", S.PENDING)]
    assert decide(Scaling(max_concurrency=3), seen(*crew, waiting=9)).stop == ("d",)
    assert decide(Scaling(max_concurrency=2), seen(*crew, waiting=9)).stop == ("d", "c")
    assert decide(Scaling(max_concurrency=1), seen(*crew, waiting=9)).stop == ("d", "c", "b")
    assert decide(Scaling(max_concurrency=0), seen(*crew)).stop == ("d", "c", "b")


def test_replicas_that_nobody_needs_make_room_for_apps_that_wait() -> None:
    crew = [running("a"), idle("b", NOW - 1), idle("c", NOW - 2)]
    assert decide(Scaling(), seen(*crew)).stop == ()
    assert decide(Scaling(), seen(*crew, claimed=1)).stop == ("c",)
    assert decide(Scaling(min_concurrency=2), seen(*crew, claimed=3)).stop == ("c",)
    assert decide(Scaling(min_concurrency=3), seen(*crew, claimed=3)).stop == ()


def test_each_crash_in_a_row_makes_the_next_start_wait_longer() -> None:
    failures, delays = Failures(), []
    for at in range(25):
        failures = failures.after_crash(float(at), ready_for_s=None)
        delays.append(failures.delay_s)
    assert delays == [min(30.0 * times, 600.0) for times in range(1, 26)]
    decision = decide(Scaling(), seen(waiting=1, failures=Failures(2, NOW - 20)))
    assert (decision.start, decision.look_again_at) == (0, NOW + 40)
    assert decision.why.endswith("crashed 2 times in a row: the next start waits for 60 s")
    assert decide(Scaling(), seen(waiting=1, failures=Failures(2, NOW - 60))).start == 1


def test_a_crash_after_long_service_is_made_good_at_once() -> None:
    failures = Failures(3, NOW - 300).after_crash(NOW, ready_for_s=100)
    assert decide(Scaling(), seen(waiting=1, failures=failures)).start == 1
    # Ready for a moment is not service.
    assert Failures(3, NOW - 300, accidents=1).after_crash(NOW, ready_for_s=2).in_a_row == 4


def test_the_first_crash_of_a_replica_that_was_ready_costs_no_pause() -> None:
    first = Failures().after_crash(NOW, ready_for_s=2)
    second = first.after_crash(NOW + 3, ready_for_s=2)
    assert (first.delay_s, second.delay_s) == (0, 30)


def test_crashes_of_long_ago_are_forgotten() -> None:
    assert Failures(3, 0.0).after_crash(690.0, None).in_a_row == 4
    assert Failures(3, 0.0).after_crash(691.0, None).in_a_row == 1


def test_a_paused_app_is_left_as_it_is() -> None:
    decision = decide(Scaling(), seen(idle("a", 0.0), waiting=3, mode=Mode.PAUSED))
    assert (decision.start, decision.stop, decision.look_again_at) == (0, (), None)


def test_an_app_that_ends_loses_what_has_no_work() -> None:
    crew = [running("a"), idle("b"), starting("c"), Replica("d", S.DRAINING, 0.0, 1)]
    options = Scaling(min_concurrency=5)
    assert decide(options, seen(*crew, mode=Mode.DRAINING)).stop == ("b", "c")


def test_the_options_are_read_from_those_of_an_app() -> None:
    deployed = {"keep_alive": 300, "max_concurrency": None, "num_gpus": 2, "max_multiplexing": 4}
    assert Scaling.of(deployed) == Scaling(keep_alive=300, max_multiplexing=4)
    assert Scaling.of(deployed, {"keep_alive": 10}).keep_alive == 10


# By rule

fixed = settings(derandomize=True, deadline=None, max_examples=200)

moments = st.floats(0, NOW)


@st.composite
def crews(draw: st.DrawFn) -> list[Replica]:
    crew = []
    for number in range(draw(st.integers(0, 8))):
        state = draw(st.sampled_from(S))
        requests = draw(st.integers(1, 3)) if state is S.RUNNING else 0
        last_used = draw(st.none() | moments) if state.is_serving else None
        crew.append(Replica(f"{number}", state, draw(moments), requests, last_used))
    return crew


scalings = st.builds(
    Scaling,
    min_concurrency=st.integers(0, 4),
    max_concurrency=st.none() | st.integers(0, 8),
    concurrency_buffer=st.integers(0, 3),
    concurrency_buffer_perc=st.sampled_from([0, 0, 25, 100]),
    scaling_delay=st.sampled_from([0.0, 0.0, 30.0]),
    keep_alive=st.sampled_from([0.0, 10.0, 60.0, 300.0]),
    max_multiplexing=st.integers(1, 3),
)


@st.composite
def scenes(draw: st.DrawFn) -> Seen:
    waiting = draw(st.integers(0, 6))
    return Seen(
        now=NOW,
        replicas=draw(crews()),
        waiting=waiting,
        waiting_since=draw(moments) if waiting else None,
        failures=draw(st.builds(Failures, st.integers(0, 3), moments)),
        room=draw(st.none() | st.integers(0, 4)),
        claimed=draw(st.sampled_from([0, 0, 2])),
        surplus_since=draw(st.none() | moments),
        mode=draw(st.sampled_from([Mode.ACTIVE, Mode.ACTIVE, Mode.ACTIVE, *Mode])),
    )


def alive(scene: Seen) -> int:
    return sum(each.state.is_starting or each.state.is_serving for each in scene.replicas)


def carry_out(scene: Seen, decision: Decision) -> Seen:
    """What is seen a moment later, if the decision is carried out."""
    kept = [each for each in scene.replicas if each.id not in decision.stop]
    new = [starting(f"new{number}", since=scene.now) for number in range(decision.start)]
    return replace(
        scene,
        replicas=[*kept, *new],
        room=None if scene.room is None else scene.room - decision.start,
        claimed=max(0, scene.claimed - len(decision.stop)),
        surplus_since=decision.surplus_since,
    )


@fixed
@given(scalings, scenes())
def test_a_replica_that_works_is_never_stopped(scaling: Scaling, scene: Seen) -> None:
    workless = {
        each.id
        for each in scene.replicas
        if each.state.is_starting or (each.state is S.IDLE and each.requests == 0)
    }
    stop = decide(scaling, scene).stop
    assert len(set(stop)) == len(stop)
    assert set(stop) <= workless


@fixed
@given(scalings, scenes())
def test_there_are_never_more_than_the_maximum_and_the_room(scaling: Scaling, scene: Seen) -> None:
    decision = decide(scaling, scene)
    after = alive(scene) - len(decision.stop) + decision.start
    working = sum(each.state is S.RUNNING for each in scene.replicas)
    if scaling.max_concurrency is not None and scene.mode is Mode.ACTIVE:
        assert after <= max(scaling.max_concurrency, working)
    assert scene.room is None or decision.start <= scene.room
    assert not (decision.start and decision.stop)


@fixed
@given(scalings, scenes())
def test_there_are_never_fewer_than_the_minimum(scaling: Scaling, scene: Seen) -> None:
    scene = replace(scene, room=None, failures=Failures(), mode=Mode.ACTIVE)
    decision = decide(scaling, scene)
    after = alive(scene) - len(decision.stop) + decision.start
    assert after >= scaling.target(0)
    wanted = scaling.target(sum(each.requests for each in scene.replicas if each.state.is_serving))
    assert after >= wanted


@fixed
@given(scalings, scenes())
def test_a_decision_that_was_carried_out_leaves_nothing_to_decide(
    scaling: Scaling, scene: Seen
) -> None:
    first = decide(scaling, scene)
    second = decide(scaling, carry_out(scene, first))
    assert (second.start, second.stop) == (0, ())
    assert second.look_again_at == first.look_again_at or first.start


@fixed
@given(scalings, scenes())
def test_the_next_look_is_in_the_future_and_not_in_vain(scaling: Scaling, scene: Seen) -> None:
    for _ in range(3):
        decision = decide(scaling, scene)
        if decision.look_again_at is None:
            return
        assert decision.look_again_at > scene.now
        scene = replace(carry_out(scene, decision), now=decision.look_again_at)
        if (then := decide(scaling, scene)).start or then.stop:
            return
    raise AssertionError("three looks in a row changed nothing")


@fixed
@given(scalings, scenes(), st.integers(1, 5))
def test_more_load_never_means_fewer_replicas(scaling: Scaling, scene: Seen, more: int) -> None:
    if scene.waiting_since is None:
        scene = replace(scene, waiting_since=NOW)
    less_loaded = decide(scaling, scene)
    loaded = decide(scaling, replace(scene, waiting=scene.waiting + more))
    assert loaded.start >= less_loaded.start
    assert len(loaded.stop) <= len(less_loaded.stop)


@fixed
@given(scalings, scenes())
def test_nothing_is_stopped_before_its_time(scaling: Scaling, scene: Seen) -> None:
    if scene.claimed or scene.mode is not Mode.ACTIVE or alive(scene) > scaling.target(99):
        return
    ready = {each.id: each for each in scene.replicas if each.state.is_serving}
    for id in set(decide(scaling, scene).stop) & set(ready):
        last_used = ready[id].last_used
        if last_used is None:
            assert ready[id].since + min(10.0, scaling.keep_alive) <= NOW
        else:
            assert last_used + scaling.keep_alive <= NOW


@fixed
@given(scalings, scenes())
def test_every_decision_says_why(scaling: Scaling, scene: Seen) -> None:
    decision = decide(scaling, scene)
    assert decision.why
    if decision.start:
        assert f"starting {decision.start}" in decision.why
