"""What a replica lets its starter know: reports, and what is printed for a request."""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
import time
from collections import deque
from typing import TextIO

from polyrank import logs, reports

# A line is a line of a log, not a file.
LONGEST_LINE = 8192


class Reporter:
    """Sends reports through a pipe. Without one, or once nobody reads it, does nothing."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd
        self._waiting: deque[bytes] = deque()
        self._lock = threading.Lock()

    def send(self, report: reports.Report) -> None:
        """Sends one report; from any thread, and from a signal's handler.

        Whoever finds another at it leaves the report to that one: a handler may interrupt the very
        thread that it would wait for.
        """
        if self._fd is None:
            return
        self._waiting.append(reports.encode(report))
        while self._waiting and self._lock.acquire(blocking=False):
            try:
                self._write_all()
            finally:
                self._lock.release()

    def _write_all(self) -> None:
        try:
            while self._waiting and self._fd is not None:
                left = memoryview(self._waiting.popleft())
                while left:
                    left = left[os.write(self._fd, left) :]
        except OSError:
            self._fd = None

    def line(self, request_id: str, level: str, message: str) -> None:
        """Reports a line of a request's log."""
        self.send(reports.Line(request_id, time.time(), level, message[:LONGEST_LINE]))


class ReportedStream(io.TextIOBase):
    """A standard stream whose lines are also reported, if a request is being answered."""

    def __init__(self, stream: TextIO, level: str, reporter: Reporter) -> None:
        self._stream = stream
        self._level = level
        self._reporter = reporter
        self._begun = threading.local()  # the line that each thread has not ended yet

    def write(self, text: str) -> int:
        """Writes to the stream, and reports the lines that this ends."""
        written = self._stream.write(text)
        if (request_id := logs.request_id.get()) is not None:
            *lines, rest = (getattr(self._begun, "text", "") + text).split("\n")
            self._begun.text = rest[:LONGEST_LINE]
            for line in lines:
                self._reporter.line(request_id, self._level, line)
        return written

    def flush(self) -> None:
        """Flushes the stream."""
        self._stream.flush()

    def fileno(self) -> int:
        """The descriptor of the stream itself."""
        return self._stream.fileno()

    def isatty(self) -> bool:
        """Whether the stream itself is a terminal."""
        return self._stream.isatty()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the stream itself."""
        return self._stream.encoding


class ReportHandler(logging.Handler):
    """Reports the records that belong to a request, those of its ranks too."""

    def __init__(self, reporter: Reporter) -> None:
        super().__init__()
        self._reporter = reporter

    def emit(self, record: logging.LogRecord) -> None:
        """Reports one record."""
        request_id = getattr(record, "request_id", None) or logs.request_id.get()
        if request_id in (None, "-"):
            return
        stream = getattr(record, "stream", None)
        level = stream.upper() if stream else record.levelname.replace("WARNING", "WARN")
        self._reporter.line(str(request_id), level, record.getMessage())


def report_output(reporter: Reporter) -> None:
    """From here on, what this process prints and logs for a request is reported too."""
    logging.getLogger().addHandler(ReportHandler(reporter))
    sys.stdout = ReportedStream(sys.stdout, "STDOUT", reporter)
    sys.stderr = ReportedStream(sys.stderr, "STDERR", reporter)
