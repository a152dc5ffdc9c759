"""The gate in front of everything that the server answers: who calls, and may they."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs

from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from polyrank.errors import PolyrankError
from polyrank.gateway.addresses import Target, split_app
from polyrank.gateway.answers import error_answer
from polyrank.gateway.browsers import check_browser
from polyrank.gateway.callers import BadKey, Caller, Callers, Forbidden
from polyrank.gateway.ratelimits import RateLimits

OPEN_PATHS = ("/health", "/openapi.json", "/.well-known/*", "/files/*", "/storage/*", "/kv/*")
TOKEN = "fal_jwt_token"
NEEDS_KEY = "a key is needed: send Authorization: Key id:secret"


@dataclass(frozen=True)
class Access:
    """What the gate goes by.

    ``mode_of`` tells whether an app is "private", "shared" or "public"; one that does not say, or
    is not there, is private. ``open_paths`` are those of the server's own that need no key, and
    look after themselves; ``/name/*`` stands for all below ``/name/``. Everything else needs one.
    """

    mode_of: Callable[[str], Awaitable[str | None]]
    open_paths: Collection[str] = OPEN_PATHS
    allowed_origins: Collection[str] = ()

    def is_open(self, path: str) -> bool:
        """Whether a path of the server's own needs no key."""
        return any(
            path.startswith(known[:-1]) if known.endswith("/*") else path == known
            for known in self.open_paths
        )


class Gate:
    """Lets requests in, with who sends them, or keeps them out, with the reason."""

    def __init__(self, callers: Callers, access: Access) -> None:
        self._callers = callers
        self._access = access
        self._limits = RateLimits()

    async def admit(self, scope: Scope, headers: Mapping[bytes, bytes], target: Target) -> Caller:
        """Who sends a request for ``target``. Raises BadKey, Forbidden or RateLimited."""
        # Whatever its address, a websocket leads to an app.
        is_app = target.face != "" or scope["type"] == "websocket"
        is_open = not is_app and self._access.is_open(target.path)
        peer = scope["client"][0] if scope.get("client") else None
        try:
            caller = await self._callers.identify(peer, headers, _token(scope))
            if caller.is_local:
                check_browser(headers, self._access.allowed_origins)
        except (BadKey, Forbidden):
            if not is_open:
                raise
            # Nobody, then; what it sent may be meant for what is there.
            caller = Caller(f"address:{peer}")
        if is_app:
            await self._check_app(caller, target)
            if _is_call(scope, target):
                self.count(caller)
        elif not (is_open or caller.scopes):
            raise BadKey(NEEDS_KEY)
        return caller

    def count(self, caller: Caller) -> None:
        """Counts one call of a caller who was let in. Raises RateLimited."""
        if caller.rate is not None:
            self._limits.spend(caller.name, caller.rate)

    async def refuse(
        self, error: PolyrankError, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Answers why a request is kept out."""
        answer = error_answer(error)
        if isinstance(error, BadKey):
            answer.headers["www-authenticate"] = "Key"
        if scope["type"] == "http":
            return await answer(scope, receive, send)
        websocket = WebSocket(scope, receive, send)
        if _token(scope) is None:
            return await websocket.send_denial_response(answer)
        # A web page cannot see the status of a handshake. These words make the public client
        # fetch another token.
        await websocket.accept()
        body = {"status": "error", "error": "Unauthorized", "detail": error.message}
        await websocket.send_json(body)
        await websocket.close(1008, error.code)

    async def lets_in(self, caller: Caller, app: str) -> bool:
        """Whether a caller may call an app."""
        try:
            await self._check_app(caller, Target("run", f"/{app}", ""))
        except (BadKey, Forbidden):
            return False
        return True

    async def _check_app(self, caller: Caller, target: Target) -> None:
        wanted = split_app(target.path)
        owner, _, name = ("", "", "") if wanted is None else wanted.app.rpartition("/")
        app = f"{owner}/{name}"
        if not caller.may_call(app):
            raise Forbidden(f"the token is not for {app}")
        if caller.is_admin:
            return
        mode = await self._access.mode_of(app)
        if mode == "public":
            return
        if not caller.scopes:
            raise BadKey(NEEDS_KEY)
        if mode != "shared" and owner.rpartition("/")[2] != caller.owner:
            raise Forbidden(f"{app} is private, and the key is one of {caller.owner}")


def _is_call(scope: Scope, target: Target) -> bool:
    """Whether a request makes work; asking how a queued one stands does not."""
    if target.face == "ws":
        return False  # its messages are calls, and counted one by one
    if target.face != "queue":
        return True
    of_a_request = "/requests/" in target.path and target.path.rstrip("/").endswith(
        ("/cancel", "/redeliver")
    )
    return scope["method"] == "POST" and not of_a_request


def _token(scope: Scope) -> str | None:
    query: bytes = scope.get("query_string", b"")
    if TOKEN.encode() not in query:
        return None
    return parse_qs(query.decode("latin-1")).get(TOKEN, [None])[0]
