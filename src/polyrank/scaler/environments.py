"""The apps' environments: built with uv once, shared by all apps that ask for the same."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import sys
import sysconfig
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from polyrank import requirements
from polyrank.deploy.manifest import Manifest
from polyrank.errors import BuildFailed
from polyrank.scaler import wheel
from polyrank.scaler.filelock import FileLock
from polyrank.scaler.uv import Uv
from polyrank.scaler.wheel import OwnWheel
from polyrank.settings import EnvironmentSettings, PipSettings

OWN = "server"
RECORD = "environment.json"
WHEELS_KEPT_S = 24 * 3600.0


@dataclass(frozen=True)
class EnvironmentSpec:
    """What an app asks for. Layers are installed one after the other; local paths are relative to
    ``context``. Without ``python_version`` it is the server's Python. A text in ``fresh`` makes it
    an environment of its own: nothing that was built before is used."""

    requirements: list[str] | list[list[str]] = field(default_factory=list)
    python_version: str | None = None
    context: Path | None = None
    compile_bytecode: bool = False
    fresh: str = ""

    @classmethod
    def of(cls, manifest: Manifest, bundle: Path, fresh: str = "") -> Self:
        """What an app asks for whose bundle was unpacked into a folder."""
        return cls(
            [list(layer) for layer in manifest.requirements],
            manifest.python_version,
            bundle / manifest.requirements_context,
            bool(manifest.options.get("compile_bytecode")),
            fresh,
        )


@dataclass(frozen=True)
class BuildLine:
    """A line of the build's log."""

    text: str


@dataclass(frozen=True)
class Built:
    """An environment that can be used. ``key`` names it to ``sweep``."""

    key: str
    python: Path


@dataclass(frozen=True)
class _Layer:
    """One layer: the key names it with all below it, ``lines`` are what is installed."""

    key: str
    lines: tuple[str, ...]


