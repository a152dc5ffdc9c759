"""What proves to a receiver that a webhook is ours: Ed25519 over who, when and what."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


def new_key() -> bytes:
    """The private key of a server that has none yet."""
    return Ed25519PrivateKey.generate().private_bytes_raw()


class Signer:
    """Signs webhooks; ``jwks`` is what receivers verify them with."""

    def __init__(self, key: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(key)
        self._public = self._key.public_key().public_bytes_raw()

    def headers(self, request_id: str, user_id: str, timestamp: int, body: bytes) -> dict[str, str]:
        """The headers that go with ``body``."""
        digest = hashlib.sha256(body).hexdigest()
        message = f"{request_id}\n{user_id}\n{timestamp}\n{digest}".encode()
        return {
            "x-fal-webhook-request-id": request_id,
            "x-fal-webhook-user-id": user_id,
            "x-fal-webhook-timestamp": str(timestamp),
            "x-fal-webhook-signature": self._key.sign(message).hex(),
        }

    def jwks(self) -> dict[str, Any]:
        """The public key, as a JSON Web Key Set (RFC 7517, RFC 8037)."""
        x = base64.urlsafe_b64encode(self._public).rstrip(b"=").decode()
        kid = hashlib.sha256(self._public).hexdigest()[:16]
        key = {"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": kid, "x": x}
        return {"keys": [key]}
