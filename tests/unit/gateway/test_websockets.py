"""Who is let in: a face that demands tokens, in front of an app on a socket."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn
from fastapi import WebSocket
from served_app import on_a_socket
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from polyrank import App, endpoint
from polyrank.gateway.hosting import HostedApp
from polyrank.gateway.registry import Entry, Registry
from polyrank.gateway.tokens import Tokens
from polyrank.gateway.websockets import WebSocketFace
from polyrank.reports import Limits, Ready


class Hello(App):
    @endpoint("/socket", is_websocket=True)
    async def greet(self, websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text("hello" * int(websocket.query_params.get("times", 1)))
        await websocket.close()


TOKENS = Tokens(b"k" * 32)


@pytest.fixture
async def address() -> AsyncIterator[str]:
    async with on_a_socket(Hello()) as replica:
        app = HostedApp("local/hello", Limits())
        app.is_ready(Ready("127.0.0.1", int(replica.rpartition(":")[2]), []))
        apps = Registry()
        apps.add(Entry(app, None))  # type: ignore[arg-type]  # nothing is queued here
        async with on_a_port(WebSocketFace(apps, TOKENS.admit, max_bytes=1000)) as url:
            yield f"{url}/local/hello/socket"


@contextlib.asynccontextmanager
async def on_a_port(api: Any) -> AsyncIterator[str]:
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(api, lifespan="off", log_config=None))
    task = asyncio.create_task(server.serve(sockets=[listening]))
    yield f"ws://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    await task


async def test_a_good_token_opens_a_websocket(address: str) -> None:
    token = TOKENS.issue(["hello"], 60)
    async with connect(f"{address}?fal_jwt_token={token}") as opened:
        assert await opened.recv() == "hello"


async def test_a_message_above_the_limit_closes_the_websocket(address: str) -> None:
    token = TOKENS.issue(["hello"], 60)
    async with connect(f"{address}?fal_jwt_token={token}&times=200") as opened:
        assert len(await opened.recv()) == 1000
    async with connect(f"{address}?fal_jwt_token={token}&times=201") as opened:
        with pytest.raises(ConnectionClosedError, match="1009"):
            await opened.recv()


async def test_no_token_is_refused(address: str) -> None:
    with pytest.raises(InvalidStatus) as raised:
        await connect(address).__aenter__()
    answer = raised.value.response
    assert answer.status_code == 401
    assert json.loads(answer.body or b"")["error_type"] == "unauthorized"


@pytest.mark.parametrize(
    ("token", "words"),
    [
        (TOKENS.issue(["hello"], -1), "the token has expired"),
        (TOKENS.issue(["other"], 60), "the token is not for local/hello"),
        ("nonsense", "the token is not one of this server"),
    ],
)
async def test_a_bad_token_is_told_in_a_message(address: str, token: str, words: str) -> None:
    """The JavaScript client then asks for a new one; it could not read an HTTP answer."""
    async with connect(f"{address}?fal_jwt_token={token}") as opened:
        told = json.loads(await opened.recv())
        assert (told["status"], told["error"]) == ("error", "Unauthorized")
        assert told["reason"].startswith(words)
        with pytest.raises(ConnectionClosedError, match="1008"):
            await opened.recv()
