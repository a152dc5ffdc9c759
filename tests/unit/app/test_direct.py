"""The short way to an endpoint answers what FastAPI answers."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from fastapi import HTTPException
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, Field

from polyrank import App, endpoint
from polyrank.app.direct import DirectEndpoint
from polyrank.app.testing import serve
from polyrank.errors import AppException, FieldException


class Inner(BaseModel):
    at: datetime = datetime(2026, 1, 2, tzinfo=UTC)
    size: tuple[int, int] = (1, 2)


class Asked(BaseModel):
    text: str
    times: int = Field(default=1, ge=1, le=10)
    inner: Inner = Inner()


class Told(BaseModel):
    text: str = Field(serialization_alias="said")
    inner: Inner


class Sub(Told):
    more: str = "not in the schema"


class Plain(App):
    @endpoint("/")
    async def tell(self, asked: Asked) -> Told:
        return Told(text=asked.text * asked.times, inner=asked.inner)

    @endpoint("/thread")
    def tell_from_a_thread(self, asked: Asked) -> Told:
        return Sub(text=asked.text, inner=asked.inner)

    @endpoint("/nothing")
    async def take_nothing(self) -> dict[str, Any]:
        return {"id": self.current_request.headers.get("x-own") if self.current_request else None}

    @endpoint("/list")
    async def many(self, asked: Asked) -> list[Inner]:
        return [asked.inner] * 2

    @endpoint("/raises/{kind}")
    async def with_a_parameter(self, kind: str) -> None:
        raise ValueError(kind)

    @endpoint("/fails")
    async def fail(self, asked: Asked) -> Told:
        raise {
            "field": FieldException("text", "is bad"),
            "app": AppException("is teapot", status_code=418),
            "http": HTTPException(409, "is taken", {"x-why": "so"}),
            "other": RuntimeError("is broken"),
        }[asked.text]

    @endpoint("/own")
    async def own(self, asked: Asked) -> dict[str, str]:
        return PlainTextResponse(asked.text, 201)  # type: ignore[return-value]

    @endpoint("/wrong")
    async def wrong(self, asked: Asked) -> Told:
        return {"no": "text"}  # type: ignore[return-value]


# A browser's call from another page is FastAPI's.
LONG_WAY = {"origin": "http://example.com"}
CORS = ("access-control-allow-origin", "access-control-allow-credentials", "vary")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/", {"text": "ab", "times": 3}),
        ("/", {"text": "é", "inner": {"at": "2026-03-04T05:06:07Z", "size": [3, 4]}}),
        ("/thread", {"text": "ab"}),
        ("/nothing", None),
        ("/list", {"text": "x"}),
        ("/own", {"text": "x"}),
        ("/", {"times": 3}),
        ("/", {"text": "ab", "times": 11}),
        ("/", []),
        ("/", "not an object"),
        ("/", None),
        ("/fails", {"text": "field"}),
        ("/fails", {"text": "app"}),
        ("/fails", {"text": "http"}),
        ("/fails", {"text": "other"}),
        ("/raises/me", None),
    ],
)
async def test_both_ways_answer_the_same(path: str, body: Any) -> None:
    async with serve(Plain()) as client:
        content = b"" if body is None else json.dumps(body).encode()
        own = {"content-type": "application/json", "x-fal-request-id": "1", "x-own": "mine"}
        short = await client.post(path, content=content, headers=own)
        long = await client.post(path, content=content, headers={**own, **LONG_WAY})
    assert (short.status_code, short.content) == (long.status_code, long.content)
    assert {k: v for k, v in short.headers.items() if k not in CORS} == {
        k: v for k, v in long.headers.items() if k not in CORS
    }


@pytest.mark.parametrize("headers", [{}, LONG_WAY])
async def test_broken_json_is_refused_with_its_place(headers: dict[str, str]) -> None:
    async with serve(Plain()) as client:
        kind = {"content-type": "application/json"}
        answer = await client.post("/", content=b'{"text": ', headers={**kind, **headers})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["type"] == "json_invalid"


@pytest.mark.parametrize("headers", [{}, LONG_WAY])
async def test_an_answer_that_does_not_fit_its_annotation_is_a_fault_of_the_app(
    headers: dict[str, str],
) -> None:
    async with serve(Plain()) as client:
        answer = await client.post("/wrong", json={"text": "x"}, headers=headers)
    assert answer.status_code == 500
    assert answer.json()["error_type"] == "internal_error"


def test_what_is_not_plain_goes_the_long_way() -> None:
    app = Plain()
    direct = {name: DirectEndpoint.of(getattr(app, name)) for name in Plain.endpoints}
    assert direct["tell"] is not None and direct["take_nothing"] is not None
    assert direct["with_a_parameter"] is None
