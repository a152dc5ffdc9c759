"""The files and values of one server: their routes, their sweep, and what replicas need of them."""

from __future__ import annotations

from pathlib import Path

from starlette.routing import BaseRoute
from starlette.types import Scope

from polyrank.files.blobs import Blobs
from polyrank.gateway.downloads import Downloads
from polyrank.gateway.permits import (
    LOCAL_OWNER,
    NOBODY,
    REPLICA_TTL_S,
    STORAGE,
    Permits,
    caller_of,
)
from polyrank.gateway.storage import Storage, base_of
from polyrank.gateway.sweeper import Sweeper
from polyrank.gateway.uploads import Uploads
from polyrank.gateway.values import Values
from polyrank.store.database import Database
from polyrank.store.files import Files
from polyrank.store.key_values import KeyValues
from polyrank.toolkit.remote import BASE_HEADER, TOKEN_HEADER


class Filing:
    """All of it, kept at ``url`` (see ``Blobs``) and in the database."""

    def __init__(self, database: Database, url: str, *, max_bytes: int) -> None:
        files, key_values, blobs = Files(database), KeyValues(database), Blobs(url)
        self.blobs = blobs
        self._permits = Permits(database)
        self._sweeper = Sweeper(files, blobs, key_values)
        noted = self._sweeper.note_change
        uploads = Uploads(files, blobs, max_bytes=max_bytes, on_change=noted)
        self._parts = (
            Storage(uploads, self._permits),
            Downloads(uploads, self._permits),
            Values(key_values, self._permits, on_change=noted),
        )

    def routes(self) -> list[BaseRoute]:
        """The routes below ``/storage``, ``/files`` and ``/kv``. They ask for permits themselves:
        a file that everybody may have needs no key."""
        return [route for part in self._parts for route in part.routes()]

    async def sweep(self) -> None:
        """Removes what is over, until cancelled."""
        await self._sweeper.run()

    def replica_environment(
        self, address: str, owner: str = LOCAL_OWNER, ca: Path | None = None
    ) -> dict[str, str]:
        """What a replica is started with, so that it keeps files and values here.

        ``address`` is where its machine reaches this server, ``owner`` whose app it runs, ``ca``
        the certificate of our authority if we speak TLS.
        """
        token = self._permits.issue(STORAGE, owner, REPLICA_TTL_S)
        trust = {} if ca is None else {"POLYRANK_STORAGE_CA": str(ca)}
        return {"POLYRANK_STORAGE_ADDRESS": address, "POLYRANK_STORAGE_TOKEN": token, **trust}

    def request_headers(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        """What a request has beside its caller's headers when it goes to a replica: under which
        address its caller finds files, and in whose name they are kept."""
        token = self._permits.storage_of(caller_of(scope) or NOBODY)
        return [
            (BASE_HEADER.encode(), base_of(scope).encode("latin-1")),
            (TOKEN_HEADER.encode(), token.encode()),
        ]