class Environments:
    """Builds and keeps environments below one folder, which servers may share.

    An environment is a folder named by a hash over what was asked for: the requirements with the
    content of local paths, Python, platform, polyrank. polyrank, the one that runs here, is in
    each. Files are hard links into uv's cache. A layer is an environment too, which others that
    begin alike are built on.
    """

    def __init__(
        self,
        folder: Path,
        settings: EnvironmentSettings | None = None,
        pip: PipSettings | None = None,
    ) -> None:
        self._folder = folder.resolve()
        self._settings = settings or EnvironmentSettings()
        self._building = self._folder / ".building"
        self._uv = Uv(self._folder / ".cache", self._folder / ".pythons", pip or PipSettings())

    async def build(self, spec: EnvironmentSpec) -> AsyncGenerator[BuildLine | Built, None]:
        """The lines of the build as they come, then what was built or was there.

        Whoever stops early uses ``contextlib.aclosing``: the build ends then. Raises BuildFailed.
        """
        lines: asyncio.Queue[BuildLine | None] = asyncio.Queue()
        building = asyncio.create_task(
            self._build(spec, lambda text: lines.put_nowait(BuildLine(text))),
            name="environment-build",
        )
        building.add_done_callback(lambda _: lines.put_nowait(None))
        try:
            while (line := await lines.get()) is not None:
                yield line
            yield building.result()
        finally:
            building.cancel()
            await asyncio.gather(building, return_exceptions=True)

    def find(self, key: str) -> Built | None:
        """The environment of that key, if it is there and whole."""
        if key == OWN:
            return Built(OWN, Path(sys.executable))
        python = self._folder / key / "bin" / "python"
        # The Python that it was made with may be gone.
        is_whole = (self._folder / key / RECORD).is_file() and os.access(python, os.X_OK)
        return Built(key, python) if is_whole else None

    async def sweep(self, in_use: Collection[str]) -> list[str]:
        """Removes the environments that are not in use, but for the last few that were; the keys.

        What broken builds have left goes too, and what only the removed ones had in uv's cache.
        """
        removed, names = await asyncio.to_thread(self._remove_unused, frozenset(in_use))
        if names:
            arguments = ["cache", "clean", *sorted(names)]
            await self._uv.run(arguments, lambda _: None, folder=self._folder)
        return removed

    async def _build(self, spec: EnvironmentSpec, tell: Callable[[str], None]) -> Built:
        own = await asyncio.to_thread(wheel.read)
        wanted = _wanted_python(spec.python_version, own)
        layers = requirements.layers(spec.requirements)
        may_be_own = self._settings.use_own and wanted is None and not spec.fresh
        if may_be_own and await asyncio.to_thread(_is_met_here, layers):
            tell("the server's own environment has all that is asked for")
            return Built(OWN, Path(sys.executable))
        self._folder.mkdir(parents=True, exist_ok=True)
        chain = await asyncio.to_thread(self._chain, spec, layers, wanted, own)
        return await self._ensure(chain, spec, wanted, tell)

    def _chain(
        self,
        spec: EnvironmentSpec,
        layers: Sequence[Sequence[str]],
        wanted: str | None,
        own: OwnWheel,
    ) -> list[_Layer]:
        """The layers with their keys; polyrank is asked for in each, so that none breaks it."""
        path = own.write(self._folder / ".wheels")
        python = wanted or _own_python()
        key = _digest(own.digest, python, sysconfig.get_platform(), spec.fresh)
        chain = []
        for layer in layers or [()]:
            lines, extras = requirements.without_ours(layer)
            wanted_extras = f"[{','.join(sorted(extras))}]" if extras else ""
            contents = _contents(lines, spec.context)
            key = _digest(key, *lines, wanted_extras, *contents)
            chain.append(_Layer(key, (*lines, f"polyrank{wanted_extras} @ {path.as_uri()}")))
        return chain

    async def _ensure(
        self,
        chain: Sequence[_Layer],
        spec: EnvironmentSpec,
        wanted: str | None,
        tell: Callable[[str], None],
    ) -> Built:
        """The environment of the chain's last layer: the one that is there, or a new one."""
        *below, layer = chain
        lock = self._lock(layer.key)
        if not lock.try_acquire():
            tell("the same environment is being built; waiting for it")
            await lock.acquire()
        try:
            if (found := self.find(layer.key)) is None:
                base = await self._ensure(below, spec, wanted, tell) if below else None
                found = await self._make(layer, base, spec, wanted, tell)
            os.utime(self._folder / layer.key / RECORD)
            return found
        finally:
            lock.release()

    async def _make(
        self,
        layer: _Layer,
        base: Built | None,
        spec: EnvironmentSpec,
        wanted: str | None,
        tell: Callable[[str], None],
    ) -> Built:
        """Builds the layer on its base in a place of its own, then moves it to its name."""
        began = time.monotonic()
        place = self._building / f"{layer.key}.{uuid.uuid4().hex[:8]}"
        self._building.mkdir(exist_ok=True)
        context = spec.context or self._folder
        try:
            if base is None:
                create = ["venv", "--relocatable", "--no-project", "--python"]
                arguments = [*create, wanted or sys.executable, str(place)]
                await self._uv.run(arguments, tell, folder=context)
            else:
                await asyncio.to_thread(_link_copy, base.python.parents[1], place)
            await self._uv.run(
                _install(layer, place, spec),
                tell,
                folder=context,
                text="\n".join(layer.lines),
            )
            (place / RECORD).write_text(json.dumps({"asked": layer.lines, "on": base and base.key}))
            await asyncio.to_thread(self._put, place, layer.key)
        except OSError as error:
            raise BuildFailed(
                f"the environment cannot be kept in {self._folder}: {error}"
            ) from error
        finally:
            await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)
        tell(f"built in {time.monotonic() - began:.1f} s")
        built = self.find(layer.key)
        assert built is not None
        return built

    def _put(self, place: Path, key: str) -> None:
        target = self._folder / key
        if target.exists():  # its Python is gone, or it is half removed
            self._remove(key)
        place.rename(target)

    def _lock(self, key: str) -> FileLock:
        return FileLock(self._folder / ".locks" / key)

    def _remove_unused(self, in_use: frozenset[str]) -> tuple[list[str], set[str]]:
        """Removes what is not used; the keys, and the packages that only these had."""
        records = self._folder.glob(f"[!.]*/{RECORD}")
        used_at = {record.parent.name: record.stat().st_mtime for record in records}
        unused = sorted(used_at.keys() - in_use, key=lambda key: -used_at[key])
        removed, names = [], set()
        for key in unused[self._settings.keep :]:
            lock = self._lock(key)
            if lock.try_acquire():
                names |= _packages(self._folder / key)
                self._remove(key)
                lock.release()
                removed.append(key)
        for key in used_at.keys() - set(removed):
            names -= _packages(self._folder / key)
        self._remove_leftovers()
        return removed, names

    def _remove(self, key: str) -> None:
        """An environment under its name is whole, so it is moved away first."""
        self._building.mkdir(exist_ok=True)
        place = self._building / f"{key}.{uuid.uuid4().hex[:8]}"
        (self._folder / key).rename(place)
        shutil.rmtree(place, ignore_errors=True)

    def _remove_leftovers(self) -> None:
        """What is left of builds whose process is gone, and wheels of other polyranks."""
        for place in self._building.glob("*"):
            lock = self._lock(place.name.partition(".")[0])
            if lock.try_acquire():
                shutil.rmtree(place, ignore_errors=True)
                lock.release()
        current = wheel.read().digest
        for folder in (self._folder / ".wheels").glob("*"):
            is_old = folder.stat().st_mtime < time.time() - WHEELS_KEPT_S
            if folder.name != current and is_old:
                shutil.rmtree(folder, ignore_errors=True)


