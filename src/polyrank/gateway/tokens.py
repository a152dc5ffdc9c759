"""Short-lived tokens, for where nobody would put a key: a web page, a websocket's URL."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

import jwt

MAX_LIFETIME_S = 3600.0
ALGORITHM = "HS256"


def new_key() -> bytes:
    """What a server that signs no tokens yet signs them with."""
    return secrets.token_bytes(32)


@dataclass(frozen=True)
class Claims:
    """What a token says: who asked for it, and which apps (by name, without owner) it opens."""

    caller: str
    key_id: str | None
    apps: tuple[str, ...]


class Tokens:
    """Issues tokens and reads them again; all servers of one database have the same ``key``."""

    def __init__(self, key: bytes, clock: Callable[[], float] = time.time) -> None:
        self._key = key
        self._clock = clock

    def issue(self, claims: Claims, lifetime_s: float) -> str:
        """A token that is good for so long, an hour at the most."""
        until = self._clock() + min(lifetime_s, MAX_LIFETIME_S)
        content = {
            "sub": claims.caller,
            "key": claims.key_id,
            "apps": list(claims.apps),
            "exp": int(until),
        }
        return jwt.encode(content, self._key, ALGORITHM)

    def read(self, token: str) -> Claims | None:
        """What a token says; None if it is not ours or its time is over."""
        try:
            options = {"require": ["exp", "sub", "apps"], "verify_exp": False}
            content = jwt.decode(token, self._key, [ALGORITHM], options=options)  # type: ignore[arg-type]
        except jwt.InvalidTokenError:
            return None
        if content["exp"] <= self._clock():
            return None
        return Claims(content["sub"], content.get("key"), tuple(content["apps"]))
