"""The reference tutorial's own application, verbatim, on two CPU ranks."""

import ast
import base64
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from polyrank_program import ROOT, Program

TUTORIAL = ROOT.parent / "shared" / "seed" / "tutorial.txt"
MODELS = {
    "stabilityai/stable-diffusion-xl-base-1.0": ROOT / "models" / "shapes",
    "madebyollin/taesdxl": ROOT / "models" / "shapes" / "preview",
}
TORCHVISION = ROOT / ".tools" / "torchvision"
REVISION = "0" * 40
# Its warm-up paints 1024x1024 in 20 steps.
LIMIT_S = 600
SMALL = {
    "prompt": "a red circle on a blue background",
    "width": 256,
    "height": 256,
    "num_inference_steps": 8,
}

pytestmark = [
    pytest.mark.skipif(not TUTORIAL.exists(), reason="the tutorial is not beside this checkout"),
    pytest.mark.timeout(2 * LIMIT_S),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("tutorial")
    file = folder / "distributed_app.py"
    file.write_text(application(TUTORIAL.read_text()))
    program = Program(
        "run",
        str(file),
        *("--port", "0"),
        HF_HOME=str(hub_with(folder / "huggingface")),
        HF_HUB_OFFLINE="1",
        PYTHONPATH=os.pathsep.join([str(torchvision(folder)), os.environ.get("PYTHONPATH", "")]),
    )
    try:
        address = program.address(limit_s=LIMIT_S)
        # Its pins are for another day; that is said, and no reason to stop.
        assert "diffusers==0.30.3" in program.output
        yield address
    finally:
        program.end()


def application(page: str) -> str:
    """The program on the page: from its first import to the last line that still parses."""
    lines = page[page.index("from math import floor") :].splitlines(keepends=True)
    app = next(n for n, line in enumerate(lines) if line.startswith("class ExampleDistributedApp"))
    end = next(
        n for n, line in enumerate(lines) if n > app and line.strip() and not line[0].isspace()
    )
    code = "".join(lines[:end])
    ast.parse(code)
    return code


def hub_with(home: Path) -> Path:
    """A Hugging Face cache in which the tutorial's two models are models/shapes."""
    for name, source in MODELS.items():
        repository = home / "hub" / f"models--{name.replace('/', '--')}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text(REVISION)
        (repository / "snapshots").mkdir()
        shutil.copytree(source, repository / "snapshots" / REVISION)
    return home


def torchvision(folder: Path) -> Path:
    """A folder with a torchvision that imports.

    PyPI's is built for CUDA; beside a CPU torch its C++ operators do not load, and then it stumbles
    over the module that describes them to the compiler. The tutorial uses none of them.
    """
    importable = subprocess.run(
        [sys.executable, "-c", "import torchvision"],
        env={**os.environ, "PYTHONPATH": str(TORCHVISION)},
        capture_output=True,
    )
    if importable.returncode == 0:
        return TORCHVISION
    if not TORCHVISION.exists():
        pytest.skip("no torchvision: `make test` installs it")
    copy = folder / "packages"
    shutil.copytree(TORCHVISION, copy)
    (copy / "torchvision" / "_meta_registrations.py").write_text("")
    return copy


def open_grid(file: dict[str, object]) -> tuple[np.ndarray, np.ndarray]:
    """The two pictures of a grid: a data URI in an event, a file of the server in an answer."""
    url = str(file["url"])
    if url.startswith("http"):
        data = httpx.get(url).raise_for_status().content
    else:
        head, _, text = url.partition(",")
        assert head.startswith("data:image/") and head.endswith(";base64")
        data = base64.b64decode(text)
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.size == (260, 518)  # torchvision's grid: two pixels around each
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    return pixels[2:258, 2:258], pixels[260:516, 2:258]


def assert_red_circles_on_blue(upper: np.ndarray, lower: np.ndarray) -> None:
    for tile in (upper, lower):
        red, green, blue = tile[120:136, 120:136].mean((0, 1))
        assert red > 150 and max(green, blue) < 120
        red, green, blue = tile[:8].mean((0, 1))
        assert blue > 150 and red < 120
    assert np.abs(upper - lower).max() > 30


def test_it_answers_a_grid_of_two_different_pictures(address: str) -> None:
    answer = httpx.post(address, json=SMALL, timeout=LIMIT_S)
    assert answer.status_code == 200, answer.text
    assert_red_circles_on_blue(*open_grid(answer.json()["image"]))


def test_it_streams_previews_and_then_the_picture(address: str) -> None:
    with httpx.stream("POST", f"{address}/stream", json=SMALL, timeout=LIMIT_S) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: ")]
    assert len(events) == 3  # steps 0 and 5, and the result
    for event in events:
        open_grid(event["image"])
    assert_red_circles_on_blue(*open_grid(events[-1]["image"]))


def test_bad_input_is_an_error_and_the_app_goes_on(address: str) -> None:
    assert httpx.post(address, json={}).status_code == 422
    assert httpx.post(address, json={**SMALL, "width": 3}, timeout=LIMIT_S).status_code == 500
    answer = httpx.post(address, json={**SMALL, "num_inference_steps": 1}, timeout=LIMIT_S)
    assert answer.status_code == 200
