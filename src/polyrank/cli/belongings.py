"""The commands about what apps have beside their code: ``secrets``, ``environments`` and ``files``;
their work is imported only when one of them runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from polyrank.cli.groups import JSON, call, group

ENV = Annotated[str, typer.Option("--env", help="The environment.")]
ENVIRONMENT = Annotated[str, typer.Argument(metavar="NAME", help="The environment.")]
PATH = Annotated[str, typer.Argument(metavar="PATH", help="A path in the data folder.")]


secrets = group("secrets", "Keep values that apps get as environment variables.")


@secrets.command("set")
def set_secrets(
    words: Annotated[
        list[str],
        typer.Argument(metavar="NAME=VALUE...", help="The value - is read from stdin, not shown."),
    ],
    env: ENV = "main",
    not_exposed: Annotated[
        bool,
        typer.Option("--not-exposed-by-default", help="Only for apps that name it in `secrets`."),
    ] = False,
    json: JSON = False,
) -> None:
    """Set secrets, for the replicas that are started from now on."""
    call("secrets", "set_secrets", words=words, env=env, exposed=not not_exposed, as_json=json)


@secrets.command("list")
def list_secrets(env: ENV = "main", json: JSON = False) -> None:
    """List the secrets, without their values."""
    call("secrets", "list_secrets", env=env, as_json=json)


@secrets.command()
def unset(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="The secrets.")],
    env: ENV = "main",
    json: JSON = False,
) -> None:
    """Forget secrets."""
    call("secrets", "unset", names=names, env=env, as_json=json)


@secrets.command()
def rotate(json: JSON = False) -> None:
    """Encrypt all secrets with a new key, on the server's machine."""
    call("secrets", "rotate", as_json=json)


environments = group("environments", "Keep apps and secrets apart from the main ones.")


@environments.command("list")
def list_environments(json: JSON = False) -> None:
    """List the environments."""
    call("environments", "list_environments", as_json=json)


@environments.command("create")
def create_environment(
    name: ENVIRONMENT,
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
    json: JSON = False,
) -> None:
    """Make an environment."""
    call("environments", "create", name=name, description=description, as_json=json)


@environments.command("delete")
def delete_environment(name: ENVIRONMENT, json: JSON = False) -> None:
    """Forget an environment that has no apps, and its secrets."""
    call("environments", "delete", name=name, as_json=json)


files = group("files", "See and change what apps keep in their data folder.")


@files.command("list")
def list_files(path: PATH = "", json: JSON = False) -> None:
    """List what is in a folder."""
    call("files", "list_files", path=path, as_json=json)


@files.command()
def download(
    path: PATH,
    target: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(metavar="TARGET", help="Where to on this machine."),
    ] = None,
    json: JSON = False,
) -> None:
    """Get a file, or a folder with all that is in it."""
    call("files", "download", path=path, target=target, as_json=json)


@files.command()
def upload(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="A file or folder from here.")],
    path: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(metavar="PATH", help="Where to; a slash at its end makes it a folder."),
    ] = None,
    json: JSON = False,
) -> None:
    """Send a file, or a folder with all that is in it."""
    call("files", "upload", source=source, path=path, as_json=json)


@files.command("upload-url")
def upload_url(
    url: Annotated[str, typer.Argument(metavar="URL", help="What the server is to download.")],
    path: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(metavar="PATH", help="Where to; a slash at its end makes it a folder."),
    ] = None,
    json: JSON = False,
) -> None:
    """Have the server download a file."""
    call("files", "upload_url", url=url, path=path, as_json=json)


@files.command("mv")
def move(
    path: PATH,
    new: Annotated[str, typer.Argument(metavar="NEW", help="Its new path, or a folder.")],
    json: JSON = False,
) -> None:
    """Move something, or give it another name."""
    call("files", "move", path=path, new=new, as_json=json)


@files.command("rm")
def remove(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="What to remove.")],
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Folders too, with all that is in them.")
    ] = False,
    json: JSON = False,
) -> None:
    """Remove files."""
    call("files", "remove", paths=paths, recursive=recursive, as_json=json)


@files.command()
def link(
    path: Annotated[Path, typer.Option(help="The link to make.")] = Path("/data"),
    owner: Annotated[str, typer.Option(help="Whose folder it leads to.")] = "local",
    json: JSON = False,
) -> None:
    """Have /data on the server's machine lead to a data folder."""
    call("files", "link", path=path, owner=owner, as_json=json)
