"""The call that `polyrank run` prints is one that the endpoint's own validation accepts."""

import enum
import re
import shlex
import uuid
from datetime import date, datetime, time, timedelta
from typing import Annotated, Any, Literal, Optional

import httpx
import pytest
from fastapi import Body
from pydantic import AnyUrl, BaseModel, ConfigDict, Field, conset

from polyrank import App, endpoint
from polyrank.app.pattern import matching
from polyrank.app.sample import Call, call_of
from polyrank.app.server import build
from polyrank.app.testing import serve
from polyrank.toolkit import Audio, File, Image, ImageField, ImageSizeInput, Video
from polyrank.toolkit.types import DataUri, HttpsUrl, ImageInput


class Style(enum.StrEnum):
    sketch = "sketch"
    oil = "oil"


class Point(BaseModel):
    x: int
    y: float = Field(gt=0, lt=0.5)


class Tree(BaseModel):
    name: str
    children: list["Tree"] = []


class Chosen(BaseModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"prompt": "it's a fox"}]})
    prompt: str


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"


FIELDS: dict[str, Any] = {
    "text": str,
    "short": Annotated[str, Field(max_length=2)],
    "long": Annotated[str, Field(min_length=20, max_length=30)],
    "letters": Annotated[str, Field(pattern=r"^[a-f]{3}-\d+(x|y)[^0-9a]$")],
    "long_letters": Annotated[str, Field(pattern=r"^[\w-]+$", min_length=8)],
    "choice": Literal["a", "b"],
    "enum": Style,
    "whole": int,
    "at_least": Annotated[int, Field(ge=10)],
    "at_most": Annotated[int, Field(le=-3)],
    "between": Annotated[int, Field(gt=10, lt=12)],
    "in_steps": Annotated[int, Field(ge=65, le=200, multiple_of=64)],
    "number": float,
    "fraction": Annotated[float, Field(gt=0, lt=1)],
    "up_to_one": Annotated[float, Field(ge=0, le=1)],
    "negative": Annotated[float, Field(lt=0)],
    "half_steps": Annotated[float, Field(gt=2, multiple_of=0.5)],
    "truth": bool,
    "numbers": Annotated[list[float], Field(min_length=1)],
    "points": Annotated[list[Point], Field(min_length=2, max_length=3)],
    "pair": tuple[int, str],
    "different": conset(int, min_length=3),
    "different_styles": conset(Style, min_length=2),
    "different_texts": Annotated[set[Annotated[str, Field(max_length=3)]], Field(min_length=3)],
    "different_words": Annotated[
        set[Annotated[str, Field(examples=["a", "b"])]], Field(min_length=2)
    ],
    "table": Annotated[dict[str, int], Field(min_length=1)],
    "anything": Any,
    "maybe": Optional[int],  # noqa: UP045
    "either": Point | str,
    "nested": Point,
    "tree": Tree,
    "tagged": Annotated[Cat | Dog, Field(discriminator="kind")],
    "image_url": str,
    "short_url": Annotated[str, Field(max_length=8)],
    "day": date,
    "moment": datetime,
    "hour": time,
    "long_time": timedelta,
    "id": uuid.UUID,
    "url": AnyUrl,
    "file": File,
    "picture": Image,
    "pictures": Annotated[list[Image], Field(min_length=1)],
    "sound": Audio,
    "film": Video,
    "either_url": HttpsUrl | DataUri,
    "size": ImageSizeInput,
    "https": HttpsUrl,
    "data": DataUri,
    "image_input": ImageInput,
}


@pytest.mark.parametrize("name", FIELDS)
async def test_a_value_is_made_for_every_kind_of_field(name: str) -> None:
    model = type("Input", (BaseModel,), {"__annotations__": {name: FIELDS[name]}})

    class Taker(App):
        async def take(self, request: Any) -> str:
            return "taken"

        take.__annotations__["request"] = model
        take = endpoint("/")(take)

    call = sampled(Taker())
    async with serve(Taker()) as client:
        answer = await client.post(call.path, json=call.body)
    assert (answer.status_code, answer.json()) == (200, "taken"), (call, answer.text)


def test_examples_come_before_defaults_and_these_before_limits() -> None:
    class Input(BaseModel):
        prompt: str = Field(examples=["a fox"])
        steps: int = Field(ge=1, json_schema_extra={"default": 20})
        seed: int = 7
        image_url: str = ImageField()

    class Painter(App):
        @endpoint("/")
        def paint(self, request: Input) -> None: ...

        @endpoint("/whole")
        def whole(self, request: Chosen) -> None: ...

        @endpoint("/body")
        def body(self, request: Annotated[Input, Body(examples=[{"prompt": "b"}])]) -> None: ...

    body = sampled(Painter()).body
    assert (body["prompt"], body["steps"], "seed" in body) == ("a fox", 20, False)
    assert body["image_url"].startswith("data:image/png")
    assert sampled(Painter(), "/whole").body == {"prompt": "it's a fox"}
    assert sampled(Painter(), "/body").body == {"prompt": "b"}


async def test_the_line_is_one_that_a_shell_reads_as_it_was_meant() -> None:
    class Painter(App):
        @endpoint("/")
        def whole(self, request: Chosen) -> str:
            return request.prompt

        @endpoint("/query")
        def query(self, prompt: str, steps: Annotated[int, Field(ge=4)], seed: int = 0) -> str:
            return f"{prompt} {steps}"

        @endpoint("/nothing")
        def nothing(self) -> str:
            return "nothing"

    answers = {}
    async with serve(Painter()) as client:
        for path in ["/", "/query", "/nothing"]:
            line = sampled(Painter(), path).curl("http://app")
            answers[path] = (await sent(client, line)).json()
    assert answers == {
        "/": "it's a fox",
        "/query": "hello 4",
        "/nothing": "nothing",
    }


@pytest.mark.parametrize(
    "pattern", [r"^sk-[0-9a-f]{8}$", r"\d{3,}", "^(foo|bar)+$", r"^[^a-zA-Z\s]$", r"^\S+@\S+\.\w+$"]
)
def test_a_text_is_made_for_a_pattern(pattern: str) -> None:
    assert re.search(pattern, matching(pattern))


def sampled(app: App, path: str = "/") -> Call:
    schema = build(app).openapi()
    return call_of(path, schema["paths"][path]["post"], schema.get("components", {}))


async def sent(client: httpx.AsyncClient, line: str) -> httpx.Response:
    """Sends what a shell would make of a curl line."""
    words = shlex.split(line)
    assert words[0] == "curl"
    address = next(word for word in words if word.startswith("http://"))
    data = [after for word, after in zip(words, words[1:], strict=False) if word == "-d"]
    if data:
        headers = {"content-type": "application/json"}
        return await client.post(address, content=data[0], headers=headers)
    return await client.post(address)
