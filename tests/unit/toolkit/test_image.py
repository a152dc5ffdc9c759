"""Pictures: every mode through every format, orientation, sizes, broken bytes."""

import warnings
from io import BytesIO
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PILImage
from pydantic import BaseModel, ValidationError

from polyrank.errors import InvalidInput
from polyrank.toolkit import Image, ImageSize, ImageSizeInput, get_image_size
from polyrank.toolkit.exceptions import FileTooLarge, UnreadablePicture
from polyrank.toolkit.image import IMAGE_SIZE_PRESETS, ImageSizePreset, read_image_from_url

MODES = [
    "1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX",
    "CMYK", "YCbCr", "HSV", "I", "I;16", "I;16B", "F",
]  # fmt: skip
FORMATS = ["png", "jpeg", "jpg", "webp", "gif"]


def picture(mode: str = "RGB", size: tuple[int, int] = (6, 4)) -> PILImage.Image:
    ramp = PILImage.linear_gradient("L").resize(size)
    if mode in ("La", "RGBa"):
        return ramp.convert({"La": "LA", "RGBa": "RGBA"}[mode]).convert(mode)
    if mode == "PA":
        return ramp.convert("P").convert("PA")
    if mode.startswith("I"):
        return ramp.convert("I").point(lambda value: value * 256).convert(mode)
    if mode == "HSV":
        return ramp.convert("RGB").convert("HSV")
    return ramp.convert(mode)


def pixels(mode: str, size: tuple[int, int], data: bytes) -> PILImage.Image:
    return PILImage.frombytes(mode, size, data)


def test_a_picture_is_six_things_in_json() -> None:
    shape = Image.from_pil(picture()).model_dump(mode="json")
    assert list(shape) == ["url", "content_type", "file_name", "file_size", "width", "height"]
    assert (shape["content_type"], shape["width"], shape["height"]) == ("image/png", 6, 4)
    assert shape["file_name"].endswith(".png")
    assert Image.model_validate(shape).to_pil().tobytes() == picture().tobytes()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_goes_through_every_format(mode: str, format: str) -> None:
    made = Image.from_pil(picture(mode), format=format)
    back = made.to_pil()
    assert (back.mode, back.size) == ("RGB", (6, 4))
    assert made.content_type == f"image/{format.replace('jpg', 'jpeg')}"
    # The ramp is still a ramp: dark above, bright below.
    grey = back.convert("L")
    if mode != "HSV":
        assert grey.getpixel((3, 0)) < 90 and grey.getpixel((3, 3)) > 150


def test_a_picture_keeps_the_format_it_was_read_from() -> None:
    read = Image.from_pil(picture(), "webp").to_pil(mode=None)
    assert Image.from_pil(read).content_type == "image/png"  # a copy of it, no longer a file
    buffer = BytesIO()
    picture().save(buffer, "jpeg")
    assert Image.from_pil(PILImage.open(buffer)).content_type == "image/jpeg"
    buffer = BytesIO()
    picture().save(buffer, "bmp")
    assert Image.from_pil(PILImage.open(buffer)).content_type == "image/png"


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match="no picture format 'tiff'; one of png, jpeg, webp, gif"):
        Image.from_pil(picture(), "tiff")


def test_quality_is_the_callers_choice() -> None:
    noise = PILImage.effect_noise((64, 64), 90).convert("RGB")
    for format in ("jpeg", "webp"):
        low, high = (Image.from_pil(noise, format, quality=q).file_size for q in (5, 95))
        assert low is not None and high is not None and low < high / 2


def test_jpeg_lays_what_is_transparent_on_white() -> None:
    clear = PILImage.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert Image.from_pil(clear, "jpeg").to_pil().getpixel((4, 4)) == (255, 255, 255)


def test_rgb_drops_alpha_and_rgba_keeps_it() -> None:
    half = PILImage.new("RGBA", (2, 2), (10, 20, 30, 128))
    made = Image.from_pil(half)
    assert made.to_pil().getpixel((0, 0)) == (10, 20, 30)
    assert made.to_pil("RGBA").getpixel((0, 0)) == (10, 20, 30, 128)
    assert made.to_pil(None).mode == "RGBA"


def test_a_palette_with_transparency_is_converted_in_silence() -> None:
    palette = PILImage.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    buffer = BytesIO()
    palette.save(buffer, "png", transparency=b"\xff\x80")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Image.from_bytes(buffer.getvalue()).to_pil().getpixel((0, 0)) == (10, 20, 30)
    assert Image.from_bytes(buffer.getvalue()).to_pil("RGBA").getpixel((0, 0)) == (10, 20, 30, 128)


def test_sixteen_bits_stay_in_png_and_are_scaled_elsewhere() -> None:
    deep = PILImage.new("I;16", (2, 2), 40_000)
    made = Image.from_pil(deep)
    assert made.to_pil(None).getpixel((0, 0)) == 40_000
    assert made.to_pil("L").getpixel((0, 0)) == 40_000 >> 8
    assert made.to_pil().getpixel((0, 0)) == (156, 156, 156)
    assert Image.from_pil(deep, "webp", quality=100).to_pil("L").getpixel((0, 0)) in range(154, 159)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_read_upright(orientation: int) -> None:
    exif = PILImage.Exif()
    exif[0x0112] = orientation
    buffer = BytesIO()
    picture(size=(64, 32)).save(buffer, "jpeg", exif=exif)
    upright = Image.from_bytes(buffer.getvalue()).to_pil()
    assert upright.size == ((64, 32) if orientation < 5 else (32, 64))
    assert upright.getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize("format", FORMATS)
