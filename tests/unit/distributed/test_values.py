"""Values come back as they went, whatever they look like."""

import datetime as dt
import decimal
import enum
import math
import pathlib
import uuid
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import BaseModel, PrivateAttr

from polyrank.distributed import values
from polyrank.errors import ValueNotSendable


class Shape(enum.Enum):
    ROUND = "round"


class Level(enum.IntEnum):
    HIGH = 2


class Brush(BaseModel):
    width: int = 1
    colour: tuple[int, int, int] = (0, 0, 0)
    picture: Any = None
    _strokes: int = PrivateAttr(default=0)


@dataclass(frozen=True)
class Point:
    x: float
    y: Any


def over_and_back(value: Any) -> Any:
    header, buffers = values.encode(value)
    return values.decode(header, [bytearray(buffer) for buffer in buffers])


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(max_size=64),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers() | st.none(), inner)
    ),
    max_leaves=20,
)


@given(PLAIN)
def test_plain_data_comes_back_equal_and_of_the_same_types(value: Any) -> None:
    back = over_and_back(value)
    assert back == value
    assert repr(back) == repr(value)


@pytest.mark.parametrize(
    "value",
    [
        {"content_type": None, "url": "https://example.com/a.png"},
        {"content_type": "image/png", "url": "https://example.com/a.png"},
        {"data": None, "content_type": "application/tensor"},
        "\ud800 a lone surrogate",
        {"\udfff": 1, 2: "two", None: 3, (4, 5): {6}},
        2**200,
        -(2**63),
        math.inf,
        complex(1, -2),
        bytearray(b"x" * 100_000),
        b"x" * 5_000,
        {1, 2},
        frozenset({"a"}),
        dt.datetime(2026, 11, 21, 3, 4, 5, 6),
        dt.datetime(2026, 11, 21, tzinfo=dt.timezone(dt.timedelta(hours=2))),
        dt.date(2026, 11, 21),
        dt.time(3, 4),
        dt.timedelta(days=-1, microseconds=7),
        decimal.Decimal("1.10"),
        uuid.UUID(int=5),
        pathlib.Path("/tmp/a b"),
        Shape.ROUND,
        Level.HIGH,
        Point(1.5, [Point(0, None)]),
        Brush(width=3),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_kind_of_value_comes_back_equal(value: Any) -> None:
    back = over_and_back(value)
    assert back == value
    assert type(back) is type(value)


def test_nan_comes_back_as_nan() -> None:
    assert math.isnan(over_and_back([math.nan])[0])


def test_a_model_keeps_its_private_state_and_which_fields_were_set() -> None:
    brush = Brush(picture=np.arange(4))
    brush._strokes = 9
    back = over_and_back(brush)
    assert back._strokes == 9
    assert back.model_fields_set == {"picture"}
    assert back.picture.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "dtype", sorted({np.dtype(code).str for code in "?bBhHiIlLqQefdgFDGSUVmM"} | {">i4", "<U7"})
)
def test_arrays_of_every_dtype_keep_their_bytes(dtype: str) -> None:
    if np.dtype(dtype).itemsize == 0:
        array = np.array(["a", "bb"]).astype(dtype)
    else:
        array = np.zeros((2, 3), dtype)
        array.view(np.uint8)[...] = np.arange(array.nbytes, dtype=np.uint8).reshape(2, -1) % 2
    back = over_and_back(array)
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


@pytest.mark.parametrize(
    "array",
    [
        np.array(3.5),
        np.empty((0, 4), np.int16),
        np.arange(12).reshape(3, 4)[:, ::2],
        np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        np.zeros(3, [("a", "<i4"), ("b", "<f8", (2,)), ("c", [("d", "u1")])]),
        np.float32(2.5),
    ],
    ids=["zero-dim", "empty", "strided", "fortran", "structured", "scalar"],
)
def test_arrays_of_every_layout_come_back_equal(array: Any) -> None:
    back = over_and_back(array)
    assert back.dtype == array.dtype
    assert np.array_equal(back, array)
    assert type(back) is type(array)


def dense_dtypes() -> list[torch.dtype]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}
        return sorted((d for d in found if not torch.empty(1, dtype=d).is_quantized), key=str)


@pytest.mark.parametrize("dtype", dense_dtypes(), ids=str)
@pytest.mark.filterwarnings("ignore")
def test_tensors_of_every_dtype_keep_their_bytes(dtype: torch.dtype) -> None:
    tensor = torch.empty(2, 3, dtype=dtype)
    tensor.untyped_storage().copy_(
        torch.arange(tensor.untyped_storage().nbytes(), dtype=torch.uint8).untyped_storage()
    )
    back = over_and_back(tensor)
    assert back.dtype == dtype
    assert back.shape == tensor.shape
    assert bytes(back.untyped_storage()) == bytes(tensor.untyped_storage())


def test_a_view_into_a_larger_tensor_sends_its_own_elements_only() -> None:
    whole = torch.arange(1_000_000)
    header, buffers = values.encode(whole[10:13])
    assert memoryview(buffers[0]).nbytes == 24
    assert over_and_back(whole[10:13]).tolist() == [10, 11, 12]


def test_tensors_that_are_not_plain_memory_are_refused_by_name() -> None:
    with pytest.raises(ValueNotSendable, match=r"value\['mask'\] is not a dense tensor"):
        values.encode({"mask": torch.eye(3).to_sparse()})


MODES = ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "LA", "PA", "I;16"]


@pytest.mark.parametrize("mode", MODES)
def test_pictures_of_every_mode_keep_their_pixels(mode: str) -> None:
    picture = Image.effect_noise((31, 17), 80)
    picture = picture.convert("I;16") if mode == "I;16" else picture.convert(mode)
    back = over_and_back({"picture": picture})["picture"]
    assert back.mode == mode
    assert back.size == picture.size
    assert back.tobytes() == picture.tobytes()


def test_a_palette_keeps_its_colours_and_its_transparency() -> None:
    picture = Image.effect_noise((8, 8), 50).convert("RGB").quantize(16)
    picture.info["transparency"] = 3
    back = over_and_back(picture)
    assert back.getpalette() == picture.getpalette()
    assert back.info["transparency"] == 3
    assert back.convert("RGBA").tobytes() == picture.convert("RGBA").tobytes()


def test_a_picture_that_pillow_keeps_in_several_blocks_crosses_too() -> None:
    picture = Image.effect_noise((4096, 4096), 30).convert("RGB")
    assert over_and_back(picture).tobytes() == picture.tobytes()


def test_a_received_picture_can_be_drawn_on() -> None:
    back = over_and_back(Image.new("RGB", (64, 64), "red"))
    back.putpixel((1, 1), (0, 0, 255))
    assert back.getpixel((1, 1)) == (0, 0, 255)
    assert back.getpixel((2, 2)) == (255, 0, 0)


def test_what_cannot_be_sent_is_named_with_its_path() -> None:
    with pytest.raises(ValueNotSendable, match=r"value\['a'\]\[1\]\['b'\] is a builtins.object"):
        values.encode({"a": [0, {"b": object()}]})


def test_nesting_has_a_limit_and_a_clear_error() -> None:
    assert over_and_back(nested(150)) == nested(150)
    with pytest.raises(ValueNotSendable, match="nested more than 200 levels deep"):
        values.encode(nested(100_000))


def nested(depth: int) -> list[Any]:
    inner: list[Any] = []
    for _ in range(depth):
        inner = [inner]
    return inner
