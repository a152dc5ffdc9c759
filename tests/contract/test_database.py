"""The database under the store: groups of writes, migrations, crashes, and what it never scans."""

import asyncio
import re
import signal
import subprocess
import sys
import threading

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from polyrank.errors import StoreUnavailable
from polyrank.store import requests as store
from polyrank.store.database import Database
from polyrank.store.migrations import upgrade
from polyrank.store.requests import NewRequest, Requests
from polyrank.store.tables import metadata, requests

# Indexes that hold no request that is done: they may be read from end to end.
PARTIAL = {"ix_requests_queued", "ix_requests_start_deadline", "ix_requests_lease_until"}

HELLO = NewRequest(app="local/hello", caller="ann", body=b"{}")

SUBMIT_FOR_EVER = """
import asyncio, sys
from polyrank.store.database import Database
from polyrank.store.requests import NewRequest, Requests

async def main():
    requests = Requests(Database(sys.argv[1]))
    async def caller(number):
        while True:
            new = NewRequest(app="local/hello", caller=f"caller {number}", body=b"{}")
            print((await requests.submit(new)).id, flush=True)
    await asyncio.gather(*(caller(number) for number in range(16)))

asyncio.run(main())
"""


def test_the_migrations_make_the_tables(database: Database) -> None:
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_servers_that_start_together_migrate_once(postgres_url: str) -> None:
    failures: list[Exception] = []

    def start() -> None:
        database = Database(postgres_url)
        try:
            upgrade(database)
        except Exception as error:
            failures.append(error)
        finally:
            database.close()

    servers = [threading.Thread(target=start) for _ in range(4)]
    for server in servers:
        server.start()
    for server in servers:
        server.join()
    assert failures == []


async def test_a_write_that_fails_undoes_itself_and_not_its_neighbours(
    database: Database,
) -> None:
    requests_of = Requests(database)

    def half_done(connection: Connection) -> None:
        connection.execute(sa.delete(requests))
        raise KeyError("half done")

    def broken(connection: Connection) -> None:
        connection.execute(sa.text("select no_such_column from requests"))

    results = await asyncio.gather(
        requests_of.submit(HELLO),
        database.write(half_done),
        requests_of.submit(HELLO),
        database.write(broken),
        requests_of.submit(HELLO),
        return_exceptions=True,
    )
    assert [type(result).__name__ for result in results][1] == "KeyError"
    assert isinstance(results[3], sa.exc.DBAPIError)
    assert await requests_of.count_queued("local/hello") == 3


def test_what_was_accepted_survives_a_kill(url: str) -> None:
    database = Database(url)
    upgrade(database)
    database.close()
    accepted = []
    for _ in range(3):
        program = subprocess.Popen(
            [sys.executable, "-c", SUBMIT_FOR_EVER, url], stdout=subprocess.PIPE, text=True
        )
        assert program.stdout is not None
        with program, program.stdout as lines:
            for _ in range(300):
                accepted.append(lines.readline().strip())
            program.send_signal(signal.SIGKILL)
    database = Database(url)
    with database.engine.connect() as connection:
        kept = set(connection.scalars(sa.select(requests.c.id)))
    database.close()
    assert len(set(accepted)) == 900
    assert set(accepted) <= kept


async def test_connections_that_postgres_has_ended_are_made_anew(postgres_url: str) -> None:
    database = Database(postgres_url)
    await database.write(lambda c: c.execute(sa.text("CREATE TABLE notes (word text)")).rowcount)
    add = sa.text("INSERT INTO notes VALUES ('kept')")
    for _ in range(8):  # so that each writer has a connection
        await database.write(lambda c: c.execute(add).rowcount)
    others = sa.text(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    engine = sa.create_engine(database.url)
    with engine.connect() as connection:
        assert len(connection.scalars(others).all()) > 1
    engine.dispose()
    await asyncio.gather(*(database.write(lambda c: c.execute(add).rowcount) for _ in range(8)))
    count = sa.text("SELECT count(*) FROM notes")
    assert await database.read(lambda c: c.scalar(count)) == 16
    database.close()


def test_a_database_that_cannot_be_used_is_a_clear_error(tmp_path) -> None:
    with pytest.raises(StoreUnavailable, match="neither SQLite nor Postgres"):
        Database("mysql://localhost/polyrank")
    with pytest.raises(StoreUnavailable, match="not a URL"):
        Database("polyrank.db")
    with pytest.raises(StoreUnavailable, match="needs a file"):
        Database("sqlite://")
    file = tmp_path / "polyrank.db"
    first = Database(f"sqlite:///{file}")
    with pytest.raises(StoreUnavailable, match=f"another server uses {file}"):
        Database(f"sqlite:///{file}")
    first.close()
    Database(f"sqlite:///{file}").close()
    database = Database("postgresql://nobody@127.0.0.1:1/nothing")
    with pytest.raises(StoreUnavailable, match="the database failed"):
        database.submit(lambda connection: None).result(30)
    database.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        database.submit(lambda connection: None)


def test_what_the_dispatcher_asks_never_reads_the_requests_that_are_done(
    database: Database,
) -> None:
    statements: list[tuple[str, object]] = []
    everything = Requests(database)

    async def ask() -> None:
        submitted = await everything.submit(HELLO, max_queued=5)
        await everything.position(submitted.id)
        [leased] = await everything.lease("local/hello", "one", limit=1, lease_s=30)
        await everything.renew({leased.id: 1}, lease_s=30)
        await everything.put_back(leased.id, 1, delay_s=0, why=store.LOST)
        await everything.next_due()
        await everything.expire()
        await everything.sweep()
        await everything.cancel(submitted.id)

    def remember(_c, _cursor, statement, parameters, *_rest) -> None:
        if statement.split()[0] in ("SELECT", "UPDATE", "DELETE") and "requests" in statement:
            statements.append((statement, parameters))

    sa.event.listen(database.engine, "before_cursor_execute", remember)
    asyncio.run(ask())
    sa.event.remove(database.engine, "before_cursor_execute", remember)
    assert len(statements) > 15
    explain = "EXPLAIN QUERY PLAN " if database.dialect == "sqlite" else "EXPLAIN "
    with database.engine.connect() as connection:
        if database.dialect == "postgresql":
            # An almost empty table is quicker to scan; ask whether an index could serve.
            connection.exec_driver_sql("SET enable_seqscan = off")
        for statement, parameters in statements:
            plan = "\n".join(
                str(row) for row in connection.exec_driver_sql(explain + statement, parameters)
            )
            scanned = re.findall(r"SCAN requests(?: USING (?:COVERING )?INDEX (\w+))?", plan)
            assert set(scanned) <= PARTIAL, f"{statement}\n{plan}"
            assert "Seq Scan" not in plan, f"{statement}\n{plan}"
