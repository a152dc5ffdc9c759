"""The commands that help with the others: ``doctor`` and ``completion``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer
from typer._completion_classes import completion_init
from typer._completion_shared import get_completion_script

from polyrank.cli.groups import JSON, call

PROGRAM = "polyrank"
VARIABLE = "_POLYRANK_COMPLETE"

support = typer.Typer(rich_markup_mode=None)


class Shell(StrEnum):
    """The shells that are known."""

    bash = "bash"
    zsh = "zsh"
    fish = "fish"


@support.command()
def doctor(json: JSON = False) -> None:
    """Look for what would keep a server from working on this machine."""
    call("doctor", "doctor", as_json=json)


@support.command()
def completion(
    shell: Annotated[Shell, typer.Argument(metavar="bash|zsh|fish", help="The shell.")],
) -> None:
    """Print what lets a shell complete commands and options."""
    typer.echo(get_completion_script(prog_name=PROGRAM, complete_var=VARIABLE, shell=shell.value))


def answer_shells() -> None:
    """Has the program answer a shell that asks what a line could go on with."""
    completion_init()
