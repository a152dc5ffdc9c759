"""A first call of an endpoint, made from its schema, that the endpoint's own validation accepts."""

from __future__ import annotations

import json
import math
import shlex
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from polyrank.app.pattern import matching

# The smallest picture that is one: a grey pixel, as PNG.
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCB"
    "d81ytgAAAABJRU5ErkJggg=="
)
NOTE = "data:text/plain,hello"
FORMATS = {
    "data-uri": PIXEL,
    "date": "2030-01-31",
    "date-time": "2030-01-31T12:00:00Z",
    "duration": "PT1S",
    "email": "you@example.com",
    "hostname": "example.com",
    "https-url": "https://example.com/",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "time": "12:00:00Z",
    "uri": "https://example.com/",
    "uuid": "12345678-1234-4234-8234-123456789012",
}
TEXT = "hello"
# What forms show as a file (``polyrank.toolkit.fields``).
FILE_FIELDS = ("file", "image", "video", "audio")
# A schema that contains itself is followed this far.
DEEPEST = 12


@dataclass(frozen=True)
class Call:
    """What to send: the path with its query, the content type, the body."""

    path: str
    content_type: str | None = None
    body: Any = None

    def curl(self, address: str, *, stream: bool = False) -> str:
        """The line for a shell."""
        words = ["curl", *(["-N"] if stream else [])]
        if self.content_type is None:
            words += ["-X", "POST", shlex.quote(address + self.path)]
        else:
            body = json.dumps(self.body, ensure_ascii=False)
            words += [shlex.quote(address + self.path), f"-H 'content-type: {self.content_type}'"]
            words += ["-d", shlex.quote(body)]
        return " ".join(words)


def call_of(path: str, operation: dict[str, Any], components: dict[str, Any]) -> Call:
    """A call of the operation of an OpenAPI document that says the least that must be said."""
    maker = Sampler(components)
    query = {
        each["name"]: maker.value(each["schema"] | _examples(each))
        for each in operation.get("parameters", [])
        if each["in"] == "query" and each.get("required")
    }
    if query:
        path = f"{path}?{urlencode(query, doseq=True, quote_via=quote)}"
    body = operation.get("requestBody")
    if body is None:
        return Call(path)
    content_type, media = next(iter(body["content"].items()))
    if _examples(media):
        return Call(path, content_type, _first(_examples(media)["examples"]))
    return Call(path, content_type, maker.value(media.get("schema", {})))


class Sampler:
    """Makes values that a JSON schema accepts."""

    def __init__(self, components: dict[str, Any]) -> None:
        self._components = components

    def value(self, schema: Any, depth: int = 0, name: str = "") -> Any:
        """An example if the schema has one, else its default, else what its limits allow.

        ``name`` is that of the property the value is for.
        """
        if schema is True:
            return {}
        schema = self._resolved(schema)
        if schema.get("examples"):
            return _first(schema["examples"])
        for key in ("example", "default", "const"):
            if key in schema:
                return schema[key]
        if schema.get("enum"):
            return schema["enum"][0]
        if depth > DEEPEST:
            return None
        for key in ("anyOf", "oneOf"):
            if schema.get(key):
                return self._one_of(schema, key, depth, name)
        kind = _kind(schema)
        if _is_file(schema, kind, name):
            # A file is a model with a URL, or a field that is the URL itself.
            shown = schema.get("ui", {}).get("field")
            url = PIXEL if shown == "image" or "image" in name else NOTE
            return {"url": url} if kind == "object" else url
        match kind:
            case "string":
                return _text(schema)
            case "integer" | "number":
                return _number(schema, whole=kind == "integer")
            case "boolean":
                return True
            case "array":
                return self._array(schema, depth)
            case "object":
                return self._object(schema, depth)
        return None if kind == "null" else {}

    def _resolved(self, schema: dict[str, Any]) -> dict[str, Any]:
        """The schema with what it refers to laid under it."""
        while "$ref" in schema or "allOf" in schema:
            schema = dict(schema)
            parts = schema.pop("allOf", [])
            if (ref := schema.pop("$ref", None)) is not None:
                parts = [self._components.get("schemas", {})[ref.rsplit("/", 1)[1]], *parts]
            merged: dict[str, Any] = {}
            for part in [*parts, schema]:
                part = self._resolved(part)
                properties = merged.get("properties", {}) | part.get("properties", {})
                required = [*merged.get("required", []), *part.get("required", [])]
                merged |= part
                if properties:
                    merged |= {"properties": properties, "required": required}
            schema = merged
        return schema

    def _one_of(self, schema: dict[str, Any], choice_of: str, depth: int, name: str) -> Any:
        rest = {key: value for key, value in schema.items() if key != choice_of}
        choices = [self._resolved(choice) for choice in schema[choice_of]]
        plain = [choice for choice in choices if choice.get("type") != "null"]
        # A data URI is a file at once; a URL would have to lead to one.
        plain.sort(key=lambda choice: choice.get("format") != "data-uri")
        chosen = (plain or choices)[0]
        tag = rest.pop("discriminator", {}).get("propertyName")
        if tag is not None:  # told by the value of this property, though it has a default
            chosen = chosen | {"required": [tag, *chosen.get("required", [])]}
        return self.value(rest | chosen, depth + 1, name)

    def _array(self, schema: dict[str, Any], depth: int) -> list[Any]:
        first = [self.value(item, depth + 1) for item in schema.get("prefixItems", [])]
        wanted = max(schema.get("minItems", 0), len(first))
        item = schema.get("items", True)
        values = first + [self.value(item, depth + 1) for _ in range(wanted - len(first))]
        return self._distinct(item, values) if schema.get("uniqueItems") else values

    def _distinct(self, item: Any, values: list[Any]) -> list[Any]:
        """As many values that differ: the schema's own choices, or numbers and texts varied."""
        item = self._resolved(item) if isinstance(item, dict) else {}
        for key in ("enum", "examples"):
            if len(item.get(key, [])) >= len(values):
                return list(item[key][: len(values)])
        step = item.get("multipleOf", 1)
        downwards = "maximum" in item and "minimum" not in item
        for index, value in enumerate(values):
            if isinstance(value, bool):
                values[index] = index == 0
            elif isinstance(value, int | float):
                values[index] = value + (-step if downwards else step) * index
            elif isinstance(value, str) and index:
                text = f"{value}{index}"
                values[index] = text[-item["maxLength"] :] if "maxLength" in item else text
        return values

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties", {})
        made = {
            name: self.value(properties.get(name, True), depth + 1, name)
            for name in schema.get("required", [])
        }
        more = schema.get("additionalProperties", True)
        while len(made) < schema.get("minProperties", 0):
            made[f"key{len(made) + 1}"] = self.value(more, depth + 1)
        return made


