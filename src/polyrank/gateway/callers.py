"""Who calls: the holder of a key or of a token, somebody on this machine, or a stranger."""

from __future__ import annotations

import functools
import hashlib
import ipaddress
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from starlette.requests import HTTPConnection

from polyrank.errors import PolyrankError, StoreUnavailable
from polyrank.gateway.tokens import Tokens
from polyrank.store.keys import KEY_ID, Key, Keys, Rate, Scope

# How long what the store said of a key is believed: a revoked one is refused after that time.
BELIEVED_S = 1.0
# The same while the store cannot be asked: calls that need no store go on.
BELIEVED_WITHOUT_STORE_S = 60.0
MAX_KNOWN = 10_000
LOCAL_OWNER = "local"
EVERYTHING = frozenset(Scope)
# Headers that a proxy adds to what it passes on, whichever it is.
PROXIED = frozenset((b"forwarded", b"x-forwarded-for", b"x-real-ip", b"via"))


class BadKey(PolyrankError):
    """No key, or one that is not good."""

    status = 401
    code = "unauthorized"


class Forbidden(PolyrankError):
    """A good key, but not for this."""

    status = 403
    code = "forbidden"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls. ``name`` is what fairness, idempotency and the ownership of requests go by.

    ``apps`` are the names of those that may be called; None stands for all. ``is_local`` says that
    nothing but the place vouches for the caller: this machine.
    """

    name: str
    key_id: str | None = None
    owner: str | None = None
    scopes: frozenset[Scope] = frozenset()
    rate: Rate | None = None
    apps: frozenset[str] | None = None
    is_local: bool = False

    @property
    def is_admin(self) -> bool:
        """Whether everything is allowed."""
        return Scope.ADMIN in self.scopes

    def may_call(self, app: str) -> bool:
        """Whether the caller's token, if that is what there is, is for the app."""
        return self.apps is None or app.rpartition("/")[2] in self.apps

    def may_see(self, submitter: str, app: str) -> bool:
        """Whether a request by ``submitter`` of the app is this caller's business."""
        return (self.is_admin or self.name == submitter) and self.may_call(app)


def caller_of(connection: HTTPConnection) -> Caller:
    """Who calls here; the gate has found out."""
    caller: Caller = connection.scope["state"]["caller"]
    return caller


def require(connection: HTTPConnection, scope: Scope) -> Caller:
    """The caller. Raises BadKey from nobody, and Forbidden without the scope."""
    caller = caller_of(connection)
    if caller.apps is not None or not caller.scopes:
        raise BadKey("this needs a key: Authorization: Key id:secret")
    if scope not in caller.scopes and not caller.is_admin:
        raise Forbidden(f"the key {caller.key_id} lacks the scope {scope}")
    return caller


class Callers:
    """Finds out who calls. What the store says of a key is believed for a second, so that a
    busy caller costs one look into it a second; and while the store is away, for a minute."""

    def __init__(
        self,
        keys: Keys,
        tokens: Tokens,
        *,
        local_needs_key: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``local_needs_key`` demands a key of callers on this machine too."""
        self._keys = keys
        self._tokens = tokens
        self._local_needs_key = local_needs_key
        self._clock = clock
        self._known: dict[str, tuple[float, Key | None]] = {}

    async def identify(
        self, peer: str | None, headers: Mapping[bytes, bytes], token: str | None = None
    ) -> Caller:
        """The caller behind a request from the address ``peer``. ``token`` is that of its URL.

        Nobody in particular calls without a key. Raises BadKey for one that is not good.
        """
        is_local = not self._local_needs_key and _is_local(peer, headers)
        credential = token or _credential(headers.get(b"authorization"))
        if credential is None:
            if is_local:
                return Caller("local", None, LOCAL_OWNER, EVERYTHING, is_local=True)
            return Caller(f"address:{peer}")
        caller = await self._holder(credential)
        if caller is not None:
            return caller
        if is_local:
            # The public clients always send some key. On this machine one that is not ours is
            # only a name: it proves nothing, and nothing needs proof.
            name = hashlib.sha256(credential.encode()).hexdigest()[:16]
            return Caller(f"local:{name}", None, LOCAL_OWNER, EVERYTHING, is_local=True)
        raise BadKey("the key or token is not one of this server's, or its time is over")

    def forget(self) -> None:
        """Believes nothing any more of what the store said so far."""
        self._known.clear()

    async def _holder(self, credential: str) -> Caller | None:
        """Who holds a key or token; None if it is not one of ours."""
        claims = self._tokens.read(credential) if credential.count(".") == 2 else None
        if claims is None:
            id, _, secret = credential.partition(":")
            key = await self._find(id)
            if key is not None and not key.has_secret(secret):
                raise BadKey(f"this is not the secret of the key {id}")
            return None if key is None else _as_caller(key)
        apps, scopes = frozenset(claims.apps), frozenset({Scope.API})
        if claims.key_id is None:
            return Caller(claims.caller, None, LOCAL_OWNER, scopes, apps=apps)
        key = await self._find(claims.key_id)
        # Who may do everything does not hand that to a web page.
        return None if key is None else replace(_as_caller(key), scopes=scopes, apps=apps)

    async def _find(self, id: str) -> Key | None:
        if not KEY_ID.fullmatch(id):
            return None
        now = self._clock()
        known = self._known.get(id)
        if known is not None and now < known[0]:
            return known[1]
        try:
            key = await self._keys.get(id)
        except StoreUnavailable:
            if known is None or now > known[0] + BELIEVED_WITHOUT_STORE_S:
                raise
            return known[1]
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()  # of strangers' guesses, surely
        # From before it was asked: a key revoked meanwhile is not believed any longer for it.
        self._known[id] = (now + BELIEVED_S, key)
        if key is not None and key.revoked_at is None:
            self._keys.note_use(key)
        return key


def _as_caller(key: Key) -> Caller:
    if key.revoked_at is not None:
        raise BadKey(f"the key {key.id} has been revoked")
    return Caller(f"key:{key.id}", key.id, key.owner, key.scopes, key.rate)


def _credential(header: bytes | None) -> str | None:
    """What stands behind ``Key`` or ``Bearer``. Raises BadKey for another scheme."""
    if header is None:
        return None
    scheme, _, credential = header.decode("latin-1").partition(" ")
    if scheme.lower() not in ("key", "bearer") or not credential.strip():
        raise BadKey("Authorization is 'Key id:secret', or 'Bearer' and a key or token")
    return credential.strip()


def _is_local(peer: str | None, headers: Mapping[bytes, bytes]) -> bool:
    """Whether the caller itself is on this machine, and not only a proxy that passes it on."""
    return PROXIED.isdisjoint(headers) and is_loopback(peer)


@functools.lru_cache(maxsize=1024)
def is_loopback(address: str | None) -> bool:
    """Whether an address is one of this machine's own."""
    try:
        ip = ipaddress.ip_address(address or "")
    except ValueError:
        return False
    mapped = getattr(ip, "ipv4_mapped", None)
    return bool((mapped or ip).is_loopback)
