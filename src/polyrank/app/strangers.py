"""What keeps strangers on a network from calling a replica: a token that only its server knows."""

from __future__ import annotations

import secrets

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from polyrank.reports import TOKEN_HEADER


class TokenGuard:
    """Lets requests with the token through, without it, and answers all others with 401."""

    def __init__(self, api: ASGIApp, token: str) -> None:
        self._api = api
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request or websocket."""
        if scope["type"] == "lifespan":
            return await self._api(scope, receive, send)
        given = [value for name, value in scope["headers"] if name == TOKEN_HEADER]
        if not any(secrets.compare_digest(value, self._token) for value in given):
            return await _refuse(scope, receive, send)
        headers = [header for header in scope["headers"] if header[0] != TOKEN_HEADER]
        await self._api({**scope, "headers": headers}, receive, send)


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()
        return await send({"type": "websocket.close", "code": 1008})  # before accept: a 403
    answer = JSONResponse({"detail": "this replica answers to its server only; call that"}, 401)
    await answer(scope, receive, send)