def _install(layer: _Layer, place: Path, spec: EnvironmentSpec) -> list[str]:
    arguments = ["pip", "install", "--python", str(place / "bin" / "python")]
    # A checkout that an environment points to would change under it.
    arguments += ["--no-editable", "--requirements", "-"]
    if "--pre" in layer.lines:
        arguments.append("--prerelease=allow")
    if spec.compile_bytecode:
        arguments.append("--compile-bytecode")
    return arguments


def _wanted_python(version: str | None, own: OwnWheel) -> str | None:
    """The version to look for; None if the server's own is right."""
    if version is None:
        return None
    if not re.fullmatch(r"3\.\d+(\.\d+)?", version):
        raise BuildFailed(f"python_version {version!r} is not a version of Python such as '3.12'")
    if not SpecifierSet(own.requires_python).contains(version):
        raise BuildFailed(
            f"python_version {version!r}: polyrank {own.version} needs Python {own.requires_python}"
        )
    here = platform.python_version()
    return None if version == here or f"{version}." == here[: len(version) + 1] else version


def _own_python() -> str:
    return f"{sys.implementation.name} {platform.python_version()} {sys.base_prefix}"


def _is_met_here(layers: Sequence[Sequence[str]]) -> bool:
    for layer in layers:
        lines, extras = requirements.without_ours(layer)
        has_files = any(line.startswith(requirements.FILES) for line in lines)
        if extras or has_files or requirements.differences(lines):
            return False
    return True


def _contents(lines: Sequence[str], context: Path | None) -> list[str]:
    """A digest for every local file and folder that the lines name."""
    found = []
    for name in requirements.local_paths(lines, context or Path()):
        path = Path(name) if context is None else context / name
        if context is None and not path.is_absolute():
            raise BuildFailed(f"requirement {name}: there is no folder that it is relative to")
        if not path.exists():
            raise BuildFailed(f"requirement {name}: there is no such file or folder in {context}")
        found.append(f"{name} {_content(path)}")
    return found


def _content(path: Path) -> str:
    total = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(path.rglob("*")):
        if file.is_file() and not {".git", "__pycache__"} & set(file.parts):
            total.update(f"{file.relative_to(path)}\0{file.stat().st_size}\0".encode())
            with file.open("rb") as opened:
                total.update(hashlib.file_digest(opened, "sha256").digest())
    return total.hexdigest()


def _digest(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def _link_copy(source: Path, target: Path) -> None:
    """A copy whose files are hard links. Installers replace files and do not write into them."""
    shutil.copytree(source, target, symlinks=True, copy_function=_link)
    # Written anew for the copy.
    (target / RECORD).unlink()


def _link(source: str, target: str) -> None:
    # What runs there writes bytecode by way of temporary files.
    with contextlib.suppress(FileNotFoundError):
        os.link(source, target)


def _packages(environment: Path) -> set[str]:
    """The names of the packages in it."""
    found = environment.glob("lib/python*/site-packages/*.dist-info")
    return {canonicalize_name(folder.stem.rpartition("-")[0]) for folder in found}
