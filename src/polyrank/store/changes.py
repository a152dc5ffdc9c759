"""What other servers on the same Postgres database change, told as it happens."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy import Connection

from polyrank.store.database import Database

log = logging.getLogger("polyrank.store")

CHANNEL = "polyrank_requests"
# Stands for a request's id where it is what is deployed of an app that has changed.
DEPLOYED = "deployed"
NOTIFY = sa.select(sa.func.pg_notify(CHANNEL, sa.bindparam("what")))
# How long to leave a database alone that has just failed.
PAUSE_S = 1.0


def tell(connection: Connection, origin: str, id: str, app: str) -> None:
    """Tells the other servers of a Postgres database, once the transaction is committed."""
    connection.execute(NOTIFY, {"what": f"{origin} {id} {app}"})


async def follow(database: Database, origin: str, on_change: Callable[[str, str], None]) -> None:
    """Calls ``on_change(request id, app)`` for each change of a request by another server, until
    cancelled; with ``DEPLOYED`` and the app for one of what is deployed, and with two empty strings
    where changes may have been missed. ``origin`` is our name.

    SQLite has one server: there, this returns at once.
    """
    if database.dialect != "postgresql":
        return
    import psycopg  # only who has a Postgres database has it

    url = database.url.set(drivername="postgresql").render_as_string(hide_password=False)
    while True:
        try:
            async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
                await connection.execute(f"LISTEN {CHANNEL}")
                on_change("", "")
                async for notice in connection.notifies():
                    sender, id, app = notice.payload.split(" ", 2)
                    if sender != origin:
                        on_change(id, app)
        except psycopg.OperationalError as error:
            log.error("changes of other servers cannot be followed: %s; trying again", error)
        await asyncio.sleep(PAUSE_S)
