"""``/runners/ID/exec``: a program beside a replica, over a websocket.

The first message says what to run: ``{"command": [...], "term", "rows", "columns"}``, without a
size if it is not to have a terminal. Then bytes are its input, ``{"rows", "columns"}`` is another
size and ``{"end": true}`` the end of input. The answers are bytes, the first of which says whether
the rest is output (1) or errors (2); the last is ``{"exit_status": 0}`` or ``{"error": "why"}``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.routing import BaseRoute, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from polyrank.errors import InvalidInput, PolyrankError
from polyrank.gateway.answers import error_answer
from polyrank.gateway.callers import Forbidden, require
from polyrank.scaler.launch.base import Handle
from polyrank.scaler.terminal import ERR, OUT, NotEntered, Program, Size, World
from polyrank.store.keys import Scope

log = logging.getLogger("polyrank.gateway")

SHELL = ["/bin/sh", "-c", "exec $(command -v bash || command -v sh)"]
# Messages that may wait for a program which does not read.
MOST_WAITING = 256
LARGEST = 10_000


class Order(BaseModel):
    """What to run; a shell unless there is a command."""

    model_config = ConfigDict(extra="forbid")

    command: list[str] = []
    term: str = "xterm"
    rows: int | None = Field(default=None, ge=0, le=LARGEST)
    columns: int | None = Field(default=None, ge=0, le=LARGEST)

    @property
    def size(self) -> Size | None:
        """The size of its terminal, if it is to have one."""
        if self.rows is None or self.columns is None:
            return None
        return Size(self.rows, self.columns)


class Message(BaseModel):
    """What is told while it runs."""

    model_config = ConfigDict(extra="forbid")

    rows: int | None = Field(default=None, ge=0, le=LARGEST)
    columns: int | None = Field(default=None, ge=0, le=LARGEST)
    end: bool = False


class Exec:
    """Enters replicas; ``find`` has the handle of one by its id, and raises what says why not."""

    def __init__(self, find: Callable[[str], Handle | None]) -> None:
        self._find = find

    def routes(self) -> list[BaseRoute]:
        """The routes, for the server's own pages."""
        return [WebSocketRoute("/runners/{replica}/exec", self.enter)]

    async def enter(self, websocket: WebSocket) -> None:
        """Runs one program for an administrator."""
        try:
            caller = require(websocket, Scope.ADMIN)
            if caller.is_local and websocket.headers.get("origin") is not None:
                raise Forbidden("a web page may not enter a replica without a key")
            world = self._world(websocket.path_params["replica"])
        except PolyrankError as error:
            return await websocket.send_denial_response(error_answer(error))
        await websocket.accept()
        try:
            order = _parse(Order, await websocket.receive_text())
            command = order.command or SHELL
            log.info(
                "%s enters replica %s: %s", caller.name, websocket.path_params["replica"], command
            )
            program = Program.start(command, world, order.size, order.term)
            try:
                await _Session(websocket, program).run()
            finally:
                await program.close()
        except PolyrankError as error:
            await websocket.send_json({"error": error.message})
            await websocket.close(1008)
        except (WebSocketDisconnect, KeyError):  # KeyError: bytes, where text is due
            pass

    def _world(self, replica: str) -> World:
        handle = self._find(replica)
        if handle is None:
            raise NotEntered(f"replica {replica} has not been started yet")
        if handle.pid is None:
            raise NotEntered(f"replica {replica} has ended, or runs on another machine")
        return World.of(handle.pid, handle.spec.python)


class _Session:
    """One program and one websocket."""

    def __init__(self, websocket: WebSocket, program: Program) -> None:
        self._websocket = websocket
        self._program = program
        self._input: asyncio.Queue[bytes | None] = asyncio.Queue(MOST_WAITING)

    async def run(self) -> None:
        """Passes bytes on both ways until the program ends or the caller goes."""
        out = asyncio.ensure_future(self._pass_output())
        into = asyncio.ensure_future(self._receive())
        writing = asyncio.ensure_future(self._pass_input())
        try:
            await asyncio.wait([out, into], return_when=asyncio.FIRST_COMPLETED)
            if into.done():
                into.result()  # what the caller did wrong, if that was the end
                return
            out.result()
            status = await self._program.wait()
            await self._websocket.send_json({"exit_status": status})
            await self._websocket.close()
        finally:
            for task in (out, into, writing):
                task.cancel()
            await asyncio.wait([out, into, writing])

    async def _pass_output(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for stream in (OUT, ERR):
                tasks.create_task(self._pass(stream))

    async def _pass(self, stream: int) -> None:
        async with contextlib.aclosing(self._program.read(stream)) as chunks:
            async for data in chunks:
                await self._websocket.send_bytes(bytes([stream]) + data)

    async def _pass_input(self) -> None:
        while (data := await self._input.get()) is not None:
            await self._program.write(data)
        self._program.end_input()

    async def _receive(self) -> None:
        """Takes what the caller sends, until they go."""
        while (received := await self._websocket.receive())["type"] != "websocket.disconnect":
            if (data := received.get("bytes")) is not None:
                await self._input.put(data)
                continue
            message = _parse(Message, received["text"])
            if message.end:
                await self._input.put(None)
            if message.rows is not None and message.columns is not None:
                self._program.resize(Size(message.rows, message.columns))


def _parse(model: type[Any], text: str) -> Any:
    try:
        return model(**json.loads(text))
    except (ValueError, TypeError, ValidationError) as error:
        raise InvalidInput(f"not understood: {error}") from error
