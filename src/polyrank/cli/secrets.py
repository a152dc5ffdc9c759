"""``polyrank secrets``: values go to the server and are not shown again."""

from __future__ import annotations

import asyncio
import getpass
import sys
from urllib.parse import quote

from polyrank.cli.console import day, exit_status, say, show_json, show_table
from polyrank.cli.remote import Remote
from polyrank.errors import InvalidInput
from polyrank.settings import ServerSettings
from polyrank.store.database import Database
from polyrank.store.keyring import Keyring
from polyrank.store.migrations import upgrade
from polyrank.store.secrets import Secrets

# In place of a value: it is read from stdin, where neither `ps` nor a shell's history sees it.
STDIN = "-"


@exit_status
def set_secrets(*, words: list[str], env: str, exposed: bool, as_json: bool) -> None:
    """Sends values to the server."""
    values = _values(words)
    made = []
    with Remote() as remote:
        for name, value in values.items():
            body = {"value": value, "exposed": exposed}
            made.append(remote.call("PUT", _url(name), params={"env": env}, json=body))
    if as_json:
        return show_json(made)
    say(f"set {', '.join(values)}; replicas that are started from now on get it")


@exit_status
def list_secrets(*, env: str, as_json: bool) -> None:
    """Prints names and times."""
    with Remote() as remote:
        found = remote.call("GET", "/secrets", params={"env": env})
    if as_json:
        return show_json(found)
    rows = [
        (
            secret["name"],
            "all apps" if secret["exposed"] else "apps that name it",
            day(secret["created_at"]),
            day(secret["updated_at"]),
        )
        for secret in found
    ]
    show_table(("name", "given to", "created", "updated"), rows)


@exit_status
def unset(*, names: list[str], env: str, as_json: bool) -> None:
    """Has the server forget secrets."""
    with Remote() as remote:
        for name in names:
            remote.call("DELETE", _url(name), params={"env": env})
    if as_json:
        return show_json({"unset": names})
    say(f"unset {', '.join(names)}; replicas that run keep it until they end")


@exit_status
def rotate(*, as_json: bool) -> None:
    """Encrypts the secrets of this server's database with a new key."""
    settings = ServerSettings()
    database = Database(settings.database, is_server=False)
    try:
        upgrade(database)
        secrets = Secrets(database, Keyring(settings.key_file))
        count = asyncio.run(secrets.rotate())
    finally:
        database.close()
    if as_json:
        return show_json({"key_file": str(settings.key_file), "secrets": count})
    say(f"{count} secrets are encrypted with a new key, which is in {settings.key_file}")


def _url(name: str) -> str:
    return "/secrets/" + quote(name, safe="")


def _values(words: list[str]) -> dict[str, str]:
    """What the arguments say, by name; stdin has at most one value."""
    if sum(word.partition("=")[2] == STDIN for word in words) > 1:
        raise InvalidInput("stdin has one value: set the others by a command each")
    values = {}
    for word in words:
        name, separator, value = word.partition("=")
        if not name or not separator:
            # Without the word: it may be a value whose name was forgotten.
            raise InvalidInput("a secret is NAME=VALUE, or NAME=- to read its value from stdin")
        values[name] = _read(name) if value == STDIN else value
    return values


def _read(name: str) -> str:
    if sys.stdin.isatty():
        return getpass.getpass(f"value of {name} (not shown): ")
    return sys.stdin.read().removesuffix("\n")
