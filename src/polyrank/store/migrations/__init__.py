"""Brings a database to the shape of ``tables.py``: ``upgrade(database)`` when a server starts."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config

from polyrank.store.database import Database


def upgrade(database: Database) -> None:
    """Runs the migrations that this database has not seen, all in one transaction."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    with database.engine.connect().execution_options(polyrank_writes=True) as connection:
        with connection.begin():
            if database.dialect == "postgresql":
                # Servers that start together take turns.
                connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7310579)")
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