def _kind(schema: dict[str, Any]) -> str | None:
    """The type of a schema, the first that is not null where it has several."""
    kind = schema.get("type")
    if isinstance(kind, list):
        return next((each for each in kind if each != "null"), "null")
    if kind is None:
        return "object" if "properties" in schema else "array" if "items" in schema else None
    return str(kind)


def _is_file(schema: dict[str, Any], kind: str | None, name: str) -> bool:
    if schema.get("ui", {}).get("field") in FILE_FIELDS:
        return True
    is_free = not schema.keys() & {"pattern", "format", "maxLength"}
    return kind == "string" and name.endswith("_url") and is_free


def _text(schema: dict[str, Any]) -> str:
    if "pattern" in schema:
        return matching(schema["pattern"], schema.get("minLength", 0))
    if schema.get("format") in FORMATS:
        return FORMATS[schema["format"]]
    text = TEXT
    while len(text) < schema.get("minLength", 0):
        text += f" {TEXT}"
    longest = schema.get("maxLength", len(text))
    return text[: max(schema.get("minLength", 0), min(len(text), longest))]


def _number(schema: dict[str, Any], *, whole: bool) -> int | float:
    """1 if it may be, else a number that the limits allow."""
    low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
    above, below = (
        schema.get("exclusiveMinimum", -math.inf),
        schema.get("exclusiveMaximum", math.inf),
    )
    step = schema.get("multipleOf") or (1 if whole else None)
    if step is None:
        return _between(max(low, above), min(high, below), open_ends=(above, below))
    # Counted in steps: the first that is allowed and not less than 1, or the last allowed.
    count = math.ceil(1 / step)
    count = count if low == -math.inf else max(count, math.ceil(low / step))
    count = count if above == -math.inf else max(count, math.floor(above / step) + 1)
    count = count if high == math.inf else min(count, math.floor(high / step))
    count = count if below == math.inf else min(count, math.ceil(below / step) - 1)
    return int(count * step) if whole else float(count * step)


def _between(low: float, high: float, open_ends: tuple[float, float]) -> float:
    if low <= 1 <= high and 1 not in open_ends:
        return 1.0
    if low > -math.inf and high < math.inf:
        return float((low + high) / 2)
    return float(low + 1) if low > -math.inf else float(high - 1)


def _examples(described: dict[str, Any]) -> dict[str, Any]:
    """The examples of a parameter or body, in the form that schemas have them."""
    if "example" in described:
        return {"examples": [described["example"]]}
    if described.get("examples"):
        return {"examples": described["examples"]}
    return {}


def _first(examples: Any) -> Any:
    """The first example: of a list, or of OpenAPI's table of named ones."""
    if isinstance(examples, dict):
        example = next(iter(examples.values()))
        return example.get("value", example) if isinstance(example, dict) else example
    return examples[0]
