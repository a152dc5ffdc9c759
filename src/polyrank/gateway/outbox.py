"""Routes about webhooks: how telling somebody stands, telling them again, and how to verify it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import RowMapping
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from polyrank.errors import PolyrankError
from polyrank.gateway.callers import caller_of
from polyrank.gateway.queue import StillRunning, UnknownRequest
from polyrank.gateway.signatures import Signer
from polyrank.store.requests import Requests
from polyrank.store.webhooks import Webhooks


class NoWebhook(PolyrankError):
    """Nobody is to be told how a request ends."""

    status = 404
    code = "webhook_not_found"


class Outbox:
    """The handlers of these routes; ``wake`` has what is due delivered."""

    def __init__(
        self, webhooks: Webhooks, requests: Requests, signer: Signer, wake: Callable[[], None]
    ) -> None:
        self._webhooks = webhooks
        self._requests = requests
        self._signer = signer
        self._wake = wake

    def queue_routes(self) -> list[BaseRoute]:
        """The routes below ``/queue``; they go before those of the queue."""
        below = "/{app:path}/requests/{id}/webhook"
        return [
            Route(below + "/redeliver", self.redeliver, methods=["POST"]),
            Route(below, self.state, methods=["GET"]),
        ]

    def routes(self) -> list[BaseRoute]:
        """The routes for the server's own pages."""
        return [Route("/.well-known/jwks.json", self.jwks, methods=["GET"])]

    async def state(self, request: Request) -> Response:
        """How telling stands: tries, the last status, the last error."""
        row = await self._row(request)
        told = await self._webhooks.get(row["id"])
        return JSONResponse(_describe(row, told))

    async def redeliver(self, request: Request) -> Response:
        """Tells once more how a request ended, with all tries anew."""
        row = await self._row(request)
        if not await self._webhooks.again(row["id"]):
            raise StillRunning("the request is still in progress; its end is told by itself")
        self._wake()
        return JSONResponse(_describe(row, await self._webhooks.get(row["id"])), 202)

    async def jwks(self, _: Request) -> Response:
        """The public key that verifies webhooks."""
        return JSONResponse(self._signer.jwks(), headers={"cache-control": "max-age=3600"})

    async def _row(self, request: Request) -> RowMapping:
        id = request.path_params["id"]
        row = await self._requests.get(id)
        if row is None or not caller_of(request).may_see(row["caller"], row["app"]):
            raise UnknownRequest(f"there is no request {id!r} here")
        if row["webhook_url"] is None:
            raise NoWebhook("the request was submitted without fal_webhook")
        return row


def _describe(row: RowMapping, told: RowMapping | None) -> dict[str, Any]:
    body: dict[str, Any] = {"request_id": row["id"], "url": row["webhook_url"]}
    if told is None:
        return {**body, "state": "waiting", "attempts": 0}
    return {
        **body,
        "state": told["state"],
        "attempts": told["attempts"],
        "last_status": told["last_status"],
        "last_error": told["last_error"],
        "last_attempt_at": told["last_attempt_at"],
        "next_attempt_at": told["due_at"] if told["state"] == "pending" else None,
        "delivered_at": told["delivered_at"],
    }
