"""Who may keep files, add to an upload, and have a file: by key, or by what the server signed."""

from __future__ import annotations

import functools
import hmac
import secrets
import time

from starlette.requests import Request
from starlette.types import Scope

from polyrank.errors import PolyrankError
from polyrank.files.lifecycle import Acl
from polyrank.files.seals import KEY_BYTES, Sealer
from polyrank.store.database import Database
from polyrank.store.files import File
from polyrank.store.signing import SigningKeys

# What a token opens: the storage of one owner, one upload, one file.
STORAGE, UPLOAD, FILE = "storage", "upload", "file"
QUERY = "token"
ACCOUNT_TTL_S = 3600.0
# A queued request may wait for days before its app makes files for it.
REQUEST_TTL_S = 14 * 24 * 3600.0
RENEW_AFTER_S = 3600.0
MAX_KNOWN = 10_000
# A replica lives for as long as it works.
REPLICA_TTL_S = 365 * 24 * 3600.0
LOCAL_OWNER = "local"
# Whoever calls a public app without a key; no account can have this name.
NOBODY = "nobody:"


class NoPermit(PolyrankError):
    """Nobody in particular asks, or somebody with a token that is not good any more."""

    status = 401
    code = "unauthorized"


class FileForbidden(PolyrankError):
    """The file is somebody else's, and not for everybody."""

    status = 403
    code = "forbidden"


class UnknownFile(PolyrankError):
    """No such file here, or none that may be known of."""

    status = 404
    code = "file_not_found"


class ExpiredFile(PolyrankError):
    """A file whose time is over."""

    status = 410
    code = "file_expired"


class Permits:
    """Issues and checks permits. All servers of one database agree on them."""

    def __init__(self, database: Database) -> None:
        new_key = functools.partial(secrets.token_bytes, KEY_BYTES)
        self._sealer = Sealer(SigningKeys(database).get("files", new_key))
        # Signed now and then only: every call of an app needs one.
        self._storages: dict[str, tuple[float, str]] = {}

    def issue(self, purpose: str, subject: str, ttl_s: float) -> str:
        """A token for the storage of an owner, for an upload, or for a file."""
        return self._sealer.seal(purpose, ttl_s, sub=subject)

    def storage_of(self, owner: str) -> str:
        """A token for the storage of an owner, good for as long as a request may wait."""
        now = time.monotonic()
        known = self._storages.get(owner)
        if known is None or known[0] < now:
            if len(self._storages) >= MAX_KNOWN:
                self._storages.clear()
            known = now + RENEW_AFTER_S, self.issue(STORAGE, owner, REQUEST_TTL_S)
            self._storages[owner] = known
        return known[1]

    def owner(self, request: Request) -> str:
        """In whose name files are kept here. Raises NoPermit if nobody's."""
        if (owner := self.known_owner(request)) is None:
            raise NoPermit("this needs a key: Authorization: Key id:secret")
        return owner

    def check_upload(self, request: Request, file: File) -> None:
        """Raises NoPermit unless the URL was signed for this upload, or its owner asks."""
        token = request.query_params.get(QUERY)
        if token is not None:
            if self._subject(UPLOAD, token) != file.upload_id:
                raise NoPermit("the URL's token is not for this upload, or its time is over")
        elif self.owner(request) != file.owner:
            raise FileForbidden("this upload is somebody else's")

    def check_owner(self, request: Request, file: File) -> None:
        """Raises unless the file's owner asks."""
        if self.owner(request) != file.owner:
            self.check_read(request, file)  # who may not know of it, does not learn of it so
            raise FileForbidden(f"{file.name} is somebody else's")

    def check_read(self, request: Request, file: File) -> None:
        """Raises unless whoever asks may have the file."""
        if file.acl is None or self._subject(FILE, request.query_params.get(QUERY)) == file.id:
            return
        who = self.known_owner(request)
        if who is not None and hmac.compare_digest(who.encode(), file.owner.encode()):
            return
        decision = Acl.model_validate(file.acl).decide(who)
        if decision == "hide":
            raise unknown_file()
        if decision == "forbid":
            raise FileForbidden("the file is not for everybody: its owner can sign a URL for it")

    def known_owner(self, request: Request) -> str | None:
        """In whose name files are kept here; None if nobody's."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and (owner := self._subject(STORAGE, token.strip())):
            return owner
        return caller_of(request.scope)

    def _subject(self, purpose: str, token: str | None) -> str | None:
        said = self._sealer.open(purpose, token)
        return None if said is None else str(said["sub"])


def unknown_file() -> UnknownFile:
    """The error for a file that is not there, or not for the one who asks to know of."""
    return UnknownFile("there is no such file here")


def caller_of(scope: Scope) -> str | None:
    """The account of whoever the gate let in; everybody is one where there is no gate."""
    caller = scope.get("state", {}).get("caller")
    if caller is None:
        return LOCAL_OWNER
    if not caller.scopes or caller.apps is not None:
        return None
    owner: str | None = caller.owner
    return owner