def test_exif_data_is_not_passed_on(format: str) -> None:
    exif = PILImage.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker of the camera"
    buffer = BytesIO()
    picture().save(buffer, "jpeg", exif=exif)
    made = Image.from_pil(PILImage.open(buffer), format)
    assert b"camera" not in made.as_bytes()
    assert made.to_pil().size == (6, 4)


def test_bytes_tell_their_format_and_size(tmp_path: Path) -> None:
    buffer = BytesIO()
    picture().save(buffer, "webp")
    for made in (
        Image.from_bytes(buffer.getvalue()),
        Image.from_bytes(buffer.getvalue(), "webp"),
        Image.from_bytes(buffer.getvalue(), format="image/webp", size=ImageSize(width=6, height=4)),
    ):
        assert (made.content_type, made.width, made.height) == ("image/webp", 6, 4)
    (tmp_path / "picture").write_bytes(buffer.getvalue())
    from_path = Image.from_path(tmp_path / "picture")
    assert (from_path.content_type, from_path.file_name, from_path.width) == (
        "image/webp", "picture", 6,
    )  # fmt: skip


async def test_pictures_are_made_and_read_without_blocking_too() -> None:
    made = await Image.from_bytes_async(Image.from_pil(picture()).as_bytes(), file_name="a.png")
    assert (made.content_type, made.file_name, made.width) == ("image/png", "a.png", 6)
    assert (await made.to_pil_async()).tobytes() == picture().tobytes()


def test_bytes_that_are_no_picture_are_kept_and_said_so_when_read() -> None:
    made = Image.from_bytes(b"<svg/>", "svg+xml")
    assert (made.content_type, made.width) == ("image/svg+xml", None)
    with pytest.raises(UnreadablePicture, match="not a picture that can be read"):
        made.to_pil()


@given(st.sampled_from(["png", "jpeg", "webp", "gif"]), st.integers(0, 400), st.binary(max_size=40))
def test_broken_pictures_raise_nothing_else(format: str, place: int, noise: bytes) -> None:
    data = Image.from_pil(picture("P" if format == "gif" else "RGB"), format).as_bytes()
    broken = data[:place] + noise + data[place + len(noise) :]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            Image.from_bytes(broken).to_pil()
        except InvalidInput:
            pass


@given(
    st.sampled_from([("1", 1 / 8), ("L", 1), ("LA", 2), ("RGB", 3), ("RGBA", 4), ("I;16", 2)]),
    st.integers(1, 4),
    st.data(),
)
def test_png_gives_back_the_same_pixels(kind: tuple[str, float], size: int, data: Any) -> None:
    mode, bytes_each = kind
    width, height = size * 8, size
    count = int(width * height * bytes_each)
    before = pixels(mode, (width, height), data.draw(st.binary(min_size=count, max_size=count)))
    after = Image.model_validate_json(Image.from_pil(before).model_dump_json()).to_pil(None)
    assert (after.mode, after.size, after.tobytes()) == (mode, before.size, before.tobytes())


def test_a_picture_at_a_url_is_fetched(site: Any, loopback_allowed: None) -> None:
    url = site.page("/a.png", Image.from_pil(picture()).as_bytes())
    assert Image(url=url).to_pil().tobytes() == picture().tobytes()
    assert read_image_from_url(url).tobytes() == picture().tobytes()
    with pytest.raises(FileTooLarge):
        read_image_from_url(url, max_size=10)


class Input(BaseModel):
    size: ImageSizeInput = "square_hd"
    image: Image | None = None


@pytest.mark.parametrize(
    ("preset", "width", "height"),
    [
        ("square_hd", 1024, 1024),
        ("square", 512, 512),
        ("portrait_4_3", 768, 1024),
        ("portrait_16_9", 576, 1024),
        ("landscape_4_3", 1024, 768),
        ("landscape_16_9", 1024, 576),
    ],
)
def test_the_presets(preset: Any, width: int, height: int) -> None:
    assert get_image_size(Input(size=preset).size) == ImageSize(width=width, height=height)


def test_every_preset_has_a_size_of_its_own() -> None:
    assert set(IMAGE_SIZE_PRESETS) == set(get_args(ImageSizePreset))
    get_image_size("square").width = 1
    assert get_image_size("square").width == 512


def test_a_size_can_be_given_in_pixels() -> None:
    size = Input.model_validate({"size": {"width": 300, "height": 200}}).size
    assert get_image_size(size) == ImageSize(width=300, height=200)
    for wrong in ("huge", {"width": 0}, {"width": 20_000}):
        with pytest.raises(ValidationError):
            Input.model_validate({"size": wrong})
    with pytest.raises(InvalidInput, match="no image size 'huge'"):
        get_image_size("huge")  # type: ignore[arg-type]
