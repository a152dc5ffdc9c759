"""Every test here runs over both databases: SQLite in a file, and a real Postgres."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from polyrank.store.database import Database
from polyrank.store.migrations import upgrade
from polyrank.store.requests import Requests


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'polyrank.db'}"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def open_database() -> Iterator[Callable[..., Database]]:
    """Opens databases; each is one server's unless it says otherwise."""
    opened: list[Database] = []

    def open_one(url: str, is_server: bool = True) -> Database:
        opened.append(Database(url, is_server=is_server))
        upgrade(opened[-1])
        return opened[-1]

    yield open_one
    for database in opened:
        database.close()


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database(open_database: Callable[..., Database], url: str) -> Database:
    return open_database(url)


@pytest.fixture
def requests(database: Database, clock: Clock) -> Requests:
    return Requests(database, clock)
