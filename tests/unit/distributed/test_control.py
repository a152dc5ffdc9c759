"""Cancellation is agreed: no interleaving makes two ranks leave at different steps."""

import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyrank.distributed.arena import create_fd
from polyrank.distributed.control import ControlBlock


@pytest.fixture
def control() -> Iterator[ControlBlock]:
    made = ControlBlock(create_fd("control"), world_size=4)
    yield made
    made.close()


def test_a_call_that_is_not_cancelled_never_leaves(control: ControlBlock) -> None:
    control.cancel(1)
    control.publish_step(0, call=2, step=1)
    assert not control.must_leave(call=2, step=1)


@given(st.lists(st.integers(0, 30), min_size=4, max_size=4))
def test_all_ranks_leave_one_step_after_the_furthest(steps: list[int]) -> None:
    control = ControlBlock(create_fd("control"), world_size=4)
    for rank, step in enumerate(steps):
        control.publish_step(rank, call=5, step=step)
    control.cancel(5)
    for rank, step in enumerate(steps):
        left_at = leave(control, rank, call=5, after=step)
        assert left_at == max(steps) + 1
    control.close()


@given(st.lists(st.integers(0, 30), min_size=4, max_size=4))
def test_ranks_on_two_machines_leave_at_the_same_step(steps: list[int]) -> None:
    """Each machine has a page of its own; no rank passes a checkpoint between the two halves."""
    pages = [ControlBlock(create_fd("control"), world_size=4) for _ in range(2)]
    for rank, step in enumerate(steps):
        pages[rank % 2].publish_step(rank, call=5, step=step)
    furthest = max(page.halt(5) for page in pages)
    left: dict[int, int] = {}

    def run(rank: int) -> None:
        left[rank] = leave(pages[rank % 2], rank, call=5, after=steps[rank])

    ranks = [threading.Thread(target=run, args=(rank,)) for rank in range(4)]
    for thread in ranks:
        thread.start()
    assert left == {}  # they wait
    for page in pages:
        page.leave_at(5, furthest + 1)
        page.leave_at(4, 0)  # of an earlier call, and late
    for thread in ranks:
        thread.join()
    assert set(left.values()) == {max(steps) + 1}
    for page in pages:
        page.close()


def test_steps_of_an_earlier_call_do_not_count(control: ControlBlock) -> None:
    control.publish_step(2, call=1, step=40)
    control.publish_step(0, call=2, step=3)
    control.cancel(2)
    assert leave(control, 0, call=2, after=3) == 4


def test_ranks_that_run_while_the_runner_decides_agree() -> None:
    for call in range(1, 300):
        control = ControlBlock(create_fd("control"), world_size=2)
        begin = threading.Barrier(3)
        left: dict[int, int] = {}

        def run(
            rank: int,
            control: ControlBlock = control,
            call: int = call,
            begin: threading.Barrier = begin,
            left: dict[int, int] = left,
        ) -> None:
            begin.wait()
            left[rank] = leave(control, rank, call, after=0)

        ranks = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
        for rank in ranks:
            rank.start()
        begin.wait()
        control.cancel(call)
        for rank in ranks:
            rank.join()
        assert left[0] == left[1]
        control.close()


def test_credits_count_for_their_call_only(control: ControlBlock) -> None:
    control.give_credits(call=3, consumed=10)
    assert control.credits(3) == 10
    assert control.credits(4) == 0


def leave(control: ControlBlock, rank: int, call: int, after: int) -> int:
    """The step at which a rank that runs on from ``after`` leaves."""
    step = after
    while True:
        step += 1
        control.publish_step(rank, call, step)
        if control.must_leave(call, step):
            return step
