"""Pictures in a terminal: which way it shows them, if any, and how they are written.

A terminal is asked what it can do, by the queries that kitty, iTerm2 and the VT340 answer; one that
says nothing shows none.
"""

from __future__ import annotations

import base64
import enum
import fcntl
import io
import math
import os
import re
import select
import struct
import termios
import time
import tty
from dataclasses import dataclass

from PIL import Image

# kitty's graphics query, the terminal's name and version, and the attributes that any answers.
QUERY = b"\x1b_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\\x1b[>q\x1b[c"
ATTRIBUTES = re.compile(rb"\x1b\[\?([0-9;]*)c")
SIXEL_ATTRIBUTE = b"4"
ANSWER_S = 0.5

CHUNK_CHARS = 4096
SIXEL_COLORS = 128
PICTURE_ID = 0x504C59
# Where the terminal does not say how large its cells are.
CELL_PIXELS = (8, 16)


class Protocol(enum.Enum):
    """A way to write pictures to a terminal."""

    KITTY = "kitty"
    ITERM2 = "iterm2"
    SIXEL = "sixel"


@dataclass(frozen=True)
class Screen:
    """A terminal: its size in cells, and that of a cell in pixels."""

    columns: int
    rows: int
    cell: tuple[int, int]

    @classmethod
    def of(cls, fd: int) -> Screen:
        """The terminal behind a descriptor."""
        packed = fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(8))
        rows, columns, width, height = struct.unpack("HHHH", packed)
        if not (rows and columns and width and height):
            return cls(columns or 80, rows or 24, CELL_PIXELS)
        return cls(columns, rows, (width // columns, height // rows))

    def fit(self, size: tuple[int, int], rows: int) -> tuple[int, int]:
        """Columns and rows for a picture: ``rows`` high, less where it would be too wide."""
        width = size[0] / size[1] * rows * self.cell[1] / self.cell[0]
        scale = min(1.0, self.columns / width)
        return max(1, math.floor(width * scale)), max(1, math.floor(rows * scale))


def ask(fd: int) -> Protocol | None:
    """How the terminal behind ``fd`` shows pictures; None if it does not, or says nothing."""
    try:
        before = termios.tcgetattr(fd)
    except termios.error:
        return None
    try:
        tty.setcbreak(fd, termios.TCSANOW)
        os.write(fd, QUERY)
        answer = _read_answer(fd)
    except OSError:
        return None
    finally:
        termios.tcsetattr(fd, termios.TCSANOW, before)
    return understand(answer)


def understand(answer: bytes) -> Protocol | None:
    """What a terminal's answer to QUERY says."""
    if b"\x1b_Gi=31;OK" in answer:
        return Protocol.KITTY
    if re.search(rb"\x1bP>\|(iTerm2|WezTerm)", answer):
        return Protocol.ITERM2
    attributes = ATTRIBUTES.search(answer)
    if attributes is not None and SIXEL_ATTRIBUTE in attributes[1].split(b";")[1:]:
        return Protocol.SIXEL
    return None


def encode(picture: Image.Image, protocol: Protocol, screen: Screen, cells: tuple[int, int]) -> str:
    """What shows a picture in so many columns and rows from the cursor on."""
    pixels = cells[0] * screen.cell[0], cells[1] * screen.cell[1]
    small = picture.convert("RGB").resize(pixels, Image.Resampling.LANCZOS)
    if protocol is Protocol.SIXEL:
        return _sixel(small)
    buffer = io.BytesIO()
    small.save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    if protocol is Protocol.KITTY:
        return _kitty(data, cells)
    size = f"size={buffer.tell()};width={cells[0]};height={cells[1]};preserveAspectRatio=0"
    return f"\x1b]1337;File=inline=1;{size}:{data}\x07"


def _read_answer(fd: int) -> bytes:
    answer, until = b"", time.monotonic() + ANSWER_S
    while not ATTRIBUTES.search(answer):
        left = until - time.monotonic()
        if left <= 0 or not select.select([fd], [], [], left)[0]:
            break
        answer += os.read(fd, 1024)
    return answer


def _kitty(data: str, cells: tuple[int, int]) -> str:
    keys = f"a=T,f=100,q=2,C=1,i={PICTURE_ID},c={cells[0]},r={cells[1]},"
    parts = []
    for start in range(0, len(data), CHUNK_CHARS):
        more = int(start + CHUNK_CHARS < len(data))
        parts.append(f"\x1b_G{keys}m={more};{data[start : start + CHUNK_CHARS]}\x1b\\")
        keys = ""
    return "".join(parts)


def _sixel(picture: Image.Image) -> str:
    """DEC sixel: bands of six rows, in each band the dots of one colour after the other."""
    indexed = picture.quantize(SIXEL_COLORS, dither=Image.Dither.NONE)
    width, height = indexed.size
    palette = indexed.getpalette() or []
    used = sorted(set(indexed.tobytes()))
    parts = [f'\x1bP9;1q"1;1;{width};{height}']
    for index in used:
        red, green, blue = (round(c * 100 / 255) for c in palette[3 * index : 3 * index + 3])
        parts.append(f"#{index};2;{red};{green};{blue}")
    rows = [indexed.crop((0, y, width, y + 1)).tobytes() for y in range(height)]
    offset = int.from_bytes(b"?" * width)
    for top in range(0, height, 6):
        band = rows[top : top + 6]
        lines = [
            f"#{index}{_run_lengths(_dots(band, index, offset, width))}"
            for index in sorted(set(b"".join(band)))
        ]
        parts.append("$".join(lines) + "-")
    return "".join(parts) + "\x1b\\"


def _dots(band: list[bytes], index: int, offset: int, width: int) -> str:
    """One character for each column: which of its six dots have the colour ``index``."""
    dots = 0
    for bit, row in enumerate(band):
        table = bytes(1 << bit if value == index else 0 for value in range(256))
        dots |= int.from_bytes(row.translate(table))
    return (dots + offset).to_bytes(width).decode()


def _run_lengths(text: str) -> str:
    return re.sub(r"(.)\1{3,}", lambda run: f"!{len(run[0])}{run[1]}", text)
