"""An app of this machine, made ready to travel to a server: its files and its manifest."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import IO, Any

from polyrank import requirements
from polyrank.app import projects
from polyrank.app.app import App
from polyrank.app.options import AppOptions
from polyrank.app.projects import AppRef
from polyrank.deploy import bundle, manifest
from polyrank.deploy.bundle import Bundle
from polyrank.deploy.files import Extra, Selection, list_files, project_root
from polyrank.deploy.manifest import Manifest
from polyrank.errors import AppError, BundleError

# Where a folder of requirements that is outside of the project goes.
OUTSIDE = ".polyrank/requirements"


@dataclass(frozen=True)
class Shipment:
    """The files of an app that would travel, and what its manifest says but the files' hash."""

    app: type[App]
    selection: Selection
    fields: Mapping[str, Any]

    def pack(self, out: IO[bytes], **said: Any) -> tuple[Manifest, Bundle]:
        """Writes the archive to ``out``; ``said`` adds to the manifest (message, strategy, …)."""
        packed = bundle.pack(self.selection, out)
        fields = {**self.fields, **said, "code_hash": packed.code_hash}
        return manifest.create(**fields), packed


def prepare(ref: AppRef) -> Shipment:
    """Loads the app, as ``polyrank run`` does, and finds what it needs of this machine.

    Raises AppError if the app cannot be loaded, BundleError if its files cannot travel.
    """
    cls = projects.load(ref)
    options = cls.options
    folder = ref.file.parent
    root = project_root(ref.file)
    layers = requirements.layers(options.requirements)
    context = (folder / (options.requirements_context_dir or ".")).resolve()
    place = _place(context, root)
    extras = [
        Extra(_place(ref.file, root), ref.file),
        *_app_files(options, folder),
        *_local_modules(options, [folder, root, root / "src"]),
        *_required(layers, context, place),
    ]
    fields = {
        "app_name": cls.app_name,
        "ref": "::".join(filter(None, [_place(ref.file, root), ref.class_name])),
        "module": ref.module,
        "options": _plain(options),
        "requirements": layers,
        "requirements_context": place,
        "python_version": options.python_version,
        "strategy": ref.strategy or "rolling",
    }
    # What can be refused is refused before the files are read.
    manifest.create(**fields, code_hash="0" * 64)
    return Shipment(cls, list_files(root, extras), fields)


def _place(path: Path, root: Path) -> str:
    """Where a path of the project is in the bundle."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else OUTSIDE


def _plain(options: AppOptions) -> dict[str, Any]:
    """The options that are set, as JSON has them, but for the requirements."""
    given = options.model_dump(
        exclude_unset=True, exclude_none=True, exclude={"image", "requirements"}
    )
    if options.image is not None:
        given["image"] = type(options.image).__name__
    if "retry_config" in given and not isinstance(options.retry_config, dict):
        assert options.retry_config is not None
        given["retry_config"] = options.retry_config.to_dict()
    try:
        plain: dict[str, Any] = json.loads(json.dumps(given))
    except (TypeError, ValueError) as error:
        raise AppError(f"an option of the app cannot be told to a server: {error}") from None
    return plain


def _app_files(options: AppOptions, folder: Path) -> Iterator[Extra]:
    """``app_files``, which the app finds in its working directory under the names it gives."""
    context = (folder / (options.app_files_context_dir or ".")).resolve()
    for given in options.app_files:
        path = (context / given).resolve()
        if not path.is_relative_to(context):
            raise BundleError(
                f"app_files: {given!r} is outside of {context}; set app_files_context_dir to a "
                "folder that holds all of them"
            )
        if not path.exists():
            raise BundleError(f"app_files: there is no {path}")
        yield Extra(path.relative_to(context).as_posix(), path, tuple(options.app_files_ignore))


def _local_modules(options: AppOptions, folders: list[Path]) -> Iterator[Extra]:
    """The top-level packages and modules of ``local_python_modules``, as the app imports them."""
    search = [*map(str, folders), *sys.path]
    for top in dict.fromkeys(name.partition(".")[0] for name in options.local_python_modules):
        spec = PathFinder.find_spec(top, search)
        if spec is None:
            raise BundleError(f"local_python_modules: there is no module {top!r} here")
        for place in _places(top, spec):
            yield Extra(top if place.is_dir() else place.name, place, fallback=place.is_dir())


def _places(name: str, spec: ModuleSpec) -> list[Path]:
    if spec.submodule_search_locations is not None:
        return [Path(folder).resolve() for folder in spec.submodule_search_locations]
    if spec.origin is None or not spec.origin.endswith(".py"):
        raise BundleError(f"local_python_modules: {name!r} is not Python source: {spec.origin}")
    return [Path(spec.origin).resolve()]


def _required(layers: tuple[tuple[str, ...], ...], context: Path, place: str) -> Iterator[Extra]:
    """The local files and folders that requirements name, ignored by git or not."""
    for given in requirements.local_paths([line for layer in layers for line in layer], context):
        path = (context / given).resolve()
        if given.startswith(("/", "~")) or not path.is_relative_to(context):
            raise BundleError(
                f"requirements: {given} is outside of {context}, and only what is inside travels; "
                "set requirements_context_dir to a folder that holds it"
            )
        if not path.exists():
            raise BundleError(f"requirements: there is no {path}")
        inner = path.relative_to(context).as_posix()
        name = inner if place == "." else f"{place}/{inner}".removesuffix("/.")
        yield Extra(name, path, fallback=True)
