"""The pages under docs/ say what is there, and nothing else."""

import asyncio
import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import typer.main
from pydantic_settings import BaseSettings

from polyrank import compat, settings
from polyrank.app import manifest
from polyrank.app.options import NAMES
from polyrank.cli.main import app

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = {page.name: page.read_text() for page in DOCS.glob("*.md")}


def commands_of(group: Any, path: str = "") -> dict[str, Any]:
    """All commands by name, those of groups too: ``keys``, ``keys create``."""
    found = {}
    for name, command in group.commands.items():
        found[f"{path}{name}"] = command
        if hasattr(command, "commands"):
            found |= commands_of(command, f"{path}{name} ")
    return found


COMMANDS = commands_of(typer.main.get_command(app))


def rows(text: str) -> list[list[str]]:
    """The cells of a page's tables, without the ticks."""
    lines = re.findall(r"^\| (.*) \|$", text, re.MULTILINE)
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)] for line in lines]


def test_every_command_has_a_section_and_every_section_a_command() -> None:
    sections = re.findall(r"^##+ polyrank ([\w -]+)$", PAGES["cli.md"], re.MULTILINE)
    assert sorted(sections) == sorted(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_commands_table_is_its_help(name: str) -> None:
    section = PAGES["cli.md"].split(f"# polyrank {name}\n")[1].split("\n##")[0]
    assert COMMANDS[name].help in section
    told = {
        row[0].replace("`", "").replace("\\|", "|"): (row[1].strip("`"), row[2])
        for row in rows(section)
        if len(row) == 3 and row[0].startswith("`")
    }
    known = {}
    for param in COMMANDS[name].params:
        if param.name == "help":
            continue
        is_option = param.param_type_name == "option"
        title = ", ".join(sorted(param.opts, reverse=True, key=len)) if is_option else None
        default = param.default[0].value if isinstance(param.default, list) else param.default
        default = "" if default is None or default is False else str(default)
        known[title or param.metavar or param.name] = (default, param.help)
    assert told == known


def test_the_aliases_and_refusals_are_those_of_the_code() -> None:
    table = {row[0].strip("`"): row[1] for row in rows(PAGES["compat.md"]) if "`fal" in row[0]}
    aliases = {name: f"`{to}`" for name, to in compat.ALIASES.items()}
    assert table == aliases | compat.REFUSED


def test_every_option_and_every_key_of_pyproject_is_named() -> None:
    for name in NAMES:
        assert f"`{name}`" in PAGES["app.md"]
    keys = set(manifest.AppTable.model_fields) | manifest.IGNORED
    for key in keys:
        assert f"`{key}`" in PAGES["cli.md"]


@pytest.mark.parametrize(
    "module",
    [
        "polyrank",
        "polyrank.app",
        "polyrank.client",
        "polyrank.diffusion",
        "polyrank.distributed",
        "polyrank.toolkit",
    ],
)
def test_every_public_name_is_in_the_docs(module: str) -> None:
    text = "\n".join(PAGES.values())
    names = importlib.import_module(module).__all__
    assert [name for name in names if not re.search(rf"\b{name}\b", text)] == []


def test_every_setting_is_in_the_docs() -> None:
    text = "\n".join(PAGES.values())
    classes = [
        each
        for each in vars(settings).values()
        if isinstance(each, type) and issubclass(each, BaseSettings) and each is not BaseSettings
    ]
    assert classes
    for each in classes:
        prefix = each.model_config["env_prefix"]
        for name in each.model_fields:
            assert f"`{prefix}{name.upper()}`" in text, f"{each.__name__}.{name}"


def test_the_code_of_the_app_page_runs() -> None:
    names: dict[str, Any] = {"__name__": "manual"}
    for code in re.findall(r"```python\n(.*?)```", PAGES["app.md"], re.DOTALL):
        exec(compile(code, "app.md", "exec", dont_inherit=True), names)
    asyncio.run(names["test_it_greets"]())


def test_the_code_of_the_page_of_data_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYRANK_DATA_DIR", str(tmp_path))
    names: dict[str, Any] = {"__name__": "manual"}
    for code in re.findall(r"```python\n(.*?)```", PAGES["data.md"], re.DOTALL):
        if "import torch" not in code:
            exec(compile(code, "data.md", "exec", dont_inherit=True), names)


def test_the_code_of_the_page_of_files_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLYRANK_DATA_DIR", str(tmp_path))
    [code] = re.findall(r"```python\n(.*?)```", PAGES["files.md"], re.DOTALL)
    exec(compile(code, "files.md", "exec", dont_inherit=True), {})
