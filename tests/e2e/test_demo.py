"""`polyrank demo`: one command, previews on the way, a grid of two pictures."""

import re
import signal
from pathlib import Path

import httpx
import numpy as np
from PIL import Image
from polyrank_program import Program

ARGUMENTS = ("demo", "a red circle on a blue background", "--steps", "8", "--seed", "4")


def test_the_demo_paints_previews_and_a_grid(tmp_path: Path) -> None:
    program = Program(*ARGUMENTS, "--out", str(tmp_path))
    assert program.wait() == 0, program.output
    previews = sorted(tmp_path.glob("preview-*.jpg"))
    # The second is left out where a rank is too late with it.
    assert [path.name for path in previews] in (
        ["preview-02.jpg"],
        ["preview-02.jpg", "preview-04.jpg"],
    )
    with Image.open(previews[0]) as preview, Image.open(tmp_path / "grid.jpg") as grid:
        assert preview.size == grid.size == (512, 256)
        pixels = np.asarray(grid)
    left, right = pixels[:, :256].astype(int), pixels[:, 256:].astype(int)
    for tile in (left, right):
        red, green, blue = tile[120:136, 120:136].mean((0, 1))
        assert red > 180 and max(green, blue) < 90
        red, green, blue = tile[:8].mean((0, 1))
        assert blue > 150 and red < 90
    assert np.abs(left - right).max() > 30
    assert re.search(
        r"ready in [\d.]+ s, first preview after [\d.]+ s, all pictures in", program.output
    )
    said = " ".join(program.output.split())
    assert re.search(r"slowest rank's start: spawn [\d.]+ s, .*setup [\d.]+ s", said)
    assert "seeds [4, 5]" in program.output
    assert "rank 1 is ready" in (tmp_path / "log.txt").read_text()
    assert "rank 1 is ready" not in program.output


def test_the_demo_can_stay_up(tmp_path: Path) -> None:
    program = Program(*ARGUMENTS, "--serve", "--ranks", "1", "--out", str(tmp_path))
    address = program.address()
    body = {"prompt": "a cat", "num_inference_steps": 2, "seed": 1}
    answer = httpx.post(address, json=body, timeout=60)
    assert answer.json()["seeds"] == [1]
    assert answer.json()["image"]["url"].startswith("data:image/jpeg;base64,")
    assert program.end(signal.SIGTERM) in (0, 143)
