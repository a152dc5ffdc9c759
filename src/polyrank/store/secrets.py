"""Secrets: values that an owner's apps get as environment variables, encrypted at rest."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from polyrank.errors import InvalidInput, PolyrankError
from polyrank.store.database import Database
from polyrank.store.environments import MAIN, require
from polyrank.store.keyring import Keyring
from polyrank.store.tables import secrets

# All of an environment's secrets must fit into the environment of a process.
MAX_VALUE_BYTES = 64 * 2**10
MAX_TOTAL_BYTES = 2**20
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
# What the server itself sets for an app.
RESERVED = ("POLYRANK_", "FAL_")


class UnknownSecret(PolyrankError):
    """There is no such secret."""

    status = 404
    code = "secret_not_found"


@dataclass(frozen=True)
class Secret:
    """What may be told of a secret: everything but its value. One that is not ``exposed`` is
    given to those apps only that ask for it by name."""

    name: str
    environment: str
    exposed: bool
    created_at: float
    updated_at: float


class Secrets:
    """The secrets of one database, by owner and environment. Every method is one transaction."""

    def __init__(
        self, database: Database, keyring: Keyring, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._clock = clock

    async def set(
        self, owner: str, name: str, value: str, *, environment: str = MAIN, exposed: bool = True
    ) -> Secret:
        """Keeps a value, instead of what was there."""
        _check(name, value)
        now = self._clock()
        key = {"owner": owner, "environment": environment, "name": name}
        where = (owner, environment, name)

        def set(connection: Connection) -> Secret:
            self._lock(connection)
            require(connection, owner, environment, lock=True)
            sealed = self._keyring.encrypt(value.encode(), place=_place(*where))
            row = {"value": sealed, "exposed": exposed, "updated_at": now}
            insert = self._database.insert(secrets).values(**key, **row, created_at=now)
            connection.execute(insert.on_conflict_do_update(index_elements=[*key], set_=row))
            size = sa.select(sa.func.sum(sa.func.length(secrets.c.value)))
            if connection.scalar(size.where(_in(owner, environment))) > MAX_TOTAL_BYTES:
                raise InvalidInput(
                    f"the secrets of an environment may have {MAX_TOTAL_BYTES} bytes together: "
                    "keep large things in the data folder"
                )
            return Secret(**connection.execute(_PUBLIC.where(_is(*where))).mappings().one())

        return await self._database.write(set)

    async def all(self, owner: str, environment: str = MAIN) -> list[Secret]:
        """What there is, by name, without the values."""

        def read(connection: Connection) -> list[Secret]:
            require(connection, owner, environment)
            query = _PUBLIC.where(_in(owner, environment)).order_by(secrets.c.name)
            return [Secret(**row) for row in connection.execute(query).mappings()]

        return await self._database.read(read)

    async def delete(self, owner: str, name: str, *, environment: str = MAIN) -> None:
        """Forgets the secret. Raises UnknownSecret."""

        def delete(connection: Connection) -> int:
            require(connection, owner, environment)
            return connection.execute(
                sa.delete(secrets).where(_is(owner, environment, name))
            ).rowcount

        if not await self._database.write(delete):
            raise UnknownSecret(_unknown([name], environment))

    async def secrets_for(
        self, owner: str, environment: str = MAIN, allowed: Sequence[str] | None = None
    ) -> dict[str, str]:
        """What an app gets, by name; ``allowed`` is its option ``secrets``.

        None stands for all but those that are not exposed by default. Raises UnknownSecret that
        names those of a list that are not there.
        """
        query = sa.select(secrets.c.name, secrets.c.value).where(_in(owner, environment))
        if allowed is None:
            query = query.where(secrets.c.exposed)
        else:
            query = query.where(secrets.c.name.in_(allowed))
        rows = await self._database.read(lambda c: c.execute(query).all())
        found = {
            name: self._keyring.decrypt(value, place=_place(owner, environment, name)).decode()
            for name, value in rows
        }
        if missing := sorted(set(allowed or ()) - found.keys()):
            raise UnknownSecret(_unknown(missing, environment))
        return found

    async def rotate(self) -> int:
        """Encrypts everything with a new key, and forgets the ones before; how many values."""
        self._keyring.add_key()
        count = await self._database.write(self._encrypt_again)
        # Who sets a secret from now on finds the new key; who did before has been waited for.
        self._keyring.drop_old_keys()
        return count

    def _lock(self, connection: Connection) -> None:
        """Waits for others that encrypt. SQLite has one writer anyway."""
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("LOCK TABLE secrets IN SHARE ROW EXCLUSIVE MODE")

    def _encrypt_again(self, connection: Connection) -> int:
        """Encrypts with the first key what is encrypted with another."""
        self._lock(connection)
        rows = connection.execute(sa.select(secrets)).mappings().all()
        old = [row for row in rows if not self._keyring.is_current(row["value"])]
        for row in old:
            where = (row["owner"], row["environment"], row["name"])
            place = _place(*where)
            value = self._keyring.decrypt(row["value"], place=place)
            update = sa.update(secrets).where(_is(*where))
            connection.execute(update.values(value=self._keyring.encrypt(value, place=place)))
        return len(old)


_PUBLIC = sa.select(
    secrets.c.name,
    secrets.c.environment,
    secrets.c.exposed,
    secrets.c.created_at,
    secrets.c.updated_at,
)


def _check(name: str, value: str) -> None:
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"not a name for a secret: {name[:60]!r}; it is that of an environment variable"
        )
    if name.upper().startswith(RESERVED):
        raise InvalidInput(f"{name} is set by the server itself: names with POLYRANK_ and FAL_ are")
    if "\0" in value or len(value.encode(errors="surrogatepass")) > MAX_VALUE_BYTES:
        raise InvalidInput(
            f"the value of {name} cannot be an environment variable: it has a NUL character, or "
            f"more than {MAX_VALUE_BYTES} bytes"
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidInput(f"the value of {name} is not text in UTF-8") from None


def _place(owner: str, environment: str, name: str) -> bytes:
    return json.dumps(["secret", owner, environment, name]).encode()


def _in(owner: str, environment: str) -> sa.ColumnElement[bool]:
    return (secrets.c.owner == owner) & (secrets.c.environment == environment)


def _is(owner: str, environment: str, name: str) -> sa.ColumnElement[bool]:
    return _in(owner, environment) & (secrets.c.name == name)


def _unknown(names: Sequence[str], environment: str) -> str:
    where = "" if environment == MAIN else f" in the environment {environment!r}"
    env = "" if environment == MAIN else f" --env {environment}"
    return (
        f"there is no secret {', '.join(names)}{where}; "
        f"`polyrank secrets set {names[0]}=…{env}` sets it"
    )
