"""The part of a file that a ``Range`` header asks for (RFC 9110, section 14)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from polyrank.errors import PolyrankError

_ONE_RANGE = re.compile(r"bytes=\s*(\d{0,20})-(\d{0,20})\s*", re.IGNORECASE | re.ASCII)


class RangeNotSatisfiable(PolyrankError):
    """A range that lies outside of the file. Details: ``size``."""

    status = 416
    code = "range_not_satisfiable"


@dataclass(frozen=True)
class Span:
    """The bytes from ``start`` up to ``end``, which is not part of it."""

    start: int
    end: int

    @property
    def size(self) -> int:
        """How many bytes."""
        return self.end - self.start


def parse(header: str | None, size: int) -> Span | None:
    """The span that the header asks for; None for the whole file, which is also the answer to
    headers that are not understood or ask for several spans, as the standard allows."""
    asked = _ONE_RANGE.fullmatch(header or "")
    if asked is None or asked[1] == asked[2] == "":
        return None
    if asked[1] == "":  # the last so many bytes
        start, end = max(0, size - int(asked[2])), size
    else:
        start = int(asked[1])
        end = min(size, int(asked[2]) + 1) if asked[2] else size
        if asked[2] and int(asked[2]) < start:
            return None
    if start >= end:
        raise RangeNotSatisfiable(f"the file has {size} bytes; {header} is not in it", size=size)
    return Span(start, end)
