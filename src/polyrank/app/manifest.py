"""An app's table in pyproject.toml: ``[tool.polyrank.apps.NAME]`` or ``[tool.fal.apps.NAME]``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

from polyrank.app.options import IN_TABLE_ONLY, NAMES, AppOptions, AuthMode, checked, suggestion
from polyrank.errors import AppError

# Options that the table names otherwise, and keys that only a platform's scheduler reads.
RENAMED = {"auth": "app_auth", "name": "app_name"}
OPTIONS = (NAMES | IN_TABLE_ONLY) - {*RENAMED.values(), "host_kwargs", "image"} | set(RENAMED)
IGNORED = frozenset({"_scheduler", "_scheduler_options"})


class ImageTable(BaseModel):
    """``image``: a container image, from a Dockerfile or ready-made."""

    model_config = ConfigDict(extra="forbid")

    dockerfile: str | None = None
    image: str | None = None
    build_args: dict[str, str] = {}
    secrets: dict[str, str] = {}
    registries: dict[str, dict[str, str]] = {}
    entrypoint: str | list[str] | None = None
    cmd: str | list[str] | None = None

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if (self.dockerfile is None) == (self.image is None):
            raise ValueError("it has either a dockerfile or an image")
        return self


class AppTable(BaseModel):
    """What the table says beside options; what is for a deployment is kept and not used yet."""

    model_config = ConfigDict(extra="forbid")

    ref: str | None = None
    python_entry_point: str | None = None
    image: ImageTable | None = None
    auth: AuthMode | None = None
    deployment_strategy: Literal["recreate", "rolling"] | None = None
    team: str | None = None
    app_scale_settings: bool | None = None
    no_scale: bool | None = None


@dataclass(frozen=True)
class Manifest:
    """Where an app is and how it is run; ``options`` are those of ``AppOptions`` that are set."""

    table: AppTable
    options: Mapping[str, Any]


def read_table(what: str, name: str, table: Mapping[str, Any]) -> Manifest:
    """The checked table of the app ``name``. Raises AppError with a suggestion."""
    known = OPTIONS | IGNORED | AppTable.model_fields.keys()
    for key in table:
        if key not in known:
            raise AppError(f"{what} has no option {key!r}{suggestion(key, known)}")
    fields = AppTable.model_fields.keys()
    checked_table = checked(what, AppTable, {key: table[key] for key in table if key in fields})
    options = {RENAMED.get(key, key): table[key] for key in table if key in OPTIONS | {"image"}}
    checked(what, AppOptions, options)
    _check_place(what, checked_table)
    return Manifest(checked_table, {"app_name": name} | options)


def _check_place(what: str, table: AppTable) -> None:
    if table.ref is not None and table.python_entry_point is not None:
        raise AppError(f"{what} has both a ref and a python_entry_point; one says where it is")
    if table.python_entry_point is not None:
        module, _, symbol = table.python_entry_point.partition(":")
        if not module or not symbol.isidentifier():
            raise AppError(f"{what}: python_entry_point is 'module:Class'")
    elif table.ref is None and table.image is not None:
        raise AppError(f"{what} is a container image, and polyrank runs apps, not containers")
    elif table.ref is None:
        raise AppError(f"{what} has no 'ref = \"file.py::Class\"'")
