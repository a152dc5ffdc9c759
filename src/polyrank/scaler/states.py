"""The states of a replica's life, and which may follow which."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class ReplicaState(StrEnum):
    """Where a replica is in its life."""

    PENDING = "pending"
    """Waits for a GPU or a slot."""
    BUILDING = "building"
    """Its environment is being built."""
    SETUP = "setup"
    """Its process runs, and is not ready yet."""
    IDLE = "idle"
    """Ready, with nothing to do."""
    RUNNING = "running"
    """Ready, and works on requests."""
    DRAINING = "draining"
    """Gets no more requests, and ends those that it has."""
    TERMINATING = "terminating"
    """Its process is asked to end."""
    TERMINATED = "terminated"
    """Its process has ended."""
    FAILURE_DELAY = "failure_delay"
    """Has crashed; none takes its place until the delay after a crash is over."""

    @property
    def is_starting(self) -> bool:
        """Whether it is on its way to be ready."""
        return self in (self.PENDING, self.BUILDING, self.SETUP)

    @property
    def is_serving(self) -> bool:
        """Whether it may be given requests."""
        return self in (self.IDLE, self.RUNNING)

    @property
    def is_over(self) -> bool:
        """Whether its process has ended."""
        return self in (self.TERMINATED, self.FAILURE_DELAY)

    def may_become(self, state: ReplicaState) -> bool:
        """Whether ``state`` may follow."""
        return state in FOLLOWING[self]


_ENDS = frozenset({ReplicaState.TERMINATED, ReplicaState.FAILURE_DELAY})
_LEAVES = _ENDS | {ReplicaState.DRAINING, ReplicaState.TERMINATING}

# A process may crash in every state that it has.
FOLLOWING: Mapping[ReplicaState, frozenset[ReplicaState]] = {
    ReplicaState.PENDING: _ENDS
    | {ReplicaState.BUILDING, ReplicaState.SETUP, ReplicaState.TERMINATING},
    ReplicaState.BUILDING: _ENDS | {ReplicaState.SETUP, ReplicaState.TERMINATING},
    ReplicaState.SETUP: _ENDS | {ReplicaState.IDLE, ReplicaState.TERMINATING},
    ReplicaState.IDLE: _LEAVES | {ReplicaState.RUNNING},
    ReplicaState.RUNNING: _LEAVES | {ReplicaState.IDLE},
    ReplicaState.DRAINING: _ENDS | {ReplicaState.TERMINATING},
    ReplicaState.TERMINATING: frozenset({ReplicaState.TERMINATED}),
    ReplicaState.FAILURE_DELAY: frozenset({ReplicaState.TERMINATED}),
    ReplicaState.TERMINATED: frozenset(),
}
