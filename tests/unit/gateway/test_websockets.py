"""The face of websockets in front of an app on a socket."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn
from fastapi import WebSocket
from served_app import on_a_socket
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError

from polyrank import App, endpoint
from polyrank.gateway.hosting import HostedApp
from polyrank.gateway.registry import Entry, Registry
from polyrank.gateway.websockets import WebSocketFace
from polyrank.reports import Limits, Ready


class Hello(App):
    @endpoint("/socket", is_websocket=True)
    async def greet(self, websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text("hello" * int(websocket.query_params.get("times", 1)))
        await websocket.close()


@pytest.fixture
async def address() -> AsyncIterator[str]:
    async with on_a_socket(Hello()) as replica:
        app = HostedApp("local/hello", Limits())
        app.is_ready("only", Ready("127.0.0.1", int(replica.rpartition(":")[2]), []))
        apps = Registry()
        apps.add(Entry(app, None))  # type: ignore[arg-type]  # nothing is queued here
        async with on_a_port(WebSocketFace(apps, max_bytes=1000)) as url:
            yield f"{url}/local/hello/socket"


@contextlib.asynccontextmanager
async def on_a_port(api: Any) -> AsyncIterator[str]:
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(api, lifespan="off", log_config=None))
    task = asyncio.create_task(server.serve(sockets=[listening]))
    yield f"ws://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    await task


async def test_a_message_above_the_limit_closes_the_websocket(address: str) -> None:
    async with connect(f"{address}?times=200") as opened:
        assert len(await opened.recv()) == 1000
    async with connect(f"{address}?times=201") as opened:
        with pytest.raises(ConnectionClosedError, match="1009"):
            await opened.recv()
