"""Secrets and environments, over SQLite and over Postgres."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from polyrank.errors import InvalidInput
from polyrank.store.apps import Apps
from polyrank.store.database import Database
from polyrank.store.environments import EnvironmentConflict, Environments, UnknownEnvironment
from polyrank.store.keyring import Keyring, KeyringUnusable
from polyrank.store.secrets import MAX_TOTAL_BYTES, MAX_VALUE_BYTES, Secrets, UnknownSecret

TOKEN = "hf_abcdefghijklmnop"


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return tmp_path / "data" / "secret.key"


@pytest.fixture
def secrets(database: Database, key_file: Path, clock: Any) -> Secrets:
    return Secrets(database, Keyring(key_file), clock)


@pytest.fixture
def environments(database: Database, clock: Any) -> Environments:
    return Environments(database, clock)


def rows(database: Database) -> list[Any]:
    with database.engine.connect() as connection:
        return list(connection.execute(sa.text("select * from secrets order by name")))


async def test_a_secret_is_kept_encrypted_and_given_to_apps(
    secrets: Secrets, database: Database, key_file: Path, clock: Any
) -> None:
    made = await secrets.set("ann", "HF_TOKEN", TOKEN)
    assert key_file.stat().st_mode & 0o777 == 0o600
    assert (made.name, made.environment, made.created_at) == ("HF_TOKEN", "main", clock.now)
    assert not hasattr(made, "value")
    clock.now += 5
    await secrets.set("ann", "HF_TOKEN", TOKEN + "é\n")
    [listed] = await secrets.all("ann")
    assert (listed.created_at, listed.updated_at) == (clock.now - 5, clock.now)
    assert await secrets.secrets_for("ann") == {"HF_TOKEN": TOKEN + "é\n"}
    assert await secrets.secrets_for("bob") == {} and await secrets.all("bob") == []
    [row] = rows(database)
    assert TOKEN.encode() not in bytes(row.value) and TOKEN not in str(row)
    await secrets.delete("ann", "HF_TOKEN")
    assert rows(database) == []
    with pytest.raises(UnknownSecret, match="polyrank secrets set HF_TOKEN"):
        await secrets.delete("ann", "HF_TOKEN")


async def test_an_app_gets_those_that_it_names(secrets: Secrets) -> None:
    await secrets.set("ann", "A", "1")
    await secrets.set("ann", "B", "2", exposed=False)
    assert await secrets.secrets_for("ann") == {"A": "1"}
    assert await secrets.secrets_for("ann", allowed=["B"]) == {"B": "2"}
    assert await secrets.secrets_for("ann", allowed=[]) == {}
    with pytest.raises(UnknownSecret, match="no secret C, D") as raised:
        await secrets.secrets_for("ann", allowed=["D", "A", "C"])
    assert raised.value.status == 404


async def test_a_value_is_good_in_its_own_row_only(secrets: Secrets, database: Database) -> None:
    await secrets.set("ann", "A", "ann's own")
    await secrets.set("bob", "A", "bob's own")
    moved = sa.text("update secrets set value = (select value from secrets where owner = 'bob')")
    await database.write(lambda c: c.execute(moved).rowcount)
    assert await secrets.secrets_for("bob") == {"A": "bob's own"}
    with pytest.raises(KeyringUnusable, match="damaged") as raised:
        await secrets.secrets_for("ann")
    assert "own" not in str(raised.value)


async def test_without_its_key_a_secret_is_lost_and_that_is_said(
    secrets: Secrets, database: Database, key_file: Path
) -> None:
    await secrets.set("ann", "A", TOKEN)
    kept = key_file.read_text()
    key_file.unlink()
    with pytest.raises(KeyringUnusable, match="backup"):
        await secrets.secrets_for("ann")
    assert not key_file.exists()  # reading makes no new one
    key_file.write_text(kept)
    assert await secrets.secrets_for("ann") == {"A": TOKEN}
    key_file.write_text("no key\n")
    with pytest.raises(KeyringUnusable, match="not a key"):
        await secrets.secrets_for("ann")


async def test_a_new_key_takes_over_beside_a_server_that_runs(
    secrets: Secrets, database: Database, key_file: Path, open_database: Any, url: str
) -> None:
    for number in range(5):
        await secrets.set("ann", f"S{number}", f"value {number}")
    before, old_key = rows(database), key_file.read_text()
    other = Secrets(open_database(url, is_server=False), Keyring(key_file))
    sets = [secrets.set("ann", f"T{number}", f"later {number}") for number in range(20)]
    _, *_ = await asyncio.gather(other.rotate(), *sets)
    assert key_file.read_text().strip() not in old_key and len(key_file.read_text().split()) == 1
    assert {row.value for row in rows(database)}.isdisjoint(row.value for row in before)
    found = await secrets.secrets_for("ann")
    assert found == {f"S{n}": f"value {n}" for n in range(5)} | {
        f"T{n}": f"later {n}" for n in range(20)
    }


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("1A", "x", "environment variable"),
        ("A-B", "x", "environment variable"),
        ("", "x", "environment variable"),
        ("POLYRANK_KEY", "x", "set by the server"),
        ("FAL_KEY", "x", "set by the server"),
        ("A", "with\0nul", "NUL"),
        ("A", "x" * (MAX_VALUE_BYTES + 1), "more than"),
        ("A", "\ud800", "UTF-8"),
    ],
)
async def test_what_cannot_be_a_variable_is_refused(
    secrets: Secrets, name: str, value: str, why: str
) -> None:
    with pytest.raises(InvalidInput, match=why) as raised:
        await secrets.set("ann", name, value)
    assert value == "x" or value not in str(raised.value)


async def test_secrets_of_an_environment_have_a_limit_together(secrets: Secrets) -> None:
    for number in range(MAX_TOTAL_BYTES // MAX_VALUE_BYTES - 1):
        await secrets.set("ann", f"S{number}", "x" * MAX_VALUE_BYTES)
    with pytest.raises(InvalidInput, match="together"):
        await secrets.set("ann", "LAST", "x" * MAX_VALUE_BYTES)
    assert "LAST" not in [secret.name for secret in await secrets.all("ann")]


async def test_environments_have_secrets_of_their_own(
    secrets: Secrets, environments: Environments
) -> None:
    assert [each.name for each in await environments.all("ann")] == ["main"]
    with pytest.raises(UnknownEnvironment, match="environments create"):
        await secrets.set("ann", "A", "x", environment="staging")
    await environments.create("ann", "staging", "to try things")
    with pytest.raises(EnvironmentConflict, match="already"):
        await environments.create("ann", "staging")
    await secrets.set("ann", "A", "main's")
    await secrets.set("ann", "A", "staging's", environment="staging")
    assert await secrets.secrets_for("ann") == {"A": "main's"}
    assert await secrets.secrets_for("ann", "staging") == {"A": "staging's"}
    listed = await environments.all("ann")
    assert [(each.name, each.description) for each in listed] == [
        ("main", ""),
        ("staging", "to try things"),
    ]
    assert [each.name for each in await environments.all("bob")] == ["main"]
    await environments.delete("ann", "staging")
    await environments.create("ann", "staging")
    assert await secrets.all("ann", "staging") == []  # its secrets have gone with it
    assert await secrets.secrets_for("ann") == {"A": "main's"}


async def test_an_environment_with_apps_stays(
    environments: Environments, database: Database
) -> None:
    await environments.create("ann", "staging")
    await Apps(database).begin(
        owner="ann",
        alias="painter",
        environment="staging",
        manifest={},
        code_hash="",
        created_by="ann",
    )
    with pytest.raises(EnvironmentConflict, match="ann/painter--staging"):
        await environments.delete("ann", "staging")
    with pytest.raises(EnvironmentConflict, match="stays"):
        await environments.delete("ann", "main")
    with pytest.raises(UnknownEnvironment):
        await environments.delete("bob", "staging")


@pytest.mark.parametrize("name", ["", "Main", "a--b", "-a", "a-", "a/b", "x" * 41, "ä"])
async def test_a_name_that_no_app_could_carry_is_refused(
    environments: Environments, name: str
) -> None:
    with pytest.raises(InvalidInput, match="not a name"):
        await environments.create("ann", name)
