"""Secrets that servers of one database sign with: made once, then shared by all of them."""

from __future__ import annotations

import time
from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy import Connection

from polyrank.store.database import Database
from polyrank.store.tables import signing_keys


class SigningKeys:
    """The signing keys of one database, by name."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, name: str, make: Callable[[], bytes]) -> bytes:
        """The key of this name; ``make`` makes it the first time that anybody asks. Blocks: it
        is for the start of a server."""
        return self._database.submit(lambda c: self._get(c, name, make)).result()

    def _get(self, connection: Connection, name: str, make: Callable[[], bytes]) -> bytes:
        query = sa.select(signing_keys.c.key).where(signing_keys.c.name == name)
        known: bytes | None = connection.scalar(query)
        if known is None:
            insert = self._database.insert(signing_keys).on_conflict_do_nothing()
            connection.execute(insert.values(name=name, key=make(), created_at=time.time()))
            known = connection.scalar(query)  # another server may have been quicker
            assert known is not None
        return known
