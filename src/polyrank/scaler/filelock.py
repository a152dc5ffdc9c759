"""A lock that one holder has at a time, of all tasks and processes that know its file."""

from __future__ import annotations

import asyncio
import fcntl
import os
import threading
from pathlib import Path


class FileLock:
    """An advisory lock on a file. The operating system frees it when its holder is gone."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    def try_acquire(self) -> bool:
        """Takes the lock if nobody has it."""
        fd = self._open()
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        self._fd = fd
        return True

    async def acquire(self) -> None:
        """Takes the lock as soon as nobody has it."""
        if not self.try_acquire():
            self._fd = await _wait(self._open())

    def release(self) -> None:
        """Gives the lock back."""
        assert self._fd is not None, "the lock is not held"
        os.close(self._fd)
        self._fd = None

    def _open(self) -> int:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


async def _wait(fd: int) -> int:
    """Waits in a thread, the only way there is. Who stops waiting leaves the thread to it: it
    closes the descriptor once it has the lock, and keeps no process from ending."""
    loop = asyncio.get_running_loop()
    got: asyncio.Future[int] = loop.create_future()

    def arrived(error: OSError | None) -> None:
        if got.cancelled():
            os.close(fd)
        elif error is not None:
            os.close(fd)
            got.set_exception(error)
        else:
            got.set_result(fd)

    def wait() -> None:
        error = None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
        except OSError as raised:
            error = raised
        try:
            loop.call_soon_threadsafe(arrived, error)
        except RuntimeError:  # the loop is closed
            os.close(fd)

    threading.Thread(target=wait, name="file-lock", daemon=True).start()
    try:
        return await got
    except asyncio.CancelledError:
        if got.done() and not got.cancelled() and got.exception() is None:
            os.close(fd)
        raise
