"""Short-lived tokens for websockets: for which apps they hold, and for how long."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import jwt
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

from polyrank.errors import PolyrankError
from polyrank.gateway.addresses import AppPath
from polyrank.gateway.answers import error_answer
from polyrank.gateway.tokens import NotAdmitted, Tokens

PATH = AppPath("local/hello", "/live/realtime")


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tokens(clock: Clock) -> Tokens:
    return Tokens(b"k" * 32, clock)


@pytest.fixture
async def client(tokens: Tokens) -> AsyncIterator[httpx.AsyncClient]:
    async def on_error(_: Request, error: Exception) -> Response:
        return error_answer(error)

    api = Starlette(routes=tokens.routes(), exception_handlers={PolyrankError: on_error})
    transport = httpx.ASGITransport(api)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        yield client


@pytest.mark.parametrize(
    "app", ["hello", "local/hello", "local/hello/live", "local/hello/live/realtime"]
)
def test_a_token_holds_for_an_app_and_what_is_below_it(tokens: Tokens, app: str) -> None:
    assert tokens.check(tokens.issue([app], 60, subject="ann"), PATH) == "ann"


@pytest.mark.parametrize(
    "app", ["hell", "hello/live", "other/hello", "local/hello/liv", "local", ""]
)
def test_a_token_holds_for_nothing_else(tokens: Tokens, app: str) -> None:
    with pytest.raises(NotAdmitted, match="not for local/hello"):
        tokens.check(tokens.issue([app], 60), PATH)


def test_a_token_expires(tokens: Tokens, clock: Clock) -> None:
    token = tokens.issue(["hello"], 60)
    clock.now += 59.9
    tokens.check(token, PATH)
    clock.now += 0.1
    with pytest.raises(NotAdmitted, match="has expired"):
        tokens.check(token, PATH)


def test_a_foreign_token_is_none(tokens: Tokens, clock: Clock) -> None:
    claims = {"apps": ["hello"], "exp": clock.now + 60, "sub": ""}
    for token in (
        Tokens(b"x" * 32, clock).issue(["hello"], 60),
        jwt.encode(claims, None, "none"),
        tokens.issue(["hello"], 60)[:-2],
        tokens.issue([], 60).rpartition(".")[0] + tokens.issue(["hello"], 60)[-44:],
        "",
        "not a token",
    ):
        with pytest.raises(NotAdmitted, match="not one of this server"):
            tokens.check(token, PATH)


@pytest.mark.parametrize("path", ["/tokens/", "/tokens"])
async def test_a_token_is_given_as_a_bare_string(
    client: httpx.AsyncClient, tokens: Tokens, clock: Clock, path: str
) -> None:
    answer = await client.post(path, json={"allowed_apps": ["hello"], "token_expiration": 120})
    token = answer.json()
    tokens.check(token, PATH)
    clock.now += 120
    with pytest.raises(NotAdmitted):
        tokens.check(token, PATH)


@pytest.mark.parametrize(
    "body",
    [
        {"app": "local/hello/live/realtime", "token_expiration_seconds": 60},
        {"allowed_apps": ["local/hello/live/realtime"], "duration": 60},
    ],
)
async def test_newer_programs_get_it_by_name(
    client: httpx.AsyncClient, tokens: Tokens, body: dict[str, Any]
) -> None:
    tokens.check((await client.post("/tokens/realtime", json=body)).json()["token"], PATH)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{}", "allowed_apps names no app"),
        (b'{"allowed_apps": ["a"], "token_expiration": 100000}', "less than or equal to 3600"),
        (b'{"allowed_apps": "a"}', "allowed_apps"),
        (b"", "Invalid JSON"),
    ],
)
async def test_what_makes_no_token_is_refused(
    client: httpx.AsyncClient, body: bytes, words: str
) -> None:
    answer = await client.post("/tokens/", content=body)
    assert answer.status_code == 422
    assert words in answer.json()["detail"]
