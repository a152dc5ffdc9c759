"""Small values by key, for a while: what apps keep with ``KVStore``."""

from __future__ import annotations

import time
from collections.abc import Callable

import sqlalchemy as sa

from polyrank.store.database import Database
from polyrank.store.tables import key_values

# How many a sweep deletes at once.
SWEEP = 500


class KeyValues:
    """The values of one database, by owner, space and key. Every method is one transaction."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    async def get(self, owner: str, space: str, key: str) -> str | None:
        """The value; None if there is none, or none any more."""
        query = sa.select(key_values.c.value).where(
            _is(owner, space, key) & (key_values.c.expires_at > self._clock())
        )
        value: bytes | None = await self._database.read(lambda c: c.scalar(query))
        return None if value is None else value.decode()

    async def set(self, owner: str, space: str, key: str, value: str, *, ttl_s: float) -> None:
        """Keeps the value for ``ttl_s`` seconds, instead of what was there."""
        row = {"value": value.encode(), "expires_at": self._clock() + ttl_s}
        insert = self._database.insert(key_values).values(owner=owner, space=space, key=key, **row)
        query = insert.on_conflict_do_update(index_elements=["owner", "space", "key"], set_=row)
        await self._database.write(lambda c: c.execute(query))

    async def delete(self, owner: str, space: str, key: str) -> None:
        """Forgets the value, if there is one."""
        query = sa.delete(key_values).where(_is(owner, space, key))
        await self._database.write(lambda c: c.execute(query))

    async def sweep(self) -> int:
        """Deletes some of the values whose time is over; how many."""
        over = sa.select(key_values.c.owner, key_values.c.space, key_values.c.key).where(
            key_values.c.expires_at <= self._clock()
        )
        columns = sa.tuple_(key_values.c.owner, key_values.c.space, key_values.c.key)
        query = sa.delete(key_values).where(columns.in_(over.limit(SWEEP)))
        return await self._database.write(lambda c: c.execute(query).rowcount)

    async def next_due(self) -> float | None:
        """When the next value's time is over."""
        query = sa.select(sa.func.min(key_values.c.expires_at))
        return await self._database.read(lambda c: c.scalar(query))


def _is(owner: str, space: str, key: str) -> sa.ColumnElement[bool]:
    return (key_values.c.owner == owner) & (key_values.c.space == space) & (key_values.c.key == key)
