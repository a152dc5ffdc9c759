"""A database that asyncio code can use: writes in groups, reads beside them.

SQLAlchemy runs in threads of our own. A writer takes all the writes that wait, runs them in one
transaction and commits once: a disk that syncs 200 times a second then takes thousands of durable
writes a second. SQLite has one writer, because it allows one.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy
from sqlalchemy import Connection, Engine, Table, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError

from polyrank.errors import StoreUnavailable

T = TypeVar("T")

WRITERS = {"sqlite": 1, "postgresql": 4}
READERS = 4
# Writes in one transaction: enough to hide the cost of a commit, few enough to wait for.
MAX_GROUP = 256
BUSY_TIMEOUT_S = 30
# What libpq is told unless the address says otherwise, in seconds and at the end in milliseconds: a
# Postgres whose machine or network is gone is noticed within half a minute, and not in two hours.
PATIENCE = {
    "connect_timeout": "5",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}


@dataclass(frozen=True)
class _Write:
    work: Callable[[Connection], Any]
    done: Future[Any]


class Database:
    """One database; ``write`` and ``read`` run functions of a connection. Close it at the end.

    A server has an SQLite file for itself. What is not a server, and works beside one for a moment,
    says ``is_server=False``.

    Example::

        database = Database("sqlite:///requests.db")
        total = await database.read(lambda connection: connection.scalar(text("select 1")))
    """

    def __init__(self, url: str, *, is_server: bool = True) -> None:
        try:
            self.url = sqlalchemy.make_url(url)
        except ArgumentError:
            raise StoreUnavailable(
                "the database's address is not a URL such as sqlite:////folder/file.db or "
                "postgresql://user@host/name"
            ) from None
        self.dialect = self.url.get_backend_name()
        if self.dialect not in WRITERS:
            raise StoreUnavailable(
                f"the database is neither SQLite nor Postgres: {self.url.drivername}"
            )
        if self.dialect == "postgresql":
            self.url = self.url.set(drivername="postgresql+psycopg")
            told = {name: PATIENCE[name] for name in PATIENCE.keys() - self.url.query.keys()}
            self.url = self.url.update_query_dict(told)
        self._lock_file = None
        if self.dialect == "sqlite":
            path = self._make_file()
            self._lock_file = _take(path) if is_server else None
        self.engine = self._engine()
        self._writes: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._closed = False
        self._writers = [
            threading.Thread(target=self._keep_writing, name=f"store-writer-{number}", daemon=True)
            for number in range(WRITERS[self.dialect])
        ]
        for writer in self._writers:
            writer.start()
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="store-reader")

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Runs ``work`` in a transaction; what it returns, once that is on disk.

        An exception of ``work`` undoes what it did, and nothing else; if one of a neighbour undoes
        both, ``work`` is run again. Raises StoreUnavailable if
        the database cannot be reached or fails to commit.
        """
        return await asyncio.wrap_future(self.submit(work))

    def submit(self, work: Callable[[Connection], T]) -> Future[T]:
        """``write`` for code without an event loop."""
        if self._closed:
            raise StoreUnavailable("the database is closed")
        done: Future[T] = Future()
        self._writes.put(_Write(work, done))
        return done

    def insert(self, table: Table) -> postgresql.Insert | sqlite.Insert:
        """An insert that may say what to do about a row that is there: ``on_conflict_do_…``."""
        if self.dialect == "postgresql":
            return postgresql.insert(table)
        return sqlite.insert(table)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Runs ``work`` on one consistent view of the database. Raises StoreUnavailable."""
        if self._closed:
            raise StoreUnavailable("the database is closed")
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, work)

    def close(self) -> None:
        """Waits for the writes that are under way, then lets go of the database."""
        if self._closed:
            return
        self._closed = True
        for _ in self._writers:
            self._writes.put(None)
        for writer in self._writers:
            writer.join()
        self._readers.shutdown()
        self.engine.dispose()
        if self._lock_file is not None:
            os.close(self._lock_file)

    def _make_file(self) -> Path:
        """The SQLite file, which nobody else may read: it holds what servers sign with."""
        if self.url.database is None or self.url.database == ":memory:":
            raise StoreUnavailable("SQLite needs a file: what is in memory survives nothing")
        path = Path(self.url.database)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(0o600)
        except OSError as error:
            raise StoreUnavailable(f"{path} cannot be used: {error}") from error
        return path

    def _engine(self) -> Engine:
        if self.dialect == "postgresql":
            return sqlalchemy.create_engine(
                self.url, pool_size=WRITERS["postgresql"] + READERS, pool_pre_ping=True
            )
        engine = sqlalchemy.create_engine(
            self.url,
            pool_size=1 + READERS,
            connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False},
        )
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine

    def _read(self, work: Callable[[Connection], T]) -> T:
        try:
            with self.engine.connect() as connection:
                return work(connection)
        except DBAPIError as error:
            raise _unavailable(error) from error

    def _keep_writing(self) -> None:
        connection: Connection | None = None
        while group := self._next_group():
            group = [write for write in group if write.done.set_running_or_notify_cancel()]
            # A connection from before may be dead: the database was started again, say.
            for is_last_try in (False, True) if connection is not None else (True,):
                try:
                    if connection is None:
                        connection = self.engine.connect().execution_options(polyrank_writes=True)
                    self._commit(connection, group)
                    break
                except Exception as error:
                    # The transaction is gone, and perhaps the connection.
                    if connection is not None:
                        connection.invalidate()
                        connection.close()
                        connection = None
                    if is_last_try or not isinstance(error, _NothingWritten):
                        _fail(group, error)
                        break
        if connection is not None:
            connection.close()

    def _next_group(self) -> list[_Write]:
        """All that waits; waits for the first. Empty when the database is being closed."""
        first = self._writes.get()
        if first is None:
            return []
        group = [first]
        while len(group) < MAX_GROUP:
            try:
                more = self._writes.get_nowait()
            except queue.Empty:
                break
            if more is None:
                self._writes.put(None)  # for after this group
                break
            group.append(more)
        return group

    def _commit(self, connection: Connection, group: list[_Write]) -> None:
        """One transaction for all writes. If one of them fails, nothing of it is kept, and they
        are run again, each behind a savepoint: savepoints cost as much as small writes do.

        Raises _NothingWritten if the connection is lost before the transaction was to be committed.
        """
        results: list[Any] | None = None
        with connection.begin() as transaction:
            try:
                results = [write.work(connection) for write in group]
            except Exception as error:
                if isinstance(error, DBAPIError) and error.connection_invalidated:
                    raise _NothingWritten from error
                transaction.rollback()
        if results is None:
            return self._commit_apart(connection, group)
        for write, result in zip(group, results, strict=True):
            write.done.set_result(result)

    def _commit_apart(self, connection: Connection, group: list[_Write]) -> None:
        outcomes: list[tuple[_Write, Any, BaseException | None]] = []
        with connection.begin():
            for write in group:
                try:
                    with connection.begin_nested():
                        outcomes.append((write, write.work(connection), None))
                except Exception as error:
                    if isinstance(error, DBAPIError) and error.connection_invalidated:
                        raise
                    outcomes.append((write, None, error))
        for write, result, failure in outcomes:
            if failure is None:
                write.done.set_result(result)
            else:
                write.done.set_exception(failure)


class _NothingWritten(Exception):
    """The connection was lost before anything could be committed."""


def _fail(group: list[_Write], error: Exception) -> None:
    cause = error.__cause__ if isinstance(error, _NothingWritten) else error
    failure = _unavailable(cause) if isinstance(cause, DBAPIError) else cause
    for write in group:
        if not write.done.done():
            write.done.set_exception(failure)


def _take(path: Path) -> int:
    """Makes this process the only server on an SQLite file; the lock, as a descriptor."""
    try:
        lock_file = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreUnavailable(f"{path} cannot be used: {error}") from error
    try:
        fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock_file)
        raise StoreUnavailable(
            f"another server uses {path}; several servers share a Postgres database"
        ) from None
    return lock_file


def _set_up_sqlite(connection: Any, _: Any) -> None:
    # Transactions begin where we say (the "begin" event), not where the driver guesses.
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    # A writer takes the lock at once: taken later, it could find that it has read what is old.
    writes = connection.get_execution_options().get("polyrank_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _unavailable(error: DBAPIError) -> StoreUnavailable:
    return StoreUnavailable(f"the database failed: {error.orig}")
