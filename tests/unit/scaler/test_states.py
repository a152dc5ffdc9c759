"""A replica's life."""

import pytest

from polyrank.scaler.states import FOLLOWING, ReplicaState

S = ReplicaState


def test_a_life_from_the_first_state_to_the_last() -> None:
    life = [S.PENDING, S.BUILDING, S.SETUP, S.IDLE, S.RUNNING, S.IDLE, S.RUNNING, S.DRAINING]
    life += [S.TERMINATING, S.TERMINATED]
    assert all(before.may_become(after) for before, after in zip(life, life[1:], strict=False))


@pytest.mark.parametrize(
    "state", [each for each in S if not each.is_over and each != "terminating"]
)
def test_a_replica_may_crash_in_every_state_in_which_it_is_not_asked_to_end(state: S) -> None:
    assert state.may_become(S.FAILURE_DELAY)
    assert state.may_become(S.TERMINATED)


def test_nothing_follows_the_end_and_nothing_leads_back_to_the_start() -> None:
    assert FOLLOWING[S.TERMINATED] == frozenset()
    assert not any(state.may_become(S.PENDING) for state in S)
    assert not S.TERMINATED.may_become(S.IDLE)
    assert not S.DRAINING.may_become(S.RUNNING)


def test_every_state_is_of_one_kind_and_reaches_the_end() -> None:
    for state in S:
        kinds = [state.is_starting, state.is_serving, state.is_over]
        assert sum(kinds) == (state not in (S.DRAINING, S.TERMINATING))
        assert state is S.TERMINATED or state.may_become(S.TERMINATED)


def test_a_state_is_written_in_lower_case() -> None:
    assert f"{S.FAILURE_DELAY}" == "failure_delay"
