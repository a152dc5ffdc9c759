"""Routes about who calls: ``/auth/whoami``, and ``/tokens/`` for those whom one trusts less."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from polyrank.errors import InvalidInput
from polyrank.gateway.addresses import split_app
from polyrank.gateway.answers import read_object
from polyrank.gateway.callers import require
from polyrank.gateway.tokens import MAX_LIFETIME_S, Claims, Tokens
from polyrank.store.keys import Scope

LIFETIME_S = 120.0
LIFETIME_NAMES = ("token_expiration", "token_expiration_seconds", "duration")


class Accounts:
    """The handlers of these routes."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    def routes(self) -> list[BaseRoute]:
        """The routes, for the server's own pages."""
        return [
            Route("/auth/whoami", self.whoami, methods=["GET"]),
            Route("/tokens", self.issue, methods=["POST"]),
            Route("/tokens/", self.issue, methods=["POST"]),
            Route("/tokens/realtime", self.issue_by_name, methods=["POST"]),
        ]

    async def whoami(self, request: Request) -> Response:
        """Who the server takes the caller for."""
        caller = require(request, Scope.API)
        body = {
            "name": caller.name,
            "key_id": caller.key_id,
            "owner": caller.owner,
            "scopes": sorted(caller.scopes),
            "rate": None if caller.rate is None else str(caller.rate),
        }
        return JSONResponse(body)

    async def issue(self, request: Request) -> Response:
        """A token for some apps: a bare JSON string, as the public clients expect it."""
        return JSONResponse(await self._issued(request))

    async def issue_by_name(self, request: Request) -> Response:
        """A token for some apps, as newer programs ask for it: ``{"token": …}``."""
        return JSONResponse({"token": await self._issued(request)})

    async def _issued(self, request: Request) -> str:
        caller = require(request, Scope.API)
        body = await read_object(request)
        apps = body.get("allowed_apps") or [body.get("app")]
        if not isinstance(apps, list) or not all(app and isinstance(app, str) for app in apps):
            raise InvalidInput("allowed_apps is a list of names of apps")
        given = (body[name] for name in LIFETIME_NAMES if name in body)
        lifetime_s = next(given, LIFETIME_S)
        is_number = isinstance(lifetime_s, int | float) and not isinstance(lifetime_s, bool)
        if not is_number or not 0 < lifetime_s <= MAX_LIFETIME_S:
            raise InvalidInput(
                f"token_expiration is a number of seconds, at most {MAX_LIFETIME_S:g}"
            )
        names = tuple(_name(app) for app in apps)
        return self._tokens.issue(Claims(caller.name, caller.key_id, names), lifetime_s)


def _name(app: str) -> str:
    """The name of an app that is given alone, with its owner, or down to a path."""
    found = split_app(app)
    return (app if found is None else found.app).strip("/").rpartition("/")[2]
