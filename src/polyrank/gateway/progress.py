"""What a queued request lets out while it runs: lines of its log, events of its answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from polyrank.reports import Line

# Of one request; what comes later is left out of the log, and told in its last line.
MAX_LINES = 2000


@dataclass
class Progress:
    """Of one attempt. ``events`` are the answer's server-sent events, each without its end;
    ``is_answered`` once the app has answered, ``whole`` when no more lines will come."""

    lines: list[dict[str, Any]] = field(default_factory=list)
    events: list[bytes] = field(default_factory=list)
    is_answered: bool = False
    whole: asyncio.Event = field(default_factory=asyncio.Event)
    _rest: bytes = b""

    def add_line(self, line: Line) -> None:
        """A line was printed or logged."""
        if len(self.lines) < MAX_LINES:
            self.lines.append(log_entry(line.level, line.message, line.time))
        elif len(self.lines) == MAX_LINES:
            message = f"more than {MAX_LINES} lines: the rest is left out"
            self.lines.append(log_entry("WARN", message, line.time))

    def add_chunk(self, chunk: bytes) -> None:
        """A piece of an answer that is a stream of events."""
        *whole, self._rest = (self._rest + chunk).replace(b"\r\n", b"\n").split(b"\n\n")
        self.events += [event for event in whole if event]


def log_entry(level: str, message: str, time: float) -> dict[str, Any]:
    """A line of a log, as clients read it."""
    stamp = datetime.fromtimestamp(time, UTC).isoformat()
    return {"message": message, "level": level, "source": "USER", "timestamp": stamp}


def events_of(answer: bytes) -> list[bytes]:
    """The events of a whole answer."""
    progress = Progress()
    progress.add_chunk(answer + b"\n\n")
    return progress.events


def numbered(events: list[bytes], after: int) -> Iterator[bytes]:
    """Events with their numbers as ids, from the one behind ``after`` on, ready to be sent."""
    for number, event in enumerate(events[after:], after + 1):
        yield b"id: %d\n%s\n\n" % (number, event)


def error_event(error: str, error_type: str | None) -> bytes:
    """The event that says why there will be no more."""
    body = {"error": error, "detail": error, "error_type": error_type}
    return b"data: " + json.dumps(body).encode()
