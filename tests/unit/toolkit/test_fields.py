"""What a form learns from a schema, and the URL types."""

from typing import Any

import pytest
from PIL import Image as PILImage
from pydantic import BaseModel, TypeAdapter, ValidationError

from polyrank.toolkit import (
    Audio,
    AudioField,
    FalBaseModel,
    Field,
    File,
    FileField,
    Hidden,
    Image,
    ImageField,
    ImageSizeConstraints,
    ImageSizeField,
    ImageSizeInput,
    ImageValidationConfig,
    Video,
    VideoField,
    VideoNormalizationConfig,
    VideoValidationConfig,
    to_xfal,
)
from polyrank.toolkit.types import DataUri, FileInput, HttpsUrl, ImageDataUri, ImageInput


class Input(FalBaseModel):
    FIELD_ORDERS = ["prompt", "size"]
    SCHEMA_IGNORES = {"old"}

    debug: bool = Hidden(Field(default=False))
    old: int = 0
    alias: int = Hidden(Field(default=0, alias="aliased"))
    picture_url: str = ImageField(description="A picture", ui={"important": True})
    file_url: str = FileField(default="")
    sound_url: str = AudioField(default="", json_schema_extra={"ui": {"field": "mine"}, "x": 1})
    video_url: str = VideoField(
        default="",
        constraints=VideoValidationConfig(
            max_duration=10, min_aspect_ratio=0.5, max_aspect_ratio=2
        ),
        combined_constraints=VideoValidationConfig(max_file_size=5),
        normalization=VideoNormalizationConfig(fps=24),
    )
    size: ImageSizeInput = ImageSizeField(
        default="square", constraints=ImageSizeConstraints(multiple_of=8)
    )
    prompt: str = Field(json_schema_extra=lambda schema: schema.update(y=2))


def test_fields_tell_what_they_show_and_their_limits() -> None:
    fields = Input.model_json_schema()["properties"]
    assert fields["picture_url"]["ui"] == {"field": "image", "important": True}
    assert fields["picture_url"]["description"] == "A picture"
    assert fields["file_url"]["ui"] == {"field": "file"}
    assert (fields["sound_url"]["ui"], fields["sound_url"]["x"]) == ({"field": "mine"}, 1)
    assert fields["prompt"]["y"] == 2
    assert fields["size"]["x-fal"] == {"multiple_of": 8}
    assert fields["video_url"]["ui"] == {"field": "video"}
    assert fields["video_url"]["x-fal"] == {
        "max_duration": 10,
        "min_aspect_ratio": 0.5,
        "max_aspect_ratio": 2,
        "combined": {"max_file_size": 5},
        "normalization": {"fps": 24},
    }


def test_a_model_orders_its_fields_and_hides_some() -> None:
    schema = Input.model_json_schema()
    assert list(schema["properties"])[:3] == ["prompt", "size", "debug"]
    hidden = {n for n, field in schema["properties"].items() if field.get("ui", {}).get("hidden")}
    assert hidden == {"debug", "old", "aliased"}
    assert Input(prompt="p", picture_url="u").debug is False


def test_a_nested_model_is_ordered_too() -> None:
    class Outer(BaseModel):
        inner: list[Input]

    definition = Outer.model_json_schema()["$defs"]["Input"]
    assert next(iter(definition["properties"])) == "prompt"


def test_a_hidden_field_needs_a_default() -> None:
    with pytest.raises(ValueError, match="needs a default"):
        Hidden(Field())
    with pytest.raises(TypeError, match="Hidden takes a Field"):
        Hidden(3)


@pytest.mark.parametrize(
    ("kind", "shown"), [(File, "file"), (Image, "image"), (Audio, "audio"), (Video, "video")]
)
def test_kinds_of_file_tell_what_they_are(kind: type[File], shown: str) -> None:
    assert kind.model_json_schema()["ui"] == {"field": shown}


@pytest.mark.parametrize(
    "kind", [ImageSizeConstraints, ImageValidationConfig, VideoValidationConfig]
)
def test_limits_that_nothing_could_meet_are_refused(kind: Any) -> None:
    with pytest.raises(ValueError, match=r"min_width \(9\) is above its maximum \(8\)"):
        kind(min_width=9, max_width=8)
    with pytest.raises(ValueError, match="are given together"):
        kind(max_aspect_ratio=2.0)
    assert to_xfal(kind(min_width=8, max_width=8)) == {"min_width": 8, "max_width": 8}


def test_urls_are_checked_and_stay_what_they_are() -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(FileInput)
    assert type(adapter.validate_python(" https://example.com/a?b ")) is HttpsUrl
    assert type(adapter.validate_python("data:,x")) is DataUri
    assert type(TypeAdapter(ImageInput).validate_python("data:,x")) is ImageDataUri
    assert adapter.dump_json(adapter.validate_python("data:,x")) == b'"data:,x"'
    for wrong in ("http://example.com", "https://localhost/", "https://1.2.3.4/", "data", 3):
        with pytest.raises(ValidationError):
            adapter.validate_python(wrong)


def test_url_types_tell_their_form_and_length() -> None:
    class Model(BaseModel):
        url: HttpsUrl
        image: ImageInput

    fields = Model.model_json_schema()["properties"]
    assert fields["url"] == {
        "title": "Url",
        "type": "string",
        "format": "https-url",
        "maxLength": 2048,
    }
    assert [one["format"] for one in fields["image"]["anyOf"]] == ["https-url", "data-uri"]


def test_a_url_gives_its_file_or_picture() -> None:
    with DataUri("data:text/plain,hello").as_temp_file() as path:
        assert path.read_bytes() == b"hello"
    assert not path.exists()
    made = Image.from_pil(PILImage.new("RGB", (3, 2), "red"))
    assert ImageDataUri(made.url).to_pil().getpixel((0, 0)) == (255, 0, 0)
