"""Forms of schemas beyond the everyday: what is put into a form comes out again."""

import datetime
import enum
from typing import Annotated, Any, Literal

import pytest
from playwright.sync_api import Page
from pydantic import BaseModel, Field, TypeAdapter


class Tone(enum.Enum):
    WARM = "warm"
    COLD = "cold"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Leaf(BaseModel):
    kind: Literal["leaf"] = "leaf"
    size: float


class Branch(BaseModel):
    kind: Literal["branch"] = "branch"
    below: list["Leaf | Branch"] = []
    note: str | None = None


class Layer(BaseModel):
    name: str
    opacity: float = Field(default=1.0, ge=0, le=1)
    clip: "Layer | None" = None


class Everything(BaseModel):
    tone: Tone
    level: Level
    levels: list[Level]
    maybe: Tone | None = None
    yes: bool | None = None
    number_or_text: int | str
    list_or_text: list[int] | str
    grid: list[list[int]]
    pair: tuple[int, str]
    layers: dict[str, Layer]
    tree: Annotated[Leaf | Branch, Field(discriminator="kind")]
    anything: Any
    when: datetime.datetime
    multiple: int = Field(multiple_of=8, ge=64, le=2048)
    open_end: float = Field(gt=0)
    mask_url: str
    image_urls: list[str]
    free: dict[str, Any]
    keyword_true: Literal[True] = True
    with_default: str = "something"
    inner: Layer | None = None


SAMPLE = {
    "tone": "cold",
    "level": 2,
    "levels": [1, 2],
    "maybe": "warm",
    "yes": False,
    "number_or_text": "words",
    "list_or_text": [1, 2],
    "grid": [[1, 2], [3]],
    "pair": [1, "a"],
    "layers": {"top": {"name": "a", "opacity": 0.5, "clip": {"name": "b", "opacity": 1}}},
    "tree": {
        "kind": "branch",
        "below": [{"kind": "leaf", "size": 1}, {"kind": "branch", "below": [], "note": "x"}],
    },
    "anything": {"a": [1, None]},
    "when": "2026-01-01T00:00:00Z",
    "multiple": 128,
    "open_end": 0.001,
    "mask_url": "data:image/gif;base64,R0lGODlhAQABAAAAACw=",
    "image_urls": ["data:image/gif;base64,R0lGODlhAQABAAAAACw="],
    "free": {"x": 1, "y": [2]},
    "keyword_true": True,
    "with_default": "",
    "inner": {"name": "c", "opacity": 0.25},
}

LOOP = "#/components/schemas/Loop"

FORM = """async ([schema, value]) => {
    const { readEndpoints } = await import("/static/schema.js");
    const { Form } = await import("/static/form.js");
    const { $defs = {}, ...input } = schema;
    const content = { "application/json": { schema: input } };
    const document_ = {
        paths: { "/": { post: { requestBody: { content } } } },
        components: { schemas: $defs },
    };
    const form = new Form(readEndpoints(document_)[0].input);
    document.body.append(form.element);
    if (value !== null) form.value = value;
    return form.value;
}"""


@pytest.fixture
def page(open_page) -> Page:
    opened: Page = open_page("/health")  # an empty page of the server
    return opened


def schema_of(kind: Any) -> dict[str, Any]:
    return TypeAdapter(kind).json_schema(ref_template="#/components/schemas/{model}")


def test_what_is_put_in_comes_out(page: Page) -> None:
    Everything.model_validate(SAMPLE)
    assert page.evaluate(FORM, [schema_of(Everything), SAMPLE]) == SAMPLE


def test_an_untouched_form_sends_defaults_only(page: Page) -> None:
    assert page.evaluate(FORM, [schema_of(Layer), None]) == {"opacity": 1}


OTHERS = [
    (list[int], [1, 2]),
    (str, "text"),
    (int, 3),
    (dict[str, int], {"a": 1}),
    (Literal["a", "b"], "b"),
    (int | None, 4),
    (Any, {"free": [1]}),
    (Layer | Leaf, {"kind": "leaf", "size": 2}),
]


def test_an_input_need_not_be_an_object(page: Page) -> None:
    for kind, value in OTHERS:
        assert page.evaluate(FORM, [schema_of(kind), value]) == value


ODD = [
    {},
    {"type": "object"},
    {"type": "object", "properties": {"a": True, "b": {}}},
    {"$ref": "#/components/schemas/Missing"},
    {"$ref": LOOP, "$defs": {"Loop": {"$ref": LOOP}}},
    {"type": "array", "prefixItems": [{"type": "integer"}]},
    {"type": ["string", "integer", "null"]},
    {"anyOf": [{"type": "null"}]},
    {"allOf": [{"type": "object", "properties": {"a": {"type": "string"}}}], "title": "A"},
    {"enum": [None, 1, "x"]},
]


def test_no_schema_breaks_the_page(page: Page) -> None:
    for schema in ODD:
        page.evaluate(FORM, [schema, None])
