"""Pictures in a terminal."""

import base64
import io
import os
import re
import select
import threading

import pytest
from PIL import Image

from polyrank.cli import graphics
from polyrank.cli.graphics import Protocol, Screen

SCREEN = Screen(80, 24, (8, 16))
KITTY = b"\x1b_Gi=31;OK\x1b\\\x1bP>|kitty(0.40)\x1b\\\x1b[?62;c"


@pytest.mark.parametrize(
    ("answer", "protocol"),
    [
        (KITTY, Protocol.KITTY),
        (b"\x1bP>|iTerm2 3.5.0\x1b\\\x1b[?62;4c", Protocol.ITERM2),
        (b"\x1bP>|WezTerm 2024\x1b\\\x1b[?65;4;6c", Protocol.ITERM2),
        (b"\x1b[?63;1;2;4;6;9;15;22c", Protocol.SIXEL),
        (b"\x1bP>|xterm(390)\x1b\\\x1b[?64;1;2;6c", None),
        (b"\x1b[?4c", None),
        (b"", None),
    ],
)
def test_a_terminal_is_known_by_its_answer(answer: bytes, protocol: Protocol | None) -> None:
    assert graphics.understand(answer) is protocol


def test_a_terminal_is_asked_and_left_as_it_was() -> None:
    ours, theirs = os.openpty()
    asked = bytearray()

    def answer() -> None:
        while not asked.endswith(b"\x1b[c"):
            asked.extend(os.read(ours, 100))
        for piece in (KITTY[:7], KITTY[7:]):
            os.write(ours, piece)

    terminal = threading.Thread(target=answer)
    terminal.start()
    before = graphics.termios.tcgetattr(theirs)
    assert graphics.ask(theirs) is Protocol.KITTY
    assert graphics.termios.tcgetattr(theirs) == before
    terminal.join()
    assert not select.select([theirs], [], [], 0)[0]  # the answer is not left to the shell
    os.close(ours)
    os.close(theirs)


def test_what_is_no_terminal_is_not_asked() -> None:
    read_fd, write_fd = os.pipe()
    assert graphics.ask(write_fd) is None
    os.close(write_fd)
    assert os.read(read_fd, 1) == b""
    os.close(read_fd)


def test_a_picture_keeps_its_shape_and_fits() -> None:
    assert SCREEN.fit((100, 100), 16) == (32, 16)
    assert SCREEN.fit((1000, 100), 16) == (80, 4)


def test_kitty_gets_a_png_in_chunks() -> None:
    picture = Image.effect_noise((400, 400), 90)
    text = graphics.encode(picture, Protocol.KITTY, SCREEN, (32, 16))
    chunks = re.findall(r"\x1b_G(.*?);(.*?)\x1b\\", text)
    assert len(chunks) > 2 and all(len(data) <= 4096 for _, data in chunks)
    assert "c=32,r=16" in chunks[0][0]
    assert [keys[-3:] for keys, _ in chunks] == [*["m=1"] * (len(chunks) - 1), "m=0"]
    data = base64.b64decode("".join(data for _, data in chunks))
    assert Image.open(io.BytesIO(data)).size == (256, 256)


def test_iterm2_gets_a_png() -> None:
    text = graphics.encode(Image.new("RGB", (9, 9)), Protocol.ITERM2, SCREEN, (2, 1))
    size, data = re.fullmatch(  # type: ignore[union-attr]
        r"\x1b\]1337;File=inline=1;size=(\d+);width=2;height=1;preserveAspectRatio=0:(.*)\x07", text
    ).groups()
    assert len(base64.b64decode(data)) == int(size)


def decoded_sixel(text: str) -> Image.Image:
    """What a terminal draws."""
    width, height = map(int, re.search(r'"1;1;(\d+);(\d+)', text).groups())  # type: ignore[union-attr]
    picture = Image.new("RGB", (width, height), "white")
    colors, color, x, y = {}, (0, 0, 0), 0, 0
    body = text.removeprefix("\x1bP9;1q").removesuffix("\x1b\\")
    body = re.sub(r'^"[0-9;]*', "", body)
    for token in re.findall(r"#\d+(?:;2;\d+;\d+;\d+)?|!\d+.|[$-]|[?-~]", body):
        if token[0] == "#":
            index, *rgb = token[1:].replace(";2;", ";", 1).split(";")
            if rgb:
                colors[index] = tuple(round(int(c) * 2.55) for c in rgb)
            color = colors[index]
        elif token == "$":
            x = 0
        elif token == "-":
            x, y = 0, y + 6
        else:
            count = int(token[1:-1]) if token[0] == "!" else 1
            for _ in range(count):
                for bit in range(6):
                    if (ord(token[-1]) - 63) >> bit & 1:
                        picture.putpixel((x, y + bit), color)
                x += 1
    return picture


def test_sixel_draws_the_same_picture() -> None:
    picture = Image.new("RGB", (64, 64))
    for x in range(64):
        for y in range(64):
            picture.putpixel((x, y), (x // 16 * 64, y // 16 * 64, 128))
    text = graphics.encode(picture, Protocol.SIXEL, Screen(80, 24, (8, 16)), (8, 4))
    drawn = decoded_sixel(text)
    assert drawn.size == (64, 64)
    worst = max(abs(a - b) for a, b in zip(drawn.tobytes(), picture.tobytes(), strict=True))
    assert worst <= 3  # sixel's colours are in hundredths
