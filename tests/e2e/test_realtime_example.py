"""``examples/realtime.py``: two ranks paint one picture for sessions that come and go."""

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy
import pytest
from PIL import Image
from polyrank_program import ROOT, Program
from websockets.sync.client import ClientConnection, connect


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    program = Program("run", "examples/realtime.py", "--port", "0", "--device", "cpu")
    yield program.address().replace("http", "ws")
    program.end()


@pytest.fixture
def open_session(address: str) -> Callable[[str], ClientConnection]:
    return lambda path: connect(address + path, max_size=None, proxy=None)


def send(session: ClientConnection, **stroke: Any) -> None:
    session.send(msgspec.msgpack.encode(stroke))


def receive(session: ClientConnection) -> tuple[int, Any]:
    """The next frame: its step, and its pixels."""
    while isinstance(message := session.recv(30), str):
        assert "x-fal-error" not in message, message
    frame = msgspec.msgpack.decode(message)
    return frame["step"], numpy.asarray(Image.open(io.BytesIO(frame["jpeg"])))


def test_what_is_painted_in_each_ranks_band_grows_in_one_picture(open_session: Any) -> None:
    with open_session("/realtime") as session:
        for y in (0.25, 0.75):
            send(session, x=0.5, y=y, steps=8)
            step, pixels = receive(session)
        assert pixels.shape == (256, 256)
        assert pixels[64, 128] > 60 and pixels[192, 128] > 60 and pixels[128, 128] < 20
        send(session, x=0.5, y=0.5, steps=8)  # on the border between the bands
        after, pixels = receive(session)
        assert after == step + 8
        above, below = pixels[120:128, 128].astype(int), pixels[128:136, 128].astype(int)
        assert above.min() > 60 and abs(above - below[::-1]).max() < 16


def test_frames_are_streamed_until_the_session_ends_in_order(open_session: Any) -> None:
    with open_session("/film") as session:
        send(session, frames=5, steps=2)
        steps = [receive(session)[0] for _ in range(5)]
        assert steps == list(range(steps[0], steps[0] + 10, 2))
        assert "timings" in session.recv()
        with pytest.raises(Exception, match="1000"):
            session.recv(30)


def test_the_ranks_stop_for_a_caller_who_has_gone_and_go_on_for_the_next(open_session: Any) -> None:
    with open_session("/film") as session:
        send(session, frames=100_000, steps=1)
        receive(session)
        last, _ = receive(session)
    with open_session("/realtime") as session:
        send(session, steps=1)
        step, _ = receive(session)
    assert last < step < last + 10_000  # neither started anew nor painted to the end


def test_the_program_of_the_docs_paints(address: str, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "realtime.md").read_text()
    [code] = [
        each
        for each in re.findall(r"```python\n(.*?)```", page, re.DOTALL)
        if "import polyrank.client" in each
    ]
    server = address.replace("ws", "http", 1).partition("/run/")[0]
    environment = {**os.environ, "POLYRANK_SERVER": server}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    with Image.open(tmp_path / "painting.jpg") as picture:
        assert picture.size == (256, 256)
