"""Sealed statements: what the server has signed, it believes when it comes back in a URL."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

KEY_BYTES = 32


class Sealer:
    """Signs statements with one key (HMAC-SHA256), each for one purpose and a limited time."""

    def __init__(self, key: bytes, clock: Callable[[], float] = time.time) -> None:
        self._key = key
        self._clock = clock

    def seal(self, purpose: str, ttl_s: float, **statement: Any) -> str:
        """A token that says ``statement`` for so many seconds."""
        payload = json.dumps({**statement, "exp": int(self._clock() + ttl_s)}).encode()
        return f"{_text(payload)}.{_text(self._sign(purpose, payload))}"

    def open(self, purpose: str, token: str | None) -> dict[str, Any] | None:
        """What the token says; None if it is not ours, for something else, or too old."""
        try:
            payload, signature = (_bytes(part) for part in (token or "").split("."))
        except (ValueError, binascii.Error):
            return None
        if not hmac.compare_digest(signature, self._sign(purpose, payload)):
            return None
        statement: dict[str, Any] = json.loads(payload)
        return statement if statement["exp"] > self._clock() else None

    def _sign(self, purpose: str, payload: bytes) -> bytes:
        return hmac.digest(self._key, purpose.encode() + b"\n" + payload, hashlib.sha256)


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
