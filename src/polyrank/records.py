"""Records of a replica's log, and how they travel in its output.

Standard library only: keepers use it. A replica that is kept writes its lines as records, each
behind a mark; what comes without one, from a library in C say, becomes the text of a record.
"""

from __future__ import annotations

import json
import time
from typing import Any

# The record separator of RFC 7464.
MARK = b"\x1e"
LONGEST_LINE = 64 * 1024
FIELDS = ("time", "stream", "level", "message", "request_id", "rank")


def record(
    stream: str,
    level: str,
    message: str,
    *,
    request_id: str | None = None,
    rank: int | None = None,
) -> dict[str, Any]:
    """A record of now, without what is not known."""
    known = {"request_id": request_id, "rank": rank}
    found = {"time": time.time(), "stream": stream, "level": level, "message": message}
    return found | {name: value for name, value in known.items() if value is not None}


def encode(record: dict[str, Any]) -> bytes:
    """The record as a line."""
    return (
        json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode(
            errors="backslashreplace"
        )
        + b"\n"
    )


class LineReader:
    """Cuts what arrives on one stream into records."""

    def __init__(self, stream: str) -> None:
        self._stream = stream
        self._rest = b""

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """The records that are complete now."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LONGEST_LINE:
            lines.append(self._rest)
            self._rest = b""
        return [found for line in lines if (found := self._read(line)) is not None]

    def end(self) -> list[dict[str, Any]]:
        """What is left when no more comes."""
        return self.feed(b"\n") if self._rest else []

    def _read(self, line: bytes) -> dict[str, Any] | None:
        if line.startswith(MARK) and (marked := _marked(line[1:])) is not None:
            return marked
        # A progress bar draws itself anew with carriage returns: how it was last is the line.
        text = line.decode(errors="backslashreplace").rstrip("\r").rpartition("\r")[2]
        return record(self._stream, self._stream.upper(), text) if text else None


def _marked(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    if not isinstance(found, dict) or not isinstance(found.get("message"), str):
        return None
    if not isinstance(found.get("time"), int | float):
        return None
    return {name: found[name] for name in FIELDS if found.get(name) is not None}
