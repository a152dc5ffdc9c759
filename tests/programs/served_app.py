"""An app on a real socket, inside the test's own process."""

import asyncio
import socket

import uvicorn

from polyrank import App
from polyrank.app.server import build
from polyrank.serving import websocket_options


class on_a_socket:
    """Serves an app on a free port of this process's loop."""

    def __init__(self, app: App) -> None:
        self._server = uvicorn.Server(
            uvicorn.Config(build(app), log_config=None, **websocket_options(ping_timeout_s=None))
        )
        self._socket = socket.create_server(("127.0.0.1", 0))

    async def __aenter__(self) -> str:
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    async def __aexit__(self, *_: object) -> None:
        self._server.should_exit = True
        await self._task
