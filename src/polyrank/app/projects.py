"""Finding the app that the command line names: in a file, or by its name in pyproject.toml."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polyrank import modules
from polyrank.app.app import App
from polyrank.app.manifest import read_table
from polyrank.app.options import IN_TABLE_ONLY, AppOptions, checked
from polyrank.errors import AppError


@dataclass(frozen=True)
class AppRef:
    """A file, the class in it if it was named, and what pyproject.toml sets of its options.

    ``strategy`` is the ``deployment_strategy`` of its table there.
    """

    file: Path
    class_name: str | None = None
    module: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    strategy: str | None = None

    def __str__(self) -> str:
        return f"{self.file}::{self.class_name}" if self.class_name else str(self.file)


def find(reference: str, folder: Path) -> AppRef:
    """What ``FILE``, ``FILE::Class`` or an app's name in pyproject.toml refers to.

    ``[tool.polyrank.apps]`` and ``[tool.fal.apps]`` of the nearest pyproject.toml, upwards from
    ``folder``, name apps. Raises AppError saying what there is.
    """
    name, _, class_name = reference.partition("::")
    path = folder / name
    if path.suffix == ".py" or path.is_file():
        return _in_file(path, class_name)
    project, apps = _project_apps(folder)
    if project is None or name not in apps:
        known = ", ".join(sorted(apps)) or "none"
        close = difflib.get_close_matches(name, apps, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise AppError(
            f"{reference!r} is neither a file nor an app of {project or 'a pyproject.toml'} "
            f"(apps there: {known}){hint}"
        )
    manifest = read_table(f"app {name!r} of {project}", name, apps[name])
    table = manifest.table
    if table.python_entry_point is not None:
        module, _, symbol = table.python_entry_point.partition(":")
        file = _file_of(module, project.parent)
        return AppRef(file, symbol, module, manifest.options, table.deployment_strategy)
    assert table.ref is not None
    file_name, _, class_name = table.ref.partition("::")
    found = _in_file(project.parent / file_name, class_name)
    return AppRef(
        found.file,
        found.class_name,
        options=manifest.options,
        strategy=table.deployment_strategy,
    )


def load(ref: AppRef) -> type[App]:
    """The app class that ``ref`` names. Raises AppError naming what is in the file."""
    module = modules.load_file(ref.file, ref.module)
    cls = _only_app(ref, vars(module), module.__name__)
    options = {name: getattr(cls.options, name) for name in cls.options.model_fields_set}
    cls.options = checked(f"options of {cls.__name__}", AppOptions, options | dict(ref.options))
    for name in ref.options.keys() - IN_TABLE_ONLY:
        setattr(cls, name, getattr(cls.options, name))
    return cls


def _only_app(ref: AppRef, names: Mapping[str, Any], module: str) -> type[App]:
    apps = {
        name: value
        for name, value in names.items()
        if isinstance(value, type) and issubclass(value, App) and value is not App
    }
    if ref.class_name is not None:
        if ref.class_name not in apps:
            raise AppError(f"{ref.file} has no App {ref.class_name!r}; it has {_listed(apps)}")
        return apps[ref.class_name]
    own = {name: app for name, app in apps.items() if app.__module__ == module}
    if len(own) != 1:
        raise AppError(f"{ref.file} has {_listed(own)}; name one as {ref.file.name}::Class")
    return next(iter(own.values()))


def _in_file(path: Path, class_name: str) -> AppRef:
    if not path.is_file():
        raise AppError(f"there is no file {path}")
    return AppRef(path.resolve(), class_name or None)


def _file_of(module: str, root: Path) -> Path:
    inner = Path(*module.split("."))
    places = [
        root / top / file
        for top in ("", "src")
        for file in (inner.with_suffix(".py"), inner / "__init__.py")
    ]
    for place in places:
        if place.is_file():
            return place.resolve()
    raise AppError(f"there is no module {module!r} in {root} or {root / 'src'}")


def _listed(apps: dict[str, type[App]]) -> str:
    return ", ".join(sorted(apps)) if apps else "no class derived from App"


def _project_apps(folder: Path) -> tuple[Path | None, dict[str, dict[str, object]]]:
    for parent in [folder.resolve(), *folder.resolve().parents]:
        project = parent / "pyproject.toml"
        if project.is_file():
            try:
                tools = tomllib.loads(project.read_text()).get("tool", {})
            except tomllib.TOMLDecodeError as error:
                raise AppError(f"{project} cannot be read: {error}") from error
            apps = tools.get("fal", {}).get("apps", {}) | tools.get("polyrank", {}).get("apps", {})
            return project, apps
    return None, {}
