"""The short way to an endpoint: one JSON body in, one JSON body out, with nothing in between.

FastAPI gives an endpoint its schema and its odd cases; for the common case its machinery costs five
times what the rest of the request does. Whatever is not plain here (a body that does not
validate, a browser's cross-origin call, another content type) is left to FastAPI, so that there is
one place for each odd answer.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any, get_args, get_type_hints

import pydantic_core
from fastapi import Response
from fastapi.concurrency import run_in_threadpool
from fastapi.params import Param
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.types import Message, Receive, Scope, Send

NO_INPUT = object()


class NotDirect(Exception):
    """This call is FastAPI's, after all. ``body`` is what was read of it."""

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self.body = body


class DirectEndpoint:
    """An endpoint that takes nothing or one model, and returns what its annotation says."""

    def __init__(
        self, handler: Callable[..., Any], takes: TypeAdapter[Any] | None, gives: TypeAdapter[Any]
    ) -> None:
        self._handler = handler
        self._takes = takes
        self._gives = gives
        self._is_coroutine = inspect.iscoroutinefunction(handler)

    @classmethod
    def of(cls, handler: Callable[..., Any]) -> DirectEndpoint | None:
        """The direct way to ``handler``; None if it has none."""
        hints = get_type_hints(handler, include_extras=True)
        gives = hints.pop("return", Any)
        parameters = list(inspect.signature(handler).parameters.values())
        if not _is_plain(gives) or len(parameters) > 1:
            return None
        if not parameters:
            return cls(handler, None, TypeAdapter(gives))
        kind: Any = hints.get(parameters[0].name)
        is_model = isinstance(kind, type) and issubclass(kind, BaseModel)
        if not is_model or parameters[0].default is not parameters[0].empty:
            return None
        return cls(handler, TypeAdapter(kind), TypeAdapter(gives))

    def accepts(self, scope: Scope) -> bool:
        """Whether a request may go this way, as far as its head tells."""
        is_json = self._takes is None
        for name, value in scope["headers"]:
            if name == b"content-type":
                is_json = is_json or value.startswith(b"application/json")
            elif name == b"origin" or name == b"x-fal-endpoint":
                return False
        return is_json

    async def answer(self, body: bytes) -> Response | bytes:
        """Calls the endpoint: its answer as JSON, or the response that it made itself.

        Raises NotDirect if the body does not fit, and what the endpoint raises.
        """
        arguments: tuple[Any, ...] = ()
        if self._takes is not None:
            try:
                arguments = (self._takes.validate_python(pydantic_core.from_json(body)),)
            except (ValidationError, ValueError):
                raise NotDirect(body) from None
        if self._is_coroutine:
            value = await self._handler(*arguments)
        else:
            value = await run_in_threadpool(self._handler, *arguments)
        if isinstance(value, Response):
            return value
        return self._gives.dump_json(self._gives.validate_python(value), by_alias=True)


def _is_plain(kind: Any) -> bool:
    """Whether values of a return annotation are made JSON by pydantic alone."""
    parts = [kind, *get_args(kind)]
    if any(isinstance(part, type) and issubclass(part, Response) for part in parts):
        return False
    if any(isinstance(part, Param) for part in parts):
        return False
    return isinstance(kind, type) or bool(get_args(kind))


class Watched:
    """The rest of a connection whose request is read: tells when the caller hangs up."""

    def __init__(self, receive: Receive, on_gone: Callable[[], None]) -> None:
        self._on_gone = on_gone
        self._task = asyncio.ensure_future(self._watch(receive))

    def close(self) -> None:
        """The answer is made; what follows is no hang-up."""
        self._task.cancel()

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._on_gone()


def replay(body: bytes, receive: Receive) -> Receive:
    """A connection that gives a body again which has been read from it."""
    is_given = False

    async def again() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def read(receive: Receive) -> bytes | None:
    """The whole body of a request; None if the caller hung up before."""
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        body: bytes = message.get("body", b"")
        return body
    chunks = []
    while message["type"] == "http.request":
        chunks.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(chunks)
        message = await receive()
    return None


async def send_json(send: Send, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    """Sends a good answer."""
    length = (b"content-length", b"%d" % len(body))
    kind = (b"content-type", b"application/json")
    await send({"type": "http.response.start", "status": 200, "headers": [kind, length, *headers]})
    await send({"type": "http.response.body", "body": body})
