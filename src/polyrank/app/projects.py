"""Finding the app that the command line names: in a file, or by its name in pyproject.toml."""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass
from pathlib import Path

from polyrank import modules
from polyrank.app.app import App
from polyrank.errors import AppError


@dataclass(frozen=True)
class AppRef:
    """A file, and the class in it if it was named."""

    file: Path
    class_name: str | None = None

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
        if not path.is_file():
            raise AppError(f"there is no file {path}")
        return AppRef(path.resolve(), class_name or None)
    project, apps = _project_apps(folder)
    if name not in apps:
        known = ", ".join(sorted(apps)) or "none"
        close = difflib.get_close_matches(name, apps, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise AppError(
            f"{reference!r} is neither a file nor an app of {project or 'a pyproject.toml'} "
            f"(apps there: {known}){hint}"
        )
    assert project is not None
    ref = apps[name].get("ref")
    if not isinstance(ref, str):
        raise AppError(f"app {name!r} of {project} has no 'ref = \"file.py::Class\"'")
    file, _, class_name = ref.partition("::")
    return find(f"{project.parent / file}::{class_name}", project.parent)


def load(ref: AppRef) -> type[App]:
    """The app class that ``ref`` names. Raises AppError naming what is in the file."""
    module = modules.load_file(ref.file)
    apps = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, App)
        and value.__module__ == module.__name__
    }
    if ref.class_name is not None:
        if ref.class_name not in apps:
            raise AppError(f"{ref.file} has no App {ref.class_name!r}; it has {_listed(apps)}")
        return apps[ref.class_name]
    if len(apps) != 1:
        raise AppError(f"{ref.file} has {_listed(apps)}; name one as {ref.file.name}::Class")
    return next(iter(apps.values()))


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
