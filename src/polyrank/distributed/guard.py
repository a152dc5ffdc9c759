"""Who may speak on a socket between machines: CURVE keys, an allow-list, a pinned server."""

from __future__ import annotations

from typing import NamedTuple, Self

import zmq
from zmq.auth.asyncio import AsyncioAuthenticator

from polyrank.errors import SetupFailed

DOMAIN = "polyrank"


class Keys(NamedTuple):
    """A CURVE key pair, in its printable form."""

    public: bytes
    secret: bytes

    @classmethod
    def create(cls) -> Self:
        """A new pair. Raises SetupFailed where ZeroMQ was built without encryption."""
        if not zmq.has("curve"):
            raise SetupFailed(
                "ranks on several machines need a ZeroMQ with CURVE (libsodium), which this one "
                "has not; the pyzmq wheels of PyPI have it"
            )
        return cls(*zmq.curve_keypair())


class Guard:
    """Lets nobody speak on a server's socket but those whose public keys were allowed."""

    def __init__(self) -> None:
        self.keys = Keys.create()
        self._allowed: set[bytes] = set()
        self._authenticator: AsyncioAuthenticator | None = None

    def protect(self, context: zmq.Context[zmq.Socket[bytes]], socket: zmq.Socket[bytes]) -> None:
        """Encrypts what ``socket`` receives; call it before binding."""
        self._authenticator = AsyncioAuthenticator(context)
        self._authenticator.start()
        self._authenticator.configure_curve_callback(DOMAIN, self)
        socket.zap_domain = DOMAIN.encode()
        socket.curve_server = True
        socket.curve_publickey, socket.curve_secretkey = self.keys

    def allow(self, public_key: bytes) -> None:
        """From now on the owner of this key may connect."""
        self._allowed.add(public_key)

    def forbid(self, public_key: bytes) -> None:
        """No new connection of this key."""
        self._allowed.discard(public_key)

    def callback(self, domain: str, key: bytes) -> bool:
        """Whether ``key`` may connect; the authenticator asks."""
        return key in self._allowed

    def close(self) -> None:
        """Stops answering; the context can end."""
        if self._authenticator is not None:
            self._authenticator.stop()


def use_keys(socket: zmq.Socket[bytes], keys: Keys, server_key: bytes) -> None:
    """Makes ``socket`` a client that speaks to the owner of ``server_key`` and nobody else."""
    socket.curve_publickey, socket.curve_secretkey = keys
    socket.curve_serverkey = server_key
