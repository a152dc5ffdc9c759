"""A log on disk as a row of files, each named after the position in the log at which it begins.

Standard library only: keepers write it.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

PREFIX, SUFFIX = "log-", ".jsonl"


def segments(folder: Path) -> list[tuple[int, Path]]:
    """The files of the log in ``folder`` and where each begins, oldest first."""
    found = []
    for path in folder.glob(f"{PREFIX}*{SUFFIX}"):
        with contextlib.suppress(ValueError):
            found.append((int(path.name[len(PREFIX) : -len(SUFFIX)]), path))
    return sorted(found)


def segment_name(start: int) -> str:
    """The name of the file that begins at ``start``."""
    return f"{PREFIX}{start:015d}{SUFFIX}"


class SegmentWriter:
    """Appends to the log, begins another file when one is full, and deletes the oldest."""

    def __init__(self, folder: Path, *, max_bytes: int, files: int) -> None:
        """The log takes at most ``files`` times ``max_bytes``."""
        self._folder = folder
        self._max_bytes = max_bytes
        self._files = files
        self._start = 0
        self._fd = self._open()
        # Where the log ends: every byte that was ever written counts.
        self.position = 0

    def write(self, line: bytes) -> None:
        """Appends one line, which no file splits. Raises OSError, a full disk say."""
        if self.position > self._start and self._size + len(line) > self._max_bytes:
            self._begin_another()
        self.position += os.write(self._fd, line)

    def close(self) -> None:
        """Closes the file."""
        os.close(self._fd)

    @property
    def _size(self) -> int:
        return self.position - self._start

    def _begin_another(self) -> None:
        os.close(self._fd)
        self._start = self.position
        self._fd = self._open()
        for _, path in segments(self._folder)[: -self._files]:
            path.unlink(missing_ok=True)

    def _open(self) -> int:
        path = self._folder / segment_name(self._start)
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
