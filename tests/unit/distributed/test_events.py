"""Text events, snapshots, and the thread that sends them."""

import base64
import io
import json
import threading
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from polyrank.distributed import events


def parse(event: bytes) -> Any:
    assert event.startswith(b"data: ") and event.endswith(b"\n\n")
    assert event.count(b"\n") == 2
    return json.loads(event[6:])


def test_a_picture_becomes_a_file_with_a_data_uri() -> None:
    picture = Image.new("RGB", (32, 16), (200, 30, 60))
    sent = parse(events.text_event({"step": 3, "preview": picture}))
    assert sent["step"] == 3
    preview = sent["preview"]
    assert (preview["content_type"], preview["width"], preview["height"]) == ("image/jpeg", 32, 16)
    head, data = preview["url"].split(",")
    assert head == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (32, 16)


@pytest.mark.parametrize("image_format", ["png", "jpeg", "jpg", "webp"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "LA", "I;16", "1", "CMYK"])
def test_every_mode_of_picture_can_be_written_for_the_browser(mode: str, image_format: str) -> None:
    if (mode, image_format) in {("CMYK", "png"), ("CMYK", "webp")}:
        pytest.skip("no such file")
    noise = Image.effect_noise((16, 16), 50)
    picture = noise.convert("I;16") if mode == "I;16" else noise.convert(mode)
    data, content_type = events.encode_picture(picture, image_format)
    assert Image.open(io.BytesIO(data)).size == (16, 16)
    assert content_type == f"image/{'jpeg' if image_format == 'jpg' else image_format}"


def test_png_keeps_the_very_pixels() -> None:
    picture = Image.effect_noise((16, 16), 50).convert("RGBA")
    data, _ = events.encode_picture(picture, "png")
    assert Image.open(io.BytesIO(data)).tobytes() == picture.tobytes()


def test_numbers_that_json_lacks_become_null_and_arrays_lists() -> None:
    sent = parse(
        events.text_event(
            {"nan": float("nan"), "array": np.arange(3), "tensor": torch.ones(1), "n": np.int8(4)}
        )
    )
    assert sent["nan"] is None
    assert sent["array"] == {"shape": [3], "dtype": "int64", "data": [0, 1, 2]}
    assert sent["tensor"] == {"shape": [1], "dtype": "float32", "data": [1.0]}
    assert sent["n"] == 4


def test_a_snapshot_does_not_change_with_its_original() -> None:
    tensor, array, data = torch.zeros(3), np.zeros(3), bytearray(3)
    picture = Image.new("L", (2, 2))
    copy = events.snapshot({"t": tensor, "list": [array, (data, picture)]})
    tensor += 1
    array += 1
    data[0] = 1
    picture.putpixel((0, 0), 255)
    assert copy["t"].tolist() == [0, 0, 0]
    assert copy["list"][0].tolist() == [0, 0, 0]
    assert copy["list"][1][0] == bytearray(3)
    assert copy["list"][1][1].getpixel((0, 0)) == 0


def test_jobs_run_in_order_and_flush_waits_for_the_last() -> None:
    thread, ran = events.EventThread(), []
    for number in range(200):
        thread.put(lambda number=number: ran.append(number))
    thread.flush()
    assert ran == list(range(200))


def test_put_waits_while_too_many_jobs_are_queued() -> None:
    thread, gate, ran = events.EventThread(), threading.Event(), []
    thread.put(gate.wait)
    filler = threading.Thread(
        target=lambda: [thread.put(lambda: ran.append(1)) for _ in range(events.MAX_PENDING + 5)]
    )
    filler.start()
    filler.join(timeout=0.2)
    assert filler.is_alive()
    gate.set()
    filler.join()
    thread.flush()
    assert len(ran) == events.MAX_PENDING + 5


def test_flush_raises_the_first_error_once_and_the_thread_lives_on() -> None:
    thread, ran = events.EventThread(), []
    thread.put(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        thread.flush()
    thread.put(lambda: ran.append(1))
    thread.flush()
    assert ran == [1]
