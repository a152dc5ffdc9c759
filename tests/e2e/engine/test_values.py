"""What a worker gets is what was sent, and what it returns is what the caller gets."""

import asyncio
import datetime as dt
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from engine_workers import Access, Box, Colour, Job, Style, Unsendable
from PIL import Image, ImageDraw

from polyrank.distributed import DistributedRunner
from polyrank.errors import PolyrankError, ValueNotSendable

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODES = ["1", "L", "LA", "I", "I;16", "F", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """torch warns that some of its types are new."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


async def echo(runner: DistributedRunner, value: Any) -> Any:
    return await runner.invoke({"do": "echo", "value": value})


def drawing(mode: str) -> Image.Image:
    if mode in ("I", "I;16", "F"):
        depth = {"I": np.int32, "I;16": np.uint16, "F": np.float32}[mode]
        return Image.fromarray((np.arange(35 * 17) * 97.5).astype(depth).reshape(17, 35))
    picture = Image.new("RGBA", (35, 17), (40, 80, 200, 120))
    ImageDraw.Draw(picture).ellipse((3, 3, 30, 14), fill=(250, 30, 60, 255))
    if mode in ("HSV", "CMYK", "YCbCr"):
        return picture.convert("RGB").convert(mode)
    return picture.convert("P").convert("PA") if mode == "PA" else picture.convert(mode)


def same_picture(left: Image.Image, right: Image.Image) -> bool:
    return (
        (left.mode, left.size, left.getpalette()) == (right.mode, right.size, right.getpalette())
        and left.tobytes() == right.tobytes()
        and left.info.get("transparency") == right.info.get("transparency")
    )


@pytest.mark.parametrize("mode", MODES)
async def test_a_picture_of_any_mode_arrives_pixel_for_pixel(
    solo: DistributedRunner, mode: str
) -> None:
    """Rows 8 (a) and 11: no picture is turned into a JPEG, none kills the pool."""
    picture = drawing(mode)
    assert picture.mode == mode
    assert same_picture(await echo(solo, picture), picture)


@pytest.mark.parametrize("transparency", [0, 3, bytes(range(256))])
async def test_a_palette_with_transparency_arrives(
    solo: DistributedRunner, transparency: Any
) -> None:
    """Row 11: alpha is kept."""
    picture = drawing("P")
    picture.info["transparency"] = transparency
    back = await echo(solo, picture)
    assert same_picture(back, picture)
    assert back.convert("RGBA").tobytes() == picture.convert("RGBA").tobytes()


@pytest.mark.parametrize("size", [(0, 0), (0, 5), (1, 1), (4097, 3), (1920, 1080)])
async def test_a_picture_of_any_size_arrives(
    solo: DistributedRunner, size: tuple[int, int]
) -> None:
    picture = Image.effect_noise(size, 50) if 0 not in size else Image.new("L", size)
    assert same_picture(await echo(solo, picture), picture)


async def test_a_picture_that_arrived_can_be_drawn_on(solo: DistributedRunner) -> None:
    back = await echo(solo, drawing("RGBA"))
    back.putpixel((0, 0), (1, 2, 3, 4))
    assert back.getpixel((0, 0)) == (1, 2, 3, 4)
    assert back.resize((5, 5)).size == (5, 5)


async def test_a_crop_and_an_opened_file_arrive(solo: DistributedRunner, tmp_path: Any) -> None:
    drawing("RGB").save(tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as opened:
        assert (await echo(solo, opened)).tobytes() == drawing("RGB").tobytes()
        cropped = opened.crop((3, 2, 20, 9))
    assert (await echo(solo, cropped)).tobytes() == cropped.tobytes()


NUMPY_TYPES = sorted({np.dtype(code).str for code in np.typecodes["All"] if code not in "OMmSUV"})


@pytest.mark.parametrize("dtype", [*NUMPY_TYPES, ">i4", ">f8", "S5", "U5", "V4", "M8[ns]", "m8[s]"])
async def test_an_array_of_any_type_arrives(solo: DistributedRunner, dtype: str) -> None:
    array = np.frombuffer(bytes(range(240)), np.uint8)[: 240 // np.dtype(dtype).itemsize]
    array = array.astype(dtype) if dtype[-2] != "V" and dtype != "V4" else array.copy().view("V4")
    back = await echo(solo, array)
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    assert back.tobytes() == array.tobytes()


@pytest.mark.parametrize(
    "dtype",
    [
        np.dtype([("x", "<f4"), ("name", "U3")]),
        np.dtype([("point", [("x", "i2"), ("y", "i2")]), ("grid", "f8", (2, 3))]),
        np.dtype([("small", "u1"), ("wide", "f8")], align=True),
        np.dtype({"names": ["a", "b"], "formats": ["u1", "u2"], "offsets": [0, 6], "itemsize": 16}),
    ],
    ids=["flat", "nested", "aligned", "offsets"],
)
async def test_a_structured_array_arrives(solo: DistributedRunner, dtype: Any) -> None:
    array = np.zeros(4, dtype)
    array[dtype.names[0]] = 7
    back = await echo(solo, array)
    assert back.dtype == dtype
    assert (back == array).all()


@pytest.mark.parametrize(
    "array",
    [
        np.array(5.5),
        np.float32(2.5),
        np.bool_(True),
        np.datetime64("2026-01-02T03:04:05.000000006"),
        np.zeros((0, 3), np.int16),
        np.zeros((3, 0, 2)),
        np.arange(24).reshape(2, 3, 4)[:, ::2, ::-1],
        np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        np.broadcast_to(np.arange(3), (4, 3)),
        np.array([math.nan, -0.0, math.inf]),
    ],
    ids=lambda array: f"{type(array).__name__}-{array.dtype}-{array.shape}",
)
async def test_an_array_of_any_layout_arrives(solo: DistributedRunner, array: Any) -> None:
    back = await echo(solo, array)
    assert type(back) is type(array)
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    assert back.tobytes() == array.tobytes()


async def test_a_masked_array_keeps_its_mask_or_is_refused(solo: DistributedRunner) -> None:
    """Half of a value is worse than none."""
    masked = np.ma.masked_array([1, 2, 3], mask=[False, True, False])
    try:
        back = await echo(solo, masked)
    except ValueNotSendable:
        return
    assert np.ma.getmaskarray(back).tolist() == [False, True, False]


async def test_an_array_that_arrived_can_be_written_to(solo: DistributedRunner) -> None:
    for size in (3, 3_000_000):
        back = await echo(solo, np.zeros(size))
        back[:] = 1
        assert back.all()


TORCH_TYPES = sorted({str(item) for item in vars(torch).values() if isinstance(item, torch.dtype)})


def sample(dtype: torch.dtype) -> torch.Tensor:
    """Every bit pattern of a byte, seen as ``dtype``."""
    raw = torch.arange(256, dtype=torch.uint8)
    if dtype is torch.bool:
        return raw % 2 == 0
    if str(dtype).startswith("torch.q"):
        return torch.quantize_per_tensor(raw.float(), 0.1, 0, dtype)
    return raw.view(dtype)


@pytest.mark.parametrize("name", TORCH_TYPES)
async def test_a_tensor_of_any_type_arrives(solo: DistributedRunner, name: str) -> None:
    dtype = getattr(torch, name.removeprefix("torch."))
    try:
        tensor = sample(dtype)
    except (RuntimeError, NotImplementedError, TypeError) as error:
        pytest.skip(f"torch itself cannot make one: {error}")
    if tensor.is_quantized:
        with pytest.raises(ValueNotSendable, match="quantized"):
            await echo(solo, tensor)
        return
    back = await echo(solo, tensor)
    assert (back.dtype, back.shape) == (dtype, tensor.shape)
    assert bytes(back.untyped_storage().tolist()) == bytes(tensor.untyped_storage().tolist())


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(5.5),
        torch.zeros(0),
        torch.zeros(2, 0, 3, dtype=torch.int8),
        torch.arange(24).reshape(2, 3, 4)[:, 1:, ::2],
        torch.arange(12.0).reshape(3, 4).t(),
        torch.arange(3).expand(4, 3),
        torch.arange(100)[40:50],
        torch.arange(48.0).reshape(1, 3, 4, 4).to(memory_format=torch.channels_last),
        torch.tensor([1 + 2j, 3 - 4j]).conj(),
        torch.tensor([1 + 2j]).conj().imag,
        torch.ones(3, requires_grad=True),
        torch.nn.Parameter(torch.ones(3)),
        torch.tensor([math.nan, -0.0, math.inf]),
    ],
    ids=lambda tensor: f"{tensor.dtype}-{list(tensor.shape)}-{list(tensor.stride())}",
)
async def test_a_tensor_of_any_layout_arrives(solo: DistributedRunner, tensor: Any) -> None:
    back = await echo(solo, tensor)
    assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)
    assert torch.equal(back.nan_to_num(), tensor.detach().nan_to_num())


@pytest.mark.parametrize(
    "tensor",
    [torch.eye(3).to_sparse(), torch.empty(3, device="meta")],
    ids=["sparse", "meta"],
)
async def test_a_tensor_without_dense_data_is_refused(solo: DistributedRunner, tensor: Any) -> None:
    with pytest.raises(ValueNotSendable, match="not a dense tensor"):
        await echo(solo, tensor)


PLAIN = {
    "none": None,
    "numbers": [True, False, 0, -1, 2**63, -(2**63), 2**64 - 1, 2**64, -(2**70), 1e308, -0.0],
    "infinities": [math.inf, -math.inf],
    "complex": 1 - 2j,
    "text": ["", "naïve 世界 🎨", "nul \x00", "lone \ud800 surrogate", "x" * 100_000],
    "bytes": [b"", b"\x00\xff", bytes(range(256)) * 40, bytearray(b"abc"), bytearray(9000)],
    "nested": {"a": [{"b": ({"c": (1, [2, (3,)])},)}]},
    "tuples": ((), (1,), (1, (2, [3]))),
    "sets": [set(), {1, "two", (3, 4)}, frozenset({1, b"2"})],
    "keys": {1: "int", None: "none", (1, 2): "tuple", b"b": "bytes", 1.5: "float"},
    "moments": [
        dt.datetime(2026, 1, 2, 3, 4, 5, 678901),
        dt.datetime(2026, 1, 2, tzinfo=dt.UTC),
        dt.datetime(2026, 1, 2, tzinfo=dt.timezone(dt.timedelta(hours=5, minutes=45))),
        dt.date(1, 1, 1),
        dt.time(23, 59, 59, 999999),
        dt.timedelta(days=-1, microseconds=1),
        dt.datetime.max,
    ],
    "enums": [Colour.RED, Access.READ],
    "dataclass": Box(1, Box(2, (3,)), ["t"]),
    "model": Style(name="ink", tags={"a", "b"}),
    "nested model": Job(style=Style(name="ink"), picture=[b"raw"]),
    "empty": [[], {}, (), "", b""],
}


@pytest.mark.parametrize("name", PLAIN)
async def test_plain_data_arrives_as_it_went(solo: DistributedRunner, name: str) -> None:
    back = await echo(solo, PLAIN[name])
    assert back == PLAIN[name]
    assert repr(sorted_sets(back)) == repr(sorted_sets(PLAIN[name]))


def sorted_sets(value: Any) -> Any:
    """``value`` with its sets in an order of their own."""
    if isinstance(value, set | frozenset):
        return type(value).__name__, sorted(map(repr, value))
    if isinstance(value, list | tuple):
        return type(value)(map(sorted_sets, value))
    if isinstance(value, Style):
        return value.name, value.weight, sorted(value.tags)
    return value


async def test_combined_flags_arrive(solo: DistributedRunner) -> None:
    for flags in (Access.READ | Access.WRITE, Access(0)):
        assert await echo(solo, flags) is flags


async def test_a_date_in_a_named_zone_arrives(solo: DistributedRunner) -> None:
    from zoneinfo import ZoneInfo

    moment = dt.datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1)
    back = await echo(solo, moment)
    assert (back, back.fold, back.utcoffset()) == (moment, 1, moment.utcoffset())


async def test_models_and_dataclasses_hold_pictures_and_tensors(solo: DistributedRunner) -> None:
    job = Job(style=Style(name="ink"), picture=drawing("LA"))
    back = await echo(solo, {"job": job, "box": Box(1, torch.arange(5))})
    assert type(back["job"]) is Job
    assert back["job"].style == job.style
    assert back["job"].model_fields_set == job.model_fields_set
    assert same_picture(back["job"].picture, job.picture)
    assert torch.equal(back["box"].inner, torch.arange(5))


async def test_every_rank_gets_the_types_that_were_sent(pair: DistributedRunner) -> None:
    for value in (drawing("RGBA"), torch.ones(2), np.ones(2), Style(name="ink"), Box(1), (1,)):
        assert await pair.invoke({"do": "types", "value": value}) == [repr(type(value))] * 2


async def test_values_reach_setup(running: Callable[..., Any]) -> None:
    setup = {"do": "record", "item": [drawing("LA"), torch.arange(50_000), Style(name="ink")]}
    async with running(setup=setup) as runner:
        picture, tensor, model = (await runner.invoke({"do": "recorded"}))[0]
    assert same_picture(picture, drawing("LA"))
    assert torch.equal(tensor, torch.arange(50_000))
    assert model == Style(name="ink")


@pytest.mark.parametrize("kind", ["bytes", "array", "tensor"])
async def test_two_hundred_megabytes_go_there_and_back(pair: DistributedRunner, kind: str) -> None:
    size = 200_000_000
    result = await pair.invoke({"do": "big", "kind": kind, "size": size})
    assert len(result) == size
    back = await echo(pair, result)
    if kind == "tensor":
        assert torch.equal(back, result)
    else:
        assert (np.frombuffer(back, np.uint8) == np.frombuffer(result, np.uint8)).all()


async def test_many_large_values_do_not_fill_the_memory(pair: DistributedRunner) -> None:
    """What nobody holds any more is used again."""
    picture = torch.zeros(20_000_000, dtype=torch.uint8)
    for number in range(60):
        picture[0] = number
        assert (await echo(pair, picture))[0] == number


async def test_a_result_that_is_kept_does_not_change(pair: DistributedRunner) -> None:
    """Not even when the worker goes on writing to the very tensor it returned."""
    kept = [await pair.invoke({"do": "keep_and_spoil", "size": 500_000}) for _ in range(3)]
    for number in range(100):
        await echo(pair, np.full(500_000, number % 256, np.uint8))
    assert [(int(tensor.min()), int(tensor.max())) for tensor in kept] == [(1, 1), (2, 2), (3, 3)]


async def test_a_result_outlives_its_group_and_its_runner(running: Callable[..., Any]) -> None:
    async with running() as runner:
        result = await runner.invoke({"do": "big", "kind": "array", "size": 5_000_000})
        with pytest.raises(PolyrankError):
            await runner.invoke({"do": "die", "rank": 0, "how": "exit"})
        assert (result == np.arange(5_000_000).astype(np.uint8)).all()
    assert (result == np.arange(5_000_000).astype(np.uint8)).all()


@pytest.mark.parametrize("size", [10, 1_000_000])
async def test_what_a_worker_does_to_its_payload_is_its_own_affair(
    pair: DistributedRunner, size: int
) -> None:
    """Neither the other rank nor the caller sees it."""
    value = [np.ones(size, np.uint8), torch.ones(size), bytearray(b"\x01" * size)]
    seen = await pair.invoke({"do": "mutate", "value": value})
    assert seen == [[1, 1, 1], [1, 1, 1]]
    assert [int(part[0]) for part in value] == [1, 1, 1]


async def test_what_a_caller_does_to_its_payload_after_the_call_is_not_seen(
    pair: DistributedRunner, gate: Any
) -> None:
    """A request that waits in the queue keeps the payload that it was given."""
    value = [torch.zeros(1_000_000), np.zeros(10), bytearray(100_000), {"a": 1}]
    busy = asyncio.create_task(pair.invoke({"do": "hold", "fifo": gate.path}))
    queued = asyncio.create_task(pair.invoke({"do": "echo", "value": value}))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    value[0].fill_(9)
    value[1].fill(9)
    value[2][:] = b"\x09" * 100_000
    value[3]["a"] = 9
    await gate.open()
    await busy
    tensor, array, raw, plain = await queued
    assert (float(tensor.max()), float(array.max()), max(raw), plain) == (0, 0, 0, {"a": 1})


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"a": [1, {"b": Unsendable()}]}, r"\['value'\]\['a'\]\[1\]\['b'\].*Unsendable"),
        ((1, open), r"\['value'\]\[1\]"),
        (np.array([object()]), r"\['value'\].*array of Python objects"),
        (Box(1, Unsendable()), r"\['value'\].*Unsendable"),
        (lambda: None, r"\['value'\].*function"),
        (iter([1]), r"\['value'\].*iterator"),
    ],
    ids=["nested", "builtin", "objects", "dataclass", "lambda", "iterator"],
)
async def test_what_cannot_be_sent_is_refused_by_path_before_anything_runs(
    solo: DistributedRunner, value: Any, path: str
) -> None:
    with pytest.raises(ValueNotSendable, match=path):
        await echo(solo, value)
    assert await echo(solo, 1) == 1


async def test_a_class_named_image_is_not_taken_for_a_picture(solo: DistributedRunner) -> None:
    """Row 8 (b): only the type decides, never its name."""

    class Image:
        pass

    with pytest.raises(ValueNotSendable, match="Image"):
        await echo(solo, Image())
