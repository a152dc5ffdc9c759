"""``polyrank keys``: works on the server's database, also while the server runs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

from polyrank.cli.console import day, exit_status, say, show, show_json, show_table
from polyrank.settings import ServerSettings
from polyrank.store.database import Database
from polyrank.store.keys import Key, Keys, Rate, Scope
from polyrank.store.migrations import upgrade


@exit_status
def create(
    *, scopes: list[str], description: str, owner: str, rate: str | None, as_json: bool
) -> None:
    """Makes a key, and prints what its holder shows."""
    limit = None if rate is None else Rate.parse(rate)
    granted = [Scope(name) for name in scopes]
    with _keys() as keys:
        key, credential = asyncio.run(
            keys.create(owner=owner, scopes=granted, description=description, rate=limit)
        )
    if as_json:
        return show_json({**_public(key), "key": credential})
    show(credential)
    say("Keep it now: it is not shown again. Callers send it as `Authorization: Key …`.")


@exit_status
def list_keys(*, as_json: bool) -> None:
    """Prints all keys."""
    with _keys() as keys:
        found = asyncio.run(keys.all())
    if as_json:
        return show_json([_public(key) for key in found])
    rows = [
        (
            key.id,
            key.owner,
            ",".join(sorted(key.scopes)),
            "-" if key.rate is None else str(key.rate),
            day(key.created_at),
            day(key.last_used_at),
            day(key.revoked_at),
            key.description,
        )
        for key in found
    ]
    titles = ("id", "owner", "scopes", "rate", "created", "last used", "revoked", "description")
    show_table(titles, rows)


@exit_status
def revoke(*, id: str, as_json: bool) -> None:
    """Ends a key."""
    with _keys() as keys:
        asyncio.run(keys.revoke(id.partition(":")[0]))
    if as_json:
        return show_json({"revoked": id.partition(":")[0]})
    say(f"revoked {id.partition(':')[0]}")


@contextlib.contextmanager
def _keys() -> Iterator[Keys]:
    database = Database(ServerSettings().database, is_server=False)
    try:
        upgrade(database)
        yield Keys(database)
    finally:
        database.close()


def _public(key: Key) -> dict[str, Any]:
    return {
        "id": key.id,
        "owner": key.owner,
        "scopes": sorted(key.scopes),
        "description": key.description,
        "rate": None if key.rate is None else str(key.rate),
        "created_at": key.created_at,
        "last_used_at": key.last_used_at,
        "revoked_at": key.revoked_at,
    }
