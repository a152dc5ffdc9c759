"""Small values by key that outlive the replica: kept by the server, or in a file of this machine
where there is none."""

from __future__ import annotations

import contextlib
import re
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import httpx

from polyrank.errors import InvalidInput
from polyrank.settings import StorageSettings
from polyrank.toolkit.exceptions import KVStoreException, StorageError
from polyrank.toolkit.remote import Storage

MIN_TTL_S, MAX_TTL_S = 60, 30 * 24 * 3600
DEFAULT_TTL_S = MAX_TTL_S
MAX_VALUE_BYTES = 1_900_000
MAX_NAME = 512
BUSY_TIMEOUT_S = 30.0


class KVStore:
    """The values of one space; all apps of an account that name it share it.

    Example::

        seen = KVStore("seen")
        seen.set("cat.png", "3", ttl=3600)
        seen.get("cat.png")  # "3", for an hour
    """

    def __init__(self, db_name: str) -> None:
        check_name(db_name)
        self.db_name = db_name
        settings = StorageSettings()
        storage = Storage.of(settings)
        self._values: _Values = (
            _FileValues(settings.data_dir / "values.db")
            if storage is None
            else _ServerValues(storage)
        )

    def get(self, key: str) -> str | None:
        """The value; None if there is none, or none any more."""
        check_name(key)
        return self._values.get(self.db_name, key)

    def set(self, key: str, value: str, ttl: int | None = None) -> None:
        """Keeps a value for ``ttl`` seconds: 60 to 2,592,000, which is 30 days and the default."""
        check_name(key)
        check_size(len(value.encode()))
        self._values.set(self.db_name, key, value, check_ttl(DEFAULT_TTL_S if ttl is None else ttl))

    def delete(self, key: str) -> None:
        """Forgets the value; it need not be there."""
        check_name(key)
        self._values.delete(self.db_name, key)


def check_name(name: str) -> None:
    """Raises InvalidInput unless ``name`` can be that of a space or key."""
    if not re.fullmatch(rf"[^\x00-\x1f\x7f/]{{1,{MAX_NAME}}}", name) or name in (".", ".."):
        raise InvalidInput(
            f"not a name for a space or key: {name[:60]!r}; it has 1 to {MAX_NAME} characters, "
            "and no / among them"
        )


def check_size(size: int) -> None:
    """Raises InvalidInput for a value that is too large."""
    if size > MAX_VALUE_BYTES:
        raise InvalidInput(f"a value may have {MAX_VALUE_BYTES} bytes; keep it as a file instead")


def check_ttl(ttl: int) -> int:
    """``ttl``, if a value may be kept for so many seconds. Raises InvalidInput if not."""
    if not MIN_TTL_S <= ttl <= MAX_TTL_S:
        raise InvalidInput(f"ttl is {MIN_TTL_S} to {MAX_TTL_S} seconds, not {ttl}")
    return ttl


class _Values(Protocol):
    def get(self, space: str, key: str) -> str | None: ...
    def set(self, space: str, key: str, value: str, ttl: int) -> None: ...
    def delete(self, space: str, key: str) -> None: ...


class _ServerValues:
    """Values that the server keeps."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def get(self, space: str, key: str) -> str | None:
        try:
            answer = self._send("GET", "get", space, key)
        except KVStoreException as error:
            if error.details.get("status") == 404:
                return None
            raise
        return str(answer.json()["value"])

    def set(self, space: str, key: str, value: str, ttl: int) -> None:
        self._send("PUT", "set", space, key, content=value.encode(), params={"ttl": ttl})

    def delete(self, space: str, key: str) -> None:
        self._send("DELETE", "delete", space, key)

    def _send(self, method: str, *path: str, **request: Any) -> httpx.Response:
        try:
            return self._storage.send(method, "kv", *path, **request)
        except StorageError as error:
            raise KVStoreException(error.message, **error.details) from error


class _FileValues:
    """Values in an SQLite file, which processes of this machine share."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, space: str, key: str) -> str | None:
        with self._open() as connection:
            row = connection.execute(
                "SELECT value FROM key_values WHERE space = ? AND key = ? AND expires_at > ?",
                (space, key, time.time()),
            ).fetchone()
        return None if row is None else str(row[0])

    def set(self, space: str, key: str, value: str, ttl: int) -> None:
        now = time.time()
        with self._open() as connection:
            connection.execute("DELETE FROM key_values WHERE expires_at <= ?", (now,))
            connection.execute(
                "INSERT OR REPLACE INTO key_values VALUES (?, ?, ?, ?)",
                (space, key, value, now + ttl),
            )

    def delete(self, space: str, key: str) -> None:
        with self._open() as connection:
            connection.execute("DELETE FROM key_values WHERE space = ? AND key = ?", (space, key))

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection for one transaction: a rank that is forked inherits none."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            opened = sqlite3.connect(self._path, timeout=BUSY_TIMEOUT_S)
            with contextlib.closing(opened) as connection:
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS key_values (space TEXT, key TEXT, value TEXT, "
                    "expires_at REAL, PRIMARY KEY (space, key))"
                )
                with connection:
                    yield connection
        except (OSError, sqlite3.Error) as error:
            raise KVStoreException(f"the values in {self._path} failed: {error}") from error
