"""Every ``polyrank`` command that a page shows is one, with options that there are."""

import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import typer.main

from polyrank.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# ``$ polyrank …``, perhaps after sudo, variables, or the path that it is installed at.
SHOWN = re.compile(r"^\$ (?:[^#|&;\n]*[ /])?polyrank ([a-z][^|&;\n]*)", re.MULTILINE)


def shown(page: Path) -> list[str]:
    blocks = re.findall(r"```(?:console|sh)\n(.*?)```", page.read_text(), re.DOTALL)
    return [line for block in blocks for line in SHOWN.findall(block)]


COMMANDS = [
    pytest.param(line, id=f"{page.name}: {line}")
    for page in PAGES
    for line in dict.fromkeys(shown(page))
]


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_a_page_can_be_typed(line: str) -> None:
    words = shlex.split(re.split(" [<>]", line)[0], comments=True)
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        assert words and words[0] in command.commands, f"there is no {words[:1]} in {line!r}"
        command = command.commands[words.pop(0)]
    try:
        command.make_context(command.name, words)
    except click.UsageError as error:
        pytest.fail(f"{line!r}: {error.format_message()}")


def leaves(command: Any, path: str = "") -> list[str]:
    """The commands that do something, by their whole names."""
    if not hasattr(command, "commands"):
        return [path.strip()]
    return [
        leaf for name, each in command.commands.items() for leaf in leaves(each, f"{path} {name}")
    ]


def test_who_comes_from_the_reference_platform_finds_every_command() -> None:
    page = (ROOT / "docs" / "migrate.md").read_text()
    table = page.partition("\n## Commands\n")[2].partition("\n## ")[0]
    named = {name.strip("`") for name in re.findall(r"`[a-z -]+`", table)}
    assert [name for name in leaves(typer.main.get_command(app)) if name not in named] == []


def test_there_are_commands_on_the_pages() -> None:
    assert len(COMMANDS) > 30
