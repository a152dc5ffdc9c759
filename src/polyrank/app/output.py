"""What a replica lets its starter know: reports, and what is printed for a request."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import threading
import time
from collections import deque
from typing import Any, BinaryIO, TextIO

from polyrank import logs, records, reports

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
        while self._waiting and self._fd is not None and self._lock.acquire(blocking=False):
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


class Marker:
    """Writes records to a standard stream, for whoever keeps this process."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.RLock()  # a signal's handler may interrupt the thread that has it

    def write(self, record: dict[str, Any]) -> None:
        """Writes one record; when nobody reads any more, it is lost."""
        left = memoryview(records.MARK + records.encode(record))
        with self._lock, contextlib.suppress(OSError):
            while left:
                left = left[os.write(self._fd, left) :]


class ReportedStream(io.TextIOBase):
    """A standard stream whose lines are also reported, if a request is being answered.

    With a ``marker``, they are written as records.
    """

    def __init__(
        self, stream: TextIO, level: str, reporter: Reporter, marker: Marker | None = None
    ) -> None:
        self._stream = stream
        self._level = level
        self._reporter = reporter
        self._marker = marker
        self._begun = threading.local()  # the line that each thread has not ended yet

    def write(self, text: str) -> int:
        """Writes to the stream, and reports the lines that this ends."""
        if self._marker is None:
            self._stream.write(text)
        request_id = logs.request_id.get()
        if request_id is not None or self._marker is not None:
            *lines, rest = (getattr(self._begun, "text", "") + text).split("\n")
            self._begun.text = rest[-LONGEST_LINE:]
            for line in lines:
                self._end_line(request_id, line[:LONGEST_LINE])
        return len(text)

    def _end_line(self, request_id: str | None, line: str) -> None:
        if request_id is not None:
            self._reporter.line(request_id, self._level, line)
        # A progress bar draws itself anew with carriage returns: how it was last is the line.
        if self._marker is not None and (last := line.rstrip("\r").rpartition("\r")[2]):
            stream = self._level.lower()
            record = records.record(stream, self._level, last, request_id=request_id)
            self._marker.write(record)

    def flush(self) -> None:
        """Flushes the stream."""
        if not self._stream.closed:  # at the end of Python it may be, before this is
            self._stream.flush()

    def fileno(self) -> int:
        """The descriptor of the stream itself."""
        return self._stream.fileno()

    def isatty(self) -> bool:
        """Whether the stream itself is a terminal."""
        return self._stream.isatty()

    @property
    def buffer(self) -> BinaryIO:
        """The stream of bytes below; what is written there belongs to no request."""
        return self._stream.buffer

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
        if (request_id := _request_of(record)) is not None:
            self._reporter.line(request_id, _level_of(record), record.getMessage())


class MarkedHandler(logging.Handler):
    """Writes what is logged as records."""

    def __init__(self, marker: Marker) -> None:
        super().__init__()
        self._marker = marker

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one record; a traceback is a part of its message."""
        rank = getattr(record, "rank", None)
        message = self.format(record).removeprefix(f"[rank {rank}] ")[:LONGEST_LINE]
        self._marker.write(
            records.record(
                getattr(record, "stream", None) or "log",
                _level_of(record),
                message,
                request_id=_request_of(record),
                rank=rank,
            )
        )


def _request_of(record: logging.LogRecord) -> str | None:
    request_id = getattr(record, "request_id", None) or logs.request_id.get()
    return None if request_id in (None, "-") else str(request_id)


def _level_of(record: logging.LogRecord) -> str:
    stream = getattr(record, "stream", None)
    return stream.upper() if stream else record.levelname.replace("WARNING", "WARN")


def mark_logs(*, verbose: bool) -> None:
    """From here on, what is logged is written to stderr as records."""
    logs.configure(verbose=verbose, handler=MarkedHandler(Marker(2)))


def report_output(reporter: Reporter, *, is_marked: bool = False) -> None:
    """From here on, what this process prints and logs for a request is reported too; and written
    as records if it is to be marked."""
    logging.getLogger().addHandler(ReportHandler(reporter))
    out, err = (Marker(1), Marker(2)) if is_marked else (None, None)
    sys.stdout = ReportedStream(sys.stdout, "STDOUT", reporter, out)
    sys.stderr = ReportedStream(sys.stderr, "STDERR", reporter, err)
