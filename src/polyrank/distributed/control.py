"""The shared words of one group: cancellation that every rank agrees on, credits, progress.

One page of 64-bit words in anonymous shared memory. The runner writes the group's words, each
rank writes its own line; nobody ever waits for a rank in order to decide.

How a cancellation is agreed. A rank that reaches checkpoint k first publishes k, then looks at
the runner's word. The runner first publishes "deciding", then reads how far every rank has got,
then publishes the step at which all leave: the furthest one plus one. A rank either looked before
"deciding" was published, and then the runner sees its k and decides on a later step, or it sees
"deciding" and waits the few microseconds until the step is there. So no rank can be past the step
when it is published, and all leave at the same one. The argument needs the publishing store to be
visible before the following load on both sides, hence ``_fence``.

Where ranks are on several machines, each machine has such a page. The runner has "deciding"
published on all of them (``halt``), takes the furthest step of all, and has the step published on
all (``leave_at``): the same argument, and a rank waits for a round trip instead of microseconds.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections.abc import Iterable

# Words of the group, written by the runner.
_CANCELLED_CALL, _LEAVE_AT, _CREDIT_CALL, _CREDITS = range(4)
# Words of a rank, one 64-byte line each, written by the rank.
_LINE = 8
_FIRST_LINE = 8
_CALL_AND_STEP, _PROGRESS_NS = range(2)

_DECIDING = -1
_STEP_BITS = 32
_STEP_MASK = (1 << _STEP_BITS) - 1

_lock = threading.Lock()


def _fence() -> None:
    # An uncontended lock is an atomic read-modify-write: a full memory barrier.
    with _lock:
        pass


class ControlBlock:
    """The words of one group of ``world_size`` ranks, seen by the runner and by every rank."""

    def __init__(self, fd: int, world_size: int) -> None:
        self.fd = fd
        self.world_size = world_size
        size = 8 * (_FIRST_LINE + _LINE * world_size)
        if os.fstat(fd).st_size < size:
            os.ftruncate(fd, size)
        self._map = mmap.mmap(fd, size)
        self._words = memoryview(self._map).cast("q")

    def close(self) -> None:
        """Unmaps the words and closes the descriptor."""
        self._words.release()
        self._map.close()
        os.close(self.fd)

    # --- the runner's side

    def cancel(self, call: int) -> None:
        """Makes every rank of ``call`` leave at the same checkpoint, the next that none passed."""
        if self._words[_CANCELLED_CALL] != call:
            self.leave_at(call, self.halt(call) + 1)

    def halt(self, call: int) -> int:
        """Ranks of ``call`` wait at their next checkpoint; the furthest step that one passed.

        ``leave_at`` must follow.
        """
        words = self._words
        words[_LEAVE_AT] = _DECIDING
        words[_CANCELLED_CALL] = call
        _fence()
        return max(self._step_of(rank, call) for rank in range(self.world_size))

    def leave_at(self, call: int, step: int) -> None:
        """Publishes the step at which every rank of the halted ``call`` leaves."""
        if self._words[_CANCELLED_CALL] == call:
            self._words[_LEAVE_AT] = step

    def give_credits(self, call: int, consumed: int) -> None:
        """Tells rank 0 how many events of ``call`` have been consumed."""
        self._words[_CREDITS] = consumed
        self._words[_CREDIT_CALL] = call

    def latest_progress_s(self, ranks: Iterable[int]) -> float:
        """``time.monotonic()`` of the one of ``ranks`` without progress for longest."""
        lines = (self._line(rank) for rank in ranks)
        return min(self._words[line + _PROGRESS_NS] for line in lines) / 1e9

    # --- a rank's side

    def publish_step(self, rank: int, call: int, step: int) -> None:
        """Rank ``rank`` is at checkpoint ``step`` of ``call``; also counts as progress."""
        self._words[self._line(rank) + _CALL_AND_STEP] = call << _STEP_BITS | step
        self.publish_progress(rank)

    def publish_progress(self, rank: int) -> None:
        """Rank ``rank`` is getting on."""
        self._words[self._line(rank) + _PROGRESS_NS] = time.monotonic_ns()

    def must_leave(self, call: int, step: int) -> bool:
        """Whether ``call`` ends at checkpoint ``step``; ask after ``publish_step``."""
        words = self._words
        _fence()
        if words[_CANCELLED_CALL] != call:
            return False
        while (leave_at := words[_LEAVE_AT]) == _DECIDING:
            os.sched_yield()  # the runner is between two of its own statements, or a trip away
        return step >= leave_at

    def is_cancelled(self, call: int) -> bool:
        """Whether the runner wants ``call`` to end: not agreed, so no reason to leave a step."""
        return self._words[_CANCELLED_CALL] == call

    def credits(self, call: int) -> int:
        """How many events of ``call`` have been consumed."""
        return self._words[_CREDITS] if self._words[_CREDIT_CALL] == call else 0

    # --- both

    def _line(self, rank: int) -> int:
        return _FIRST_LINE + _LINE * rank

    def _step_of(self, rank: int, call: int) -> int:
        word = self._words[self._line(rank) + _CALL_AND_STEP]
        return word & _STEP_MASK if word >> _STEP_BITS == call else 0
