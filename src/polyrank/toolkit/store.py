"""Where the files go that an app makes: one small interface, chosen by a context variable."""

from __future__ import annotations

import asyncio
import contextlib
from abc import abstractmethod
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Literal, Protocol, get_args

from polyrank.errors import AppError
from polyrank.toolkit import datauri

# Names of the reference platform. All but "in_memory" mean the store in use.
RepositoryId = Literal["fal", "fal_v2", "fal_v3", "in_memory", "gcp_storage", "r2", "cdn"]


class FileStore(Protocol):
    """Keeps files and gives them URLs. Subclass it and write ``save``; the rest has defaults."""

    @abstractmethod
    def save(self, data: bytes, content_type: str, file_name: str) -> str:
        """Keeps the bytes and returns the URL they have from now on."""

    async def save_async(self, data: bytes, content_type: str, file_name: str) -> str:
        """``save`` without blocking the event loop."""
        return await asyncio.to_thread(self.save, data, content_type, file_name)

    def load(self, url: str) -> bytes | None:
        """The bytes behind a URL of this store, None for any other URL."""
        return None


class DataUriStore(FileStore):
    """Keeps nothing: the URL carries the file."""

    def save(self, data: bytes, content_type: str, file_name: str) -> str:
        """The bytes as a data URI."""
        return datauri.make(data, content_type)


DATA_URIS = DataUriStore()
_store: ContextVar[FileStore] = ContextVar("polyrank_file_store", default=DATA_URIS)


def current() -> FileStore:
    """The store in use here: the server's inside a request, data URIs elsewhere."""
    return _store.get()


@contextlib.contextmanager
def use_store(store: FileStore) -> Iterator[None]:
    """Sends files to ``store`` inside the ``with`` block, in this task or thread."""
    token = _store.set(store)
    try:
        yield
    finally:
        _store.reset(token)


def choose(repository: FileStore | RepositoryId | None) -> FileStore:
    """The store that a ``repository`` argument means."""
    if repository is None:
        return current()
    if not isinstance(repository, str):
        return repository
    if repository not in get_args(RepositoryId):
        known = ", ".join(get_args(RepositoryId))
        raise AppError(f"there is no file store {repository!r}; names are {known}")
    return DATA_URIS if repository == "in_memory" else current()
