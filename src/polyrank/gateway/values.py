"""The routes of the key-value store that apps use through ``KVStore``."""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from polyrank.errors import InvalidInput, PolyrankError
from polyrank.gateway.permits import Permits
from polyrank.store.key_values import KeyValues
from polyrank.toolkit import kv


class UnknownValue(PolyrankError):
    """There is no value under this key, or none any more."""

    status = 404
    code = "value_not_found"


class Values:
    """The handlers of the routes below ``/kv``. Values belong to the account of their keeper."""

    def __init__(
        self, key_values: KeyValues, permits: Permits, *, on_change: Callable[[], None]
    ) -> None:
        self._key_values = key_values
        self._on_change = on_change
        self._permits = permits

    def routes(self) -> list[BaseRoute]:
        """All of them."""
        place = "/{space}/{key:path}"
        return [
            Route("/kv/get" + place, self.get, methods=["GET"]),
            Route("/kv/set" + place, self.set, methods=["PUT"]),
            Route("/kv/delete" + place, self.delete, methods=["DELETE"]),
        ]

    async def get(self, request: Request) -> Response:
        """The value."""
        value = await self._key_values.get(*self._place(request))
        if value is None:
            raise UnknownValue("there is no value under this key")
        return JSONResponse({"value": value})

    async def set(self, request: Request) -> Response:
        """Keeps the body as the value."""
        ttl_s = _ttl_s(request)
        place = self._place(request)
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            kv.check_size(len(body))
        try:
            value = body.decode()
        except UnicodeDecodeError as error:
            raise InvalidInput(f"a value is text in UTF-8: {error}") from None
        await self._key_values.set(*place, value, ttl_s=ttl_s)
        self._on_change()
        return JSONResponse({"ttl": ttl_s})

    async def delete(self, request: Request) -> Response:
        """Forgets the value; it need not be there."""
        await self._key_values.delete(*self._place(request))
        return JSONResponse({})

    def _place(self, request: Request) -> tuple[str, str, str]:
        """Owner, space and key."""
        owner = self._permits.owner(request)
        space, key = request.path_params["space"], request.path_params["key"]
        for name in (space, key):
            kv.check_name(name)
        return owner, space, key


def _ttl_s(request: Request) -> int:
    text = request.query_params.get("ttl")
    if text is None:
        return kv.DEFAULT_TTL_S
    if not text.isdecimal():
        raise InvalidInput(f"ttl is a number of seconds, not {text[:20]!r}")
    return kv.check_ttl(int(text[:20]))
