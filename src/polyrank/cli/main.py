"""The command line: what there is, each command's work imported only when it runs."""

from __future__ import annotations

import importlib
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Optional

import typer

from polyrank import __version__
from polyrank.cli import access

app = typer.Typer(
    name="polyrank",
    help="Serve one model over many GPUs, on your own machines.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


for group in (access.keys, access.auth, access.profile):
    app.add_typer(group)


class Device(StrEnum):
    """Where ranks run."""

    cpu = "cpu"
    cuda = "cuda"


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"polyrank {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Serve one model over many GPUs, on your own machines."""


@app.command()
def run(
    ref: Annotated[str, typer.Argument(metavar="FILE[::CLASS] | NAME", help="The app.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 picks a free one.")] = 8080,
    device: Annotated[Optional[Device], typer.Option(help="Where ranks run.")] = None,  # noqa: UP045
    ranks: Annotated[Optional[int], typer.Option(min=1, help="Instead of num_gpus.")] = None,  # noqa: UP045
    reload: Annotated[bool, typer.Option("--reload", help="Restart when a file changes.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show phases and more.")] = False,
) -> None:
    """Serve an app on this machine until Ctrl-C."""
    command = importlib.import_module("polyrank.cli.run")
    sys.exit(
        command.run(
            ref,
            host=host,
            port=port,
            device=device.value if device else None,
            ranks=ranks,
            reload=reload,
            verbose=verbose,
        )
    )


@app.command()
def demo(
    prompt: Annotated[
        str, typer.Argument(help="What to paint.")
    ] = "a lighthouse by the sea at sunset",
    ranks: Annotated[int, typer.Option(min=1, help="How many ranks paint.")] = 2,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps.")] = 20,
    seed: Annotated[Optional[int], typer.Option(help="Same seed, same pictures.")] = None,  # noqa: UP045
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("demo"),
    serve: Annotated[bool, typer.Option("--serve", help="Stay up afterwards.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show the log here, not in OUT/log.txt.")
    ] = False,
) -> None:
    """Paint a prompt on several ranks, with previews on the way."""
    command = importlib.import_module("polyrank.cli.demo")
    sys.exit(
        command.demo(
            prompt, ranks=ranks, steps=steps, seed=seed, out=out, serve=serve, verbose=verbose
        )
    )


def main() -> None:
    """Entry point of the ``polyrank`` command."""
    app()


if __name__ == "__main__":
    main()
