"""Files: what is known of each, and what it is made of.

A row comes first, blobs after it, and last of all one transaction that makes the file whole. So
every blob has a row that leads to it, whenever the server dies, and nobody sees half a file.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, RowMapping

from polyrank.store.database import Database
from polyrank.store.tables import file_parts, files

UPLOAD_TTL_S = 24 * 3600.0
# How many a sweep removes at once, so that it never holds the writer for long.
SWEEP = 100


@dataclass(frozen=True)
class NewFile:
    """A file to come. ``acl`` is as in ``files/lifecycle.py``; None leaves it to the URL."""

    owner: str
    name: str
    content_type: str
    lifetime_s: float | None = None
    acl: dict[str, Any] | None = None
    declared_size: int | None = None


@dataclass(frozen=True)
class Blob:
    """A stretch of a file's bytes, kept under ``key``."""

    key: str
    size: int
    etag: str


@dataclass(frozen=True)
class File:
    """A file's row. It is whole once it has blobs; ``expires_at`` is when either state ends."""

    id: str
    owner: str
    name: str
    content_type: str
    acl: dict[str, Any] | None
    upload_id: str
    declared_size: int | None
    created_at: float
    expires_at: float | None
    completed_at: float | None
    size: int
    etag: str
    blobs: tuple[tuple[str, int], ...]

    @property
    def is_whole(self) -> bool:
        """Whether all of its bytes are there."""
        return self.completed_at is not None


def etag_of(etags: Sequence[str]) -> str:
    """The tag of a file: that of its only blob, or one made of those of all its blobs."""
    if len(etags) == 1:
        return etags[0]
    return f"{hashlib.sha256(''.join(etags).encode()).hexdigest()[:32]}-{len(etags)}"


class Completed(StrEnum):
    """What became of a wish to make a file whole."""

    DONE = "done"
    BEFORE = "before"  # it is whole already, and of the same bytes
    OTHERWISE = "otherwise"  # it is whole already, and of other bytes
    GONE = "gone"


class Files:
    """The files of one database. Every method is one transaction."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    async def create(self, new: NewFile) -> File:
        """The row of a file that is to be uploaded, within UPLOAD_TTL_S."""
        now = self._clock()
        query = sa.insert(files).returning(files)
        values = {
            **vars(new),
            "id": secrets.token_hex(16),
            "upload_id": secrets.token_urlsafe(24),
            "created_at": now,
            "expires_at": now + UPLOAD_TTL_S,
        }
        return await self._database.write(
            lambda c: _file(c.execute(query, values).mappings().one())
        )

    async def get(self, id: str) -> File | None:
        """The file, whole or not; None if there is none."""
        return await self._database.read(lambda c: _first(c, files.c.id == id))

    async def find_upload(self, upload_id: str) -> File | None:
        """The file that is uploaded under this id."""
        return await self._database.read(lambda c: _first(c, files.c.upload_id == upload_id))

    async def set_part(self, id: str, number: int, blob: Blob) -> Blob | None:
        """Makes ``blob`` part ``number`` of a file that is not whole; what it replaces."""
        return await self._database.write(lambda c: self._set_part(c, id, number, blob))

    async def parts(self, id: str) -> dict[int, Blob]:
        """The parts that are there, by number."""
        query = sa.select(file_parts).where(file_parts.c.file_id == id)
        rows = await self._database.read(
            lambda c: c.execute(query.order_by(file_parts.c.number)).mappings().all()
        )
        return {row["number"]: _blob(row) for row in rows}

    async def complete(self, id: str, blobs: Sequence[Blob]) -> Completed:
        """Makes the file whole, of these blobs; its lifetime begins."""
        return await self._database.write(lambda c: self._complete(c, id, blobs))

    async def end(self, id: str) -> None:
        """Ends the file's life now; the next sweep removes it."""
        query = sa.update(files).where(files.c.id == id).values(expires_at=self._clock())
        await self._database.write(lambda c: c.execute(query))

    async def due(self) -> list[str]:
        """Some of the files whose time is over."""
        query = sa.select(files.c.id).where(files.c.expires_at <= self._clock())
        return await self._database.read(
            lambda c: list(c.scalars(query.order_by(files.c.expires_at).limit(SWEEP)))
        )

    async def remove(self, ids: Sequence[str]) -> None:
        """Removes rows; their blobs must be gone."""
        query = sa.delete(files).where(files.c.id.in_(ids))
        await self._database.write(lambda c: c.execute(query))

    async def next_due(self) -> float | None:
        """When the next file's time is over."""
        query = sa.select(sa.func.min(files.c.expires_at))
        return await self._database.read(lambda c: c.scalar(query))

    def is_over(self, file: File) -> bool:
        """Whether the file's time, or that of its upload, is over."""
        return file.expires_at is not None and file.expires_at <= self._clock()

    def _set_part(self, connection: Connection, id: str, number: int, blob: Blob) -> Blob | None:
        where = (file_parts.c.file_id == id) & (file_parts.c.number == number)
        before = connection.execute(sa.select(file_parts).where(where)).mappings().first()
        row = {"key": blob.key, "size": blob.size, "etag": blob.etag}
        insert = self._database.insert(file_parts).values(file_id=id, number=number, **row)
        connection.execute(
            insert.on_conflict_do_update(index_elements=["file_id", "number"], set_=row)
        )
        return None if before is None else _blob(before)

    def _complete(self, connection: Connection, id: str, blobs: Sequence[Blob]) -> Completed:
        now, etag = self._clock(), etag_of([blob.etag for blob in blobs])
        values = {
            "completed_at": now,
            "size": sum(blob.size for blob in blobs),
            "etag": etag,
            "blobs": [[blob.key, blob.size] for blob in blobs],
            "expires_at": now + files.c.lifetime_s,  # null, for good, if that is null
        }
        is_open = files.c.completed_at.is_(None) & (files.c.expires_at > now)
        query = sa.update(files).where((files.c.id == id) & is_open).values(values)
        if connection.execute(query).rowcount == 1:
            connection.execute(sa.delete(file_parts).where(file_parts.c.file_id == id))
            return Completed.DONE
        file = _first(connection, files.c.id == id)
        if file is None or not file.is_whole:
            return Completed.GONE
        return Completed.BEFORE if file.etag == etag else Completed.OTHERWISE


def _first(connection: Connection, where: sa.ColumnElement[bool]) -> File | None:
    row = connection.execute(sa.select(files).where(where)).mappings().first()
    return None if row is None else _file(row)


def _blob(row: RowMapping) -> Blob:
    return Blob(row["key"], row["size"], row["etag"])


def _file(row: RowMapping) -> File:
    values = {name: row[name] for name in File.__dataclass_fields__}
    values["size"], values["etag"] = row["size"] or 0, row["etag"] or ""
    values["blobs"] = tuple((key, size) for key, size in row["blobs"] or ())
    return File(**values)
