"""What the replicas on one machine use of the files that they share, across their processes."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

from polyrank.scaler.filelock import FileLock

CHANGES = ".changes"


class Uses:
    """A note for each user below ``folder``. One that was not taken back by a process that is gone
    counts no more: the operating system has freed its lock.

    What others see is written and read in a block of ``changes``, one at a time on the machine.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._mine: dict[str, FileLock] = {}

    @contextlib.asynccontextmanager
    async def changes(self) -> AsyncIterator[None]:
        """Nobody else begins to use anything, or removes it, inside the block."""
        lock = FileLock(self._folder / CHANGES)
        await lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def note(self, user: str, *names: str) -> None:
        """From now on ``user``, who lives in this process, uses these."""
        if user not in self._mine:
            self._mine[user] = lock = FileLock(self._folder / user)
            assert lock.try_acquire(), f"{user} has a note already"
        (self._folder / user).write_text(json.dumps(names))

    def forget(self, user: str) -> None:
        """The user of this process uses nothing any more."""
        if (lock := self._mine.pop(user, None)) is not None:
            (self._folder / user).unlink()
            lock.release()

    def all(self) -> dict[str, set[str]]:
        """What each user there is uses."""
        found: dict[str, set[str]] = {}
        for path in self._folder.glob("[!.]*"):
            lock = FileLock(path)
            if lock.try_acquire():
                path.unlink()
                lock.release()
            else:
                found[path.name] = set(json.loads(path.read_text()))
        return found
