"""What groups of commands are made of; the work of a command is imported only when it runs."""

from __future__ import annotations

import importlib
import sys
from typing import Annotated, Any

import typer

JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def group(name: str, help: str) -> typer.Typer:
    """Commands with a name in common."""
    return typer.Typer(name=name, help=help, no_args_is_help=True, rich_markup_mode=None)


def call(module: str, function: str, **arguments: Any) -> None:
    """Calls a function of a module beside this one, and ends with its exit status."""
    sys.exit(getattr(importlib.import_module(f"polyrank.cli.{module}"), function)(**arguments))
