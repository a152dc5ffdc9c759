"""Keys and signing keys, over SQLite and over Postgres."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from polyrank.errors import InvalidInput, StoreUnavailable
from polyrank.gateway.callers import BadKey, Callers
from polyrank.gateway.tokens import Tokens
from polyrank.store.database import Database
from polyrank.store.keys import NOTE_USE_EVERY_S, Keys, Rate, Scope, UnknownKey
from polyrank.store.signing import SigningKeys

REMOTE = "203.0.113.7"


@pytest.fixture
def keys(database: Database, clock: Any) -> Keys:
    return Keys(database, clock)


async def test_a_key_is_kept_without_its_secret(keys: Keys, database: Database, clock: Any) -> None:
    key, credential = await keys.create(
        owner="ann", scopes=[Scope.API], description="ann's laptop", rate=Rate.parse("10/s")
    )
    id, _, secret = credential.partition(":")
    assert key.id == id and len(secret) == 43  # 32 random bytes in base64
    found = await keys.get(id)
    assert found == key
    assert found.has_secret(secret)
    for wrong in ("", secret[:-1], secret + "x", "ä"):
        assert not found.has_secret(wrong)
    assert (found.owner, found.description, found.created_at) == ("ann", "ann's laptop", clock.now)
    assert (found.scopes, found.rate) == (frozenset({Scope.API}), Rate(10, 1.0))
    with database.engine.connect() as connection:
        rows = connection.execute(sa.text("select * from keys")).all()
    assert secret not in str(rows) and secret.encode().hex() not in str(rows)


async def test_a_revoked_key_stays_in_the_list(keys: Keys, clock: Any) -> None:
    first, _ = await keys.create(owner="ann", scopes=[Scope.API])
    clock.now += 1
    second, _ = await keys.create(owner="bob", scopes=[Scope.ADMIN, Scope.API])
    await keys.revoke(first.id)
    revoked_at, clock.now = clock.now, clock.now + 1
    await keys.revoke(first.id)  # once more changes nothing
    assert [(key.id, key.revoked_at) for key in await keys.all()] == [
        (first.id, revoked_at),
        (second.id, None),
    ]
    with pytest.raises(UnknownKey, match="polyrank keys list"):
        await keys.revoke("none")
    assert await keys.get("none") is None


async def test_the_use_of_a_key_is_noted_to_the_minute(
    keys: Keys, database: Database, clock: Any
) -> None:
    async def noted(id: str) -> float | None:
        await database.write(lambda c: None)  # Postgres has several writers: let them come to rest
        key = await keys.get(id)
        assert key is not None
        return key.last_used_at

    key, _ = await keys.create(owner="ann", scopes=[Scope.API])
    keys.note_use(key)
    async with asyncio.timeout(60):
        while await noted(key.id) != clock.now:
            pass
    used = await keys.get(key.id)
    assert used is not None
    clock.now += NOTE_USE_EVERY_S - 1
    keys.note_use(used)
    assert await noted(key.id) == used.last_used_at


@pytest.mark.parametrize("text", ["10/s", "600/m", "5000/h"])
def test_a_rate_is_written_as_it_was_read(text: str) -> None:
    assert str(Rate.parse(text)) == text


@pytest.mark.parametrize("text", ["", "10", "0/s", "-1/s", "1.5/s", "10/d", "many/s"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="10/s"):
        Rate.parse(text)


async def test_a_revoked_key_is_refused_by_every_server_within_a_second(
    url: str, open_database: Callable[..., Database], clock: Any
) -> None:
    databases = [open_database(url), open_database(url, is_server=False)]
    servers = [Callers(Keys(database), Tokens(b"-" * 32), clock=clock) for database in databases]
    key, credential = await Keys(databases[0]).create(owner="ann", scopes=[Scope.API])
    headers = {b"authorization": f"Key {credential}".encode()}
    for server in servers:
        assert (await server.identify(REMOTE, headers)).key_id == key.id
    await Keys(databases[0]).revoke(key.id)
    clock.now += 1.0
    for server in servers:
        with pytest.raises(BadKey, match="has been revoked"):
            await server.identify(REMOTE, headers)


async def test_a_known_key_is_good_for_a_minute_without_the_database(
    database: Database, clock: Any
) -> None:
    server = Callers(Keys(database), Tokens(b"-" * 32), clock=clock)
    key, credential = await Keys(database).create(owner="ann", scopes=[Scope.API])
    headers = {b"authorization": f"Key {credential}".encode()}
    assert (await server.identify(REMOTE, headers)).key_id == key.id
    database.close()
    clock.now += 60.0
    assert (await server.identify(REMOTE, headers)).key_id == key.id
    clock.now += 1.5
    with pytest.raises(StoreUnavailable):
        await server.identify(REMOTE, headers)


def test_servers_of_one_database_sign_with_one_key(
    url: str, open_database: Callable[..., Database]
) -> None:
    databases = [open_database(url, is_server=number == 0) for number in range(3)]
    made, got = iter(range(100)), []
    begin = threading.Barrier(3)

    def start(database: Database) -> None:
        begin.wait()
        got.append(SigningKeys(database).get("webhooks", lambda: bytes([next(made)]) * 32))

    servers = [threading.Thread(target=start, args=(database,)) for database in databases]
    for server in servers:
        server.start()
    for server in servers:
        server.join()
    assert len(set(got)) == 1
    assert SigningKeys(databases[0]).get("tokens", lambda: b"other") == b"other"
    assert SigningKeys(databases[1]).get("webhooks", lambda: b"never") == got[0]


def test_nobody_else_may_read_the_file(tmp_path: Path) -> None:
    file = tmp_path / "data" / "polyrank.db"
    database = Database(f"sqlite:///{file}")
    database.submit(lambda connection: connection.exec_driver_sql("create table t (x)")).result()
    for part in file.parent.iterdir():
        assert part.stat().st_mode & 0o077 == 0, part
    database.close()
    with sqlite3.connect(file) as connection:
        assert connection.execute("select * from t").fetchall() == []
    connection.close()
