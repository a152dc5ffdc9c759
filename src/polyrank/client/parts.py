"""Bytes that are sent: of a file or in memory, whole or a part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

CHUNK_BYTES = 2**18


@dataclass(frozen=True)
class Part:
    """``size`` bytes of ``source`` from ``offset`` on; a file is read only while it is sent."""

    source: bytes | Path
    offset: int
    size: int

    @classmethod
    def of(cls, source: bytes | Path) -> Part:
        """The whole of a file or of some bytes."""
        size = source.stat().st_size if isinstance(source, Path) else len(source)
        return cls(source, 0, size)

    def split(self, size: int) -> list[Part]:
        """The same bytes in parts of ``size``, the last of what is left."""
        return [
            replace(self, offset=self.offset + start, size=min(size, self.size - start))
            for start in range(0, self.size, size)
        ]

    def chunks(self) -> Iterator[bytes]:
        """The bytes, some at a time. Raises OSError if the file has become shorter."""
        if isinstance(self.source, bytes):
            view = memoryview(self.source)[self.offset : self.offset + self.size]
            for start in range(0, self.size, CHUNK_BYTES):
                yield bytes(view[start : start + CHUNK_BYTES])
            return
        with self.source.open("rb") as file:
            file.seek(self.offset)
            left = self.size
            while left:
                chunk = file.read(min(left, CHUNK_BYTES))
                if not chunk:
                    raise OSError(f"{self.source} became shorter while it was sent")
                left -= len(chunk)
                yield chunk
