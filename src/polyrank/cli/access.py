"""The commands about who may call: ``keys``, ``auth`` and ``profile``; their work is imported only
when one of them runs."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Optional

import typer

from polyrank.cli.groups import JSON, call, group

NAME = Annotated[str, typer.Argument(metavar="NAME", help="The profile.")]


class KeyScope(StrEnum):
    """What a key is good for."""

    API = "API"
    ADMIN = "ADMIN"


keys = group("keys", "Make and revoke the keys that callers of this server show.")


@keys.command()
def create(
    scope: Annotated[
        list[KeyScope], typer.Option(help="API calls apps, ADMIN may do everything; repeatable.")
    ] = [KeyScope.API],  # noqa: B006 - typer reads it and never changes it
    desc: Annotated[str, typer.Option(help="What it is for.")] = "",
    owner: Annotated[str, typer.Option(help="Whose it is; opens the private apps of OWNER/….")] = (
        "local"
    ),
    rate: Annotated[Optional[str], typer.Option(help="Calls it may make: 10/s, 600/m, 5000/h.")] = (  # noqa: UP045
        None
    ),
    json: JSON = False,
) -> None:
    """Make a key; its secret is shown this once."""
    scopes = [each.value for each in scope]
    call("keys", "create", scopes=scopes, description=desc, owner=owner, rate=rate, as_json=json)


@keys.command("list")
def list_keys(json: JSON = False) -> None:
    """List the keys, without their secrets."""
    call("keys", "list_keys", as_json=json)


@keys.command()
def revoke(
    id: Annotated[str, typer.Argument(metavar="ID", help="The key's id.")], json: JSON = False
) -> None:
    """End a key for good, on every server within a second."""
    call("keys", "revoke", id=id, as_json=json)


auth = group("auth", "Log in to a server, and see as whom.")


@auth.command()
def login(
    server: Annotated[Optional[str], typer.Option(help="The server's URL.")] = None,  # noqa: UP045
    profile: Annotated[Optional[str], typer.Option(help="Keep it under this name.")] = None,  # noqa: UP045
    json: JSON = False,
) -> None:
    """Keep a key, once the server has said that it is good; it is read from stdin."""
    call("auth", "login", server=server, profile=profile, as_json=json)


@auth.command()
def logout(
    profile: Annotated[Optional[str], typer.Option(help="Of this profile.")] = None,  # noqa: UP045
    json: JSON = False,
) -> None:
    """Forget the key on this machine; revoking it is another thing."""
    call("auth", "logout", profile=profile, as_json=json)


@auth.command()
def whoami(json: JSON = False) -> None:
    """Ask the server who it takes you for."""
    call("auth", "whoami", as_json=json)


profile = group("profile", "Keep several servers, each with its key, by name.")


@profile.command("list")
def list_profiles(json: JSON = False) -> None:
    """List the profiles; a star marks the one in use."""
    call("profile", "list_profiles", as_json=json)


@profile.command("set")
def set_profile(
    name: NAME,
    server: Annotated[str, typer.Option(help="The server's URL.")],
    json: JSON = False,
) -> None:
    """Make a profile, or change its server; `polyrank auth login` gives it a key."""
    call("profile", "set_profile", name=name, server=server, as_json=json)


@profile.command()
def use(name: NAME, json: JSON = False) -> None:
    """Use a profile from now on."""
    call("profile", "use", name=name, as_json=json)


@profile.command()
def delete(name: NAME, json: JSON = False) -> None:
    """Forget a profile and its key."""
    call("profile", "delete", name=name, as_json=json)
