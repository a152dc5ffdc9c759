"""Environments: each has apps and secrets of its own, such as those to try things out in."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from polyrank.errors import InvalidInput, PolyrankError
from polyrank.store.database import Database
from polyrank.store.tables import apps, environments, secrets

MAIN = "main"
MAX_DESCRIPTION = 500
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")


class UnknownEnvironment(PolyrankError):
    """There is no such environment."""

    status = 404
    code = "not_found"


class EnvironmentConflict(PolyrankError):
    """There is such an environment already, or it is in use."""

    status = 409
    code = "environment_conflict"


@dataclass(frozen=True)
class Environment:
    """One environment of an owner; the main one has always been there."""

    name: str
    description: str
    created_at: float | None


class Environments:
    """The environments of one database, by owner. Every method is one transaction."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    async def all(self, owner: str) -> list[Environment]:
        """The environments of an owner, the main one first."""
        query = (
            sa.select(environments.c.name, environments.c.description, environments.c.created_at)
            .where(environments.c.owner == owner)
            .order_by(environments.c.name)
        )
        rows = await self._database.read(lambda c: c.execute(query).mappings().all())
        return [Environment(MAIN, "", None), *(Environment(**row) for row in rows)]

    async def check(self, owner: str, name: str) -> None:
        """Raises UnknownEnvironment if the owner has none of this name."""
        await self._database.read(lambda c: require(c, owner, name))

    async def create(self, owner: str, name: str, description: str = "") -> Environment:
        """A new environment. Raises EnvironmentConflict if there is one of this name."""
        # Two dashes part an app's name from its environment.
        if not _NAME.fullmatch(name) or "--" in name:
            raise InvalidInput(
                f"not a name for an environment: {name[:60]!r}; it has up to 40 lower-case "
                "letters, digits and single dashes"
            )
        if len(description) > MAX_DESCRIPTION:
            raise InvalidInput(f"a description has up to {MAX_DESCRIPTION} characters")
        made = Environment(name, description, self._clock())

        def create(connection: Connection) -> None:
            if _exists(connection, owner, name):
                raise EnvironmentConflict(f"there is an environment {name!r} already")
            connection.execute(sa.insert(environments), {"owner": owner, **vars(made)})

        await self._database.write(create)
        return made

    async def delete(self, owner: str, name: str) -> None:
        """Forgets the environment and its secrets. Raises EnvironmentConflict if apps are in it."""
        if name == MAIN:
            raise EnvironmentConflict(f"the environment {MAIN!r} stays: it is where apps are")

        def delete(connection: Connection) -> None:
            require(connection, owner, name, lock=True)
            there = sa.select(apps.c.name).where(
                (apps.c.owner == owner) & (apps.c.environment == name)
            )
            if used := connection.execute(there.order_by(apps.c.name)).scalars().all():
                raise EnvironmentConflict(
                    f"the environment {name!r} has apps: {', '.join(used[:10])}; "
                    "`polyrank apps delete` deletes them"
                )
            for table in (secrets, environments):
                column = table.c.environment if table is secrets else table.c.name
                connection.execute(sa.delete(table).where(table.c.owner == owner, column == name))

        await self._database.write(delete)


def require(connection: Connection, owner: str, name: str, *, lock: bool = False) -> None:
    """Raises UnknownEnvironment unless the owner has this environment. ``lock`` has others who
    would delete it wait for the end of the transaction."""
    if name != MAIN and not _exists(connection, owner, name, lock):
        raise UnknownEnvironment(
            f"there is no environment {name[:60]!r}; `polyrank environments list` shows those "
            "there are, and `polyrank environments create` makes one"
        )


def _exists(connection: Connection, owner: str, name: str, lock: bool = False) -> bool:
    query = sa.select(environments.c.name).where(
        (environments.c.owner == owner) & (environments.c.name == name)
    )
    # SQLite has one writer, and knows no such clause.
    return connection.execute(query.with_for_update() if lock else query).first() is not None
