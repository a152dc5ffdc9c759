"""Short-lived tokens: they let a browser open websockets of certain apps without seeing a key."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Self

import jwt
from pydantic import AliasChoices, BaseModel, Field, ValidationError, model_validator
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from polyrank.errors import InvalidInput, PolyrankError
from polyrank.gateway.addresses import AppPath

QUERY = "fal_jwt_token"
ALGORITHM = "HS256"
DEFAULT_LIFETIME_S = 120
LONGEST_LIFETIME_S = 3600
MOST_APPS = 100


class NotAdmitted(PolyrankError):
    """A websocket without a token for its app."""

    status = 401
    code = "unauthorized"


class TokenRequest(BaseModel):
    """The body of ``POST /tokens/``: apps by name, by owner and name, or down to a path."""

    allowed_apps: list[str] = Field(default=[], max_length=MOST_APPS)
    app: str | None = None
    lifetime_s: int = Field(
        default=DEFAULT_LIFETIME_S,
        ge=1,
        le=LONGEST_LIFETIME_S,
        validation_alias=AliasChoices("token_expiration", "token_expiration_seconds", "duration"),
    )

    @model_validator(mode="after")
    def _names_an_app(self) -> Self:
        if self.app is not None:
            self.allowed_apps = [*self.allowed_apps, self.app]
        if not self.allowed_apps:
            raise ValueError("allowed_apps names no app")
        return self


class Tokens:
    """Signs tokens with ``key``, which servers that stand in for each other share.

    ``now`` is the clock, in seconds since the epoch.
    """

    def __init__(self, key: bytes, now: Callable[[], float] = time.time) -> None:
        self._key = key
        self._now = now

    def issue(self, apps: list[str], lifetime_s: float, subject: str = "") -> str:
        """A token for websockets of ``apps``; ``subject`` is who asked for it."""
        claims = {"apps": apps, "exp": self._now() + lifetime_s, "sub": subject}
        return jwt.encode(claims, self._key, ALGORITHM)

    def check(self, token: str, wanted: AppPath) -> str:
        """The subject of a token that holds for ``wanted``. Raises NotAdmitted with the reason."""
        try:
            # The clock is ours, so the library's look at it is left out.
            claims = jwt.decode(token, self._key, [ALGORITHM], options={"verify_exp": False})
        except jwt.InvalidTokenError as error:
            raise NotAdmitted(f"the token is not one of this server: {error}") from None
        if self._now() >= claims["exp"]:
            raise NotAdmitted("the token has expired; ask for a new one")
        if not any(_covers(app, wanted) for app in claims["apps"]):
            raise NotAdmitted(f"the token is not for {wanted.app}")
        return str(claims["sub"])

    def admit(self, connection: HTTPConnection, wanted: AppPath) -> None:
        """Lets a websocket with a good token pass. Raises NotAdmitted."""
        token = connection.query_params.get(QUERY)
        if token is None:
            raise NotAdmitted(f"{wanted.app} needs a token: POST /tokens/ gives one")
        self.check(token, wanted)

    def routes(self) -> list[BaseRoute]:
        """``POST /tokens/``, and ``/tokens/realtime`` as newer programs ask for it."""

        async def issue_plain(request: Request) -> Response:
            return JSONResponse(await self._issued(request))

        async def issue_named(request: Request) -> Response:
            return JSONResponse({"token": await self._issued(request)})

        return [
            Route("/tokens", issue_plain, methods=["POST"]),
            Route("/tokens/", issue_plain, methods=["POST"]),
            Route("/tokens/realtime", issue_named, methods=["POST"]),
        ]

    async def _issued(self, request: Request) -> str:
        try:
            wish = TokenRequest.model_validate_json(await request.body())
        except ValidationError as error:
            problems = "; ".join(
                ": ".join([*(str(part) for part in each["loc"]), each["msg"]])
                for each in error.errors()
            )
            raise InvalidInput(f"a token cannot be made of this: {problems}") from None
        return self.issue(wish.allowed_apps, wish.lifetime_s)


def _covers(app: str, wanted: AppPath) -> bool:
    """Whether ``app`` (``hello``, ``local/hello``, ``local/hello/realtime``) is what is wanted."""
    if app == wanted.app.rpartition("/")[2]:
        return True
    whole = f"{wanted.app}{wanted.path}".rstrip("/")
    return f"{app}/".startswith(f"{wanted.app}/") and f"{whole}/".startswith(f"{app}/")
