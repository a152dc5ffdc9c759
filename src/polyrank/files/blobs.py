"""Bytes by key, in a folder of this machine or in a bucket of S3, Google Cloud or Azure.

A blob appears when it is whole, or not at all: whoever dies while writing one leaves nothing that
could be read.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, MemoryStore, ObjectStore, from_url

from polyrank.errors import FilesUnavailable, UploadTooLarge

# What is held in memory of one upload: a bucket takes parts of 5 MiB at least, a folder any size.
FOLDER_CHUNK, BUCKET_CHUNK = 2**20, 5 * 2**20
CHUNKS_AT_ONCE = 2
READ_CHUNK = 2**18
# One transfer to or from a bucket; a slow caller's download takes as long as the caller does.
BUCKET_TIMEOUT = timedelta(hours=6)
BUCKET_SCHEMES = frozenset("s3 s3a gs az adl azure abfs abfss https http".split())
# What a writer that was killed leaves in a folder: obstore writes beside the file and renames.
_STAGED = re.compile(r".+#\d+")
STAGED_FOR_S = 24 * 3600.0


@dataclass(frozen=True)
class Written:
    """A blob that is whole: how many bytes, and the tag of their contents."""

    size: int
    etag: str


class Blobs:
    """Blobs below ``url``: a path, or a URL such as ``s3://bucket/folder``.

    Example: ``await Blobs("/var/lib/polyrank/files").put("a/b", chunks, max_bytes=2**30)``.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._folder = _folder_of(url)
        with _translated(url):
            if self._folder is not None:
                self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._store = _open(url, self._folder)

    async def put(self, key: str, chunks: AsyncIterator[bytes], *, max_bytes: int) -> Written:
        """Keeps the bytes as they come. Raises UploadTooLarge past ``max_bytes``.

        Whatever ``chunks`` raises is raised here, and nothing is kept.
        """
        size, digest = 0, hashlib.sha256()

        async def counted() -> AsyncIterator[bytes]:
            nonlocal size
            async for chunk in chunks:
                size += len(chunk)
                if size > max_bytes:
                    raise UploadTooLarge(f"a file may have {max_bytes} bytes", max_bytes=max_bytes)
                digest.update(chunk)
                if chunk:
                    yield chunk

        with _translated(self.url):
            await self._put(key, counted())
            if self._folder is not None:
                await asyncio.to_thread(_sync, self._folder / key)
        return Written(size, digest.hexdigest()[:32])

    async def _put(self, key: str, chunks: AsyncIterator[bytes]) -> None:
        chunk_bytes = BUCKET_CHUNK if self._folder is None else FOLDER_CHUNK
        head = bytearray()
        async for chunk in chunks:
            head += chunk
            if len(head) > chunk_bytes:
                break
        else:  # small: one request to a bucket instead of three
            await obstore.put_async(self._store, key, bytes(head), use_multipart=False)
            return

        async def all_of_it() -> AsyncIterator[bytes]:
            yield bytes(head)
            async for chunk in chunks:
                yield chunk

        await obstore.put_async(
            self._store,
            key,
            all_of_it(),
            chunk_size=chunk_bytes,
            max_concurrency=CHUNKS_AT_ONCE,
        )

    async def size(self, key: str) -> int:
        """How many bytes a blob has. Raises FilesUnavailable if it is not there."""
        with _translated(self.url):
            return int((await obstore.head_async(self._store, key))["size"])

    async def read(self, key: str, start: int, end: int) -> AsyncIterator[bytes]:
        """The bytes from ``start`` up to ``end``, as fast as they are taken."""
        if start == end:
            return
        with _translated(self.url):
            found = await obstore.get_async(self._store, key, options={"range": (start, end)})
            async for chunk in found.stream(min_chunk_size=READ_CHUNK):
                yield bytes(chunk)

    async def remove(self, key: str) -> None:
        """Removes one blob, if it is there."""
        with _translated(self.url), contextlib.suppress(FileNotFoundError):
            await obstore.delete_async(self._store, key)

    async def remove_below(self, prefix: str) -> None:
        """Removes all blobs whose keys begin with ``prefix/``."""
        with _translated(self.url):
            async for found in obstore.list(self._store, prefix=prefix):
                for meta in found:
                    await self.remove(meta["path"])

    async def sweep(self) -> None:
        """Removes what writers that were killed left behind."""
        if self._folder is not None:
            with _translated(self.url):
                await asyncio.to_thread(_remove_staged, self._folder, time.time() - STAGED_FOR_S)


def _folder_of(url: str) -> Path | None:
    parts = urlsplit(url)
    if parts.scheme == "file":
        return Path(parts.path)
    return None if parts.scheme in (*BUCKET_SCHEMES, "memory") else Path(url)


def _open(url: str, folder: Path | None) -> ObjectStore:
    if folder is not None:
        return LocalStore(folder, automatic_cleanup=True)
    if url.startswith("memory:"):
        return MemoryStore()
    # Plain http is spoken where the endpoint is set to an http address, and nowhere else.
    return from_url(url, client_options={"timeout": BUCKET_TIMEOUT, "allow_http": True})


def _sync(path: Path) -> None:
    """Has a file, and its name, survive a loss of power."""
    for each in (path, path.parent):
        descriptor = os.open(each, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove_staged(folder: Path, before: float) -> None:
    for path in folder.rglob("*#*"):
        with contextlib.suppress(FileNotFoundError):
            if _STAGED.fullmatch(path.name) and path.stat().st_mtime < before:
                path.unlink()


@contextlib.contextmanager
def _translated(url: str) -> Iterator[None]:
    try:
        yield
    except (BaseError, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]  # what follows is for those who debug obstore
        raise FilesUnavailable(f"the file store at {url} failed: {reason}") from error
