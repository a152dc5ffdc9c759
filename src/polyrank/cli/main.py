"""The command line: what there is, each command's work imported only when it runs."""

from __future__ import annotations

import importlib
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Optional

import typer

from polyrank import __version__
from polyrank.cli import access, belongings, fleet, support

app = typer.Typer(
    name="polyrank",
    help="Serve one model over many GPUs, on your own machines.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


for group in (
    *(fleet.apps, fleet.runners, fleet.queue),
    *(access.keys, access.auth, access.profile),
):
    app.add_typer(group)
for group in (belongings.secrets, belongings.environments, belongings.files):
    app.add_typer(group)
app.add_typer(support.support)


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
    tls: Annotated[
        bool, typer.Option("--tls", help="Speak https, with a certificate of our own.")
    ] = False,
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
            tls=tls,
        )
    )


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 picks a free one.")] = 8080,
    tls: Annotated[
        bool, typer.Option("--tls", help="Speak https, with a certificate of our own.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show phases and more.")] = False,
) -> None:
    """Serve what is deployed here, and keep it running."""
    command = importlib.import_module("polyrank.cli.serve")
    sys.exit(command.serve(host=host, port=port, tls=tls, verbose=verbose))


app.command()(fleet.deploy)


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


@app.command()
def call(
    name: Annotated[str, typer.Argument(metavar="APP", help="owner/name, or name for local/name.")],
    words: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(
            metavar="[KEY=TEXT | KEY:=JSON | KEY=@FILE]...",
            help="Arguments; a file is uploaded.",
            show_default=False,
        ),
    ] = None,
    path: Annotated[str, typer.Option(help="An endpoint of the app.")] = "",
    json: Annotated[Optional[str], typer.Option(help="Arguments as one JSON object.")] = None,  # noqa: UP045
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--out", "-o", help="Folder, or file, for the files of the result."),
    ] = None,
    server: Annotated[Optional[str], typer.Option(help="URL of the server.")] = None,  # noqa: UP045
    queue: Annotated[
        bool, typer.Option("--queue", help="Through the queue (the default).")
    ] = False,
    direct: Annotated[bool, typer.Option("--direct", help="Without the queue.")] = False,
    stream: Annotated[
        bool, typer.Option("--stream", help="Stream the events of /stream, or of --path.")
    ] = False,
) -> None:
    """Call an app: show its progress, print its answer, keep its files."""
    if queue + direct + stream > 1:
        raise typer.BadParameter("--queue, --direct and --stream are three ways: choose one")
    command = importlib.import_module("polyrank.cli.call")
    mode = command.Mode.STREAM if stream else command.Mode.DIRECT if direct else command.Mode.QUEUE
    sys.exit(
        command.call(name, words or [], path=path, base=json, out=out, server=server, mode=mode)
    )


@app.command(
    name="exec",
    context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True},
)
def execute(
    words: Annotated[
        list[str], typer.Argument(metavar="COMMAND...", help="The program and its arguments.")
    ],
    url: Annotated[Optional[str], typer.Option(help="URL of the server.")] = None,  # noqa: UP045
) -> None:
    """Run a program written for the reference platform against a polyrank server."""
    command = importlib.import_module("polyrank.cli.execute")
    sys.exit(command.execute(words, url))


def main() -> None:
    """Entry point of the ``polyrank`` command."""
    support.answer_shells()
    app(prog_name=support.PROGRAM)


if __name__ == "__main__":
    main()
