"""What the commands say: results on stdout, everything else on stderr."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, ParamSpec

from rich.console import Console
from rich.markup import escape

from polyrank.errors import PolyrankError

P = ParamSpec("P")

out = Console(highlight=False, markup=False)
err = Console(stderr=True, highlight=False)


def exit_status(command: Callable[P, None]) -> Callable[P, int]:
    """A command that returns its exit status: 1 when it raised an error of ours, said on stderr."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            command(*args, **kwargs)
        except PolyrankError as error:
            err.print("[red]error:[/red]", escape(str(error)), soft_wrap=True)
            return 1
        return 0

    return run


def say(text: str) -> None:
    """A line for the person at the terminal."""
    err.print(text, markup=False, soft_wrap=True)


def show(text: str) -> None:
    """A line of the result."""
    out.print(text, soft_wrap=True)


def show_json(value: Any) -> None:
    """The result as JSON."""
    out.print(json.dumps(value, indent=2), soft_wrap=True)


def show_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """The result as aligned columns; nothing is cut off, however narrow the terminal."""
    lines = [columns, *rows]
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        show("  ".join(cells).rstrip())


def day(timestamp: float | None) -> str:
    """A time, for people."""
    if timestamp is None:
        return "-"
    return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%d %H:%M")
